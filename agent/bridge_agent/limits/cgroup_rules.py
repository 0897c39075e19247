"""Which control files hold which limit, on cgroup v1, v2 and hybrid trees. Pure: text in, plan out.

Rules:
1. A controller is used where it is mounted: on v1 when a v1 hierarchy has it, else on v2 when the
   v2 tree offers it. A hybrid machine mixes both; one plan may span several trees.
2. Groups are made below the agent's own group in each tree, so that a delegated subtree (systemd's
   Delegate=yes) suffices and nothing outside it is touched.
3. A limit whose controller is nowhere is reported as missing, never passed over in silence.
4. Whatever is asked for, no instance gets more than `NODE_SHARE` of the node's memory and CPU time,
   so that the agent and the system keep answering beside it.

File names and formats: Linux Documentation/admin-guide/cgroup-v1/*.rst and cgroup-v2.rst.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from bridge_agent.limits.spec import IoLimit, Machine, ResourceLimits

CPU_PERIOD_US: Final = 100_000
# cpu.shares of v1 has 1024 where cpu.weight of v2 has 100 (its default on both).
SHARES_PER_WEIGHT: Final = 1024 / 100
NODE_SHARE: Final = 0.85
CONTROLLERS: Final = ("memory", "cpu", "cpuset", "pids", "io")
# These hold no limit. v1's cpuacct tells the CPU time used and may be mounted apart from cpu; the v2
# tree tells pressure, also on hybrid machines, where it has no controllers.
ACCOUNTING: Final = "cpuacct"
PRESSURE: Final = "pressure"
# The v2 group below its own that an agent moves itself into (see cgroup.py); systemd's
# DelegateSubgroup= may name it, too.
LEAF: Final = "agent"


class Tree(msgspec.Struct, frozen=True):
    """Where the agent's own group of one hierarchy lies."""

    version: int  # 1 or 2
    own: str  # directory of the agent's own group


class Hierarchy(msgspec.Struct, frozen=True):
    """The tree of each controller that is there (v2 names: io, not blkio)."""

    trees: Mapping[str, Tree]

    @property
    def controllers(self) -> tuple[str, ...]:
        """Those that hold limits."""
        return tuple(name for name in CONTROLLERS if name in self.trees)

    def version_of(self, controller: str) -> int:
        """1 or 2, or 0 when the controller is nowhere."""
        tree = self.trees.get(controller)
        return 0 if tree is None else tree.version


class Write(msgspec.Struct, frozen=True):
    """A value for a control file; `limit` names what it is for in faults."""

    path: str
    value: str
    limit: str


class CgroupPlan(msgspec.Struct, frozen=True):
    """What to make and write, in this order, to hold an instance to its limits."""

    groups: tuple[str, ...]  # directories, one a tree
    writes: tuple[Write, ...]
    missing: tuple[str, ...]  # limits that no controller here can hold


def parse_hierarchy(mountinfo: str, own_cgroup: str, v2_controllers: Callable[[str], str]) -> Hierarchy:
    """Finds each controller's tree.

    Args:
        mountinfo: /proc/self/mountinfo.
        own_cgroup: /proc/self/cgroup.
        v2_controllers: Reads cgroup.controllers of a v2 directory ("" when unreadable).
    """
    v1_mounts: dict[str, tuple[str, str]] = {}
    v2_mount: tuple[str, str] | None = None
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        root, point = _unescape(fields[3]), _unescape(fields[4])
        if kind[0] == "cgroup2":
            v2_mount = (root, point)
        elif kind[0] == "cgroup":
            for option in kind[2].split(","):
                v1_mounts.setdefault(option, (root, point))
    trees: dict[str, Tree] = {}
    v2_path = ""
    for line in own_cgroup.splitlines():
        number, names, path = line.split(":", 2)
        if number == "0":
            v2_path = path
            continue
        for name in names.split(","):
            controller = "io" if name == "blkio" else name
            if controller in (*CONTROLLERS, ACCOUNTING) and name in v1_mounts:
                trees[controller] = Tree(1, _below(*v1_mounts[name], path))
    if v2_mount is not None:
        own = _below(*v2_mount, v2_path.removesuffix(f"/{LEAF}") or "/")
        for controller in v2_controllers(own).split():
            if controller in CONTROLLERS:
                trees.setdefault(controller, Tree(2, own))
        trees[PRESSURE] = Tree(2, own)
    found = Hierarchy(trees)
    return found if found.controllers else Hierarchy({})


