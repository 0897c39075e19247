"""Control groups at their edges: odd lines of /proc, every file of both versions, values left out."""

from __future__ import annotations

import pytest

from bridge_agent.limits import cgroup_rules as rules
from bridge_agent.limits.cgroup_rules import Hierarchy, Tree, Usage
from bridge_agent.limits.spec import IoLimit, Machine, ResourceLimits

V2 = Hierarchy({name: Tree(2, "/v2") for name in (*rules.CONTROLLERS, "pressure")})
V1 = Hierarchy({name: Tree(1, f"/v1/{name}") for name in (*rules.CONTROLLERS, "cpuacct")})


def device(_path: str) -> str:
    return "8:0"


def hierarchy(mounts: str, own: str, v2_has: str = "") -> Hierarchy:
    return rules.parse_hierarchy(mounts, own, lambda _own: v2_has)


@pytest.mark.parametrize(
    ("line", "read"),
    [
        ("1 2 0:3 / /m - cgroup cgroup memory", True),  # the fewest fields that say it all
        ("1 2 0:3 / - cgroup cgroup memory", False),
        ("1 2 0:3 / /m - cgroup memory", False),
        ("1 2 0:3 / /m", False),
        ("", False),
        ("1 2 0:3 / /m - tmpfs cgroup memory", False),
        ("1 2 0:3 / /m rw - cgroup none rw,memory,extra", True),
        ("1 2 0:3 / /m - cgroup cgroup2 memory", True),
    ],
)
def test_a_line_of_mountinfo_that_lacks_something_is_passed_over(line: str, read: bool) -> None:
    found = hierarchy(f"{line}\n", "4:memory:/a\n").trees
    assert found == ({"memory": Tree(1, "/m/a")} if read else {})


def test_of_two_mounts_of_a_controller_the_first_counts() -> None:
    mounts = "1 2 0:3 / /one - cgroup cgroup rw,memory\n1 2 0:3 / /two - cgroup cgroup rw,memory\n"
    assert hierarchy(mounts, "4:memory:/\n").trees["memory"].own == "/one"


def test_only_known_controllers_with_a_mount_count() -> None:
    mounts = "1 2 0:3 / /m - cgroup cgroup rw,memory,hugetlb,cpuacct\n"
    own = "4:memory:/\n5:hugetlb:/\n6:pids:/\n7:cpuacct:/\n"
    assert set(hierarchy(mounts, own).trees) == {"memory", "cpuacct"}


def test_a_hierarchy_that_only_accounts_holds_nothing() -> None:
    assert hierarchy("1 2 0:3 / /m - cgroup cgroup rw,cpuacct\n", "7:cpuacct:/\n") == Hierarchy({})


def test_a_path_with_colons_is_read_whole() -> None:
    mounts = "1 2 0:3 / /m - cgroup cgroup rw,memory\n"
    assert hierarchy(mounts, "4:memory:/a:b:c\n").trees["memory"].own == "/m/a:b:c"
    assert hierarchy("1 2 0:3 / /u - cgroup2 cgroup2 rw\n", "0::/x:y\n", "cpu").trees["cpu"].own == "/u/x:y"


@pytest.mark.parametrize(
    ("root", "path", "own"),
    [
        ("/", "/a", "/m/a"),
        ("/a", "/a", "/m"),
        ("/a", "/a/b", "/m/b"),
        ("/a", "/ab", "/m/ab"),  # another group whose name begins alike
        ("/a", "/c/a", "/m/c/a"),
        ("/", "/", "/m"),
    ],
)
def test_a_group_lies_below_the_root_of_its_mount(root: str, path: str, own: str) -> None:
    found = hierarchy(f"1 2 0:3 {root} /m - cgroup cgroup rw,memory\n", f"4:memory:{path}\n")
    assert found.trees["memory"].own == own


def test_the_kernels_escapes_are_undone() -> None:
    mounts = "1 2 0:3 /r\\040t /m\\011\\012\\134n - cgroup cgroup rw,memory\n"
    assert hierarchy(mounts, "4:memory:/r t/x\n").trees["memory"].own == "/m\t\n\\n/x"


def test_v1_comes_before_v2_which_adds_what_it_offers_and_pressure() -> None:
    mounts = "1 2 0:3 / /m - cgroup cgroup rw,memory\n1 2 0:4 / /u - cgroup2 cgroup2 rw\n"
    found = hierarchy(mounts, "4:memory:/\n0::/\n", "memory pids misc").trees
    assert found == {"memory": Tree(1, "/m"), "pids": Tree(2, "/u"), "pressure": Tree(2, "/u")}


