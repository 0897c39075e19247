"""Rollouts, load reports, revocation and draining through a registry's gRPC."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest

from bridge_core.counts import Counter
from bridge_core.snapshot import MemberModel
from bridge_core.traffic import shares
from bridge_wire.v1 import registry_pb2 as pb
from tests.fakes.store import FakeEtcd, FakeStore
from tests.registry_bed import Bed, Follower, Node, following, refused
from tests.scenarios.rollout_world import PROBE, ROLLOUT, ROUTE
from tests.support import eventually


class Reporter:
    """A node's stream of load reports."""

    def __init__(self, call: grpc.aio.StreamUnaryCall) -> None:
        self.call = call
        self.old, self.new = Counter(), Counter()

    async def send(
        self,
        follower: Follower,
        *,
        in_flight: int = 0,
        probes: tuple[pb.ProbeResult, ...] = (),
        silent: tuple[str, ...] = (),
    ) -> None:
        version = follower.snapshot.version
        await self.call.write(
            pb.LoadReport(
                began_unix_ms=1,
                in_flight=in_flight,
                snapshot=pb.SnapshotVersion(epoch=version.epoch, revision=version.revision),
                backends=[
                    pb.BackendLoad(
                        route="chat",
                        backend=key,
                        requests=counter.counts.requests,
                        errors=counter.counts.errors,
                        ttft_buckets=counter.counts.ttft,
                    )
                    for key, counter in (("old", self.old), ("new", self.new))
                ],
                probes=probes,
                silent_peers=[pb.SilentPeer(node=name, since_unix=9) for name in silent],
            )
        )

    def serve(self, counter: Counter, requests: int, errors: int = 0) -> None:
        for at in range(requests):
            if at < errors:
                counter.failed()
            else:
                counter.answered(0.1, tokens=0, generating_s=0.0, broken=False)


@contextlib.asynccontextmanager
async def reporting(node: Node) -> AsyncIterator[Reporter]:
    async with node.mesh() as stub:
        call = stub.ReportLoad()
        yield Reporter(call)
        call.cancel()


def files(spec: str = "") -> list[pb.ConfigFile]:
    return [
        pb.ConfigFile(name="route.yaml", text=ROUTE),
        pb.ConfigFile(name="rollout.yaml", text=ROLLOUT % spec),
    ]


def share(follower: Follower) -> float:
    route = follower.snapshot.routes.get("chat")
    return shares(route.backends)["new"] if route is not None else -1.0


async def test_a_rollout_from_apply_to_the_end_and_back(bed: Bed, etcd: FakeEtcd) -> None:
    node, store = await bed.join("n1"), FakeStore(etcd)
    await node.register(store, models=(MemberModel("old"), MemberModel("new")))
    tick = bed.registry.rollouts.tick
    async with bed.admin() as admin, following(node, Follower()) as follower, reporting(node) as reporter:
        await reporter.send(follower)
        applied = await admin.Apply(pb.ApplyRequest(files=files(", increment: 90" + PROBE)))
        assert list(applied.changed) == ["ModelRoute/chat", "Rollout/roll"]
        await eventually(lambda: share(follower) == 0.1)
        await eventually(lambda: follower.snapshot.probes)
        probe = follower.snapshot.probes[0]
        assert (probe.model, probe.questions[0].expect) == ("new", "4")
        for counter in (reporter.old, reporter.new):
            reporter.serve(counter, 40)
        right = pb.ProbeResult(rollout="roll", round=probe.round, instance="n1/0", passed=True)
        await reporter.send(follower, probes=(right,))

        async def counted() -> bool:
            (one,) = (await admin.Rollouts(pb.RolloutsRequest())).rollouts
            return bool(one.canary.requests == one.stable.requests == 40)

        await eventually(counted)
        await tick(1.0)
        await tick(300.0)
        await eventually(lambda: share(follower) == 1.0)
        await admin.CommandRollout(pb.CommandRolloutRequest(name="roll", verb="pause"))
        code, says = await refused(admin.CommandRollout(pb.CommandRolloutRequest(name="roll", verb="pause")))
        assert (code, "roll is paused" in says) == (grpc.StatusCode.INVALID_ARGUMENT, True)
        status = await admin.CommandRollout(pb.CommandRolloutRequest(name="roll", verb="abort"))
        assert (status.phase, status.reason) == ("aborted", "abort by spiffe://bridge.local/admin/admin")
        assert [event.what.partition(":")[0] for event in status.events][:2] == ["began", "step 2 of 2"]
        await eventually(lambda: share(follower) == 0.0)
        # Without its document the route is as it is written, and nothing of it is left behind.
        await admin.Apply(pb.ApplyRequest(files=files()[:1], prune=True))
        await eventually(lambda: "/bridge/v1/rollouts/roll" not in etcd.items)
        await eventually(lambda: not follower.snapshot.probes)
        code, says = await refused(admin.CommandRollout(pb.CommandRolloutRequest(name="roll", verb="abort")))
        assert "there is no rollout 'roll'" in says
    await store.close()


async def test_a_failing_canary_is_rolled_back_from_reports_alone(bed: Bed) -> None:
    node = await bed.join("n1")
    async with bed.admin() as admin, following(node, Follower()) as follower, reporting(node) as reporter:
        await reporter.send(follower)
        await admin.Apply(pb.ApplyRequest(files=files()))
        await eventually(lambda: share(follower) == 0.1)
        reporter.serve(reporter.old, 100)
        reporter.serve(reporter.new, 30, errors=10)
        await reporter.send(follower)
        await eventually(lambda: share(follower) == 0.0)
        (one,) = (await admin.Rollouts(pb.RolloutsRequest(name="roll"))).rollouts
        assert (one.phase, one.reason) == ("rolled-back", "error rate 33.3% (10 of 30) against 0 of 100")


