"""Killing and stopping the processes of a real mesh under load.

What is counted: every request sent to a node whose agent is not itself killed. Of those, none that
had not begun to stream may fail, and no stream may end as if it were complete. Requests in flight at
an agent that is killed are lost with their connection: nothing can answer on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.cluster.load import Load, load_on
from tests.cluster.mesh_bed import SOLO, Mesh, end_hard
from tests.support import eventually

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.faults,
    pytest.mark.etcd,
    pytest.mark.llamacpp,
    pytest.mark.timeout(400),
]

STOP_S = 12.0  # more than twice the leases' time to live
SOME = 20  # requests, enough to meet every node and worker


def assert_nothing_was_lost(load: Load) -> None:
    assert load.counts.refused == []
    assert load.counts.silent == []


async def passing(load: Load, more: int = SOME) -> None:
    """Waits until the mesh has answered `more` requests."""
    await eventually(load.after(more), 60)


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(lambda mesh: mesh.kill("node2"), id="agent"),
        pytest.param(lambda mesh: end_hard(mesh.engine_pid("node2")), id="engine"),
        pytest.param(lambda mesh: mesh.kill("registry"), id="registry"),
        pytest.param(lambda mesh: mesh.kill("etcd"), id="etcd"),
        pytest.param(lambda mesh: mesh.kill("guard"), id="store guard"),
    ],
)
async def test_a_kill_loses_no_request(harmed_mesh: Mesh, harm: Callable[[Mesh], None]) -> None:
    mesh = harmed_mesh
    async with load_on([mesh.url("node1"), mesh.url("node3")], ["tiny", "tiny", SOLO]) as load:
        await passing(load)
        await asyncio.to_thread(harm, mesh)
        await passing(load)
        await mesh.repair()
        await passing(load)
        await mesh.whole()
    assert_nothing_was_lost(load)


async def test_an_etcd_that_stands_still_loses_no_request_and_no_member(harmed_mesh: Mesh) -> None:
    mesh = harmed_mesh
    urls = [mesh.url(node) for node in ("node1", "node2", "node3")]
    loop = asyncio.get_running_loop()
    async with load_on(urls, ["tiny", SOLO]) as load:
        await passing(load)
        with mesh.stopped("etcd"):
            until = loop.time() + STOP_S
            while loop.time() < until:
                await passing(load, 5)
                assert await mesh.seen() == [3, 3, 3]
        await passing(load)
        await mesh.whole()
    assert_nothing_was_lost(load)
    assert load.counts.broken == []


async def test_registry_and_etcd_gone_and_an_agent_started_anew(harmed_mesh: Mesh) -> None:
    """The agent answers for another node's model from the snapshot on its disk."""
    mesh = harmed_mesh
    async with load_on([mesh.url("node1"), mesh.url("node3")], ["tiny", SOLO]) as load:
        await passing(load, 10)
        for part in ("registry", "etcd", "node2"):
            await asyncio.to_thread(mesh.kill, part)
        await passing(load)
        await mesh.repair()
        await passing(load, 10)
        await mesh.whole()
    assert_nothing_was_lost(load)


async def test_after_the_hard_end_of_everything_the_same_mesh_answers(harmed_mesh: Mesh) -> None:
    mesh = harmed_mesh
    before = {path: path.read_bytes() for path in mesh.state.glob("*/identity/*")}
    await asyncio.to_thread(mesh.kill_everything)
    await mesh.repair()
    assert {path: path.read_bytes() for path in mesh.state.glob("*/identity/*")} == before
    async with load_on([mesh.url(node) for node in ("node1", "node2", "node3")], ["tiny", SOLO]) as load:
        await passing(load)
    assert_nothing_was_lost(load)
