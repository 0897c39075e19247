"""What pods cost to end, from a registry that leads to a Kubernetes API."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge_core.errors import Unavailable
from bridge_registry.external_metrics.reader import FiguresReader
from bridge_registry.pod_costs.cost_rules import ANNOTATION, EVERY_S, GONE_S
from bridge_registry.pod_costs.writer import CostOptions, CostWriter
from bridge_wire.v1 import scaling_pb2 as pb
from tests.fakes.store import FakeEtcd
from tests.fleet_bed import Fleet, apply
from tests.kubernetes_api import FakeApi, reviewing
from tests.metrics_bed import write_viewer
from tests.registry_bed import Bed
from tests.support import eventually

PODS = "/api/v1/namespaces/bridge/pods"


class World:
    """A writer, the API that it writes to, and the time."""

    def __init__(self, api: FakeApi, options: CostOptions) -> None:
        self.api, self.now = api, 0.0
        self.writer = CostWriter(options, lambda: self.now)

    def pods(self, *names: str) -> None:
        self.api.annotations |= {f"{PODS}/{name}": {} for name in names}

    @property
    def costs(self) -> dict[str, int]:
        """Of the pods that were told theirs."""
        return {
            path.rpartition("/")[2]: int(found[ANNOTATION])
            for path, found in self.api.annotations.items()
            if found
        }


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with reviewing(tmp_path / "kubernetes") as (api, told):
        none = tmp_path / "none"
        yield World(api, CostOptions((), none, none, none, "bridge", told.address, told.folder))


def says(**instances: pb.ScaledInstance) -> pb.AutoscalingResponse:
    """A registry's answer: instances by their nodes."""
    for node, one in instances.items():
        one.instance, one.known = f"{node}/0", True
    return pb.AutoscalingResponse(policies=[pb.AutoscaleStatus(policy="p", instances=instances.values())])


def seen(part: str, in_flight: int = 0, queued: int = 0) -> pb.ScaledInstance:
    return pb.ScaledInstance(part=part, in_flight=in_flight, queued=queued)


async def test_pods_are_told_what_they_cost_as_far_as_that_changes(world: World) -> None:
    world.pods("a", "b")
    # Of the three nodes one is no pod of this namespace.
    found = says(a=seen("active", 2, 1), b=seen("warm", 1), elsewhere=seen("idle"))
    assert await world.writer.write(found) == 2
    assert world.costs == {"a": 10_000_400, "b": 100}
    assert await world.writer.write(found) == 0
    # One more request waits for its time, one that was taken out does not.
    later = says(a=seen("active", 9), b=seen("active", 1), elsewhere=seen("idle"))
    assert await world.writer.write(later) == 1
    assert world.costs == {"a": 10_000_400, "b": 10_000_100}
    world.now = EVERY_S
    assert await world.writer.write(later) == 1
    assert world.costs["a"] == 10_001_600
    # The node's pod comes to be.
    world.pods("elsewhere")
    world.now = GONE_S
    assert await world.writer.write(later) == 1
    assert world.costs["elsewhere"] == 0


async def test_a_pod_that_takes_no_cost_does_not_keep_the_others_from_theirs(world: World) -> None:
    world.pods("a", "b", "c")
    world.api.refused[f"{PODS}/a"] = 422  # as where a webhook of the cluster does not let it be changed
    found = says(a=seen("active", 9), b=seen("active", 1), c=seen("warm", 1))
    with pytest.raises(Unavailable, match="422"):
        await world.writer.write(found)
    with contextlib.suppress(Unavailable):
        await world.writer.write(found)
    assert world.costs == {"b": 10_000_100, "c": 100}
    with pytest.raises(Unavailable, match="pod a"):
        await world.writer.write(found)
    del world.api.refused[f"{PODS}/a"]
    assert await world.writer.write(found) == 1
    assert world.costs["a"] == 10_001_600


async def test_what_the_api_says_of_it_is_told_and_tried_again(world: World) -> None:
    world.pods("a")
    found = says(a=seen("active"))
    for status, why in (
        (403, "needs `patch` on pods/status in bridge"),
        (500, "answered 500 to a change of the pod a"),
    ):
        world.api.answer = (status, b"{}")
        with pytest.raises(Unavailable) as refused:
            await world.writer.write(found)
        assert why in f"{refused.value} {refused.value.hint}"
    world.api.answer = None
    assert await world.writer.write(found) == 1


async def test_without_an_account_nothing_is_written(world: World, tmp_path: Path) -> None:
    options = CostOptions((), tmp_path, tmp_path, tmp_path, "bridge", folder=tmp_path / "missing")
    with pytest.raises(Unavailable, match="cannot read"):
        await CostWriter(options).write(says(a=seen("active")))


async def test_it_is_the_registry_that_leads_that_says_it(
    bed: Bed, etcd: FakeEtcd, world: World, tmp_path: Path
) -> None:
    viewer = await write_viewer(bed, tmp_path / "viewer")
    world.pods("n1", "n2", "n3")
    async with contextlib.AsyncExitStack() as stack:
        fleet = Fleet(bed, etcd)
        await fleet.begin(stack)
        await apply(bed)
        await fleet.until(lambda: len(fleet.holders.active) == 1)
        files = (viewer / "tls.crt", viewer / "tls.key", viewer / "ca.pem")
        reader = FiguresReader((bed.address,), *files, every_s=0.05)
        task = asyncio.create_task(reader.run())

        async def told() -> bool:
            await fleet.step()
            if reader.answer is not None:
                world.now += EVERY_S
                await world.writer.write(reader.answer)
            active = {id_.partition("/")[0] for id_ in fleet.holders.active}
            dear = {name for name, cost in world.costs.items() if cost >= 10_000_000}
            return len(world.costs) == 3 and dear == active

        await eventually(told, 30)
        task.cancel()
        await asyncio.wait([task])