def test_which_version_a_controller_has() -> None:
    found = Hierarchy({"cpu": Tree(1, "/c"), "memory": Tree(2, "/m"), "pressure": Tree(2, "/m")})
    assert [found.version_of(name) for name in ("cpu", "memory", "io")] == [1, 2, 0]
    assert found.controllers == ("memory", "cpu")


def test_every_limit_has_its_v1_files() -> None:
    limits = ResourceLimits(
        memory_max=1000,
        memory_high=900,
        swap_max=24,
        cpu_weight=1,
        cpu_max=1.5,
        cpuset="0-1",
        pids_max=64,
        io=(IoLimit("/", read_bytes_per_s=1, write_bytes_per_s=2, read_iops=3, write_iops=4),),
    )
    plan = rules.plan(limits, V1, "g", device)
    assert [(one.path.removeprefix("/v1/"), one.value, one.limit) for one in plan.writes] == [
        ("memory/g/memory.limit_in_bytes", "1000", "memory_max"),
        ("memory/g/memory.soft_limit_in_bytes", "900", "memory_high"),
        ("memory/g/memory.memsw.limit_in_bytes", "1024", "swap_max"),
        ("cpu/g/cpu.shares", "10", "cpu_weight"),
        ("cpu/g/cpu.cfs_period_us", "100000", "cpu_max"),
        ("cpu/g/cpu.cfs_quota_us", "150000", "cpu_max"),
        ("cpuset/g/cpuset.cpus", "0-1", "cpuset"),
        ("pids/g/pids.max", "64", "pids_max"),
        ("io/g/blkio.throttle.read_bps_device", "8:0 1", "io of /"),
        ("io/g/blkio.throttle.write_bps_device", "8:0 2", "io of /"),
        ("io/g/blkio.throttle.read_iops_device", "8:0 3", "io of /"),
        ("io/g/blkio.throttle.write_iops_device", "8:0 4", "io of /"),
    ]
    assert plan.groups == tuple(f"/v1/{name}/g" for name in (*rules.CONTROLLERS, "cpuacct"))


@pytest.mark.parametrize(
    ("io", "v1", "v2"),
    [
        (IoLimit("/", write_iops=7), {"write_iops_device": "8:0 7"}, "8:0 wiops=7"),
        (IoLimit("/", read_bytes_per_s=5), {"read_bps_device": "8:0 5"}, "8:0 rbps=5"),
    ],
)
def test_a_rate_that_is_not_limited_is_not_written(io: IoLimit, v1: dict[str, str], v2: str) -> None:
    written = rules.plan(ResourceLimits(io=(io,)), V1, "g", device).writes
    assert {one.path.rpartition(".")[2]: one.value for one in written} == v1
    assert [one.value for one in rules.plan(ResourceLimits(io=(io,)), V2, "g", device).writes] == [v2]


def test_v1_limits_swap_only_where_memory_is_limited() -> None:
    assert rules.plan(ResourceLimits(swap_max=5), V1, "g", device).missing == ("swap_max",)
    assert [one.value for one in rules.plan(ResourceLimits(swap_max=5), V2, "g", device).writes] == ["5"]


@pytest.mark.parametrize(("weight", "shares"), [(1, "10"), (100, "1024"), (10_000, "102400")])
def test_a_weight_of_100_is_1024_shares(weight: int, shares: str) -> None:
    written = rules.plan(ResourceLimits(cpu_weight=weight), V1, "g", device).writes
    assert [one.value for one in written] == [shares]


def test_no_limit_writes_nothing_and_makes_every_group() -> None:
    plan = rules.plan(ResourceLimits(), V2, "g", device)
    assert (plan.groups, plan.writes, plan.missing) == (("/v2/g",), (), ())


@pytest.mark.parametrize(
    ("high", "most", "trees", "held"),
    [
        (900, None, {"memory"}, 850),  # never above what the instance gets at all
        (849, None, {"memory"}, 849),
        (900, 500, {"memory"}, 500),
        (900, None, set(), 900),
        (None, 500, {"memory"}, None),
    ],
)
def test_the_soft_limit_of_memory_follows_the_hard_one(
    high: int | None, most: int | None, trees: set[str], held: int | None
) -> None:
    found = Hierarchy({name: Tree(2, "/v2") for name in trees})
    machine = Machine(memory_bytes=1000, cpus=frozenset({0}))
    limits = ResourceLimits(memory_high=high, memory_max=most)
    assert rules.within_node(limits, found, machine).memory_high == held


