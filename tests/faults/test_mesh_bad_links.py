"""Agents as processes with a bad link between them: far and lossy, or there for some and not for others.

The kernels that tests run on mostly have no netem, so a relay of TCP stands for the link: others dial the
node there. It delays each way, and holds up a connection where a lost packet would.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from bridge_core.addresses import split_address
from bridge_core.errors import Fatal
from bridge_core.etcd_server import find_etcd
from tests.bad_link import BadLink, bad_link
from tests.cluster.agent_bed import free_listeners, held_engine
from tests.node_processes import WAIT_S, NodeProcess, joined, leading
from tests.registry_processes import registries
from tests.support import eventually

pytestmark = [pytest.mark.etcd, pytest.mark.faults]

FAR = "127.0.0.33"  # where others look for node3; it listens on another address
ASKED = 60


class Mesh(msgspec.Struct):
    """node1, whom clients ask and which has none of the models; node2 and node3, and the way to node3."""

    asked: NodeProcess
    near: NodeProcess
    far: NodeProcess
    link: BadLink

    async def where(self, model: str) -> Counter[str]:
        """Who answers how many of some requests, each of another conversation."""
        found: Counter[str] = Counter()
        for number in range(ASKED):
            status, node = await self.asked.ask(model, session=f"s{number}")
            assert status == 200
            found[node] += 1
        return found


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    try:
        find_etcd()
    except Fatal as fault:
        pytest.skip(str(fault))
    with registries(tmp_path, "registry1") as found:
        (registry,) = found.pairs
        registry.start()
        await leading(registry)
        async with AsyncExitStack() as stack:
            nodes = []
            for name, models in (("node1", ("other",)), ("node2", ("m",)), ("node3", ("m", "solo"))):
                engine, attached = await stack.enter_async_context(held_engine(*models))
                engine.release.set()
                far = name == "node3"
                node = await joined(
                    registry,
                    tmp_path / name,
                    attached,
                    free_listeners(),
                    advertise=FAR if far else None,
                )
                stack.callback(node.kill)
                await node.start()
                nodes.append(node)
            host, port = split_address(nodes[2].settings.listeners.peer)
            link = await stack.enter_async_context(bad_link(FAR, (host, port), random.Random(1)))
            mesh = Mesh(*nodes, link)
            await eventually(lambda: reached(mesh, "solo"), WAIT_S)
            await eventually(lambda: reached(mesh, "m"), WAIT_S)
            yield mesh


async def reached(mesh: Mesh, model: str) -> bool:
    return (await mesh.asked.ask(model))[0] == 200


async def test_a_far_and_lossy_node_gets_little_while_a_near_one_is_idle(mesh: Mesh) -> None:
    async def both() -> bool:
        return len(await mesh.where("m")) == 2

    await eventually(both, WAIT_S)  # while the link is good they share
    mesh.link.delay_s, mesh.link.loss = 0.15, 0.05

    async def nearly_all_near() -> bool:
        found = await mesh.where("m")
        return found["node2"] >= 0.95 * ASKED

    await eventually(nearly_all_near, WAIT_S)
    assert (await mesh.asked.ask("solo")) == (200, "node3")  # whom nobody else can stand in for
    mesh.link.delay_s = mesh.link.loss = 0.0
    await eventually(both, WAIT_S)


async def test_a_node_that_only_a_third_can_reach_is_refused_with_the_link_named(mesh: Mesh) -> None:
    mesh.link.cut(mesh.asked.running.process.pid)

    async def named() -> bool:
        status, said = await mesh.asked.told("solo")
        port = split_address(mesh.far.settings.listeners.peer)[1]
        return (
            status == 502
            and said.startswith(f"node1 cannot reach node3 at {FAR}:{port}: ")
            and said.endswith("; node2 can")
        )

    await eventually(named, WAIT_S)
    assert (await mesh.near.ask("solo")) == (200, "node3")
    assert set(await mesh.where("m")) == {"node2"}  # nothing is tried over the cut link
    mesh.link.cut()
    await eventually(lambda: reached(mesh, "solo"), WAIT_S)
