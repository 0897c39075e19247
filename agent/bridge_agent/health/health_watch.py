"""Looks twice a second how this node's instances are, and says so: in reports, metrics and status."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from bridge_agent.engines.view import LocalInstance
from bridge_agent.health.infrastructure_rules import Machine, gpu_findings, machine_findings
from bridge_agent.health.report import HealthReport, InstanceHealth
from bridge_agent.health.service_rules import Service, service_findings
from bridge_agent.health.service_tally import ServiceTally
from bridge_agent.health.silence_rules import Engine, Process, Silence, matters
from bridge_agent.health.silence_rules import look as look_for_silence
from bridge_agent.health.verdict_rules import Key, Track, look, reasons
from bridge_agent.limits.gpu import Gpu
from bridge_core import gauges as names
from bridge_core.counts import Counts
from bridge_core.gauges import Gauge
from bridge_core.golden import GoldenAnswer
from bridge_core.verdicts import Reason, Verdict, ordered

LOOK_S: Final = 0.5


class Reader(Protocol):
    """Reads the machine's figures; `infrastructure.MachineReader` is the real one."""

    def read(self) -> Machine:
        """Those of now; blocking."""


class HealthSources:
    """What is looked at.

    Args:
        machine: The machine's figures.
        gpus: The node's GPUs, as last read.
        device: The GPU that an instance is pinned to; empty: none in particular.
        instances: The node's, as they are now.
        reason: Why an instance last failed.
        waiting: Requests that wait for a slot, by instance.
        in_flight: Requests at an instance.
        served: Of those the ones that have a slot and whose clients read.
        process: Pid and start time of an instance's process; None while there is none of ours.
        striving: What the runners of each process did so far, see `Engine.effort`; blocking.
        ejected: For how long instances are still passed over.
        tally: What became of requests.
        answers: What other nodes' instances answered lately.
        verdicts: What the mesh says against instances, by id.
    """

    def __init__(
        self,
        *,
        machine: Reader,
        gpus: Callable[[], Sequence[Gpu]],
        device: Callable[[str], str],
        instances: Callable[[], Iterable[LocalInstance]],
        reason: Callable[[], Mapping[str, str]],
        waiting: Callable[[], Mapping[str, int]],
        in_flight: Callable[[], Mapping[str, int]],
        served: Callable[[str], int],
        process: Callable[[str], Process | None],
        striving: Callable[[Collection[Process]], Mapping[Process, float | None]],
        ejected: Callable[[], Mapping[str, float]],
        tally: ServiceTally,
        answers: Callable[[], tuple[GoldenAnswer, ...]],
        verdicts: Callable[[], Mapping[str, Verdict]],
    ) -> None:
        self.machine = machine
        self.gpus = gpus
        self.device = device
        self.instances = instances
        self.reason = reason
        self.waiting = waiting
        self.in_flight = in_flight
        self.served = served
        self.process = process
        self.striving = striving
        self.ejected = ejected
        self.tally = tally
        self.answers = answers
        self.verdicts = verdicts


class HealthWatch:
    """See the module; `run` is its one task.

    Args:
        sources: What is looked at.
        now: Unix seconds.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        sources: HealthSources,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sources = sources
        self._now = now
        self._clock = clock
        self._silences: dict[str, Silence] = {}
        self._tracks: dict[str, dict[Key, Track]] = {}
        self._machine = Machine()

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Looks once."""
        sources = self._sources
        machine = self._machine = await asyncio.to_thread(sources.machine.read)
        shared = tuple(machine_findings(machine))
        gpus, waiting, ejected = sources.gpus(), sources.waiting(), sources.ejected()
        why, tracks, instances = sources.reason(), {}, tuple(sources.instances())
        silences = await self._heard(instances)
        for one in instances:
            silence = silences[one.id]
            service = Service(
                one.state,
                one.slots,
                waiting.get(one.id, 0),
                why.get(one.id, ""),
                sources.tally.lately(one.id),
                ejected.get(one.id, 0.0),
                one.fault,
                silence.lasts_s if silence.said else 0.0,
                sources.served(one.id),
            )
            findings = (
                *shared,
                *gpu_findings(gpus, sources.device(one.id)),
                *service_findings(service),
            )
            tracks[one.id] = look(self._tracks.get(one.id, {}), findings, self._now())
        self._tracks, self._silences = tracks, silences

    async def _heard(self, instances: Iterable[LocalInstance]) -> dict[str, Silence]:
        """The silence of each instance, after this look."""
        sources, found, quiet = self._sources, {}, dict[str, Process]()
        for one in instances:
            signs, process = float(sources.tally.signs[one.id]), sources.process(one.id)
            engine = Engine(sources.served(one.id), signs, process, None, bool(one.loading))
            before = self._silences.get(one.id, Silence())
            found[one.id] = before, engine
            if process is not None and matters(before, engine):
                quiet[one.id] = process
        if quiet:
            efforts = await asyncio.to_thread(sources.striving, {*quiet.values()})
            for id_, process in quiet.items():
                before, engine = found[id_]
                found[id_] = before, msgspec.structs.replace(engine, effort=efforts[process])
        now = self._clock()
        return {id_: look_for_silence(*each, now) for id_, each in found.items()}

    def own_reasons(self, instance: str) -> tuple[Reason, ...]:
        """What this node itself sees against one of its instances."""
        return reasons(self._tracks.get(instance, {}))

    def verdict(self, instance: str) -> Verdict:
        """All there is to say of one of this node's instances, what the others say included."""
        told = self._sources.verdicts().get(instance)
        business = [one for one in (told.reasons if told else ()) if one.aspect == "business"]
        out = told is not None and told.out
        return Verdict(instance, ordered((*self.own_reasons(instance), *business)), out)

    def report(self) -> HealthReport:
        """For the registry."""
        counts = self._sources.tally.counts
        return HealthReport(
            tuple(
                InstanceHealth(one.id, self.own_reasons(one.id), counts.get(one.id, Counts()))
                for one in self._sources.instances()
            ),
            tuple(self.gauges()),
            self._sources.answers(),
        )

    def gauges(self) -> Iterator[Gauge]:
        """What the node measured last."""
        machine, sources = self._machine, self._sources
        for disk in machine.disks:
            yield Gauge(names.DISK, disk.what, float(disk.total - disk.free), float(disk.total))
        if machine.memory_total:
            used = machine.memory_total - machine.memory_available
            yield Gauge(names.MEMORY, "", float(used), float(machine.memory_total))
        for name, value in (
            (names.PRESSURE_CPU, machine.cpu_waiting),
            (names.PRESSURE_MEMORY, machine.memory_stalled),
            (names.PRESSURE_IO, machine.io_stalled),
        ):
            if value is not None:
                yield Gauge(name, "", value, 100.0)
        for gpu in sources.gpus():
            yield Gauge(names.VRAM, gpu.uuid, float(gpu.used_bytes), float(gpu.memory_bytes))
            if gpu.temperature_c is not None:
                yield Gauge(names.GPU_TEMPERATURE, gpu.uuid, float(gpu.temperature_c))
        waiting, in_flight = sources.waiting(), sources.in_flight()
        for one in sources.instances():
            yield Gauge(names.QUEUE, one.id, float(waiting.get(one.id, 0)))
            yield Gauge(names.IN_FLIGHT, one.id, float(in_flight.get(one.id, 0)), float(one.slots))
