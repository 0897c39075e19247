"""A push to a node of a real mesh: the model answers there and at the others, at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bridge_core.model_store.layout import ModelStore
from bridge_core.model_store.registry import Registry
from bridge_core.names import ModelName
from bridge_engine.store.push import push
from tests.cluster.mesh_bed import NODES, TALKER, Mesh, call
from tests.support import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.etcd, pytest.mark.llamacpp]


async def test_what_is_pushed_to_one_node_answers_at_all(mesh: Mesh) -> None:
    host, port = mesh.address("node1")
    store = ModelStore(mesh.state / "node2" / "models")
    name = ModelName.parse(f"{host}:{port}/team/pushed:v1")
    talker = store.find(ModelName.parse(TALKER))
    assert talker is not None

    def pushed() -> list[dict[str, Any]]:
        store.write_manifest(name, talker.manifest)
        try:
            return list(push(store, name, Registry(name, insecure=True)))
        finally:
            store.manifest_path(name).unlink()

    assert (await asyncio.to_thread(pushed))[-1] == {"status": "success"}
    ask = {"model": "team/pushed:v1", "prompt": "x", "stream": False, "options": {"num_predict": 1}}
    try:
        for node in NODES:

            async def answers(node: str = node) -> bool:
                said = await asyncio.to_thread(call, mesh.address(node), "POST", "/api/generate", ask)
                return said[0] == 200

            await eventually(answers, 60)
    finally:
        gone = {"model": "team/pushed:v1"}
        assert (await asyncio.to_thread(call, (host, port), "DELETE", "/api/delete", gone))[0] == 200
