"""The edge of cgroups: finds the trees, makes groups, writes limits, reads usage, ends what is in them."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import structlog

from bridge_agent.limits import cgroup_rules as rules
from bridge_agent.limits.spec import Machine, ResourceLimits, faults
from bridge_core.errors import BridgeError, Fatal, Reaction
from bridge_core.proc import read_stat

log = structlog.get_logger()

END_WITHIN_S: Final = 5.0
PAUSE_S: Final = 0.02
_PROBE: Final = "probe"


class LimitsRefused(Fatal):
    """ResourceLimits that this machine cannot hold; nothing was started, nothing is half-limited."""


def machine() -> Machine:
    """This machine's memory and the CPUs this process may use."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Machine(memory_bytes=pages * size, cpus=frozenset(os.sched_getaffinity(0)))


def find_hierarchy() -> rules.Hierarchy:
    """The trees that this process's own groups lie in, or those of the unit kept for engines.

    The agent's unit names that one in BRIDGE_ENGINES_UNIT.
    """
    found = rules.parse_hierarchy(
        Path("/proc/self/mountinfo").read_text(),
        Path("/proc/self/cgroup").read_text(),
        lambda own: _read(f"{own}/cgroup.controllers"),
    )
    unit = _engines_unit()
    return rules.beside(found, unit, os.path.isdir) if unit else found


def _engines_unit() -> str:
    return os.environ.get("BRIDGE_ENGINES_UNIT", "")


def open_cgroups(name: str, hierarchy: rules.Hierarchy | None = None) -> tuple[Cgroups | None, str]:
    """The agent's groups, in those trees where it may make any, tried out; else None and a sentence why.

    Args:
        name: The node's; tells the groups of several agents apart.
        hierarchy: Where to look; None: where this process is.
    """
    found = find_hierarchy() if hierarchy is None else hierarchy
    if not found.controllers:
        return None, "no cgroup controller is mounted here or delegated to this process's own group"
    if (unit := _engines_unit()) and rules.below_agent(found, unit):
        # Below its own group they would keep systemd from starting the next agent in it.
        return None, f"{unit} has no control group: systemctl restart {unit} bridge-agent.service"
    refused: dict[str, str] = {}
    _hand_down(found, f"bridge-{name}", refused)
    for controller, tree in found.trees.items():
        if controller not in refused and (reason := _try_group(tree, f"bridge-{name}")):
            refused[controller] = reason
    usable = rules.Hierarchy({name: tree for name, tree in found.trees.items() if name not in refused})
    if not usable.controllers:
        return None, "; ".join(dict.fromkeys(refused.values()))
    if lost := [controller for controller in found.controllers if controller in refused]:
        log.warning("cgroup_controllers_missing", reasons={one: refused[one] for one in lost})
    return Cgroups(usable, name, refused), ""