def within_node(limits: ResourceLimits, hierarchy: Hierarchy, machine: Machine) -> ResourceLimits:
    """The limits, lowered to the most that one instance may take of this machine.

    Where no controller holds memory or CPU time, that part stays as it was asked for.
    """
    memory, cpu = limits.memory_max, limits.cpu_max
    if "memory" in hierarchy.trees:
        most = int(machine.memory_bytes * NODE_SHARE)
        memory = most if memory is None else min(memory, most)
    if "cpu" in hierarchy.trees:
        cpus = len(machine.cpus) * NODE_SHARE
        cpu = cpus if cpu is None else min(cpu, cpus)
    high = limits.memory_high
    if high is not None and memory is not None:
        high = min(high, memory)
    return msgspec.structs.replace(limits, memory_max=memory, memory_high=high, cpu_max=cpu)


def beside(hierarchy: Hierarchy, unit: str, exists: Callable[[str], bool]) -> Hierarchy:
    """The trees with the group of a systemd unit next to ours in place of ours, where that is there.

    Engines that outlive the agent must not live below its group: systemd starts the next agent in
    that group itself, which v2 refuses while it hands controllers down to others.
    """
    found = {}
    for name, tree in hierarchy.trees.items():
        upper, service, _ = tree.own.partition(".service")
        own = f"{upper.rpartition('/')[0]}/{unit}" if service else ""
        found[name] = Tree(tree.version, own) if own and exists(own) else tree
    return Hierarchy(found)


def below_agent(hierarchy: Hierarchy, unit: str) -> bool:
    """Whether `beside` found no group of the unit in a v2 tree, where engines need it."""
    trees = (hierarchy.trees[name] for name in hierarchy.controllers)
    return any(tree.version == 2 and not tree.own.endswith(f"/{unit}") for tree in trees)


def plan(
    limits: ResourceLimits, hierarchy: Hierarchy, group: str, device_of: Callable[[str], str]
) -> CgroupPlan:
    """The groups and writes that hold an instance.

    Every controller that is there gets a group, limited or not, so that usage is accounted and
    nothing of the instance stays in the agent's own group.

    Args:
        limits: Checked by `spec.faults` before.
        hierarchy: From `parse_hierarchy`.
        group: The instance's group, relative to the agent's own ("bridge/node1-0").
        device_of: "major:minor" of the block device that a path lies on.
    """
    writes: list[Write] = []
    missing: list[str] = []
    for controller, wanted in _values(limits, device_of).items():
        tree = hierarchy.trees.get(controller)
        if tree is None:
            missing.extend(name for name, _, _ in wanted)
            continue
        for name, v1, v2 in wanted:
            pairs = v1 if tree.version == 1 else v2
            if pairs is None:
                missing.append(name)
                continue
            writes.extend(Write(f"{tree.own}/{group}/{file}", value, name) for file, value in pairs)
    groups = dict.fromkeys(f"{tree.own}/{group}" for tree in hierarchy.trees.values())
    return CgroupPlan(tuple(groups), tuple(writes), tuple(missing))


_Pairs = tuple[tuple[str, str], ...]


def _values(
    limits: ResourceLimits, device_of: Callable[[str], str]
) -> dict[str, list[tuple[str, _Pairs | None, _Pairs | None]]]:
    """By controller: (limit's name, its v1 files, its v2 files); None where a version has none."""
    memory: list[tuple[str, _Pairs | None, _Pairs | None]] = []
    if limits.memory_max is not None:
        value = str(limits.memory_max)
        memory.append(("memory_max", (("memory.limit_in_bytes", value),), (("memory.max", value),)))
    if limits.memory_high is not None:
        value = str(limits.memory_high)
        memory.append(("memory_high", (("memory.soft_limit_in_bytes", value),), (("memory.high", value),)))
    if limits.swap_max is not None:
        # v1 limits memory and swap together, and only once memory itself is limited.
        total = None if limits.memory_max is None else str(limits.memory_max + limits.swap_max)
        v1 = None if total is None else (("memory.memsw.limit_in_bytes", total),)
        memory.append(("swap_max", v1, (("memory.swap.max", str(limits.swap_max)),)))
    cpu: list[tuple[str, _Pairs | None, _Pairs | None]] = []
    if limits.cpu_weight is not None:
        shares = str(round(limits.cpu_weight * SHARES_PER_WEIGHT))
        cpu.append(("cpu_weight", (("cpu.shares", shares),), (("cpu.weight", str(limits.cpu_weight)),)))
    if limits.cpu_max is not None:
        quota = round(limits.cpu_max * CPU_PERIOD_US)
        v1_cpu = (("cpu.cfs_period_us", str(CPU_PERIOD_US)), ("cpu.cfs_quota_us", str(quota)))
        cpu.append(("cpu_max", v1_cpu, (("cpu.max", f"{quota} {CPU_PERIOD_US}"),)))
    found = {"memory": memory, "cpu": cpu}
    if limits.cpuset is not None:
        pairs = (("cpuset.cpus", limits.cpuset),)
        found["cpuset"] = [("cpuset", pairs, pairs)]
    if limits.pids_max is not None:
        pairs = (("pids.max", str(limits.pids_max)),)
        found["pids"] = [("pids_max", pairs, pairs)]
    if limits.io:
        found["io"] = [_io_values(io, device_of(io.path)) for io in limits.io]
    return {controller: values for controller, values in found.items() if values}


