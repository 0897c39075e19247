"""Replaying an audit log under a changed mesh_config."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from bridge_agent.audit.past import past_requests
from bridge_agent.config import AgentConfig, StateDir, save_config
from bridge_agent.replay_report import changed, compare, print_comparison, replay_files
from bridge_core.audit.entries import AuditRecord, encode
from bridge_core.audit.stored import StoredLog
from bridge_core.audit.writing import LogWriter
from bridge_core.errors import Fatal
from bridge_core.names import canonical
from bridge_core.snapshot import Instance, MemberModel, Node, Snapshot, Version, encode_entry
from bridge_core.snapshot_file import SnapshotFile
from tests.sealing_bed import sealer_of

CHAT = canonical("chat")
ROUTE = """
apiVersion: bridge.deepseek.io/v1
kind: ModelRoute
metadata: {name: chat}
spec:
  backends:
    - {model: x, name: old, weight: %d, instances: [a/0]}
    - {model: x, name: new, weight: %d, instances: [b/0]}
"""


def mesh() -> Snapshot:
    entries = {}
    for name in "ab":
        entries[f"node/{name}"] = encode_entry(Node(name, f"{name}:1"))
        entries[f"instance/{name}/0"] = encode_entry(Instance(f"{name}/0", name, models=(MemberModel("x"),)))
    return Snapshot(Version(1, 1), entries)


def audit(at: float, number: int, **fields: object) -> AuditRecord:
    values = {
        "kind": "request",
        "at": at,
        "request_id": f"r{number}",
        "principal": "local",
        "listener": "local",
        "method": "POST",
        "path": "/api/chat",
        "status": 200,
        "outcome": "ok",
        "duration_ms": 10.0,
        "bytes_in": 1,
        "bytes_out": 1,
        "model": CHAT,
        "instance": "a/0",
        "key": f"{number:032x}",
        **fields,
    }
    return msgspec.convert(values, AuditRecord)


def written(folder: Path, entries: list[bytes]) -> None:
    LogWriter(folder / "log", "m.local/node/a", lambda _: b"begun").append(entries)


def test_the_log_gives_the_requests_that_clients_brought_here(tmp_path: Path) -> None:
    records = [
        audit(50.0, 1),
        audit(150.0, 3),
        audit(120.0, 2),
        audit(160.0, 4, via="b"),
        audit(170.0, 5, path="/api/tags"),
        audit(180.0, 6, model=""),
    ]
    entries = list(map(encode, records))
    written(tmp_path, [*entries[:2], b'{"cut', b"\xff", b"[" * 60_000, b"", *entries[2:]])
    assert [one.request_id for one in past_requests(StoredLog(tmp_path / "log"), 100.0)] == ["r2", "r3"]


def test_a_shift_of_weights_moves_its_share_and_says_how_far_it_can_be_believed(tmp_path: Path) -> None:
    written(tmp_path, [encode(audit(float(number), number)) for number in range(400)])
    past = past_requests(StoredLog(tmp_path / "log"), 0.0)
    now = changed(mesh(), [("now.yaml", ROUTE % (100, 0))])
    then = changed(mesh(), [("then.yaml", ROUTE % (75, 25))])
    found = compare("a", now, then, past)
    assert (found.requests, found.agreed) == (400, 400)
    assert abs(found.moved - 100) < 30
    assert found.then[CHAT].by_backend["new"] == found.moved
    out = io.StringIO()
    print_comparison(found, Console(file=out, width=120))
    assert f"the change moves {found.moved} to another instance" in out.getvalue()
    assert "backend new" in out.getvalue()


def test_a_configuration_with_faults_is_refused_with_every_fault() -> None:
    with pytest.raises(Fatal, match="strateggy"):
        changed(mesh(), [("bad.yaml", ROUTE % (1, 1) + "  strateggy: x\n")])


def test_a_node_replays_its_own_log_from_its_sealed_files(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    save_config(state, AgentConfig("a", "m", ("r:1",), (), "127.0.0.1:1"))
    sealer = sealer_of(state)
    SnapshotFile(state.snapshot, sealer, now=lambda: 0.0).write(mesh())
    log = LogWriter(tmp_path / "audit/log", "m/node/a", lambda _: b"", sealer=sealer, wanted=lambda: True)
    log.append([encode(audit(float(number), number)) for number in range(40)])
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "route.yaml").write_text(ROUTE % (0, 100))
    found = replay_files(state, tmp_path / "documents", 10.0)
    assert (found.requests, found.moved) == (30, 30)
