"""What an agent does with the NodeClass of its node, on engines that are processes: no mesh around them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import msgspec
import pytest

from bridge_agent.engines.process import LaunchSpec
from bridge_agent.limits.cgroup import Cgroups, open_cgroups
from bridge_agent.limits.cgroup_rules import Hierarchy, Tree
from bridge_agent.limits.default_class import UNCLASSED
from bridge_agent.limits.gpu import NoGpus
from bridge_agent.limits.gpus import GpuKeeper
from bridge_agent.limits.launcher import IsolatedLauncher, Placed
from bridge_agent.limits.node_isolation import NodeIsolation
from bridge_core.node_class import GpuSharing, Isolation, NodeClass, ResourceLimits
from bridge_core.snapshot import Node, Snapshot, Version, encode_entry
from tests.engine_support import Supervised, fake_config, supervised
from tests.support import eventually

READ_ONLY = "the cgroup tree is mounted read-only"
PATIENCE_S = 40.0


def no_groups() -> tuple[None, str]:
    return None, READ_ONLY


def launcher(state, node_class=UNCLASSED, **options) -> IsolatedLauncher:
    options.setdefault("open_cgroups", no_groups)
    return IsolatedLauncher(state, node_class=node_class, cgroups=None, **options)


def mesh(*classes: NodeClass, labels: dict[str, str] | None = None, state: str = "active") -> Snapshot:
    entries = {f"nodeclass/{one.name}": encode_entry(one) for one in classes}
    return Snapshot(
        Version(1, 1), entries | {"node/n1": encode_entry(Node("n1", state=state, labels=labels or {}))}
    )


def in_charge(
    starts: IsolatedLauncher,
    it: Supervised,
    folder,
    own: NodeClass | None = None,
    idle: Sequence[bool] = (True,),
) -> NodeIsolation:
    keeper = GpuKeeper(
        NoGpus(),
        without="there is no driver",
        folder=folder / "mps",
        node="n1",
        instances=[("n1/0", None)],
        sharing=None,
        engines=it.supervisor,
    )
    starts.give_devices(keeper)
    return NodeIsolation(
        "n1", {}, own, launcher=starts, keeper=keeper, engines=it.supervisor, idle=lambda: idle[0]
    )


async def test_without_a_class_nothing_is_walled_and_groups_are_not_looked_for(tmp_path) -> None:
    def looked() -> tuple[None, str]:
        raise AssertionError("nobody asked for groups")

    state = tmp_path / "s"
    starts = launcher(state, open_cgroups=looked)
    async with supervised(fake_config(tmp_path), state, launcher=starts) as it:
        view = await it.state("ready", PATIENCE_S)
        assert view.network_pid == 0
        report = starts.report("n1/0")
        assert (report.walls, report.missing, report.limits) == ((), {}, ResourceLimits())


async def test_limits_that_nothing_here_holds_forbid_the_start_and_say_why(tmp_path) -> None:
    limited = NodeClass("small", limits=ResourceLimits(memory_max=1 << 30))
    state = tmp_path / "s"
    async with supervised(fake_config(tmp_path), state, launcher=launcher(state, limited)) as it:
        await eventually(lambda: it.status.phase == "backoff" and READ_ONLY in it.status.reason, PATIENCE_S)
        assert it.status.launches == 0


async def test_a_wall_that_is_only_wished_for_is_left_out_and_named(tmp_path) -> None:
    wished = NodeClass("w", isolation=Isolation(walls=("cgroup", "no_new_privs")))
    state = tmp_path / "s"
    starts = launcher(state, wished)
    async with supervised(fake_config(tmp_path), state, launcher=starts) as it:
        await it.state("ready", PATIENCE_S)
        assert starts.report("n1/0").walls == ("no_new_privs",)
        assert starts.report("n1/0").missing == {"cgroup": READ_ONLY}


async def test_a_wall_that_fails_after_all_is_left_out_unless_it_is_required(tmp_path) -> None:
    gone = Cgroups(Hierarchy({"pids": Tree(1, "/proc/no-such-tree")}), "n1")
    wished = Isolation(walls=("cgroup", "no_new_privs"))
    state = tmp_path / "s"
    starts = IsolatedLauncher(state, node_class=NodeClass("w", isolation=wished), cgroups=gone)
    async with supervised(fake_config(tmp_path), state, launcher=starts) as it:
        await it.state("ready", PATIENCE_S)
        assert starts.report("n1/0").walls == ("no_new_privs",)
        assert "/proc/no-such-tree" in starts.report("n1/0").missing["cgroup"]
    required = NodeClass("w", isolation=Isolation(walls=(), require=("cgroup",)))
    state = tmp_path / "t"
    starts = IsolatedLauncher(state, node_class=required, cgroups=gone)
    async with supervised(fake_config(tmp_path), state, launcher=starts) as it:
        await eventually(lambda: "'cgroup' is required" in it.status.reason, PATIENCE_S)
        assert it.status.launches == 0


async def test_a_running_engine_waits_for_other_walls_and_its_next_start_has_them(tmp_path) -> None:
    state = tmp_path / "s"
    starts = launcher(state)
    async with supervised(fake_config(tmp_path), state, launcher=starts) as it:
        view = await it.state("ready", PATIENCE_S)
        node = in_charge(starts, it, tmp_path)
        strict = NodeClass("strict", {"zone": "a"}, isolation=Isolation(walls=("no_new_privs",)))
        node.follow(mesh(strict))
        assert node.node_class == UNCLASSED  # of nodes with another label
        assert node.source == ""
        node.follow(mesh(strict, labels={"zone": "a"}))
        assert (node.node_class, node.source) == (strict, "the mesh")
        assert "next start" in node.report("n1/0").pending
        assert node.report("n1/0").walls == ()
        assert it.view.port == view.port
        it.supervisor.fail("n1/0", "asked to start again")
        await eventually(lambda: starts.report("n1/0").walls == ("no_new_privs",), PATIENCE_S)
        assert node.report("n1/0").pending == ""
        node.follow(mesh())  # the class is gone: what stands stays until the next start
        assert "next start" in node.report("n1/0").pending


async def test_a_snapshot_that_is_told_of_is_followed_beside_what_told_it(tmp_path) -> None:
    state = tmp_path / "s"
    starts = launcher(state)
    async with supervised(fake_config(tmp_path), state, launcher=starts) as it:
        await it.state("ready", PATIENCE_S)
        node = in_charge(starts, it, tmp_path)
        follows = asyncio.create_task(node.run())
        try:
            node.told(mesh(NodeClass("strict", isolation=Isolation(walls=("no_new_privs",)))))
            assert node.node_class == UNCLASSED
            await eventually(lambda: node.node_class.name == "strict", PATIENCE_S)
        finally:
            follows.cancel()
            await asyncio.gather(follows, return_exceptions=True)


async def test_an_engine_that_took_no_request_yet_is_started_anew_for_its_class(tmp_path) -> None:
    (tmp_path / "never").touch()  # it runs and does not answer
    state = tmp_path / "s"
    starts = launcher(state)
    async with supervised(fake_config(tmp_path), state, launcher=starts) as it:
        await eventually(lambda: it.status.launches == 1, PATIENCE_S)
        strict = NodeClass("strict", isolation=Isolation(walls=("no_new_privs",)))
        node = in_charge(starts, it, tmp_path)
        node.follow(mesh(strict))
        (tmp_path / "never").unlink()
        await it.state("ready", PATIENCE_S)
        assert "its node has the NodeClass strict now" in it.status.reason
        report = node.report("n1/0")
        assert (report.walls, report.pending) == (("no_new_privs",), "")


async def test_a_drained_nodes_engine_is_started_anew_once_nothing_is_in_flight(tmp_path) -> None:
    state = tmp_path / "s"
    starts = launcher(state)
    idle = [False]
    async with supervised(fake_config(tmp_path), state, launcher=starts) as it:
        await it.state("ready", PATIENCE_S)
        pid = it.status.pid
        node = in_charge(starts, it, tmp_path, idle=idle)
        strict = NodeClass("strict", isolation=Isolation(walls=("no_new_privs",)))
        follows = asyncio.create_task(node.run())
        try:
            node.follow(mesh(strict, state="drained"))
            assert node.report("n1/0").pending
            assert it.status.pid == pid  # a request is still answered
            idle[0] = True
            await eventually(lambda: node.report("n1/0").walls == ("no_new_privs",), PATIENCE_S)
            await it.state("ready", PATIENCE_S)
            assert starts.pending == ()
            assert it.status.launches == 2
        finally:
            follows.cancel()


async def test_an_adopted_engine_is_compared_with_the_class_of_now(tmp_path) -> None:
    before = NodeClass("old", isolation=Isolation(walls=("no_new_privs",)))
    state = tmp_path / "s"
    config = fake_config(tmp_path)
    async with supervised(config, state, launcher=launcher(state, before), leave=True) as it:
        await it.state("ready", PATIENCE_S)
        pid = it.status.pid
    later = launcher(state)
    async with supervised(config, state, launcher=later) as it:
        await it.state("ready", PATIENCE_S)
        assert (it.status.pid, it.status.adopted) == (pid, True)
        report = later.report("n1/0")
        assert (report.node_class, report.walls) == ("old", ("no_new_privs",))
        assert "next start" in report.pending


async def test_less_memory_than_is_in_use_waits_and_other_limits_follow(tmp_path) -> None:
    groups, why = open_cgroups(f"test-{os.getpid()}-in-force")
    if groups is None or {"memory", "pids"} - set(groups.hierarchy.controllers):
        pytest.skip(f"SKIPPED LOUDLY: no groups for memory and processes here: {why}")
    state = tmp_path / "s"
    first = NodeClass("c", limits=ResourceLimits(memory_max=512 << 20, pids_max=100))
    starts = IsolatedLauncher(state, node_class=first, cgroups=groups)
    async with supervised(fake_config(tmp_path), state, launcher=starts) as it:
        await it.state("ready", PATIENCE_S)
        pid = it.status.pid
        less = NodeClass("c", limits=ResourceLimits(memory_max=1 << 20, pids_max=50))
        assert starts.update(less) == ("n1/0",)
        assert "of memory now; 1 MiB is all it gets at its next start" in starts.report("n1/0").pending
        assert starts.report("n1/0").limits.memory_max == 512 << 20
        more = NodeClass("c", limits=ResourceLimits(memory_max=600 << 20, pids_max=50))
        assert starts.update(more) == ()
        report = starts.report("n1/0")
        assert (report.pending, report.limits.memory_max, report.limits.pids_max) == ("", 600 << 20, 50)
        assert it.status.pid == pid
    assert groups.instances() == frozenset()


async def test_a_class_that_shares_gpus_says_where_there_are_none(tmp_path) -> None:
    shared = NodeClass("gpu", isolation=Isolation(walls=()), gpu=GpuSharing(devices=("0",), mps=True))
    state = tmp_path / "s"
    starts = launcher(state)
    async with supervised(fake_config(tmp_path), state, launcher=starts) as it:
        await it.state("ready", PATIENCE_S)
        node = in_charge(starts, it, tmp_path, own=shared)
        node.follow(mesh())
        assert node.source == "agent.json"
        it.supervisor.fail("n1/0", "asked to start again")
        await eventually(lambda: "n1/0 is not started" in it.status.reason, PATIENCE_S)
        assert "GPU '0'" in it.status.reason


async def test_an_engine_that_is_to_see_no_gpu_asks_for_none(tmp_path) -> None:
    class Refusing:
        asked = 0

        async def admit(self, spec: LaunchSpec) -> Placed:
            self.asked += 1
            raise AssertionError("not asked for a GPU")

    devices = Refusing()
    state = tmp_path / "s"
    config = msgspec.structs.replace(fake_config(tmp_path), gpus="")
    async with supervised(config, state, launcher=launcher(state, devices=devices)) as it:
        await it.state("ready", PATIENCE_S)
    assert devices.asked == 0
