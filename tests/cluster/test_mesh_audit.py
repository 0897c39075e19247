"""`bridgectl audit` on a real mesh: checked, proved, traced, exported; a rewritten log is convicted."""

from __future__ import annotations

import json
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests import independent_log
from tests.cluster.mesh_bed import SOLO, Mesh, call
from tests.cluster.up_bed import BRIDGE
from tests.support import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.llamacpp, pytest.mark.etcd]


def generate(mesh: Mesh, node: str, request_id: str) -> None:
    body = {"model": SOLO, "prompt": f"a {request_id}", "stream": False, "options": {"num_predict": 1}}
    code, _, answer = call(mesh.address(node), "POST", "/api/generate", body, {"X-Request-Id": request_id})
    assert code == 200, answer


async def proved(mesh: Mesh, request_id: str, folder: Path) -> list[Path]:
    """The proofs of both nodes, with their vouchers, for which a node starts a process that signs."""

    def written() -> list[Path]:
        mesh.run("audit", "prove", request_id, "--to", str(folder), check=False)
        ready = all(len(list(folder.glob(f"*{ending}"))) >= 2 for ending in (".tlog-proof", ".log-key"))
        return sorted(folder.glob("*.tlog-proof")) if ready else []

    return await eventually(written, 90)


def vouched_for(proof: Path, root: Path) -> None:
    """A stranger who has the mesh's root alone: with `bridgectl`, and with OpenSSL."""
    done = subprocess.run(
        [BRIDGE, "audit", "check", str(proof), "--ca", str(root)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    name = proof.name.removesuffix(".tlog-proof").rpartition("-")[0]
    cert, said = (proof.parent / f"{name}{ending}" for ending in (".pem", ".log-key"))
    assert f"/node/{name}" in said.read_text()
    openssl("verify", "-CAfile", root, "-untrusted", cert, cert)
    public = proof.parent / f"{name}.pub"
    public.write_text(openssl("x509", "-in", cert, "-noout", "-pubkey"))
    openssl("dgst", "-sha256", "-verify", public, "-signature", f"{said}.sig", said)


def openssl(*words: object) -> str:
    done = subprocess.run(
        ["openssl", *map(str, words)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def test_a_request_is_proved_traced_and_exported_from_the_admins_desk(
    mesh: Mesh, tmp_path: Path
) -> None:
    request_id = f"audit-{uuid.uuid4()}"
    generate(mesh, "node1", request_id)
    files = await proved(mesh, request_id, tmp_path)
    assert [one.name.partition("-")[0] for one in files] == ["node1", "node3"]
    import base64

    for path in files:
        text = path.read_text()
        extra = json.loads(base64.b64decode(text.split("\n")[1].removeprefix("extra ")))
        _, checkpoint = independent_log.included(extra["record"].encode(), text)
        independent_log.checkpoint_of(checkpoint, extra["keys"][0])
        assert json.loads(extra["record"])["request_id"] == request_id
        check = [BRIDGE, "audit", "check", str(path), "--key", extra["keys"][0]]  # knows of no mesh
        done = subprocess.run(check, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        vouched_for(path, Path(mesh.client_files()[0]))
    hops: list[dict[str, Any]] = json.loads(mesh.run("audit", "trace", request_id, "--json").stdout)
    assert [(hop["recorded_by"], hop.get("via", ""), hop["instance"]) for hop in hops] == [
        ("node1", "", "node3/0"),
        ("node3", "node1", "node3/0"),
    ]
    assert hops[0]["digest"]
    assert "node3 (record" in mesh.run("audit", "trace", request_id).stdout
    for form, name in (("--ocsf", "correlation_uid"), ("--ecs", "@timestamp"), ("--cef", "CEF:0|DeepSeek")):
        lines = mesh.run("audit", "export", form, "--since", "1h").stdout.splitlines()
        assert any(request_id in line for line in lines)
        assert all(name in line for line in lines)
    assert request_id in mesh.run("audit", "tail", "--node", "node1").stdout


def write_at(path: Path, at: int, data: bytes) -> None:
    """Writes over so many bytes alone: what its node appends meanwhile stays."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


async def test_all_logs_verify_and_one_that_was_edited_does_not(mesh: Mesh) -> None:
    generate(mesh, "node1", f"audit-{uuid.uuid4()}")

    def vouched() -> bool:
        found = json.loads(mesh.run("audit", "verify", "--json", check=False).stdout)
        logs = found["logs"].values()
        return not found["silent"] and len(logs) == 3 and all(len(log["cosigned"]) == 2 for log in logs)

    await eventually(vouched, 90)
    assert "no faults" in mesh.run("audit", "verify", "--node", "node1").stdout
    folder = mesh.state / "node1" / "audit" / "log"
    (tail,) = (folder / "tail").glob("*.entries")
    at = tail.read_bytes().index(b'"local"')
    write_at(tail, at, b'"LOCAL"')
    try:
        done = mesh.run("audit", "verify", str(folder), check=False)
        assert done.returncode == 1
        assert "is not the one that was signed" in done.stdout
        assert mesh.run("audit", "verify", "--node", "node1", check=False).returncode == 1
    finally:
        write_at(tail, at, b'"local"')