def _io_values(io: IoLimit, device: str) -> tuple[str, _Pairs, _Pairs]:
    rates = (
        ("blkio.throttle.read_bps_device", "rbps", io.read_bytes_per_s),
        ("blkio.throttle.write_bps_device", "wbps", io.write_bytes_per_s),
        ("blkio.throttle.read_iops_device", "riops", io.read_iops),
        ("blkio.throttle.write_iops_device", "wiops", io.write_iops),
    )
    v1 = tuple((file, f"{device} {rate}") for file, _, rate in rates if rate is not None)
    v2 = " ".join([device, *(f"{key}={rate}" for _, key, rate in rates if rate is not None)])
    return f"io of {io.path}", v1, (("io.max", v2),)


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a group used so far; None where its tree does not tell.

    Attributes:
        pids_refused: Times that a process or thread was refused at the limit.
        io_read_bytes: Read from all block devices.
        io_written_bytes: Written to all block devices.
        memory_pressure: PSI "some" over 10 s, percent of time.
        cpu_pressure: The same of CPU time.
    """

    memory_bytes: int | None = None
    memory_peak_bytes: int | None = None
    oom_kills: int | None = None
    cpu_seconds: float | None = None
    throttled_seconds: float | None = None
    pids: int | None = None
    memory_pressure: float | None = None
    cpu_pressure: float | None = None
    pids_refused: int | None = None
    io_read_bytes: int | None = None
    io_written_bytes: int | None = None


def read_usage(hierarchy: Hierarchy, group: str, read: Callable[[str], str]) -> Usage:
    """Usage of a group; `read` gives a file's text, "" when it is not there."""

    def text(controller: str, v1: str, v2: str) -> str:
        tree = hierarchy.trees.get(controller)
        return "" if tree is None else read(f"{tree.own}/{group}/{v1 if tree.version == 1 else v2}")

    version = hierarchy.version_of
    events = _keyed(text("memory", "memory.oom_control", "memory.events"))
    cpu = _keyed(text("cpu", "cpu.stat", "cpu.stat"))
    throttled = cpu.get("throttled_time") if version("cpu") == 1 else cpu.get("throttled_usec")
    if version(ACCOUNTING):
        nanoseconds = _number(text(ACCOUNTING, "cpuacct.usage", ""))
        seconds = None if nanoseconds is None else nanoseconds / 1e9
    else:
        seconds = cpu["usage_usec"] / 1e6 if "usage_usec" in cpu else None
    io = _transferred(text("io", "blkio.throttle.io_service_bytes", "io.stat"))
    return Usage(
        memory_bytes=_number(text("memory", "memory.usage_in_bytes", "memory.current")),
        memory_peak_bytes=_number(text("memory", "memory.max_usage_in_bytes", "memory.peak")),
        oom_kills=events.get("oom_kill"),
        cpu_seconds=seconds,
        throttled_seconds=None if throttled is None else throttled / (1e9 if version("cpu") == 1 else 1e6),
        pids=_number(text("pids", "pids.current", "pids.current")),
        memory_pressure=_pressure(text(PRESSURE, "", "memory.pressure")),
        cpu_pressure=_pressure(text(PRESSURE, "", "cpu.pressure")),
        pids_refused=_keyed(text("pids", "pids.events", "pids.events")).get("max"),
        io_read_bytes=None if io is None else io[0],
        io_written_bytes=None if io is None else io[1],
    )


def _transferred(text: str) -> tuple[int, int] | None:
    """Bytes read and written, from v1's "8:0 Read 4096" lines or v2's "8:0 rbytes=4096 wbytes=0 …"."""
    if not text:
        return None
    read = written = 0
    for line in text.splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[2].isdecimal():
            read += int(fields[2]) if fields[1] == "Read" else 0
            written += int(fields[2]) if fields[1] == "Write" else 0
            continue
        for field in fields[1:]:
            key, _, value = field.partition("=")
            read += int(value) if key == "rbytes" else 0
            written += int(value) if key == "wbytes" else 0
    return read, written


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdecimal() else None


def _keyed(text: str) -> dict[str, int]:
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def _pressure(text: str) -> float | None:
    for line in text.splitlines():
        fields = line.split()
        if fields[:1] == ["some"] and len(fields) > 1 and fields[1].startswith("avg10="):
            return float(fields[1].removeprefix("avg10="))
    return None


def _below(root: str, point: str, path: str) -> str:
    """The directory of cgroup `path` in a mount of `root` at `point`."""
    if root != "/" and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    return (point + "/" + path.strip("/")).rstrip("/")


def _unescape(text: str) -> str:
    """Undoes mountinfo's octal escapes of space, tab, newline and backslash."""
    for code, plain in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, plain)
    return text
