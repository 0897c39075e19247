"""A node whose files are damaged says so and serves what it can."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path

import pytest

from tests.cluster.mesh_bed import SOLO, Mesh, call
from tests.support import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.etcd, pytest.mark.llamacpp]

PLAIN = {"prompt": "x", "stream": False, "options": {"num_predict": 1}}


async def ask(mesh: Mesh, node: str, model: str) -> tuple[int, dict[str, object]]:
    status, _, body = await asyncio.to_thread(
        call, mesh.address(node), "POST", "/api/generate", {"model": model, **PLAIN}
    )
    return status, json.loads(body)


def replace(path: Path, data: bytes) -> None:
    """Writes a new file: blobs are hard links to those of other nodes."""
    path.unlink()
    path.write_bytes(data)


async def test_a_damaged_snapshot_is_fetched_anew(harmed_mesh: Mesh) -> None:
    mesh = harmed_mesh
    await asyncio.to_thread(mesh.kill, "node2")
    (mesh.state / "node2" / "snapshot.sealed").write_bytes(b'{"half')
    await mesh.repair()
    await mesh.whole()
    assert (await ask(mesh, "node2", SOLO))[0] == 200
    assert "snapshot" in mesh.logs()["logs/node2.log"]


async def test_a_damaged_manifest_and_a_damaged_gguf_cost_their_model_alone(harmed_mesh: Mesh) -> None:
    mesh = harmed_mesh
    for name in ("torn", "rotten"):
        copied = {"source": "tiny", "destination": name}
        assert (await asyncio.to_thread(call, mesh.address("node2"), "POST", "/api/copy", copied))[0] == 200
    store = mesh.state / "node2" / "models"
    manifests = store / "manifests" / "registry.ollama.ai" / "library"
    rotten = manifests / "rotten" / "latest"
    manifest = json.loads(rotten.read_bytes())
    layer = next(layer for layer in manifest["layers"] if layer["mediaType"].endswith("image.model"))
    layer["digest"] = "sha256:" + "0" * 64
    replace(rotten, json.dumps(manifest).encode())
    (store / "blobs" / ("sha256-" + "0" * 64)).write_bytes(b"GGUF" + b"\xff" * 4096)
    replace(manifests / "torn" / "latest", b'{"schemaVersion": 2, "layers": [{"dig')
    for name in ("torn", "rotten"):
        status, answer = await ask(mesh, "node2", name)
        assert status in {400, 404, 500}, answer
        assert answer["error"]
    assert (await ask(mesh, "node2", "tiny"))[0] == 200

    async def listed() -> bool:
        status, _, body = await asyncio.to_thread(call, mesh.address("node1"), "GET", "/api/tags")
        names = {model["name"] for model in json.loads(body)["models"]}
        return status == 200 and "tiny:latest" in names

    await eventually(listed)
    body = b"this is no GGUF"
    digest = "sha256:" + hashlib.sha256(body).hexdigest()
    status, _, _ = await asyncio.to_thread(call, mesh.address("node2"), "POST", f"/api/blobs/{digest}", body)
    assert status == 201
    create = {"model": "mine", "files": {"model.gguf": digest}, "stream": False}
    status, _, answer = await asyncio.to_thread(call, mesh.address("node2"), "POST", "/api/create", create)
    assert status >= 400
    assert json.loads(answer)["error"]
