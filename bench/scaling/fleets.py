"""Who decides how many instances there are: the product's autoscaler, or a CPU-based HPA."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, Protocol

import msgspec

from bridge_core.counts import Counts
from bridge_registry.scaling.plan import ScalingPlan, ScalingPosition, Seen, Sight
from bridge_registry.scaling.scaling_rules import begin, decide

BEGAN: Final = 1_800_000_000.0 - 1_800_000_000.0 % 86_400.0


class Fleet(Protocol):
    """Decides on instances 0 to n."""

    every_s: float

    def step(
        self, at: float, busy: Mapping[int, tuple[int, int]], ready: set[int], asked: int, ttft: Counts
    ) -> None:
        """Decides: `busy` are requests that run and wait, `ready` those that have loaded.

        `asked` and `ttft` are requests, and times to their first tokens, since the step before.
        """

    @property
    def active(self) -> frozenset[int]:
        """Who gets new requests."""

    @property
    def held(self) -> frozenset[int]:
        """Who costs: the active, those that load, those that are kept warm or finish."""


class Autoscaler:
    """`bridge_registry.scaling`, with nothing in between."""

    every_s = 2.0

    def __init__(self, plan: ScalingPlan, slots: int, profile: tuple[float, ...] = ()) -> None:
        self._plan, self._slots, self._profile = plan, slots, profile
        self._position: ScalingPosition | None = None

    def step(
        self, at: float, busy: Mapping[int, tuple[int, int]], ready: set[int], asked: int, ttft: Counts
    ) -> None:
        """See `Fleet`."""
        sight = Sight(
            tuple(
                Seen(
                    f"n{one}/0",
                    f"n{one}",
                    slots=self._slots,
                    in_flight=busy.get(one, (0, 0))[0],
                    queued=busy.get(one, (0, 0))[1],
                    loaded=one in ready,
                )
                for one in range(self._plan.max)
            ),
            asked,
            ttft,
        )
        if self._position is None:
            began = begin(self._plan, sight, BEGAN + at)
            self._position = msgspec.structs.replace(began, profile=self._profile)
        self._position, _ = decide(self._plan, self._position, sight, BEGAN + at)

    @property
    def profile(self) -> tuple[float, ...]:
        """What was learnt of the day."""
        return self._position.profile if self._position else ()

    @property
    def active(self) -> frozenset[int]:
        """See `Fleet`."""
        return _numbers(self._position.active if self._position else ())

    @property
    def held(self) -> frozenset[int]:
        """See `Fleet`."""
        found = self._position
        return _numbers((*found.active, *found.loading, *found.warm)) if found else frozenset()


class Fixed:
    """As many instances all day, which are there from its beginning."""

    every_s = 3600.0

    def __init__(self, count: int) -> None:
        self._all = frozenset(range(count))

    def step(
        self, at: float, busy: Mapping[int, tuple[int, int]], ready: set[int], asked: int, ttft: Counts
    ) -> None:
        """See `Fleet`."""

    @property
    def active(self) -> frozenset[int]:
        """See `Fleet`."""
        return self._all

    @property
    def held(self) -> frozenset[int]:
        """See `Fleet`."""
        return self._all


class Cpu(msgspec.Struct, frozen=True):
    """What the CPU of an engine's pod does, of what the pod requests, while so many of its slots decode.

    `spins`: one thread drives the GPU and spins while anything runs, as is usual; else it goes up with the
    slots in use, which is the best that CPU could ever say.
    """

    spins: bool

    def of(self, running: int, slots: int) -> float:
        """Its utilization."""
        share = (1.0 if running else 0.0) if self.spins else running / slots
        return 0.05 + 0.95 * share


class Hpa:
    """Kubernetes' HorizontalPodAutoscaler (autoscaling/v2) with its defaults, on CPU at 70 %.

    Every 15 s ceil(pods x measured / target), nothing within 10 % of it; up by no more than double or four
    pods; down to the most that was recommended in five minutes. Pods that are not ready are left out.
    """

    every_s = 15.0
    _TARGET = 0.7

    def __init__(self, cpu: Cpu, slots: int, *, least: int, most: int, start: int) -> None:
        self._cpu, self._slots, self._least, self._most = cpu, slots, least, most
        self._pods = set(range(start))
        self._leaving: set[int] = set()
        self._ready: set[int] = set()
        self._recent: list[tuple[float, int]] = []

    def step(
        self, at: float, busy: Mapping[int, tuple[int, int]], ready: set[int], asked: int, ttft: Counts
    ) -> None:
        """See `Fleet`."""
        del asked, ttft
        self._leaving = {one for one in self._leaving if sum(busy.get(one, (0, 0)))}
        self._ready = ready
        serving = self._pods & ready
        if not serving:
            return
        used = [self._cpu.of(busy.get(one, (0, 0))[0], self._slots) for one in serving]
        ratio = sum(used) / len(used) / self._TARGET
        wanted = len(self._pods) if abs(ratio - 1) <= 0.1 else math.ceil(len(serving) * ratio - 1e-9)
        if ratio > 1:
            wanted = max(wanted, len(self._pods))
        wanted = max(self._least, min(self._most, wanted))
        self._recent = [one for one in self._recent if at - one[0] <= 300.0] + [(at, wanted)]
        if wanted > len(self._pods):
            wanted = min(wanted, max(2 * len(self._pods), len(self._pods) + 4))
        else:
            wanted = max(count for _, count in self._recent)
        free = [one for one in range(self._most) if one not in self._pods and one not in self._leaving]
        while len(self._pods) < wanted and free:
            self._pods.add(free.pop(0))
        while len(self._pods) > wanted:
            gone = min(self._pods, key=lambda one: (one in ready, sum(busy.get(one, (0, 0))), -one))
            self._pods.discard(gone)
            self._leaving.add(gone)

    @property
    def active(self) -> frozenset[int]:
        """See `Fleet`."""
        return frozenset(self._pods & self._ready)

    @property
    def held(self) -> frozenset[int]:
        """See `Fleet`."""
        return frozenset(self._pods | self._leaving)


def _numbers(ids: tuple[str, ...]) -> frozenset[int]:
    return frozenset(int(id_.partition("/")[0][1:]) for id_ in ids)