def test_an_instance_gets_85_percent_of_memory_and_cpus_at_most() -> None:
    machine = Machine(memory_bytes=1000, cpus=frozenset(range(20)))
    held = rules.within_node(ResourceLimits(memory_max=851, cpu_max=17.5), V2, machine)
    assert (held.memory_max, held.cpu_max) == (850, 17.0)
    held = rules.within_node(ResourceLimits(memory_max=849, cpu_max=16.5), V2, machine)
    assert (held.memory_max, held.cpu_max) == (849, 16.5)
    held = rules.within_node(ResourceLimits(memory_max=999), Hierarchy({"cpu": Tree(2, "/v2")}), machine)
    assert (held.memory_max, held.cpu_max) == (999, 17.0)
    held = rules.within_node(ResourceLimits(cpu_max=19.5), Hierarchy({"memory": Tree(2, "/v2")}), machine)
    assert (held.memory_max, held.cpu_max) == (850, 19.5)


def usage(hierarchy: Hierarchy, files: dict[str, str]) -> Usage:
    return rules.read_usage(hierarchy, "g", lambda path: files.get(path, ""))


def test_all_that_v2_tells_of_usage() -> None:
    assert usage(
        V2,
        {
            "/v2/g/memory.current": "1\n",
            "/v2/g/memory.peak": "2\n",
            "/v2/g/memory.events": "oom 9\noom_kill 3\n",
            "/v2/g/cpu.stat": "usage_usec 4000000\nthrottled_usec 5000000\n",
            "/v2/g/pids.current": "6\n",
            "/v2/g/pids.events": "max 7\n",
            "/v2/g/memory.pressure": "full avg10=1.00\nsome avg10=8.50 avg60=1.00\n",
            "/v2/g/cpu.pressure": "some avg10=9.50\n",
            "/v2/g/io.stat": "8:0 rbytes=10 wbytes=20 rios=1 wios=1 dbytes=5\n8:1 rbytes=1 wbytes=2\n",
        },
    ) == Usage(1, 2, 3, 4.0, 5.0, 6, 8.5, 9.5, 7, 11, 22)


def test_all_that_v1_tells_of_usage() -> None:
    moved = "8:0 Read 10\n8:0 Write 20\n8:0 Sync 7\n8:1 Read 1\n8:1 Write 2\n8:1 Read many\nTotal 40\n"
    assert usage(
        V1,
        {
            "/v1/memory/g/memory.usage_in_bytes": "1\n",
            "/v1/memory/g/memory.max_usage_in_bytes": "2\n",
            "/v1/memory/g/memory.oom_control": "oom_kill 3\n",
            "/v1/cpuacct/g/cpuacct.usage": "4000000000\n",
            "/v1/cpu/g/cpu.stat": "throttled_time 5000000000\n",
            "/v1/pids/g/pids.current": "6\n",
            "/v1/pids/g/pids.events": "max 7\n",
            "/v1/io/g/blkio.throttle.io_service_bytes": moved,
        },
    ) == Usage(1, 2, 3, 4.0, 5.0, 6, None, None, 7, 11, 22)


def test_a_group_that_tells_nothing_has_no_usage() -> None:
    assert usage(V1, {}) == usage(V2, {}) == usage(Hierarchy({}), {}) == Usage()


@pytest.mark.parametrize("text", ["max\n", "-1\n", "1 2\n", "\n", "x 1\n"])
def test_what_is_no_number_is_not_told(text: str) -> None:
    assert usage(V2, {"/v2/g/memory.current": text}).memory_bytes is None


@pytest.mark.parametrize(
    ("text", "kills"),
    [
        ("oom_kill 3", 3),
        ("oom_kill x", None),
        ("oom_kill", None),
        ("oom_kill 3 4", None),
        ("oom_kill -3", None),
    ],
)
def test_a_count_is_a_name_and_a_number(text: str, kills: int | None) -> None:
    assert usage(V2, {"/v2/g/memory.events": f"low 1\n{text}\n\n"}).oom_kills == kills


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("some avg10=1.50", 1.5),
        ("some", None),
        ("some avg60=1.50", None),
        ("full avg10=1.50", None),
        ("\nsome avg60=1.50\nsome avg10=0.25 x", 0.25),
    ],
)
def test_pressure_is_the_share_of_ten_seconds_in_which_some_waited(text: str, told: float | None) -> None:
    assert usage(V2, {"/v2/g/cpu.pressure": text}).cpu_pressure == told


def test_engines_find_a_units_group_only_from_a_service() -> None:
    ours = Hierarchy({"cpu": Tree(2, "/a/b.service/c")})
    assert rules.beside(ours, "e.service", lambda _own: True).trees["cpu"] == Tree(2, "/a/e.service")
    assert rules.beside(ours, "e.service", lambda _own: False) == ours
    accounting = Hierarchy({"pressure": Tree(2, "/x"), "cpu": Tree(1, "/y")})
    assert not rules.below_agent(accounting, "e.service"), "a tree that only accounts needs no place"
