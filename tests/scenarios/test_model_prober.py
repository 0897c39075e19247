"""The prober's loop, with models that answer as told."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import math
import time

from bridge_agent.health.probe_rules import ProbePolicy
from bridge_agent.health.prober import LoadedModel, Prober
from bridge_core.errors import Unavailable
from tests.support import RunningClock, eventually

POLICY = ProbePolicy(quiet_s=0.01, timeout_s=0.08, unseen_timeout_s=0.3, busy_timeout_s=60.0)


class Bench:
    def __init__(
        self, *, ours: bool = True, effort: float | None = 0.0, policy: ProbePolicy = POLICY
    ) -> None:
        self.hung: list[str] = []
        self.recovered = 0
        self.probes: list[str] = []
        self.answers = asyncio.Event()
        self.answers.set()
        self.done = itertools.repeat(effort)
        self.prober = Prober(
            hung=self.hung.append,
            recovered=self.recover,
            effort=self.effort,
            clock=RunningClock(POLICY.timeout_s / 8),
            policy=policy,
            ours=ours,
        )

    def recover(self) -> None:
        self.recovered += 1

    async def effort(self) -> float | None:
        return next(self.done)

    def model(self, key: str) -> LoadedModel:
        async def probe() -> None:
            self.probes.append(key)
            await self.answers.wait()

        return LoadedModel(key, math.inf, probe)

    @contextlib.asynccontextmanager
    async def running(self, *keys: str):
        task = asyncio.create_task(self.prober.run())
        self.prober.update(self.model(key) for key in keys)
        yield
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()


async def test_every_loaded_model_is_asked():
    bench = Bench()
    async with bench.running("a", "b"):
        await eventually(lambda: {"a", "b"} <= set(bench.probes))
    assert bench.hung == []


async def test_silence_is_reported_and_so_is_the_recovery():
    bench = Bench()
    bench.answers.clear()
    async with bench.running("a"):
        await eventually(lambda: bench.hung)
        assert bench.recovered == 0
        bench.answers.set()
        await eventually(lambda: bench.recovered == 1)


async def test_a_hung_model_that_is_unloaded_counts_as_recovered():
    bench = Bench()
    bench.answers.clear()
    async with bench.running("a"):
        await eventually(lambda: bench.hung)
        bench.prober.update([])
        assert bench.recovered == 1


async def test_an_engine_that_computes_is_given_time_until_it_no_longer_does():
    bench = Bench()
    bench.answers.clear()
    bench.done = itertools.chain((float(count) for count in range(40)), itertools.repeat(40.0))
    started = time.monotonic()
    async with bench.running("a"):
        await eventually(lambda: bench.hung)
    assert time.monotonic() - started > 40 * POLICY.timeout_s / 8


async def test_a_busy_engine_whose_work_cannot_be_seen_is_not_taken_for_hung():
    bench = Bench(ours=False, effort=None, policy=dataclasses.replace(POLICY, unseen_timeout_s=2.0))
    bench.answers.clear()
    left_s = itertools.count(300.0, 2.0)

    def others_end() -> bool:
        """Others' requests end there, one after the other, while each probe waits its turn behind them."""
        bench.prober.update([LoadedModel("a", next(left_s), bench.model("a").probe)])
        return len(bench.probes) >= 4

    async with bench.running("a"):
        await eventually(others_end)
        assert bench.hung == []
        await eventually(lambda: bench.hung)  # then nobody's end any more


async def test_processes_that_never_showed_work_prove_nothing_by_standing_still():
    patient = dataclasses.replace(POLICY, unseen_timeout_s=1.0)
    for ours, said in ((True, "within 0 s"), (False, "within 1 s")):
        bench = Bench(ours=ours, policy=patient)
        bench.answers.clear()
        async with bench.running("a"):
            await eventually(lambda bench=bench: bench.hung)
        assert said in bench.hung[0]


async def test_an_engine_whose_work_was_seen_once_is_found_hung_as_soon_as_our_own():
    bench = Bench(ours=False, policy=dataclasses.replace(POLICY, unseen_timeout_s=3600.0))
    bench.done = itertools.chain((0.0, 0.2), itertools.repeat(0.2))
    async with bench.running("a"):
        await eventually(lambda: len(bench.probes) >= 2)  # one is answered, and computed for it
        bench.answers.clear()
        await eventually(lambda: bench.hung)


async def test_a_probe_that_cannot_be_asked_is_no_hang():
    bench = Bench()
    tries = []

    async def refuse() -> None:
        tries.append(1)
        raise Unavailable("connection refused")

    async with bench.running():
        bench.prober.update([LoadedModel("a", math.inf, refuse)])
        await eventually(lambda: len(tries) >= 3)
    assert bench.hung == []
