"""Two agents on copies of one state folder, as a machine that was cloned has them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from bridge_agent.config import StateDir, save_config
from bridge_core.errors import Fatal
from bridge_core.etcd_server import find_etcd
from tests.cluster.agent_bed import free_listeners, held_engine
from tests.node_processes import WAIT_S, NodeProcess, joined, leading
from tests.registry_processes import Registries, registries
from tests.support import copy_of_running, eventually

pytestmark = [pytest.mark.etcd, pytest.mark.faults]

ASKED = 10


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Registries]:
    try:
        find_etcd()
    except Fatal as fault:
        pytest.skip(str(fault))
    with registries(tmp_path, "registry1") as found:
        yield found


async def cloned(node: NodeProcess, folder: Path) -> NodeProcess:
    """A copy of its state folder, whose agent listens elsewhere, as on another machine."""
    await copy_of_running(node.state.root, folder)
    settings = msgspec.structs.replace(node.settings, listeners=free_listeners())
    save_config(StateDir(folder), settings)
    return NodeProcess(StateDir(folder), settings)


async def answers(asker: NodeProcess) -> set[tuple[int, str]]:
    """What its clients hear when they ask for node1's model, some times over."""
    return {await asker.ask("held") for _ in range(ASKED)}


async def test_a_clone_is_refused_and_leaves_nothing_behind(mesh: Registries, tmp_path: Path) -> None:
    (registry,) = mesh.pairs
    registry.start()
    await leading(registry)
    async with AsyncExitStack() as stack:
        engine, attached = await stack.enter_async_context(held_engine())
        _, other = await stack.enter_async_context(held_engine("other"))
        engine.release.set()
        first = await joined(registry, tmp_path / "node1", attached)
        asker = await joined(registry, tmp_path / "node2", other)
        stack.callback(first.kill)
        stack.callback(asker.kill)
        await first.start()
        await asker.start()

        async def served() -> bool:
            return await asker.ask("held") == (200, "node1")

        def looked_for_at(node: NodeProcess) -> bool:
            known = asker.snapshot.nodes.get("node1")
            return known is not None and known.peer == node.settings.listeners.peer

        await eventually(served, WAIT_S)
        await eventually(lambda: looked_for_at(first), WAIT_S)  # on its disk, a moment later
        clone = await cloned(first, tmp_path / "clone")
        stack.callback(clone.kill)
        for end in (clone.stop, clone.kill):  # in order, and at once
            await clone.start()

            async def refused() -> bool:
                said = f"another agent is registered as node1: at {first.settings.listeners.peer}"
                return any(one.startswith(said) for one in await clone.concerns())

            await eventually(refused, WAIT_S)
            assert await clone.ask("held") == (200, "node1")  # its own clients are served
            assert await answers(asker) == {(200, "node1")}
            gone = end()
            if gone is not None:
                await gone
            assert await answers(asker) == {(200, "node1")}
            assert looked_for_at(first)
        assert not [one for one in await first.concerns() if "another agent" in one]
        await clone.start()
        await eventually(refused, WAIT_S)
        await first.stop()  # a machine that moved: the copy is the node from now on
        await eventually(lambda: looked_for_at(clone), WAIT_S)
        await eventually(served, WAIT_S)
        assert await answers(asker) == {(200, "node1")}
