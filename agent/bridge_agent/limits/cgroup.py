"""The edge of cgroups: finds the trees, makes groups, writes limits, reads usage, cleans up."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterable
from pathlib import Path

import psutil
import structlog

from bridge_agent.limits import cgroup_rules as rules
from bridge_agent.limits.spec import Limits, Machine, faults
from bridge_core.errors import BridgeError, Fatal, Reaction

log = structlog.get_logger()

REMOVE_TRIES = 25
REMOVE_PAUSE_S = 0.02


class LimitsRefused(Fatal):
    """Limits that this machine cannot hold; nothing was started, nothing is half-limited."""


def machine() -> Machine:
    """This machine's memory and the CPUs this process may use."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Machine(memory_bytes=pages * size, cpus=frozenset(os.sched_getaffinity(0)))


def find_hierarchy() -> rules.Hierarchy:
    """The trees that this process's own groups lie in."""
    return rules.parse_hierarchy(
        Path("/proc/self/mountinfo").read_text(),
        Path("/proc/self/cgroup").read_text(),
        lambda own: _read(f"{own}/cgroup.controllers"),
    )


class Cgroups:
    """Groups of one agent, below its own group in every tree; `name` tells agents apart."""

    def __init__(self, hierarchy: rules.Hierarchy, name: str) -> None:
        self._hierarchy = hierarchy
        self._parent = f"bridge-{name}"

    def group(self, instance: str) -> str:
        """The instance's group relative to the agent's own, e.g. "bridge-node1/0"."""
        return f"{self._parent}/{instance.rpartition('/')[2]}"

    def prepare(self, instance: str, limits: Limits) -> tuple[str, ...]:
        """Makes the instance's groups with their limits; returns their directories.

        A process placed in all of them before it execs is limited from its first instruction.

        Raises:
            LimitsRefused: the limits do not fit the machine, no controller holds one of them, or
                the kernel refused a value. Groups made on the way are removed.
        """
        wrong = faults(limits, machine())
        if wrong:
            raise LimitsRefused(
                f"limits of instance {instance}: " + "; ".join(wrong), hint="correct its NodeClass"
            )
        plan = rules.plan(limits, self._hierarchy, self.group(instance), device_of)
        if plan.missing:
            raise LimitsRefused(
                f"limits of instance {instance}: no cgroup controller here holds {', '.join(plan.missing)}",
                hint="delegate the controller to the agent (systemd: Delegate=yes) or drop the limit",
            )
        try:
            self._enable_v2(limits)
            for directory in plan.groups:
                _make_group(Path(directory))
            for write in plan.writes:
                _write(Path(write.path), write.value)
        except OSError as fault:
            self.remove(instance)
            raise LimitsRefused(
                f"limits of instance {instance}: {fault.filename} refused: {fault.strerror}",
                hint="the agent needs a writable cgroup subtree: run as root or with Delegate=yes",
            ) from fault
        return plan.groups

    def update(self, instance: str, limits: Limits) -> None:
        """Writes other values of limits over those that running processes are held to.

        Raises:
            LimitsRefused: as `prepare`; values written before the one refused stand.
        """
        wrong = faults(limits, machine())
        plan = rules.plan(limits, self._hierarchy, self.group(instance), device_of)
        wrong += tuple(f"no cgroup controller here holds {name}" for name in plan.missing)
        if wrong:
            raise LimitsRefused(f"limits of instance {instance}: " + "; ".join(wrong))
        # Raising v1's memory limit past memory-and-swap's is refused until that is raised: twice round.
        refused = [write for write in plan.writes if _try(write) is not None]
        for write in refused:
            fault = _try(write)
            if fault is not None:
                raise LimitsRefused(
                    f"limits of instance {instance}: {write.path} refused {write.value}: {fault.strerror}"
                ) from fault

    def usage(self, instance: str) -> rules.Usage:
        """What the instance's groups used so far."""
        return rules.read_usage(self._hierarchy, self.group(instance), _read)

    def pids(self, instance: str) -> frozenset[int]:
        """Every process in the instance's groups."""
        return frozenset(
            int(pid)
            for group in self._directories(instance)
            for pid in _read(f"{group}/cgroup.procs").split()
        )

    def instances(self) -> frozenset[str]:
        """Numbers of the instances whose groups exist, also from before a restart of the agent."""
        found: set[str] = set()
        for tree in self._hierarchy.trees.values():
            with contextlib.suppress(OSError), os.scandir(f"{tree.own}/{self._parent}") as entries:
                found.update(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        return frozenset(found)

    def remove(self, instance: str) -> None:
        """Removes the instance's groups. One that still has processes stays, and is logged."""
        for directory in self._directories(instance):
            fault = _remove_group(Path(directory))
            if fault is not None:
                log.warning("cgroup_not_removed", group=directory, reason=fault.strerror)

    def _directories(self, instance: str) -> Iterable[str]:
        group = self.group(instance)
        return dict.fromkeys(f"{tree.own}/{group}" for tree in self._hierarchy.trees.values())

    def _enable_v2(self, limits: Limits) -> None:
        """Hands v2 controllers down to our parent group, then to the instances.

        A v2 group with processes of its own cannot hand controllers down, so the agent first moves
        itself into a leaf beside its instances (the kernel's "no internal processes" rule).
        """
        v2 = [name for name, tree in self._hierarchy.trees.items() if tree.version == 2]
        if not v2:
            return
        own = Path(self._hierarchy.trees[v2[0]].own)
        line = " ".join(f"+{name}" for name in v2)
        try:
            _write(own / "cgroup.subtree_control", line)
        except OSError as fault:
            if fault.errno != errno.EBUSY:
                raise
            leaf = own / "agent"
            leaf.mkdir(exist_ok=True)
            # Children that the agent started before (MPS daemons) count as inner processes, too.
            for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
                with contextlib.suppress(ProcessLookupError):
                    _write(leaf / "cgroup.procs", str(process.pid))
            _write(own / "cgroup.subtree_control", line)
        parent = own / self._parent
        parent.mkdir(exist_ok=True)
        _write(parent / "cgroup.subtree_control", line)


def device_of(path: str) -> str:
    """The device under `path` as major:minor. Raises BridgeError when the path is not there."""
    try:
        device = os.stat(path).st_dev  # noqa: PTH116 - st_dev, not a Path question
    except OSError as fault:
        raise BridgeError(f"io limit of {path}: {fault.strerror}", reaction=Reaction.REFUSE) from fault
    return f"{os.major(device)}:{os.minor(device)}"


def _remove_group(directory: Path) -> OSError | None:
    """Removes an empty group. A process that has just been killed keeps it busy for a moment."""
    refused: OSError | None = None
    for _ in range(REMOVE_TRIES):
        try:
            directory.rmdir()
        except FileNotFoundError:
            return None
        except OSError as fault:
            refused = fault
            time.sleep(REMOVE_PAUSE_S)
        else:
            return None
    return refused


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
