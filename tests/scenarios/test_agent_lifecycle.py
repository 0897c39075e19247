"""An agent outlives its ancillaries: what fails beside the serving is made good, what is vital ends it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable

import pytest
from structlog.testing import capture_logs

from bridge_agent.ancillaries import Ancillaries, RequestTasks, Run
from bridge_agent.lifecycle import Lifecycle
from bridge_core.errors import Fatal
from tests.support import eventually

DRAIN_S = 20.0


class Parts:
    """Everything that a lifecycle moves; writes down what it was told, in order."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.in_flight = self.own_work = 0
        self._stopped = asyncio.Event()
        self.engines_cancelled = False

    async def run(self) -> None:
        try:
            await self._stopped.wait()
        except asyncio.CancelledError:
            self.engines_cancelled = True
            raise

    async def taken_up(self, within_s: float) -> None:
        self.told.append("taken up")

    async def stop(self) -> None:
        self.told.append("engines stopped")
        self._stopped.set()

    def drain(self) -> None:
        self.told.append("drained")

    def retire(self) -> None:
        self.told.append("retired")

    def tell_draining(self) -> None:
        self.told.append("health told")

    async def close(self, grace_s: float, hurry: asyncio.Task[None]) -> None:
        self.told.append("closed" if grace_s else "cut")

    async def revoke(self) -> None:
        self.told.append("revoked")

    def tell(self, state: str) -> None:
        self.told.append(state)

    def leave(self) -> None:
        self.told.append("engines left")


class Bed:
    def __init__(self, *, inherited: bool = False) -> None:
        self.parts = Parts()
        self.signals: asyncio.Queue[None] = asyncio.Queue()
        rng = random.Random(1)
        self.ancillaries = Ancillaries(rng, sleep=lambda _: asyncio.sleep(0.001))
        self.requests = RequestTasks(self.ancillaries)
        parts = self.parts
        self.lifecycle = Lifecycle(
            engines=parts,
            leave_engines=parts.leave,
            work=parts,
            listeners=parts,
            membership=parts,
            manager=parts,
            ancillaries=self.ancillaries,
            requests=self.requests,
            inherited=inherited,
        )

    async def run(
        self,
        vital: dict[str, Run] | None = None,
        ancillary: dict[str, Run] | None = None,
        listen: Run | None = None,
        *,
        keep_engines: bool = False,
    ) -> None:
        await self.lifecycle.run(
            self.signals,
            listen=listen or self._listen,
            vital=vital or {"subscription": forever},
            ancillary=ancillary or {},
            keep_engines=keep_engines,
            drain_s=DRAIN_S,
        )

    async def _listen(self) -> None:
        self.parts.told.append("listening")


async def forever() -> None:
    await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def running(bed: Bed, **options: object) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(bed.run(**options))  # type: ignore[arg-type]
    try:
        await eventually(lambda: bed.lifecycle.phase == "serving" or task.done())
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def failing(times: int) -> tuple[Run, Callable[[], int]]:
    runs = 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs <= times:
            raise OSError(24, "Too many open files")
        await forever()

    return run, lambda: runs


async def test_a_task_beside_the_serving_fails_and_the_agent_serves_on() -> None:
    bed = Bed()
    (audit, audit_runs), (gpus, gpu_runs) = failing(3), failing(1)
    async with running(bed, ancillary={"audit": audit, "gpus": gpus, "isolation": forever}) as task:
        await eventually(lambda: (audit_runs(), gpu_runs()) == (4, 2))
        assert bed.lifecycle.phase == "serving"
        assert not task.done()
        assert bed.ancillaries.faults == {"audit": 3, "gpus": 1}
        assert [one.split(" ")[2] for one in bed.ancillaries.concerns()] == ["audit", "gpus"]
        bed.signals.put_nowait(None)
        async with asyncio.timeout(60):
            await task
    assert "engines stopped" in bed.parts.told


async def test_a_request_s_task_that_fails_ends_nothing() -> None:
    bed = Bed()

    async def fail() -> None:
        raise KeyError("unforeseen")

    async with running(bed) as task:
        bed.requests.create_task(fail())
        await eventually(lambda: bed.ancillaries.faults == {"request": 1})
        assert not task.done()
        bed.signals.put_nowait(None)
        async with asyncio.timeout(60):
            await task


async def test_a_vital_task_that_fails_ends_the_agent_and_leaves_the_engines() -> None:
    bed = Bed()

    async def fail() -> None:
        raise RuntimeError("nothing to serve by")

    with capture_logs() as logs, pytest.raises(ExceptionGroup) as caught:
        await bed.run(vital={"subscription": fail})
    assert caught.group_contains(RuntimeError, match="nothing to serve by")
    assert any(entry["event"] == "vital_task_failed" and entry["task"] == "subscription" for entry in logs)
    assert "engines left" in bed.parts.told
    assert "engines stopped" not in bed.parts.told
    assert bed.parts.engines_cancelled


async def test_what_cannot_listen_does_not_start_and_stops_its_engines() -> None:
    bed = Bed()

    async def listen() -> None:
        raise Fatal("the port is taken")

    with pytest.raises(ExceptionGroup) as caught:
        await bed.run(listen=listen)
    assert caught.group_contains(Fatal, match="the port is taken")
    assert bed.parts.told == ["taken up", "engines stopped"]


async def test_the_end_is_in_order() -> None:
    bed = Bed(inherited=True)
    bed.parts.own_work = 1
    async with running(bed) as task:
        bed.signals.put_nowait(None)
        await eventually(lambda: "health told" in bed.parts.told)
        assert "closed" not in bed.parts.told
        bed.parts.own_work = 0
        bed.lifecycle.settled()
        async with asyncio.timeout(60):
            await task
    assert bed.parts.told == [
        "taken up",
        "listening",
        "READY=1",
        "STOPPING=1",
        "retired",
        "revoked",
        "drained",
        "health told",
        "closed",
        "engines stopped",
    ]


async def test_a_second_signal_cuts_what_runs() -> None:
    bed = Bed()
    bed.parts.own_work = 1
    async with running(bed, keep_engines=True) as task:
        bed.signals.put_nowait(None)
        await eventually(lambda: "drained" in bed.parts.told)
        bed.signals.put_nowait(None)
        async with asyncio.timeout(60):
            await task
    assert bed.parts.told[-2:] == ["cut", "engines left"]
    assert bed.parts.engines_cancelled
