"""A model of a real mesh that has to be signed: refused, signed by an admin, and answered by every node."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.cluster.mesh_bed import NODES, TALKER, Mesh, call
from tests.support import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.etcd, pytest.mark.llamacpp]

NAME = "vouched:v1"


def key_files(folder: Path) -> tuple[Path, str]:
    """A private key's file, and the public key."""
    key = ec.generate_private_key(ec.SECP256R1())
    path = folder / "release.pem"
    form = serialization.PrivateFormat.PKCS8
    path.touch(0o600)
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    public = serialization.PublicFormat.SubjectPublicKeyInfo
    return path, key.public_key().public_bytes(serialization.Encoding.PEM, public).decode()


async def told(mesh: Mesh, node: str, method: str, path: str, body: object) -> tuple[int, bytes]:
    status, _, said = await asyncio.to_thread(call, mesh.address(node), method, path, body)
    return status, said


async def asked(mesh: Mesh, node: str) -> tuple[int, bytes]:
    options = {"num_predict": 1}
    body = {"model": NAME, "prompt": "x", "stream": False, "options": options}
    return await told(mesh, node, "POST", "/api/generate", body)


async def test_a_model_answers_once_it_is_signed(mesh: Mesh, tmp_path: Path) -> None:
    key, public = key_files(tmp_path)
    document = {
        "apiVersion": "security.deepseek.io/v1",
        "kind": "ModelSignaturePolicy",
        "metadata": {"name": "vouched"},
        "spec": {"models": ["vouched*"], "signers": [{"name": "release", "publicKey": public}]},
    }
    path = tmp_path / "signatures.yaml"
    path.write_text(json.dumps(document))
    copied = {"source": TALKER, "destination": NAME}
    assert (await told(mesh, "node1", "POST", "/api/copy", copied))[0] == 200
    await asyncio.to_thread(mesh.run, "apply", "-f", str(path))
    for node in NODES:

        async def refused(node: str = node) -> bool:
            status, said = await asked(mesh, node)
            return status == 403 and b"it has no signature" in said

        await eventually(refused, 60)
    again = {"source": TALKER, "destination": "vouched:v2"}
    assert (await told(mesh, "node1", "POST", "/api/copy", again))[0] == 403
    done = await asyncio.to_thread(mesh.run, "models", "sign", NAME, "--key", str(key))
    assert done.stdout.startswith("node1: signed; its digest is ")
    for node in NODES:

        async def answers(node: str = node) -> bool:
            return (await asked(mesh, node))[0] == 200

        await eventually(answers, 60)
    verified = await asyncio.to_thread(mesh.run, "models", "verify", NAME, "--nodes", "node1")
    assert "vouched:v1 is signed by release (vouched)" in verified.stdout
    assert (await told(mesh, "node1", "DELETE", "/api/delete", {"model": NAME}))[0] == 200
