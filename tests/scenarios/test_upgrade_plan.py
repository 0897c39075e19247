"""What agents tell of their formats reaches the plan of an upgrade through a real registry."""

from __future__ import annotations

from bridge_cli.upgrade_commands import whole_of
from bridge_cli.upgrade_rules import Part, UpgradePlan, plan
from bridge_core.formats import WRITTEN
from bridge_wire.v1 import registry_pb2 as pb
from tests.fakes.store import FakeEtcd, FakeStore
from tests.registry_bed import Bed, Node
from tests.support import eventually

NEXT = "0.2.0"


async def told(bed: Bed) -> tuple[dict[str, Part], UpgradePlan]:
    async with bed.admin() as admin:
        whole = whole_of(await admin.Status(pb.StatusRequest()), await admin.Rollouts(pb.RolloutsRequest()))
    return {one.name: one for one in whole.parts}, plan(whole, NEXT)


async def reports(bed: Bed, node: Node, report: pb.LoadReport) -> None:
    """One report, taken in."""
    async with node.mesh() as mesh:
        call = mesh.ReportLoad()
        await call.write(report)

        async def taken() -> bool:
            return bool((await told(bed))[0][node.name].speaks)

        await eventually(taken)
        call.cancel()


async def test_agents_of_now_and_of_before_are_told_apart(bed: Bed, etcd: FakeEtcd) -> None:
    new, old = await bed.join("new"), await bed.join("old")
    for node in (new, old):
        await node.register(FakeStore(etcd))
    await eventually(lambda: len(bed.registry.publisher.hub.current.instances) == 2)
    parts, _ = await told(bed)
    assert (parts["new"].version, parts["new"].speaks) == ("test", {})  # as it joined, not heard of yet
    await reports(bed, new, pb.LoadReport(began_unix_ms=1, version="0.1.0", speaks=WRITTEN))
    parts, made = await told(bed)
    assert (parts["new"].version, parts["new"].speaks) == ("0.1.0", dict(WRITTEN))
    assert [one.what for one in made.steps] == ["backup", "registries", "agent", "agent"]
    await reports(bed, old, pb.LoadReport(began_unix_ms=1))
    _, made = await told(bed)
    assert made.steps[-1].what == "agents together"
    assert set(made.steps[-1].names) == {"new", "old"}
    assert not made.refused
