"""Rollouts on real processes whose leader dies in the middle of a step.

What is counted are requests of users under load: none may fail for it. The rollout goes on from the step
that was saved, by the same registry started anew or by another that takes over.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridge_agent.config import StateDir, load_config, save_config
from bridge_cli.up import load_layout
from tests.cluster.load import Load, load_on
from tests.cluster.mesh_bed import NODES, Mesh, call
from tests.support import eventually

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.faults,
    pytest.mark.etcd,
    pytest.mark.llamacpp,
    pytest.mark.timeout(400),
]

REGISTRY = str(Path(sys.executable).with_name("bridge-registry"))
ROUTE = """\
apiVersion: bridge.deepseek.io/v1
kind: ModelRoute
metadata: {name: shifted}
spec: {backends: [{model: tiny}, {model: tiny-copy, weight: 0}]}
"""
# Three engines share this machine with whatever else it does: only errors say something here.
ROLLOUT = """\
apiVersion: bridge.deepseek.io/v1
kind: Rollout
metadata: {name: shift}
spec:
  route: shifted
  stable: tiny
  canary: tiny-copy
  every: 6s
  increment: 45
  guards: {minRequests: 1, ttftP50: null, ttftP95: null, tokensPerSecond: null}
"""


def status(mesh: Mesh, *access: str) -> dict[str, Any]:
    """Of the rollout; empty while no registry can say."""
    ended = mesh.run("rollout", "status", "--json", *access, check=False)
    found: list[dict[str, Any]] = json.loads(ended.stdout) if ended.returncode == 0 else [{}]
    return found[0] if found else {}


async def at_step(mesh: Mesh, step: int, *access: str) -> dict[str, Any]:
    """Waits until it is in a step, from 0, or beyond."""

    async def there() -> dict[str, Any] | None:
        found = await asyncio.to_thread(status, mesh, *access)
        assert found.get("phase") in {None, "progressing", "complete"}, found
        return found if int(found.get("step", -1)) >= step else None

    found = await eventually(there, 120)
    assert found is not None
    return found


async def complete(mesh: Mesh, *access: str) -> list[str]:
    """Waits until it is; what had happened by then."""

    async def is_complete() -> dict[str, Any] | None:
        found = await asyncio.to_thread(status, mesh, *access)
        assert found.get("phase") in {None, "progressing", "complete"}, found
        return found if found.get("phase") == "complete" else None

    found = await eventually(is_complete, 120)
    assert found is not None
    return [event["what"].partition(":")[0] for event in found["events"]]


async def passing(load: Load, more: int = 20) -> None:
    """Waits until the mesh has answered `more` requests."""
    await eventually(load.after(more), 90)


@contextlib.asynccontextmanager
async def rolling(mesh: Mesh, folder: Path, access: list[str]) -> AsyncIterator[Load]:
    """A healthy rollout and users of its route, until the block ends; `access` names who leads."""
    for node in NODES:
        copy = {"source": "tiny", "destination": "tiny-copy"}
        code, _, said = await asyncio.to_thread(call, mesh.address(node), "POST", "/api/copy", copy)
        assert code == 200, said
    (folder / "route.yaml").write_text(ROUTE)
    await asyncio.to_thread(mesh.run, "apply", "-f", str(folder), *access)
    for node in NODES:
        ask = {"model": "shifted", "prompt": "a", "stream": False, "options": {"num_predict": 1}}

        async def known(node: str = node, ask: dict[str, Any] = ask) -> bool:
            found = await asyncio.to_thread(call, mesh.address(node), "POST", "/api/generate", ask)
            return found[0] == 200

        await eventually(known, 60)
    try:
        async with load_on([mesh.url(node) for node in NODES], ["shifted"]) as load:
            await passing(load, 5)
            (folder / "rollout.yaml").write_text(ROLLOUT)
            await asyncio.to_thread(mesh.run, "apply", "-f", str(folder), *access)
            yield load
        assert load.counts.refused == []
        assert load.counts.silent == []
        assert load.counts.broken == []
    finally:
        (folder / "rollout.yaml").unlink(missing_ok=True)
        await asyncio.to_thread(mesh.run, "apply", "-f", str(folder), "--prune", *access)


async def test_the_registry_killed_in_a_step_goes_on_with_it_when_it_is_back(
    harmed_mesh: Mesh, tmp_path: Path
) -> None:
    mesh = harmed_mesh
    async with rolling(mesh, tmp_path, []) as load:
        await at_step(mesh, 1)
        await asyncio.to_thread(mesh.kill, "registry")
        await passing(load)  # by the shares of the second step, since nobody says otherwise
        await mesh.repair()
        assert await complete(mesh) == ["began", "step 2 of 3", "step 3 of 3", "complete"]


@contextlib.asynccontextmanager
async def another_registry(mesh: Mesh) -> AsyncIterator[str]:
    """A second registry of the mesh, which every agent knows of; its address."""
    layout, state = load_layout(mesh.state), mesh.state / "registry2"
    assert layout is not None
    (state / "pki").mkdir(parents=True, mode=0o700)
    for name in ("authorities.json", "keyring", "kek", "etcd-ca.pem", "etcd-ca.key"):
        shutil.copy(layout.pki / name, state / "pki" / name)
    ready = state / "ready.json"
    argv = [REGISTRY, "run", "--state-dir", str(state), "--name", "registry2", "--etcd-rbac"]
    argv += ["--etcd", ",".join(layout.etcd_urls), "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    argv += ["--host", "127.0.0.1", "--ready-file", str(ready)]
    with (mesh.state / "logs" / "registry2.log").open("ab") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        await eventually(lambda: ready.exists() or process.poll() is not None, 60)
        address = str(msgspec.json.decode(ready.read_bytes())["grpc"])
        for node in NODES:
            where = StateDir(mesh.state / node)
            settings = load_config(where)
            registries = (*settings.registries, address)
            save_config(where, msgspec.structs.replace(settings, registries=registries))
            await asyncio.to_thread(mesh.kill, node)
        await mesh.repair()
        await mesh.whole(90)
        yield address
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, 20)
        finally:
            process.kill()
            process.wait()


async def test_another_registry_goes_on_with_the_step_when_the_leader_dies(
    harmed_mesh: Mesh, tmp_path: Path
) -> None:
    mesh = harmed_mesh
    async with another_registry(mesh) as address:
        access = ["--registry", mesh.mesh()["registry"]["grpc"]]
        async with rolling(mesh, tmp_path, access) as load:
            await at_step(mesh, 1, *access)
            await asyncio.to_thread(mesh.kill, "registry")
            access[1] = address
            await passing(load)
            expected = ["began", "step 2 of 3", "step 3 of 3", "complete"]
            assert await complete(mesh, *access) == expected
            await mesh.repair()  # the old leader is back, and leads no more
            await passing(load)
            assert await complete(mesh, *access) == expected
