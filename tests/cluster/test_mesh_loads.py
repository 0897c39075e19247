"""Loads in a real mesh: real engines, a client that leaves, a burst at every node."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from tests.cluster.mesh_bed import NODES, TALKER, Mesh, call, raw
from tests.support import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.etcd, pytest.mark.llamacpp]

_BEGUN = re.compile(rb"bridge_model_loads_begun_total ([0-9.]+)")
_DONE = re.compile(rb'bridge_model_loads_total\{outcome="done"\} ([0-9.]+)')


async def loads(mesh: Mesh, which: re.Pattern[bytes]) -> float:
    """How many loads the agents of all nodes began, or have seen through."""

    def count(node: str) -> float:
        found = which.search(call(mesh.address(node, "admin"), "GET", "/metrics")[2])
        return float(found[1]) if found else 0.0

    return sum([await asyncio.to_thread(count, node) for node in NODES])


async def in_memory(mesh: Mesh) -> bool:
    """Whether anybody has it there, as the mesh was told: by that, not by its engine, a node waits or not."""
    where = await asyncio.to_thread(mesh.run, "models", "where", TALKER, "--json")
    return any(one["loaded"] for one in json.loads(where.stdout))


async def test_a_load_goes_on_without_its_client_and_serves_a_burst_at_every_node(mesh: Mesh) -> None:
    unload = {"model": TALKER, "keep_alive": 0}

    async def unloaded() -> bool:
        # Asked again: a golden prompt that was under way keeps it in memory for its own time.
        answer = await asyncio.to_thread(call, mesh.address("node1"), "POST", "/api/generate", unload)
        assert answer[0] == 200
        return not await in_memory(mesh)

    await eventually(unloaded, 60)
    begun_before, before = await loads(mesh, _BEGUN), await loads(mesh, _DONE)
    ask = {"model": TALKER, "prompt": "x", "stream": False, "options": {"num_predict": 1}}
    body = json.dumps(ask).encode()
    async with raw(mesh.address("node2")) as (_, writer):
        writer.write(
            b"POST /api/generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body)
        )
        writer.write(body)
        await writer.drain()

        async def begun() -> bool:
            return await loads(mesh, _BEGUN) == begun_before + 1

        await eventually(begun, 60)

    async def done() -> bool:
        return await loads(mesh, _DONE) == before + 1 and await in_memory(mesh)

    await eventually(done, 120)
    asked = (asyncio.to_thread(call, mesh.address(node), "POST", "/api/generate", ask) for node in NODES)
    answers = await asyncio.gather(*asked)
    assert [answer[0] for answer in answers] == [200] * len(NODES)
    assert await loads(mesh, _DONE) == before + 1


async def test_an_admin_warms_a_model_where_it_is_and_everybody_knows(mesh: Mesh) -> None:
    warmed = await asyncio.to_thread(mesh.run, "models", "warm", TALKER, "--json", check=False)
    if "are free for this agent" in warmed.stdout:
        pytest.skip("this machine has no memory to spare for a warm model")
    assert {one["node"]: one["done"] for one in json.loads(warmed.stdout)} == dict.fromkeys(NODES, "warm")

    async def known() -> bool:
        where = await asyncio.to_thread(mesh.run, "models", "where", TALKER, "--json")
        return all(one["warm"] for one in json.loads(where.stdout))

    await eventually(known, 60)