class Cgroups:
    """Groups of one agent, below its own group in every tree; `name` tells agents apart.

    `unusable` says of controllers that are mounted why they are not in `hierarchy`.
    """

    def __init__(
        self, hierarchy: rules.Hierarchy, name: str, unusable: Mapping[str, str] | None = None
    ) -> None:
        self._hierarchy = hierarchy
        self._parent = f"bridge-{name}"
        self._unusable = unusable or {}
        self._making = threading.Lock()  # the parent group must not go while a group is made in it

    @property
    def hierarchy(self) -> rules.Hierarchy:
        """The trees in use."""
        return self._hierarchy

    def group(self, instance: str) -> str:
        """The instance's group relative to the agent's own, e.g. "bridge-node1/0"."""
        number = instance.rpartition("/")[2]
        if not number:
            raise ValueError(f"{instance!r} names no instance")  # its group would hold all of them
        return f"{self._parent}/{number}"

    def prepare(self, instance: str, limits: ResourceLimits) -> tuple[str, ...]:
        """Makes the instance's groups with their limits; returns their directories.

        A process placed in all of them before it execs is limited from its first instruction. No
        instance gets more of the node than `rules.NODE_SHARE`, whatever its limits.

        Raises:
            LimitsRefused: the limits do not fit the machine, no controller holds one of them, or
                the kernel refused a value. Groups made on the way are removed.
        """
        plan = self._plan(instance, limits)
        try:
            with self._making:
                self._make(instance, plan.groups)
            _write_all(instance, plan.writes)
        except LimitsRefused:
            self.remove(instance)
            raise
        return plan.groups

    def update(self, instance: str, limits: ResourceLimits) -> None:
        """Writes other values of limits over those that running processes are held to.

        Raises:
            LimitsRefused: as `prepare`; values written before the one refused stand.
        """
        _write_all(instance, self._plan(instance, limits).writes)

    def usage(self, instance: str) -> rules.Usage:
        """What the instance's groups used so far."""
        return rules.read_usage(self._hierarchy, self.group(instance), _read)

    def pids(self, instance: str) -> frozenset[int]:
        """Every process in the instance's groups."""
        return frozenset(pid for group in self._directories(instance) for pid in _pids(group))

    def instances(self) -> frozenset[str]:
        """Numbers of the instances whose groups exist, also from before a restart of the agent."""
        found: set[str] = set()
        for tree in self._hierarchy.trees.values():
            with contextlib.suppress(OSError), os.scandir(f"{tree.own}/{self._parent}") as entries:
                found.update(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        return frozenset(found)

    def remove(self, instance: str) -> None:
        """Ends every process in the instance's groups, wherever it went, and removes the groups.

        What was started in a group cannot leave it, so this ends also what forks faster than it can
        be looked up. Blocks for up to `END_WITHIN_S`; a group that stays is logged.
        """
        directories = tuple(self._directories(instance))
        _end_all(directories)
        for directory in directories:
            fault = _remove_group(Path(directory))
            if fault is not None:
                log.warning("cgroup_not_removed", group=directory, reason=fault.strerror)
        self.close()

    def close(self) -> None:
        """Removes the agent's own groups, unless an instance is still in them."""
        with self._making:
            for tree in self._hierarchy.trees.values():
                with contextlib.suppress(OSError):  # busy, or gone already
                    Path(tree.own, self._parent).rmdir()

    def _make(self, instance: str, groups: Iterable[str]) -> None:
        refused: dict[str, str] = {}
        _hand_down(self._hierarchy, self._parent, refused)
        try:
            for directory in groups:
                _make_group(Path(directory))
        except OSError as fault:
            refused["group"] = _sentence(fault)
        if refused:
            raise LimitsRefused(
                f"limits of instance {instance}: {'; '.join(dict.fromkeys(refused.values()))}",
                hint="the agent needs a writable cgroup subtree: run as root or with Delegate=yes",
            )

    def _plan(self, instance: str, limits: ResourceLimits) -> rules.CgroupPlan:
        here = machine()
        wrong = faults(limits, here)
        if wrong:
            raise LimitsRefused(
                f"limits of instance {instance}: " + "; ".join(wrong), hint="correct its NodeClass"
            )
        held = rules.within_node(limits, self._hierarchy, here)
        plan = rules.plan(held, self._hierarchy, self.group(instance), device_of)
        if plan.missing:
            reasons = "; ".join(dict.fromkeys(self._unusable.values()))
            raise LimitsRefused(
                f"limits of instance {instance}: no cgroup controller here holds {', '.join(plan.missing)}"
                + (f" ({reasons})" if reasons else ""),
                hint="delegate the controller to the agent (systemd: Delegate=yes) or drop the limit",
            )
        return plan

    def _directories(self, instance: str) -> Iterable[str]:
        group = self.group(instance)
        return dict.fromkeys(f"{tree.own}/{group}" for tree in self._hierarchy.trees.values())


def device_of(path: str) -> str:
    """The whole disk under `path` as major:minor; rates are kept a disk, not a partition.

    Raises:
        BridgeError: the path is not there, or lies on no block device (tmpfs, overlay, network).
    """
    try:
        device = os.stat(path).st_dev  # noqa: PTH116 - st_dev, not a Path question
    except OSError as fault:
        raise BridgeError(f"io limit of {path}: {fault.strerror}", reaction=Reaction.REFUSE) from fault
    here = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    if not here.exists():
        raise LimitsRefused(
            f"io limit of {path}: it lies on no block device of its own, so no rate can be kept",
            hint="name a path on a disk, such as the models folder's",
        )
    if (here / "partition").exists():
        return (here.resolve().parent / "dev").read_text().strip()
    return f"{os.major(device)}:{os.minor(device)}"


def _hand_down(hierarchy: rules.Hierarchy, parent_name: str, refused: dict[str, str]) -> None:
    """Hands v2 controllers down to the agent's parent group, then to the instances.

    A v2 group with processes of its own cannot hand controllers down, so the agent first moves
    itself into a leaf beside its instances (the kernel's "no internal processes" rule). What cannot
    be handed down goes into `refused`, controller to sentence.
    """
    names = [name for name in hierarchy.controllers if hierarchy.version_of(name) == 2]
    if not names:
        return
    own = Path(hierarchy.trees[names[0]].own)
    parent = own / parent_name
    try:
        # Not one controller while processes stay: the kernel would hand cpu down all the same, and
        # with it make of every group below one of threads, which no process may enter.
        _leave(own)
    except OSError as fault:
        refused.update(dict.fromkeys(names, _sentence(fault)))
        return
    for name in names:
        try:
            _write(own / "cgroup.subtree_control", f"+{name}")
            parent.mkdir(exist_ok=True)
            _write(parent / "cgroup.subtree_control", f"+{name}")
        except OSError as fault:
            refused[name] = _sentence(fault)


def _leave(own: Path) -> None:
    """Moves this process and its children from their group into a leaf of it.

    At the root of a container everything is moved: what runs there besides (an init, a shell) would
    keep the group busy, and the group is the container's own. So is all of the unit kept for engines.

    Raises:
        OSError: it may not be done, or others stay in the group.
    """
    # The tree's real root has no type, and may hand down with processes in it.
    if not (own / "cgroup.type").exists() or not (here := _pids(str(own))):
        return
    leaf = own / rules.LEAF
    leaf.mkdir(exist_ok=True)
    whole = own.name == _engines_unit() or "0::/" in Path("/proc/self/cgroup").read_text().splitlines()
    if not whole:
        # Children that the agent started before (MPS daemons) count as inner processes, too.
        here = {pid for pid in here if _descends_from_us(pid)}
    for pid in here:
        with contextlib.suppress(ProcessLookupError):
            _write(leaf / "cgroup.procs", str(pid))
    if _pids(str(own)):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(own))


