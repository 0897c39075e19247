"""`bridgectl audit` on files of this machine, and records in other systems' words."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bridge_cli.audit_commands import _print_hop, _write_proofs, _write_vouchers, _writing_into
from bridge_core.audit import tiles
from bridge_core.audit.entries import AdminRecord, AuditRecord, LostRecord, encode
from bridge_core.audit.exports import FORMATS, moment
from bridge_core.audit.notes import read_note
from bridge_core.audit.proofs import prove
from bridge_core.audit.stored import StoredLog
from bridge_core.audit.writing import LogWriter
from bridge_core.errors import BridgeError, Fatal
from bridge_core.sealing import open_sealer
from bridge_core.sealing.sealer import SealFolder

ORIGIN = "m.local/node/a"
REQUEST = AuditRecord(
    1.7e9,
    "r|1=",
    "local",
    "local",
    "POST",
    "/api/chat",
    403,
    "refused",
    2.5,
    3,
    4,
    model="m\nx",
    address="127.0.0.1",
)
ADMIN = AdminRecord(1.7e9, "r2", "spiffe://m/admin/a", "10.0.0.1", "Drain", "{}", "OK", 1.0)


def run(command: str, *argv: str) -> subprocess.CompletedProcess[str]:
    entry = {"bridgectl": "bridge_cli.start:bridgectl", "bridge-agent": "bridge_agent.cli:run"}[command]
    module, _, name = entry.partition(":")
    code = f"import sys; sys.argv[0] = {command!r}; from {module} import {name}; {name}()"
    return subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False, timeout=100
    )


def numbered(number: int) -> bytes:
    return encode(msgspec.structs.replace(REQUEST, request_id=f"r{number}"))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    made = LogWriter(tmp_path / "log", ORIGIN, lambda _: b"begun")
    made.append([numbered(number) for number in range(1, 301)])
    made.checkpoint()
    return tmp_path / "log"


def test_a_folder_is_verified_and_its_edited_record_named(log: Path) -> None:
    done = run("bridgectl", "audit", "verify", str(log))
    assert done.returncode == 0, done.stderr
    assert f"{ORIGIN}, 301 records signed for, 301 there" in done.stdout
    path = log / tiles.bundle_path(0)
    entries = tiles.unpack(path.read_bytes())[0]
    entries[7] = entries[7].replace(b"403", b"200")
    path.write_bytes(tiles.pack(b"".join(map(tiles.framed, entries))))
    done = run("bridgectl", "audit", "verify", str(log), "--json")
    assert done.returncode == 1
    (verdict,) = json.loads(done.stdout)["logs"].values()
    assert [(one["what"], one["first"]) for one in verdict["faults"]] == [("edited", 7)]
    done = run("bridgectl", "audit", "verify", str(log.parent))
    assert done.returncode == 1
    assert "holds no log" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_proof_is_checked_without_the_mesh(log: Path, tmp_path: Path) -> None:
    made = LogWriter(log, ORIGIN, lambda _: b"")
    note = read_note((log / "checkpoint").read_bytes())
    key = made.signer.public.text
    path = tmp_path / "p.tlog-proof"
    path.write_bytes(prove(StoredLog(log), numbered(5), 5, note, (key,)).text)
    done = run("bridgectl", "audit", "check", str(path), "--key", key)
    assert done.returncode == 0, done.stderr
    assert f"is record 5 of {ORIGIN}, among 301" in done.stdout
    assert run("bridgectl", "audit", "check", str(path)).returncode == 1  # nobody's key was named
    path.write_bytes(path.read_bytes().replace(b"index 5", b"index 6"))
    done = run("bridgectl", "audit", "check", str(path), "--key", key)
    assert done.returncode == 1
    assert "does not lead from entry 6 to the root" in done.stderr


def test_a_file_that_is_not_there_is_named(log: Path, tmp_path: Path) -> None:
    nowhere, proof = str(tmp_path / "none"), tmp_path / "a-1.tlog-proof"
    proof.write_text("x")
    for argv in ((nowhere,), (str(proof), "--ca", nowhere)):
        ran = run("bridgectl", "audit", "check", *argv)
        assert ran.returncode == 2
        assert "does not exist" in " ".join(ran.stderr.replace("│", " ").split())
        assert "Traceback" not in ran.stderr


def test_a_folder_that_takes_no_proofs_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Fatal, match="cannot write into"), _writing_into(tmp_path / "file/proofs"):
        _write_proofs(tmp_path / "file/proofs", [])


def test_what_a_record_says_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    raw = "\x1b[2J\n"
    hop = {"recorded_by": "a", "index": 1, "model": raw, "path": raw, "failed_attempts": [raw]}
    _print_hop(hop)
    lines = capsys.readouterr().out.splitlines()
    assert all(line.isprintable() for line in lines)
    assert lines[2] == r"  model \x1b[2J\x0a"


def test_keys_of_what_was_asked_are_forgotten_by_the_day(tmp_path: Path) -> None:
    keys = tmp_path / "audit" / "input-keys"
    keys.mkdir(parents=True)
    for name in ("1000-2000", "2000-3000"):
        (keys / f"{name}.key").write_bytes(bytes(32))
    done = run(
        "bridge-agent",
        "audit",
        "forget",
        "--state-dir",
        str(tmp_path),
        "--before",
        "1970-01-01T00:40:00+00:00",
    )
    assert done.returncode == 0, done.stderr
    assert "1 keys are destroyed: 1000-2000" in done.stdout
    assert [path.name for path in keys.iterdir()] == ["2000-3000.key"]


def test_records_in_the_words_of_others() -> None:
    request, admin = (json.loads(encode(one)) for one in (REQUEST, ADMIN))
    ocsf = json.loads(FORMATS["ocsf"]("n", 7, request))
    assert (ocsf["class_uid"], ocsf["type_uid"], ocsf["status_id"], ocsf["time"]) == (
        6003,
        600301,
        2,
        1_700_000_000_000,
    )
    assert ocsf["metadata"]["uid"] == "n/7"
    ecs = json.loads(FORMATS["ecs"]("n", 7, admin))
    assert (ecs["@timestamp"], ecs["event"]["outcome"]) == ("2023-11-14T22:13:20.000Z", "success")
    ended = {
        outcome: json.loads(FORMATS["ecs"]("n", 7, request | {"status": 200, "outcome": outcome}))
        for outcome in ("ok", "cancelled", "upstream_failed")
    }
    assert [one["event"]["outcome"] for one in ended.values()] == ["success", "unknown", "failure"]
    cef = FORMATS["cef"]("n", 7, request)
    assert cef.startswith("CEF:0|DeepSeek|Ollama Bridge|1|request|POST /api/chat|6|")
    assert "cs1=r|1\\=" in cef
    assert "\n" not in cef
    lost = json.loads(encode(LostRecord(1.0, 2, 0.5, "full")))
    assert [FORMATS[form]("n", 0, lost) for form in ("ocsf", "ecs", "cef")] == ["", "", ""]
    assert json.loads(FORMATS["json"]("n", 0, lost))["count"] == 2


def test_moments_that_are_none_are_refused() -> None:
    assert moment("2023-11-14T22:13:20+00:00") == 1.7e9
    for text in ("", "yesterday", "7w", "9" * 40 + "d"):
        with pytest.raises(BridgeError):
            moment(text)


def test_a_sealed_log_opens_with_the_keyring_beside_it_and_a_lost_one_is_named(tmp_path: Path) -> None:
    seal, log = SealFolder(tmp_path / "seal"), tmp_path / "audit" / "log"
    sealer = open_sealer(seal)
    made = LogWriter(log, ORIGIN, lambda _: b"begun", sealer=sealer, wanted=lambda: True)
    made.append([numbered(number) for number in range(1, 301)])
    made.checkpoint()
    done = run("bridgectl", "audit", "verify", str(log))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "301 records signed for, 301 there" in done.stdout
    (tmp_path / "seal" / "kek").rename(tmp_path / "kek-away")
    lost = run("bridgectl", "audit", "verify", str(log))
    assert lost.returncode == 1
    assert f"the key-encryption key file:{tmp_path}/seal/kek cannot be read" in lost.stderr
    assert (
        "! sealed: 2 files of records from 0 on: the file of records 0 to 255 is sealed with" in lost.stdout
    )
    assert sealer.ring.active.id.hex() in lost.stdout
    found = run("bridgectl", "audit", "verify", str(log), "--seal-key", f"file:{tmp_path}/kek-away")
    assert found.returncode == 0, found.stdout + found.stderr


def test_a_node_that_vouches_for_nothing_is_named_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_vouchers(tmp_path, {"a", "b"}, {}, {"a": "it answered 503: nothing was signed within 30 s"})
    assert capsys.readouterr().err.splitlines() == [
        "bridgectl: a does not vouch for the key of its log: it answered 503: nothing was signed within 30 s",
        "bridgectl: b does not vouch for the key of its log: the registry does not name it any more",
    ]
    assert not list(tmp_path.iterdir())