async def test_a_node_cannot_speak_for_anothers_instance(bed: Bed, etcd: FakeEtcd) -> None:
    node, store = await bed.join("n1"), FakeStore(etcd)
    await node.register(store, models=(MemberModel("new"),))
    other = await bed.join("n2")
    await other.register(store, models=(MemberModel("new"),))
    async with bed.admin() as admin, following(node, Follower()) as follower, reporting(node) as reporter:
        await admin.Apply(pb.ApplyRequest(files=files(PROBE)))
        await eventually(lambda: follower.snapshot.probes and len(follower.snapshot.instances) == 2)
        round_ = follower.snapshot.probes[0].round
        lie = pb.ProbeResult(rollout="roll", round=round_, instance="n2/0", passed=False)
        own = pb.ProbeResult(rollout="roll", round=round_, instance="n1/0", passed=False, detail="'5'")
        await reporter.send(follower, probes=(lie,))
        await reporter.send(follower, probes=(own,))
        await eventually(lambda: not follower.snapshot.probes)  # rolled back
        (one,) = (await admin.Rollouts(pb.RolloutsRequest(name="roll"))).rollouts
        assert one.reason == "the probe failed on n1/0: '5'"
    await store.close()


async def test_the_status_tells_who_does_not_answer_whom_and_when_each_was_heard(bed: Bed) -> None:
    nodes = [await bed.join(name) for name in ("n1", "n2")]
    async with bed.admin() as admin, following(nodes[0], Follower()) as follower:

        async def told() -> pb.NodeStatus:
            status = await admin.Status(pb.StatusRequest())
            assert (status.registry, status.leader_name) == ("r1", "r1")
            assert status.leader_address
            assert status.registry_version
            return next(one for one in status.nodes if one.name == "n1")

        before = await told()
        assert (before.began_unix, before.heard_unix) == (0, 0)
        async with reporting(nodes[0]) as reporter:
            await reporter.send(follower, silent=("n2", "never-heard-of"))

            async def heard() -> bool:
                found = await told()
                return [(one.node, one.since_unix) for one in found.silent_peers] == [("n2", 9)]

            await eventually(heard)
            reporter.call.cancel()

        async def gone() -> bool:
            found = await told()
            return not found.reports and found.heard_unix > 0

        await eventually(gone)


async def test_a_drained_node_is_safe_to_stop_when_its_last_request_ended(bed: Bed) -> None:
    nodes = [await bed.join(name) for name in ("n1", "n2")]
    async with (
        bed.admin() as admin,
        following(nodes[0], Follower()) as follower,
        following(nodes[1], Follower()) as other,
        reporting(nodes[0]) as reporter,
    ):
        await eventually(lambda: len(other.snapshot.nodes) == 2 == len(follower.snapshot.nodes))

        async def state() -> tuple[str, int, bool]:
            found = next(one for one in (await admin.Status(pb.StatusRequest())).nodes if one.name == "n1")
            return found.state, found.in_flight, found.safe_to_stop

        await reporter.send(follower, in_flight=2)
        await admin.Drain(pb.DrainRequest(node_name="n1", drained=True))
        await eventually(lambda: follower.snapshot.nodes["n1"].state == "drained")
        await reporter.send(follower, in_flight=1)

        async def one_left() -> bool:
            return await state() == ("drained", 1, False)

        await eventually(one_left)
        await reporter.send(follower)

        async def safe() -> bool:
            return await state() == ("drained", 0, True)

        await eventually(safe)


async def test_a_revoked_node_is_cut_off_everywhere_and_its_name_waits_for_a_token_of_its_own(
    bed: Bed, etcd: FakeEtcd
) -> None:
    thrown, stays, store = await bed.join("n1"), await bed.join("n2"), FakeStore(etcd)
    await thrown.register(store)
    async with bed.admin() as admin, following(stays, Follower()) as follower:
        await eventually(lambda: "n1/0" in follower.snapshot.instances)
        await admin.Revoke(pb.RevokeRequest(node_name="n1"))
        await eventually(lambda: follower.snapshot.mesh.revoked_serials)
        assert "n1/0" not in follower.snapshot.instances
        assert follower.snapshot.nodes["n1"].state == "revoked"
        async with thrown.mesh() as stub:
            code, says = await refused(stub.Renew(pb.RenewRequest()))
            assert (code, "was revoked" in says) == (grpc.StatusCode.PERMISSION_DENIED, True)
        async with following(thrown, Follower()) as refused_follower:
            await eventually(lambda: refused_follower.fault)
        with pytest.raises(grpc.aio.AioRpcError, match="n1"):
            await bed.join("n1")
        await bed.join("n1", await bed.token(node_name="n1", ttl_seconds=60, uses=1))
        await eventually(lambda: follower.snapshot.nodes["n1"].state == "active")
        code, says = await refused(admin.Revoke(pb.RevokeRequest(node_name="zz")))
        assert "there is no node 'zz'" in says
    await store.close()


async def test_a_revoked_node_cannot_be_taken_back_by_a_drain(bed: Bed) -> None:
    await bed.join("n1")
    stays = await bed.join("n2")
    async with bed.admin() as admin, following(stays, Follower()) as follower:
        await admin.Revoke(pb.RevokeRequest(node_name="n1"))
        for drained in (True, False):
            request = pb.DrainRequest(node_name="n1", drained=drained)
            code, says = await refused(admin.Drain(request))
            assert (code, "'n1' is revoked" in says) == (grpc.StatusCode.INVALID_ARGUMENT, True)
        await eventually(
            lambda: "n1" in (nodes := follower.snapshot.nodes) and nodes["n1"].state == "revoked"
        )