def _descends_from_us(pid: int) -> bool:
    while pid > 1 and pid != os.getpid():
        stat = read_stat(pid)
        pid = 0 if stat is None else stat.parent
    return pid == os.getpid()


def _try_group(tree: rules.Tree, parent_name: str) -> str:
    """Why no group can be made, and entered, in a tree; "" when one can."""
    parent = Path(tree.own) / parent_name
    directory = parent / f"{_PROBE}-{os.getpid()}"
    try:
        _make_group(directory)
        directory.rmdir()
        with contextlib.suppress(OSError):  # busy: an earlier agent's engines run in it
            parent.rmdir()
    except OSError as fault:
        return _sentence(fault)
    # v2 lets a process pass only where its mover may write to what both groups have in common.
    if tree.version == 2 and not os.access(f"{tree.own}/cgroup.procs", os.W_OK):
        return f"{tree.own}/cgroup.procs belongs to another user, so no process can be moved below it"
    return ""


def _sentence(fault: OSError) -> str:
    """What a refusal of the kernel means for whoever runs the agent."""
    where = fault.filename
    if fault.errno == errno.EROFS:
        return "the cgroup trees are mounted read-only"
    if fault.errno in {errno.EACCES, errno.EPERM}:
        return "the cgroup trees are not this user's to write to: it takes root or systemd's Delegate=yes"
    if fault.errno == errno.EBUSY:
        return (
            f"other processes run in the agent's own cgroup ({where}): start the agent in one of its own, "
            "as a systemd unit or by systemd-run --scope -p Delegate=yes"
        )
    return f"{where} refused: {fault.strerror}"


def _end_all(directories: Iterable[str]) -> None:
    """Kills what runs in the groups until nothing does, or for `END_WITHIN_S`."""
    there = [directory for directory in directories if _pids(directory)]
    for directory in there:
        for file, value in (("pids.max", "0"), ("cgroup.kill", "1")):
            # Where there is no such file: the loop below is all there is.
            with contextlib.suppress(OSError):
                if Path(directory, file).exists():
                    _write(Path(directory, file), value)
    end = time.monotonic() + END_WITHIN_S
    while (left := {pid for directory in there for pid in _pids(directory)}) and time.monotonic() < end:
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(PAUSE_S)


def _remove_group(directory: Path) -> OSError | None:
    """Removes an empty group. A process that has just been killed keeps it busy for a moment."""
    end = time.monotonic() + END_WITHIN_S
    while True:
        try:
            directory.rmdir()
        except FileNotFoundError:
            return None
        except OSError as fault:
            if fault.errno != errno.EBUSY or time.monotonic() >= end:
                return fault
            time.sleep(PAUSE_S)
        else:
            return None


def _write_all(instance: str, writes: Iterable[rules.Write]) -> None:
    # Raising v1's memory limit past memory-and-swap's is refused until that is raised: twice round.
    refused = [write for write in writes if _try(write) is not None]
    for write in refused:
        fault = _try(write)
        if fault is not None:
            raise LimitsRefused(
                f"limits of instance {instance}: {write.path} refused {write.value}: {fault.strerror}"
            ) from fault


def _try(write: rules.Write) -> OSError | None:
    try:
        _write(Path(write.path), write.value)
    except OSError as fault:
        return fault
    return None


def _make_group(directory: Path) -> None:
    """Makes it and its parents, and on v1's cpuset the inheritance without which no process may enter."""
    directory.mkdir(parents=True, exist_ok=True)
    for level in (directory.parent, directory):
        for name in ("cpuset.mems", "cpuset.cpus"):
            file = level / name
            if file.exists() and not file.read_text().strip() and (level.parent / name).exists():
                _write(file, (level.parent / name).read_text().strip())


def _pids(directory: str) -> set[int]:
    return {int(pid) for pid in _read(f"{directory}/cgroup.procs").split()}


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _write(path: Path, value: str) -> None:
    try:
        path.write_text(value)
    except OSError as fault:
        fault.filename = str(path)
        raise
