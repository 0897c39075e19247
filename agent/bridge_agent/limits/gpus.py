"""The node's GPUs while engines run on them: seats, MPS daemons, fault domains, devices that fail."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import msgspec
import structlog

from bridge_agent.ancillaries import Ancillaries, Run
from bridge_agent.engines.process import LaunchSpec
from bridge_agent.limits import mps_rules
from bridge_agent.limits.domain_rules import Family, Seats, culprit, seat
from bridge_agent.limits.fault_domain import FaultDomain
from bridge_agent.limits.gpu import DEVICE_XIDS, Gpu, GpuInventory, Xid
from bridge_agent.limits.isolation_report import DomainReport
from bridge_agent.limits.launcher import IsolationRefused, Placed
from bridge_agent.limits.mps import MpsDaemon, MpsMissing, left_behind
from bridge_agent.limits.placement_rules import thread_percentage
from bridge_core.backoff import Backoff
from bridge_core.errors import Unavailable
from bridge_core.gpu_visibility import VISIBLE_DEVICES
from bridge_core.node_class import GpuSharing
from bridge_core.proc import families

log = structlog.get_logger()

T = TypeVar("T")

READ_S: Final = 0.8  # one that is lost is to be known within a second
MPS_READY_S: Final = 15.0
UUID_PART: Final = 12  # of a device's UUID: its folder's name, since a socket's path is short
CLEAR_S: Final = 5.0  # for the clients of a faulted MPS server to be gone
SETTLE_S: Final = 2.0  # in which the logs may still tell of a fault that was dealt with


class Engines(Protocol):
    """What is asked of the engines' supervisor."""

    def process(self, instance: str) -> tuple[int, int] | None:
        """Pid and start time of an instance's process; None while there is none."""

    def fail(self, instance: str, reason: str) -> None:
        """Its process is to be ended and started again."""

    def halt(self, instance: str) -> None:
        """It is to be ended, and to stay so."""


