"""Starts engines inside their limits and walls, and keeps account of both while they run."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, Protocol

import msgspec
import structlog

from bridge_agent.engines.proc import MARK, place_of
from bridge_agent.engines.process import EngineProcess, LaunchFault, LaunchSpec
from bridge_agent.limits import disk, disk_quota, folders, isolation, walls
from bridge_agent.limits.cgroup import Cgroups, LimitsRefused, machine
from bridge_agent.limits.cgroup_rules import Usage, within_node
from bridge_agent.limits.default_class import DEFAULT
from bridge_agent.limits.isolation_report import IsolationReport
from bridge_agent.limits.live_rules import needs_restart
from bridge_agent.limits.spec import by_groups
from bridge_agent.limits.surroundings import mounts
from bridge_core.errors import BridgeError, Reaction
from bridge_core.files import write_atomically
from bridge_core.node_class import NodeClass, ResourceLimits
from bridge_core.proc import read_stat
from bridge_core.quantities import say_size

log = structlog.get_logger()

OBSERVE_S: Final = 2.0
_RECORD: Final = "isolation.json"


class IsolationRefused(BridgeError):
    """A NodeClass that this machine cannot hold to; nothing was started."""

    reaction = Reaction.STOP


class Placed(msgspec.Struct, frozen=True):
    """Where an engine runs among the GPUs, and what it needs for that.

    Attributes:
        environment: In addition to its own.
        device: UUID of its GPU or MIG slice; empty: not pinned.
        domain: What dies together with it ("<node>/gpu-<uuid>"); empty: nothing else does.
        shared: Folders that it shares with the MPS server, writable.
        given_up: Walls that cannot stand, and why.
        cpus: Those nearest to its GPU: it runs there where its class names no others; empty: anywhere.
    """

    environment: Mapping[str, str] = {}
    device: str = ""
    domain: str = ""
    shared: tuple[str, ...] = ()
    given_up: Mapping[str, str] = {}
    cpus: str = ""


class Devices(Protocol):
    """Gives engines their GPUs."""

    async def admit(self, spec: LaunchSpec) -> Placed:
        """Where the engine is to run; waits until it may start. Raises BridgeError: nowhere."""
        ...


class Standing(msgspec.Struct, frozen=True):
    """What stands around an engine; written beside its process record, for a later agent."""

    walls: tuple[str, ...] = ()
    missing: Mapping[str, str] = {}
    device: str = ""
    domain: str = ""
    applied: NodeClass = NodeClass()
    held: tuple[str, ...] = ()  # folders that disk_max limits
    cpus: str = ""  # that it was put on for its GPU's sake


class IsolatedLauncher:
    """See `Launcher`. Owned by the agent's loop.

    Args:
        state_dir: The agent's state folder: hidden from engines but for their own part.
        node: The node's name; its groups are called after it.
        node_class: What engines get.
        cgroups: None, where this machine has none for us; then `without` says why.
        open_cgroups: Finds them instead, at the first need of them: on a node without limits
            nothing is done to its groups. May block for some milliseconds.
        devices: Gives out GPUs; None: engines find them as they like.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        node_class: NodeClass,
        cgroups: Cgroups | None,
        without: str = "",
        devices: Devices | None = None,
        open_cgroups: Callable[[], tuple[Cgroups | None, str]] | None = None,
    ) -> None:
        self._state_dir = state_dir.absolute()
        self._class = node_class
        self._cgroups = cgroups
        self._without = without
        self._open_cgroups = open_cgroups
        self._devices = devices
        self._standing: dict[str, Standing] = {}
        self._pending: dict[str, str] = {}
        self._usage: dict[str, Usage] = {}
        self._oom: dict[str, int] = {}
        self._impossible: dict[str, str] | None = None
        self._known: frozenset[str] | None = None

    @property
    def node_class(self) -> NodeClass:
        """What engines started now get."""
        return self._class

    @property
    def pending(self) -> tuple[str, ...]:
        """Running engines that follow the class only from their next start on."""
        return tuple(self._pending)

    def give_devices(self, devices: Devices) -> None:
        """Says who gives out GPUs, which can only be made once the engines' supervisor is there."""
        self._devices = devices

    # -- the launcher

    async def launch(self, spec: LaunchSpec) -> EngineProcess:
        """Starts a process inside its limits and walls.

        Raises:
            BridgeError: it could not be started, or not within all that is required. Nothing runs.
        """
        wanted = self._class
        # An engine that is to see no GPU has nothing to ask for.
        asks = self._devices is not None and spec.gpus != ""
        placed = await self._devices.admit(spec) if asks and self._devices is not None else Placed()
        standing, process = await self._launch(spec, wanted, placed)
        self._take(spec.instance, standing, process)
        try:
            record = msgspec.json.encode(standing)
            await asyncio.to_thread(write_atomically, spec.folder / _RECORD, record)
        except OSError as fault:
            log.warning("walls_not_recorded", instance=spec.instance, reason=str(fault))
        log.info("engine_isolated", instance=spec.instance, walls=standing.walls, missing=standing.missing)
        self._follow(spec.instance)  # the class may have changed while it was started
        return process

    def adopted(self, instance: str, folder: Path, process: EngineProcess) -> None:
        """Takes over an engine that an earlier agent started."""
        try:
            standing = msgspec.json.decode((folder / _RECORD).read_bytes(), type=Standing)
        except (OSError, msgspec.DecodeError):
            standing = Standing(missing={"walls": "an earlier agent left no word of them"})
        if "cgroup" in standing.walls:
            self._groups(NodeClass())
        self._take(instance, standing, process)
        self._follow(instance)

    async def ended(self, instance: str) -> None:
        """Removes what was made for an engine that has ended."""
        if instance in self._standing:
            self._count_oom(instance, self._read(instance))
        self._standing.pop(instance, None)
        self._usage.pop(instance, None)
        self._pending.pop(instance, None)
        if self._cgroups is None:
            return
        await asyncio.to_thread(self._cgroups.remove, instance)

    # -- what changes while engines run

    def update(self, node_class: NodeClass) -> tuple[str, ...]:
        """Puts a NodeClass in force; returns the instances that have to be started again for it.

        Limits that the kernel takes while an engine runs are changed at once. The others run on as
        they are, and `reports` says why: nobody's requests are cut for a change of configuration.
        """
        self._class = node_class
        return tuple(instance for instance in tuple(self._standing) if not self._follow(instance))

    def _follow(self, instance: str) -> bool:
        """Brings a running engine under the NodeClass in force, as far as that goes."""
        standing, wanted = self._standing[instance], self._class
        why = needs_restart(standing.applied, wanted)
        if not why and standing.applied.limits != wanted.limits:
            why = self._change(instance, standing, wanted)
        if why:
            self._pending[instance] = why
            log.warning("node_class_pending", instance=instance, node_class=wanted.name, reason=why)
            return False
        self._pending.pop(instance, None)
        self._standing[instance] = msgspec.structs.replace(standing, applied=wanted)
        return True

    def _change(self, instance: str, standing: Standing, wanted: NodeClass) -> str:
        """Writes other limits; why that cannot be, with the earlier ones in force as before."""
        grouped = "cgroup" in standing.walls and self._cgroups is not None
        if not grouped and by_groups(standing.applied.limits) != by_groups(wanted.limits):
            return "it was started without groups that could hold limits"
        most, used = wanted.limits.memory_max, self._read(instance).memory_bytes
        if most is not None and used is not None and used > most:
            # v1 would refuse it after a search for memory to take back, v2 would end the engine.
            return (
                f"it uses {say_size(used)} of memory now; {say_size(most)} is all it gets at its next start"
            )
        try:
            self._write(instance, standing, wanted.limits)
        except (BridgeError, OSError) as fault:
            with contextlib.suppress(BridgeError, OSError):  # what was written before the one refused
                self._write(instance, standing, standing.applied.limits)
            return str(fault)
        log.info("limits_changed", instance=instance, node_class=wanted.name)
        return ""

    def _write(self, instance: str, standing: Standing, limits: ResourceLimits) -> None:
        if self._cgroups is not None and "cgroup" in standing.walls:
            self._cgroups.update(instance, _on_cpus(limits, standing.cpus))
        if limits.disk_max is not None:
            disk_quota.resize(standing.held, limits.disk_max)

    async def run(self) -> None:
        """Reads usage and looks for OOM kills until cancelled."""
        while True:
            await asyncio.sleep(OBSERVE_S)
            for instance in tuple(self._standing) if self._cgroups is not None else ():
                usage = await asyncio.to_thread(self._read, instance)
                if instance in self._standing:
                    self._count_oom(instance, usage)

    def tidy(self, instances: Iterable[str]) -> None:
        """Ends and removes what is in groups of no instance of these, as soon as groups are looked for."""
        self._known = frozenset(one.rpartition("/")[2] for one in instances)
        if self._cgroups is not None:
            for number in self._cgroups.instances() - self._known:
                self._cgroups.remove(f"/{number}")

    # -- what it says

    def standing(self, instance: str) -> Standing:
        """What stands around an engine now."""
        return self._standing.get(instance, Standing())

    def reports(self) -> list[IsolationReport]:
        """Every running engine's walls and usage."""
        return [self.report(instance) for instance in sorted(self._standing)]

    def report(self, instance: str) -> IsolationReport:
        """One engine's walls and usage; of one that does not run, its OOM kills."""
        one = self._standing.get(instance)
        kills = self._oom.get(instance, 0)
        if one is None:
            return IsolationReport(instance, oom_kills=kills, node_class=self._class.name)
        return IsolationReport(
            instance,
            one.walls,
            dict(one.missing),
            one.device,
            one.domain,
            oom_kills=kills,
            usage=self._usage.get(instance, Usage()),
            node_class=one.applied.name,
            limits=self._in_force(one),
            pending=self._pending.get(instance, ""),
            stored=disk_quota.stored(one.held),
        )

    # -- inside

    def _in_force(self, standing: Standing) -> ResourceLimits:
        limits = _on_cpus(standing.applied.limits, standing.cpus)
        if self._cgroups is None or "cgroup" not in standing.walls:
            return limits
        return within_node(limits, self._cgroups.hierarchy, machine())

    def _groups(self, wanted: NodeClass) -> Cgroups | None:
        """The groups, found now if `wanted` may need them and nobody has looked yet."""
        asked = wanted.isolation
        asked_for = (*(asked.walls or ()), *asked.require, *walls.demanded(wanted.limits))
        needed = asked.walls is None or "cgroup" in asked_for
        if needed and self._open_cgroups is not None:
            self._cgroups, self._without = self._open_cgroups()
            self._open_cgroups = None
            if self._known is not None:
                self.tidy(f"/{number}" for number in self._known)
        return self._cgroups

    async def _launch(
        self, spec: LaunchSpec, wanted: NodeClass, placed: Placed
    ) -> tuple[Standing, EngineProcess]:
        """Starts behind all walls that are to be had; one that fails after all is left out, if it may be."""
        refused: dict[str, str] = {}
        while True:
            decision = await self._decide(wanted, placed, spec, refused)
            most = wanted.limits.disk_max
            held = await asyncio.to_thread(folders.hold, spec, placed.shared, most)
            cpus = placed.cpus if "cgroup" in decision.walls else ""
            standing = Standing(
                decision.walls, decision.missing, placed.device, placed.domain, wanted, held, cpus
            )
            try:
                groups: tuple[str, ...] = ()
                if "cgroup" in decision.walls and self._cgroups is not None:
                    limits = _on_cpus(wanted.limits, cpus)
                    groups = await asyncio.to_thread(self._cgroups.prepare, spec.instance, limits)
                pid = await self._start(spec, wanted, placed, decision, groups)
                return standing, _watch(pid, spec)
            except LaunchFault:
                await self.ended(spec.instance)
                if not await self._probed(decision):
                    raise
            except (LimitsRefused, isolation.WallRefused) as fault:
                await self.ended(spec.instance)
                if isinstance(fault, isolation.WallRefused) and await self._probed(decision):
                    continue
                if isinstance(fault, LimitsRefused) and placed.cpus:  # a matter of speed: no reason to refuse
                    log.warning("gpu_cpus_not_kept_to", instance=spec.instance, reason=str(fault))
                    placed = msgspec.structs.replace(placed, cpus="")
                    continue
                wall = fault.wall if isinstance(fault, isolation.WallRefused) else "cgroup"
                if wall not in decision.walls or wall in walls.demanded(wanted.limits):
                    raise
                refused[wall] = fault.reason if isinstance(fault, isolation.WallRefused) else str(fault)
            except BaseException:
                await self.ended(spec.instance)
                raise

    async def _decide(
        self, wanted: NodeClass, placed: Placed, spec: LaunchSpec, refused: Mapping[str, str]
    ) -> walls.WallDecision:
        impossible = {**(self._impossible or {}), **placed.given_up, **refused}
        if self._groups(wanted) is None:
            impossible["cgroup"] = self._without
        asked, demanded = wanted.isolation, walls.demanded(wanted.limits)
        if "unprivileged" in (*(asked.walls or ()), *asked.require):
            impossible |= await asyncio.to_thread(self._kept_from_others, spec)
        unasked = asked.walls is None or wanted == DEFAULT or "user" in demanded
        if unasked and asked.uid is None and (foreign := folders.foreign(spec.writable)):
            wall = "user" if "user" in demanded else "capabilities"
            impossible[wall] = f"{foreign} belongs to another user, only root's rights open it"
        # Never a half-limited engine: limits that nothing would hold forbid the start.
        asked = msgspec.structs.replace(asked, require=tuple(dict.fromkeys((*asked.require, *demanded))))
        decision = walls.decide(asked, impossible, root=os.geteuid() == 0)
        if decision.faults:
            raise IsolationRefused(
                f"{spec.instance} is not started: " + "; ".join(decision.faults),
                hint=f"give the agent the right it lacks, or change the NodeClass {wanted.name}",
            )
        return decision

    def _kept_from_others(self, spec: LaunchSpec) -> dict[str, str]:
        """Why an engine cannot run as another user than the agent's: what it needs is not for others."""
        if where := folders.elsewhere(spec.writable, self._state_dir):
            return {"unprivileged": f"{where} lies outside of {self._state_dir} and does not change hands"}
        if where := disk.closed(spec.argv):
            return {"unprivileged": f"{where} is closed to other users (chmod -R o+rX opens it)"}
        return {}

    async def _probed(self, decision: walls.WallDecision) -> bool:
        """Whether trying each wall by itself shows one of these to be impossible; done once, after a failure.

        It takes as long as half a dozen starts, and on most machines every wall stands.
        """
        if self._impossible is not None or not set(decision.walls) & set(walls.NAMESPACES):
            return False
        self._impossible = await isolation.probe()
        return bool(set(decision.walls) & self._impossible.keys())

    async def _start(
        self,
        spec: LaunchSpec,
        wanted: NodeClass,
        placed: Placed,
        decision: walls.WallDecision,
        groups: tuple[str, ...],
    ) -> int:
        environment = {**spec.env, **placed.environment}
        if "mount" in decision.walls:
            environment.pop("TMPDIR", None)  # its own /tmp is the only one it can write to
        uid, gid = wanted.isolation.uid, wanted.isolation.gid
        if uid is None and "unprivileged" in decision.walls:
            uid = walls.ENGINE_UID
        try:
            if uid is not None:
                await asyncio.to_thread(folders.give, spec, uid, gid if gid is not None else uid)
            elif os.geteuid() == 0:  # another class gave them away before
                await asyncio.to_thread(folders.take_back, spec, walls.ENGINE_UID)
            environment[MARK] = place_of(spec.folder)
            output = spec.log.open()
        except OSError as fault:
            if "unprivileged" in decision.walls:
                raise isolation.WallRefused("unprivileged", f"{spec.folder}: {fault.strerror}") from fault
            raise LaunchFault(f"cannot prepare {spec.folder}: {fault.strerror}") from fault
        try:
            started = await isolation.start(
                isolation.WallSpec(
                    argv=spec.argv,
                    env=environment,
                    cwd=str(spec.folder),
                    hostname=f"engine-{spec.instance.rpartition('/')[2]}",
                    walls=decision.walls,
                    cgroups=groups,
                    mount=mounts(spec, self._state_dir, placed.shared, wanted.isolation.tmp_bytes),
                    uid=uid,
                    gid=gid if gid is not None else uid,
                    drop_capabilities="capabilities" in decision.walls,
                    no_new_privs="no_new_privs" in decision.walls,
                ),
                output=output,
            )
        except isolation.WallRefused as fault:
            if fault.wall != "exec":
                raise
            if "unprivileged" in decision.walls:  # root may be able to execute what another user is not
                raise isolation.WallRefused("unprivileged", fault.reason) from fault
            raise LaunchFault(
                f"cannot start {spec.argv[0]}: {fault.reason}",
                hint="check that the file is there, executable and built for this machine",
            ) from fault
        finally:
            os.close(output)
        return started.pid

    def _take(self, instance: str, standing: Standing, process: EngineProcess) -> None:
        self._standing[instance] = standing
        self._usage[instance] = self._read(instance)
        process.note = lambda: self._epitaph(instance)

    def _epitaph(self, instance: str) -> str:
        """What its groups know of an engine's end."""
        usage = self._read(instance)
        killed = (usage.oom_kills or 0) > (self._usage.get(instance, Usage()).oom_kills or 0)
        self._count_oom(instance, usage)
        return "killed by the kernel at its memory limit" if killed else ""

    def _read(self, instance: str) -> Usage:
        return self._cgroups.usage(instance) if self._cgroups is not None else Usage()

    def _count_oom(self, instance: str, usage: Usage) -> None:
        before = self._usage.get(instance, Usage())
        kills = (usage.oom_kills or 0) - (before.oom_kills or 0)
        if kills > 0:
            self._oom[instance] = self._oom.get(instance, 0) + kills
            log.error(
                "engine_oom_killed",
                instance=instance,
                kills=kills,
                memory_max=self.standing(instance).applied.limits.memory_max,
                peak=usage.memory_peak_bytes,
            )
        self._usage[instance] = usage


def _on_cpus(limits: ResourceLimits, cpus: str) -> ResourceLimits:
    """The limits, on these CPUs where they name none."""
    if not cpus or limits.cpuset is not None:
        return limits
    return msgspec.structs.replace(limits, cpuset=cpus)


def _watch(pid: int, spec: LaunchSpec) -> EngineProcess:
    try:
        stat = read_stat(pid)
        if stat is None:
            raise ProcessLookupError(pid)
        return EngineProcess(pid, stat.start_time)
    except OSError as fault:
        raise LaunchFault(f"{spec.argv[0]} ended as soon as it was started") from fault
