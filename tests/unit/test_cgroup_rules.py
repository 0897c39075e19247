"""ResourceLimits to control files, on v1, v2 and hybrid trees."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.limits import cgroup_rules as rules
from bridge_agent.limits.spec import IoLimit, Machine, ResourceLimits, faults, parse_cpuset

V1_MOUNTS = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset
35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
38 31 0:35 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""
V1_OWN = "7:blkio:/\n4:memory:/docker/abc/agent\n3:cpuset:/\n1:cpu,cpuacct:/system\n0::/\n"
V2_MOUNTS = "26 23 0:24 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"
V2_OWN = "0::/system.slice/bridge-agent.service\n"
MACHINE = Machine(memory_bytes=8 << 30, cpus=frozenset(range(4)))


def no_controllers(_own: str) -> str:
    return ""


def device(_path: str) -> str:
    return "8:0"


def v1() -> rules.Hierarchy:
    return rules.parse_hierarchy(V1_MOUNTS, V1_OWN, lambda _own: "pids hugetlb")


def v2() -> rules.Hierarchy:
    return rules.parse_hierarchy(V2_MOUNTS, V2_OWN, lambda _own: "cpuset cpu io memory pids")


def test_v1_controllers_are_found_below_the_mounts_root() -> None:
    trees = v1().trees
    assert trees["memory"] == rules.Tree(1, "/sys/fs/cgroup/memory/agent")
    assert trees["cpu"] == rules.Tree(1, "/sys/fs/cgroup/cpu,cpuacct/system")
    assert trees["io"] == rules.Tree(1, "/sys/fs/cgroup/blkio")


def test_a_hybrid_machine_takes_from_v2_what_v1_lacks() -> None:
    assert v1().trees["pids"] == rules.Tree(2, "/sys/fs/cgroup/unified")


def test_every_limit_has_its_v2_file() -> None:
    limits = ResourceLimits(
        memory_max=1 << 30,
        memory_high=1 << 29,
        swap_max=0,
        cpu_weight=200,
        cpu_max=1.5,
        cpuset="0-1",
        pids_max=64,
        io=(IoLimit("/", write_bytes_per_s=1000, read_iops=5),),
    )
    plan = rules.plan(limits, v2(), "bridge-n/0", device)
    own = "/sys/fs/cgroup/system.slice/bridge-agent.service/bridge-n/0"
    assert plan.groups == (own,)
    assert plan.missing == ()
    assert {write.path.removeprefix(own + "/"): write.value for write in plan.writes} == {
        "memory.max": "1073741824",
        "memory.high": "536870912",
        "memory.swap.max": "0",
        "cpu.weight": "200",
        "cpu.max": "150000 100000",
        "cpuset.cpus": "0-1",
        "pids.max": "64",
        "io.max": "8:0 wbps=1000 riops=5",
    }


def test_every_limit_has_its_v1_file_and_swap_counts_with_memory() -> None:
    limits = ResourceLimits(memory_max=1000, swap_max=500, cpu_weight=100, cpu_max=0.5)
    plan = rules.plan(limits, v1(), "b/0", device)
    values = {write.path.rpartition("/")[2]: write.value for write in plan.writes}
    assert values == {
        "memory.limit_in_bytes": "1000",
        "memory.memsw.limit_in_bytes": "1500",
        "cpu.shares": "1024",
        "cpu.cfs_period_us": "100000",
        "cpu.cfs_quota_us": "50000",
    }
    # The limit of memory alone has to be there before that of memory and swap.
    names = [write.path.rpartition("/")[2] for write in plan.writes]
    assert names.index("memory.limit_in_bytes") < names.index("memory.memsw.limit_in_bytes")


def test_a_limit_without_its_controller_is_named() -> None:
    nothing = rules.parse_hierarchy("", "0::/\n", no_controllers)
    plan = rules.plan(ResourceLimits(memory_max=1, pids_max=2), nothing, "b/0", device)
    assert plan.missing == ("memory_max", "pids_max")
    assert plan.writes == ()


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (ResourceLimits(memory_max=9 << 30), "the machine has"),
        (ResourceLimits(memory_max=-1), "more than 0"),
        (ResourceLimits(memory_max=1 << 20, memory_high=1 << 21), "above memory_max"),
        (ResourceLimits(swap_max=-1), "0 bytes or more"),
        (ResourceLimits(cpu_weight=0), "1 to 10000"),
        (ResourceLimits(cpu_max=5), "the machine has 4"),
        (ResourceLimits(cpu_max=0), "at least 0.01"),
        (ResourceLimits(cpuset="0-9"), "no CPU 4, 5"),
        (ResourceLimits(cpuset="3-1"), "backwards"),
        (ResourceLimits(cpuset="a"), "no CPU and no range"),
        (ResourceLimits(pids_max=0), "1 or more"),
        (ResourceLimits(disk_max=0), "more than 0 bytes"),
        (ResourceLimits(io=(IoLimit("/", read_iops=0),)), "more than 0"),
    ],
)
def test_limits_that_cannot_hold_are_named(limits: ResourceLimits, says: str) -> None:
    assert any(says in fault for fault in faults(limits, MACHINE))


def test_all_faults_come_at_once() -> None:
    assert len(faults(ResourceLimits(memory_max=-1, cpu_weight=0, pids_max=0), MACHINE)) == 3


@given(st.sets(st.integers(0, 300), min_size=1))
def test_cpusets_round_trip(cpus: set[int]) -> None:
    assert parse_cpuset(",".join(map(str, sorted(cpus)))) == cpus


def test_usage_reads_both_versions() -> None:
    files = {
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
        "memory.usage_in_bytes": "4096\n",
        "cpu.stat": "nr_periods 5\nnr_throttled 2\nthrottled_time 2000000000\n",
    }
    usage = rules.read_usage(v1(), "b/0", lambda path: files.get(path.rpartition("/")[2], ""))
    assert (usage.oom_kills, usage.memory_bytes, usage.throttled_seconds) == (3, 4096, 2.0)
    files = {
        "memory.events": "low 0\nhigh 4\nmax 9\noom 1\noom_kill 1\n",
        "memory.current": "8192\n",
        "cpu.stat": "usage_usec 1500000\nthrottled_usec 500000\n",
        "memory.pressure": "some avg10=1.25 avg60=0.00 avg300=0.00 total=9\nfull avg10=0.00 total=1\n",
        "pids.current": "7\n",
    }
    usage = rules.read_usage(v2(), "b/0", lambda path: files.get(path.rpartition("/")[2], ""))
    assert usage == rules.Usage(8192, None, 1, 1.5, 0.5, 7, 1.25, None)


def test_a_hybrid_machine_tells_pressure_from_v2_and_cpu_time_from_cpuacct() -> None:
    files = {
        "/sys/fs/cgroup/cpu,cpuacct/system/g/cpuacct.usage": "2500000000\n",
        "/sys/fs/cgroup/unified/g/cpu.pressure": "some avg10=3.50 avg60=0.00 avg300=0.00 total=9\n",
    }
    usage = rules.read_usage(v1(), "g", lambda path: files.get(path, ""))
    assert (usage.cpu_seconds, usage.cpu_pressure) == (2.5, 3.5)


def test_a_tree_without_controllers_is_none() -> None:
    assert rules.parse_hierarchy(V2_MOUNTS, V2_OWN, no_controllers).trees == {}


def test_an_agent_in_its_leaf_finds_the_group_it_left() -> None:
    own = V2_OWN.strip() + "/agent\n"
    assert rules.parse_hierarchy(V2_MOUNTS, own, lambda _own: "cpu").trees["cpu"] == v2().trees["cpu"]
    at_root = rules.parse_hierarchy(V2_MOUNTS, "0::/agent\n", lambda _own: "cpu")
    assert at_root.trees["cpu"].own == "/sys/fs/cgroup"


@pytest.mark.parametrize(
    ("asked", "memory", "cpu"),
    [
        (ResourceLimits(), int((8 << 30) * 0.85), 3.4),
        (ResourceLimits(memory_max=8 << 30, cpu_max=4.0), int((8 << 30) * 0.85), 3.4),
        (ResourceLimits(memory_max=1 << 30, cpu_max=0.5), 1 << 30, 0.5),
    ],
)
def test_no_instance_gets_more_than_its_part_of_the_node(
    asked: ResourceLimits, memory: int, cpu: float
) -> None:
    held = rules.within_node(asked, v2(), MACHINE)
    assert (held.memory_max, held.cpu_max) == (memory, pytest.approx(cpu))


def test_a_part_that_no_controller_holds_is_left_as_it_was() -> None:
    bare = rules.Hierarchy({"pids": rules.Tree(2, "/x")})
    assert rules.within_node(ResourceLimits(pids_max=5), bare, MACHINE) == ResourceLimits(pids_max=5)


def test_usage_reads_forks_refused_and_bytes_moved_on_both_versions() -> None:
    files = {
        "pids.events": "max 4\n",
        "blkio.throttle.io_service_bytes": "8:0 Read 4096\n8:0 Write 100\n8:0 Total 4196\nTotal 4196\n",
        "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4\n8:16 rbytes=10 wbytes=20 rios=0 wios=0\n",
    }
    usage = rules.read_usage(v1(), "b/0", lambda path: files.get(path.rpartition("/")[2], ""))
    assert (usage.pids_refused, usage.io_read_bytes, usage.io_written_bytes) == (4, 4096, 100)
    usage = rules.read_usage(v2(), "b/0", lambda path: files.get(path.rpartition("/")[2], ""))
    assert (usage.io_read_bytes, usage.io_written_bytes) == (11, 22)


def test_engines_live_beside_the_agents_own_unit_where_systemd_keeps_a_group_for_them() -> None:
    own = "/sys/fs/cgroup/system.slice/bridge-agent.service"
    v1 = "/sys/fs/cgroup/memory/system.slice/bridge-agent.service/agent"
    ours = rules.Hierarchy({"cpu": rules.Tree(2, own), "memory": rules.Tree(1, v1)})
    there = {"/sys/fs/cgroup/system.slice/bridge-engines.service"}
    found = rules.beside(ours, "bridge-engines.service", there.__contains__)
    assert found.trees["cpu"].own == "/sys/fs/cgroup/system.slice/bridge-engines.service"
    assert found.trees["memory"].own == v1  # no such group in that tree
    session = rules.Hierarchy({"cpu": rules.Tree(2, "/sys/fs/cgroup/user.slice")})
    assert rules.beside(session, "bridge-engines.service", lambda _: True) == session


def test_engines_have_no_place_on_v2_where_their_units_group_is_gone() -> None:
    unit = "bridge-engines.service"
    assert not rules.below_agent(rules.beside(v2(), unit, lambda _: True), unit)
    assert rules.below_agent(rules.beside(v2(), unit, lambda _: False), unit)
    only_v1 = rules.Hierarchy({"memory": rules.Tree(1, "/sys/fs/cgroup/memory/bridge-agent.service")})
    assert not rules.below_agent(only_v1, unit), "v1 starts agents in such a group all the same"