class GpuKeeper:
    """Gives engines their GPUs and acts when one of them falls. Owned by the agent's loop.

    Args:
        inventory: Reads the GPUs.
        without: Why there is no inventory; empty where there is.
        folder: Where MPS daemons keep pipes and logs.
        node: The node's name.
        instances: Every instance with the device that its configuration names, in order.
        sharing: From the NodeClass; None: GPUs are left to the engines.
        engines: Restarts and halts them.
        changed: Called when an engine is to be kept out of the ring, or no longer.
        mps_binary: Stands in for nvidia-cuda-mps-control.
        clock: Monotonic time in seconds.
        read_s: How often the GPUs are read.
        ancillaries: Keep the tasks that watch; a fault of one is not to end an MPS daemon, and with it
            every engine below.
    """

    def __init__(
        self,
        inventory: GpuInventory,
        *,
        without: str,
        folder: Path,
        node: str,
        instances: Sequence[tuple[str, str | None]],
        sharing: GpuSharing | None,
        engines: Engines,
        changed: Callable[[], None] = lambda: None,
        mps_binary: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        read_s: float = READ_S,
        ancillaries: Ancillaries | None = None,
    ) -> None:
        self._inventory = inventory
        self._without = without
        self._folder = folder
        self._node = node
        self._instances = tuple(instances)
        self._sharing = sharing
        self._engines = engines
        self._changed = changed
        self._mps_binary = mps_binary
        self._clock = clock
        self._read_s = read_s
        self._rng = random.Random()  # noqa: S311 - jitter
        self._ancillaries = ancillaries or Ancillaries(self._rng)
        self._inside: set[asyncio.Future[Any]] = set()  # threads that are in the driver
        self._gpus: tuple[Gpu, ...] = inventory.read()
        self._seats = Seats({}, {})
        self._xids: dict[str, str] = {}
        self._domains: dict[str, FaultDomain] = {}
        self._families: dict[str, Family] = {}
        self._earlier: dict[str, Family] = {}  # the sample before: whoever is told of has ended by then
        self._group: asyncio.TaskGroup | None = None
        self._pending: set[asyncio.Task[None]] = set()
        self._leave = False
        self._seat()

    # -- what it says

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The devices as last read, each with why it may not be used."""
        return tuple(
            msgspec.structs.replace(gpu, fault=gpu.fault or self._xids.get(gpu.uuid, ""))
            for gpu in self._gpus
        )

    @property
    def without(self) -> str:
        """Why no GPU can be seen; empty where NVML answers."""
        return self._without

    def domains(self) -> list[DomainReport]:
        """Every fault domain."""
        return [
            DomainReport(
                self._name(device),
                self._seats.on(device),
                domain.daemon.restarts,
                domain.faults,
                domain.last,
            )
            for device, domain in self._domains.items()
        ]

    def domain_of(self, instance: str) -> str:
        """The fault domain of an instance; empty where it has none beyond its node."""
        device = self._seats.devices.get(instance, "")
        return self._name(device) if device in self._domains else ""

    def knows(self, instance: str) -> bool:
        """Whether the processes of an instance have been seen: only then can a fault be laid at its door."""
        return bool(self._families.get(instance, Family()).host)

    def fault_of(self, instance: str) -> str:
        """Why an instance must take no requests; empty where it may."""
        device = self._seats.devices.get(instance, "")
        domain = self._domains.get(device)
        if domain is not None and domain.quarantine.quarantined(instance):
            limit, window = domain.quarantine.limit, domain.quarantine.window
            return f"quarantined: {limit} of {window} faults of its MPS server in a row were laid to it"
        for one in device.split(","):
            fault = next((gpu.fault for gpu in self.gpus if gpu.holds(one)), "")
            if fault:
                return f"its GPU {one} may not be used: {fault}"
        return ""

    # -- giving out devices

    def update(self, sharing: GpuSharing | None) -> None:
        """Puts another sharing in force, for engines started from now on."""
        self._sharing = sharing
        self._seat()

    async def admit(self, spec: LaunchSpec) -> Placed:
        """See `Devices`.

        Raises:
            IsolationRefused: the device is not there, or cannot be shared as asked.
            Unavailable: not now: its GPU is at fault, or its MPS server does not come up.
        """
        sharing = self._sharing
        if sharing is None:
            return Placed()
        if spec.instance in self._seats.faults:
            raise IsolationRefused(
                f"{spec.instance} is not started: {self._seats.faults[spec.instance]}",
                hint=self._without or "correct the devices in its configuration or NodeClass",
            )
        if fault := self.fault_of(spec.instance):
            raise Unavailable(f"{spec.instance} is not started: {fault}")
        device = self._seats.devices.get(spec.instance)
        if device is None:
            return Placed()  # one that is to use no GPU
        gpu = next(gpu for gpu in self._gpus if gpu.holds(device.partition(",")[0]))
        environment = {VISIBLE_DEVICES[gpu.vendor]: device}
        if "," in device:
            # An MPS server is one GPU's: who has several is a client of none.
            return Placed(environment, device)
        neighbours = len(self._seats.on(device))
        if not sharing.mps:
            if neighbours > 1:
                log.warning("gpu_shared_without_mps", device=device, engines=neighbours)
            return Placed(environment, device, cpus=gpu.cpus)
        if gpu.vendor != "nvidia":
            raise IsolationRefused(
                f"{spec.instance} is not started: MPS is asked for and {gpu.name} is not NVIDIA's",
                hint="take `mps` out of its NodeClass",
            )
        wanted = await self._share(spec, sharing, gpu, device)
        return msgspec.structs.replace(wanted, environment={**wanted.environment, **environment})

    async def _share(self, spec: LaunchSpec, sharing: GpuSharing, gpu: Gpu, device: str) -> Placed:
        neighbours = len(self._seats.on(device))
        percentage = sharing.thread_percentage
        if percentage is None:
            percentage = thread_percentage(neighbours)
        share = mps_rules.MpsShare(None if percentage == 100 else percentage, sharing.memory_bytes)
        wrong = mps_rules.faults(share, gpu.memory_bytes, mig=gpu.mig)
        if wrong:
            raise IsolationRefused(
                f"{spec.instance} is not started: " + "; ".join(wrong), hint="correct its NodeClass"
            )
        domain = self._domain(device)
        try:
            async with asyncio.timeout(MPS_READY_S):
                await domain.enter(spec.instance)
        except TimeoutError:
            raise Unavailable(f"MPS on {device} is not ready after {MPS_READY_S:.0f} s") from None
        pipe, logs = str(domain.daemon.pipe), str(domain.daemon.log)
        environment = mps_rules.client_environment(pipe, logs, share, spec.models)
        return Placed(environment, device, self._name(device), shared=(pipe, logs), cpus=gpu.cpus)

    def _domain(self, device: str) -> FaultDomain:
        domain = self._domains.get(device)
        if domain is None:
            if self._group is None:
                raise Unavailable("the agent is not yet looking after its GPUs")
            daemon = MpsDaemon(
                device,
                self._folder / device[:UUID_PART],
                on_fault=lambda fault: self._heard(device, fault),
                binary=self._mps_binary,
            )
            domain = self._domains[device] = FaultDomain(daemon)
            self._tend(self._group, device, daemon)
            self._changed()
        return domain

    # -- watching

    async def run(self) -> None:
        """Watches devices and domains until cancelled; MPS daemons end then, unless `leave` was called.

        After a fault it may be run again. Cancelled, it lets go of the driver.
        """
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for device, domain in self._domains.items():  # of the run before
                    self._tend(group, device, domain.daemon)
                self._take_over()
                if self._gpus:
                    self._keep(group, "gpu-inventory", self._read)
                    self._keep(group, "gpu-xids", self._listen)
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            # A thread goes on when its task is cancelled, and the driver must not go from under it.
            if self._inside:
                await asyncio.wait(self._inside)
            self._inventory.close()
            raise
        finally:
            self._group = None

    def _keep(self, group: asyncio.TaskGroup, name: str, run: Run) -> None:
        group.create_task(self._ancillaries.keep(name, run), name=name)

    def _tend(self, group: asyncio.TaskGroup, device: str, daemon: MpsDaemon) -> None:
        backoff = Backoff(self._rng, first_s=0.2, most_s=10.0)
        self._keep(group, f"mps-{device}", lambda: daemon.run(backoff))

    async def _in_thread(self, ask: Callable[..., T], *arguments: Any) -> T:
        """What the driver answers; whoever waits for it may be cancelled, the thread may not."""
        inside = asyncio.ensure_future(asyncio.to_thread(ask, *arguments))
        self._inside.add(inside)
        inside.add_done_callback(self._inside.discard)
        return await asyncio.shield(inside)

    def _take_over(self) -> None:
        """Looks after what an earlier agent left: its engines, adopted, never ask for admission."""
        for device in left_behind(self._folder):
            if self._sharing is not None and self._sharing.mps and self._seats.on(device):
                try:
                    self._domain(device)
                except MpsMissing as fault:
                    log.error("mps_daemon_not_taken_over", device=device, reason=str(fault))
            else:
                # Its engines may still be there: it ends with the last of them, not under them.
                log.warning("mps_daemon_without_engines", device=device)

    def leave(self) -> None:
        """The engines go on without this agent: so must their MPS daemons."""
        for domain in self._domains.values():
            domain.daemon.leave = True

    async def _read(self) -> None:
        while True:
            await asyncio.sleep(self._read_s)
            before = {gpu.uuid: gpu.fault for gpu in self._gpus}
            self._gpus = await self._in_thread(self._inventory.read)
            for gpu in self._gpus:
                if gpu.fault != before.get(gpu.uuid, ""):
                    log.error("gpu_fault", device=gpu.uuid, fault=gpu.fault or "gone")
                    self._changed()
            await asyncio.to_thread(self._sample)

    def _sample(self) -> None:
        """Remembers whose processes are whose: by the time a fault is told, its client is gone."""
        seated = [instance for device in tuple(self._domains) for instance in self._seats.on(device)]
        processes = {instance: self._engines.process(instance) for instance in seated}
        found = families({process for process in processes.values() if process is not None})
        for instance, process in processes.items():
            if process is not None:
                members = frozenset(stat.pid for stat in found[process])
                self._earlier[instance] = self._families.get(instance, Family())
                self._families[instance] = Family(members, frozenset(map(_inside, members)))

    async def _listen(self) -> None:
        while True:
            xid = await self._in_thread(self._inventory.wait_xid, 1.0)
            if xid is not None:
                self._take_xid(xid)

    def _take_xid(self, xid: Xid) -> None:
        log.error("gpu_xid", device=xid.uuid, code=xid.code)
        if xid.code in DEVICE_XIDS:
            self._xids[xid.uuid] = f"XID {xid.code}: the device itself is at fault"
            self._changed()

    # -- faults

    def _heard(self, device: str, fault: mps_rules.MpsFault) -> None:
        if fault.kind == "refused":
            return  # a client that could not connect says so itself; nobody else is hurt
        domain = self._domains[device]
        blamed = self._blame(domain, fault) if fault.kind == "client_fault" else ""
        text = fault.text + (f" (by {blamed})" if blamed else "")
        late = self._clock() - domain.recovered_at < SETTLE_S
        if late or domain.recovering:
            domain.last = text if blamed else domain.last
            return
        domain.faults += 1
        domain.last = text
        if self._group is not None:
            # At once: the log tells of one fault in several lines.
            members = self._seats.on(device)
            domain.close([one for one in members if not domain.quarantine.quarantined(one)])
            recovery = self._ancillaries.once("mps-recovery", self._recover(device, domain, fault))
            task = self._group.create_task(recovery)
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)

    def _blame(self, domain: FaultDomain, fault: mps_rules.MpsFault) -> str:
        instance = culprit(fault.pid, self._families) or culprit(fault.pid, self._earlier)
        if instance:
            for families in (self._families, self._earlier):
                families.pop(instance, None)  # one fault is told in several lines
            domain.quarantine = domain.quarantine.blame(instance)
            named = domain.quarantine.named
            log.error("mps_client_faulted", instance=instance, times=named.count(instance), of=len(named))
        return instance

    async def _recover(self, device: str, domain: FaultDomain, fault: mps_rules.MpsFault) -> None:
        """Starts every engine of a domain again, in order, once all have let go of the old server."""
        members = self._seats.on(device)
        before = {instance: self._engines.process(instance) for instance in members}
        log.error("mps_domain_restarting", domain=self._name(device), engines=members, reason=domain.last)
        try:
            await self._end_all(domain, fault, members, before)
        finally:  # whatever became of it: engines are waiting to be let in
            domain.recovered_at = self._clock()
            await domain.reopen()
            self._changed()

    async def _end_all(
        self,
        domain: FaultDomain,
        fault: mps_rules.MpsFault,
        members: Sequence[str],
        before: Mapping[str, tuple[int, int] | None],
    ) -> None:
        for instance in members:
            if domain.quarantine.quarantined(instance):
                log.error("engine_quarantined", instance=instance)
                self._engines.halt(instance)
            else:
                self._engines.fail(instance, f"its MPS server fell: {fault.text}")
        deadline = self._clock() + CLEAR_S
        while self._clock() < deadline and any(  # noqa: ASYNC110 - a process tells of its end in its own task
            process is not None and self._engines.process(instance) == process
            for instance, process in before.items()
        ):
            await asyncio.sleep(0.02)

    # -- inside

    def _seat(self) -> None:
        if self._sharing is None:
            self._seats = Seats({}, {})
            return
        self._seats = seat(self._instances, self._gpus, self._sharing)
        for instance, fault in self._seats.faults.items():
            log.error("engine_without_gpu", instance=instance, reason=fault)

    def _name(self, device: str) -> str:
        # NVML's UUIDs begin with "GPU-" or "MIG-".
        return f"{self._node}/gpu-{device.removeprefix('GPU-')}"


def _inside(pid: int) -> int:
    """The number that a process has in its own PID namespace; 0 where it has ended."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    except OSError:
        pass
    return 0
