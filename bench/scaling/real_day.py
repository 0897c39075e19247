"""`python -m bench scaling-day`: a day, compressed, on a real mesh that an AutoscalePolicy moves."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.results import quantiles, record, table
from bench.scaling.real_mesh import (
    POLICY,
    Asked,
    Fleet,
    Moment,
    all_active,
    ask,
    clients,
    closed_loop,
    document,
    fleet_of,
    watching,
)
from bench.scaling.traffic import DAY_S, SHAPES, level, poisson, unevenness
from tests.cluster.mesh_bed import TALKER

NODES, SLOTS, TOKENS, CPU = 4, 4, 16, 0.25
SECONDS, LEAST = 480.0, 120.0
RATIO, AT_PEAK = 4.0, 2.75  # instances that the peak needs on a mean: the fourth is for its bursts
SHAPE = SHAPES["conversation"]
_CALIBRATED_S, _SAMPLED_S = 20.0, 0.5
_LATELY = 20  # answers
_ANSWERS_A_MINUTE = 4.0  # a minute of the trace is some four answers long
_NOT_USED = ("wrk", "nginx", "Envoy")


class Seen(msgspec.Struct):
    """What a compressed day came to."""

    seconds: float
    pace: Any = None
    asked: list[Asked] = msgspec.field(default_factory=list)
    moments: list[Moment] = msgspec.field(default_factory=list)


def scaling_day(folder: Path, seconds: float, versions: Sequence[str], command: str) -> None:
    """The row `scaling-day`."""
    length = seconds if seconds >= LEAST else SECONDS
    with fleet_of(folder / "state", NODES, slots=SLOTS, cpu=CPU) as fleet:
        seen = asyncio.run(_run(fleet, length))
        fleet.assert_logs_are_clean()
    text = told(seen)
    print(text, flush=True)
    said = command if length == SECONDS else f"{command} --seconds {length:.0f}"
    kept = [one for one in versions if not one.startswith(_NOT_USED)]
    record("scaling-day", "A compressed day on a real mesh", said, kept, text)


def policy(least: int) -> dict[str, object]:
    """The policy, of so many instances at least; its times are as short as may be, for so short a day."""
    spec = {
        "model": TALKER,
        "min": least,
        "max": NODES,
        "measuredOver": "15s",
        "coolDowns": {"scaleOut": "3s", "scaleIn": "10s"},
        "keepWarm": "5s",
        "forecast": False,
    }
    return document("AutoscalePolicy", POLICY, spec)


async def _run(fleet: Fleet, seconds: float) -> Seen:
    await fleet.complete()
    seen = Seen(seconds)
    await asyncio.to_thread(fleet.apply, policy(NODES))
    async with watching(fleet) as look:
        await all_active(look, NODES)
        _, calm = await closed_loop(fleet, round(0.7 * SLOTS * NODES), _CALIBRATED_S, TOKENS)
        seen.pace = Pace([one for one in calm if not one.fault])
        print(f"an answer takes {seen.pace.hold_s:.2f} s", flush=True)
        await asyncio.to_thread(fleet.apply, policy(1))
        began = time.monotonic()
        async with clients() as client, asyncio.TaskGroup() as group:
            sampling = group.create_task(_sample(look, seen, began))

            async def one(number: int) -> None:
                found = await ask(client, fleet.url(fleet.names[number % NODES]), number, TOKENS)
                seen.asked.append(found)
                seen.pace.note(found)

            tasks = list[asyncio.Task[None]]()
            for number, at in enumerate(arrivals(seconds, seen.pace, random.Random(1))):
                await asyncio.sleep(max(0.0, began + at - time.monotonic()))
                tasks.append(group.create_task(one(number)))
            await asyncio.gather(*tasks)
            sampling.cancel()
    return seen


class Pace:
    """How long an answer holds a slot, as of late: the machine is not always as fast.

    The wait before the first token counts as it was in the beginning, when nothing waited for a slot.
    """

    def __init__(self, calm: Sequence[Asked]) -> None:
        self._spoken_s = sum(one.ended - one.first for one in calm) / len(calm)
        whole = sum(one.ended - one.began for one in calm) / len(calm)
        self._whole = whole / self._spoken_s

    @property
    def hold_s(self) -> float:
        """Seconds."""
        return self._spoken_s * self._whole

    def note(self, one: Asked) -> None:
        """One more answer."""
        if not one.fault:
            self._spoken_s += (one.ended - one.first - self._spoken_s) / _LATELY


def arrivals(seconds: float, pace: Pace, rng: random.Random) -> Iterator[float]:
    """When requests come in: so many that they need the curve's slots, with answers as long as of late."""
    at, uneven = 0.0, unevenness(SHAPE, rng)
    while at < seconds:
        hold_s = pace.hold_s
        span = _ANSWERS_A_MINUTE * hold_s
        slots = 0.7 * SLOTS * AT_PEAK * level(at / seconds * DAY_S, RATIO) * next(uneven)
        count = poisson(slots * span / hold_s, rng)
        for when in sorted(at + span * rng.random() for _ in range(count)):
            if when < seconds:
                yield when
        at += span


async def _sample(look, seen: Seen, began: float) -> None:
    told_at = 0.0
    while True:
        found: Moment | None = await look()
        if found is None:
            await asyncio.sleep(_SAMPLED_S)
            continue
        seen.moments.append(msgspec.structs.replace(found, at=found.at - began))
        if found.at - told_at > 15:
            told_at = found.at
            used, slots = found.used
            print(
                f"{found.at - began:.0f} s: {len(found.of('active'))} active, wanted {found.wanted}, "
                f"{used} of {slots} slots, {sum(found.queued.values())} wait",
                flush=True,
            )
        await asyncio.sleep(_SAMPLED_S)


def told(seen: Seen) -> str:
    """The section's text."""
    faults = Counter(one.fault[:120] for one in seen.asked if one.fault)
    cut = sum(one.cut for one in seen.asked)
    moved = list(moves(seen.moments))
    outs, ins = (sum(1 for way, _ in moved if way == which) for which in ("out", "in"))
    drained = sum(busy for way, busy in moved if way == "in")
    counts = Counter(len(one.of("active")) for one in seen.moments)
    busy = [one for one in seen.moments if level(min(1.0, one.at / seen.seconds) * DAY_S, RATIO) >= 0.5]
    held = sum(len(one.of("active") | one.of("loading") | one.of("warm")) for one in seen.moments)
    text = (
        f"`bridgectl up` with {NODES} nodes, real engines ({TALKER}, {SLOTS} slots, walled to {CPU} of a "
        f"core each), an AutoscalePolicy of 1 to {NODES} whose times are shortened as the day is "
        f"(`measuredOver` 15 s). The day's curve {RATIO:.0f}:1 in {seen.seconds:.0f} s; a minute's "
        "unevenness, as in the conversation trace, for every "
        f"{_ANSWERS_A_MINUTE:.0f} answers' time. As many requests are sent as fill "
        f"{0.7 * SLOTS * AT_PEAK:.1f} slots at the peak, by how long answers took of late "
        f"({seen.pace.hold_s:.1f} s in the end). Answers of {TOKENS} tokens, all streamed, by four "
        "protocols, through every node in turn. Failed is whatever is not a whole 200.\n\n"
    )
    rows = [
        ("requests", len(seen.asked)),
        ("failed", sum(bool(one.fault) for one in seen.asked)),
        ("streams cut", cut),
        ("steps outwards / inwards (instances)", f"{outs} / {ins}"),
        ("streams under way at instances that were taken out", drained),
        ("active instances", ", ".join(f"{n}: {counts[n] / len(seen.moments):.0%}" for n in sorted(counts))),
        ("slots in use, all day / busy hours", f"{_used(seen.moments):.0%} / {_used(busy):.0%}"),
        ("instance time, of all instances all day", f"{held / (NODES * len(seen.moments)):.0%}"),
        ("first byte p50 / p95 / p99 s", quantiles([one.first - one.began for one in seen.asked])),
        ("whole answer p50 / p95 / p99 s", quantiles([one.ended - one.began for one in seen.asked])),
    ]  # fmt: skip
    if faults:
        text += "Told: " + "; ".join(f"{n} × `{said}`" for said, n in faults.most_common(5)) + ".\n\n"
    return text + table(("what", "measured"), rows)


def moves(moments: Sequence[Moment]) -> Iterator[tuple[str, int]]:
    """Each instance that became active ("out") or was taken out ("in"), and the streams it then had."""
    for before, after in itertools.pairwise(moments):
        for _ in after.of("active") - before.of("active"):
            yield "out", 0
        for one in before.of("active") - after.of("active"):
            yield "in", after.in_flight.get(one, 0)


def _used(moments: Sequence[Moment]) -> float:
    found = [one.used for one in moments]
    return sum(used for used, _ in found) / max(1, sum(slots for _, slots in found))
