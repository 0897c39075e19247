"""Days of requests in the shapes of public traces, made from their statistics.

Azure 2023 (code, conversation: AzurePublicDataset, CC-BY) and Mooncake (FAST'25, Apache-2.0): an hour each.
Their quantiles of tokens are taken, and how uneven their minutes are: the coefficient of variation of the
requests a minute, and how much one minute is like the last (the autocorrelation). The shape of the day is an
assumption: a cosine from valley to peak, a dip at noon, a second peak in the evening.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Iterator
from typing import Final

import msgspec

DAY_S: Final = 86_400.0
PREFILL: Final = 1_000.0  # tokens a second of one slot: assumptions, as is what follows
DECODE: Final = 15.0
_AT: Final = (0.0, 0.1, 0.5, 0.9, 0.99, 1.0)
_OPEN: Final = 500  # conversations that are open at one time
_TURNS: Final = 5  # of one, on a mean


class Shape(msgspec.Struct, frozen=True):
    """A trace's: tokens at quantiles 0, 10, 50, 90, 99, 100 %, and how uneven and how alike minutes are."""

    name: str
    prompt: tuple[float, ...]
    output: tuple[float, ...]
    minute_cv: float
    minute_ac: float


SHAPES: Final = {
    one.name: one
    for one in (
        Shape("conversation", (50, 207, 1020, 2735, 4142, 5000), (5, 54, 129, 424, 601, 800), 0.22, 0.81),
        Shape("code", (50, 147, 1469, 5194, 7436, 8000), (2, 7, 13, 55, 252, 400), 1.04, 0.16),
        Shape("mooncake", (200, 964, 6909, 27367, 85401, 90000), (5, 24, 350, 597, 1120, 1500), 0.12, 0.30),
    )
}


class Arrival(msgspec.Struct, frozen=True):
    """A request: when it comes, how long its prompt and its answer hold a slot, whose it is."""

    at: float
    prefill_s: float
    decode_s: float
    session: bytes


def level(at: float, ratio: float) -> float:
    """The load at a time of day, of the peak's: between 1/ratio and 1."""
    hour = at / 3600.0 % 24.0
    wave = 0.5 - 0.5 * math.cos(2 * math.pi * (hour - 4.0) / 24.0)  # least at four, most at sixteen o'clock
    dip = 0.12 * math.exp(-((hour - 12.5) ** 2) / 0.5)
    evening = 0.25 * math.exp(-((hour - 20.5) ** 2) / 2.0)
    return 1 / ratio + (1 - 1 / ratio) * min(1.0, max(0.0, wave - dip + evening))


def hold_s(shape: Shape, rng: random.Random) -> tuple[float, float]:
    """How long one request's prompt and answer take."""
    return _drawn(shape.prompt, rng) / PREFILL, _drawn(shape.output, rng) / DECODE


def day(shape: Shape, *, peak_slots: float, ratio: float, seed: int) -> Iterator[Arrival]:
    """A day's requests, which need `peak_slots` slots where the day is at its peak."""
    rng = random.Random(seed)
    mean = sum(sum(hold_s(shape, rng)) for _ in range(5000)) / 5000
    per_minute = 60.0 * peak_slots / mean
    uneven = unevenness(shape, rng)
    turns = [0] * _OPEN
    for minute in range(int(DAY_S) // 60):
        expected = per_minute * level(minute * 60.0, ratio)
        count = poisson(expected * next(uneven), rng)
        for at in sorted(rng.uniform(0.0, 60.0) for _ in range(count)):
            prefill, decode = hold_s(shape, rng)
            place = rng.randrange(_OPEN)
            turns[place] += rng.random() < 1 / _TURNS  # it was the last one's end: another begins
            yield Arrival(minute * 60.0 + at, prefill, decode, b"%d/%d" % (place, turns[place]))


def _drawn(quantiles: tuple[float, ...], rng: random.Random) -> float:
    """By the quantiles, straight between them on a logarithmic scale."""
    share = rng.random()
    at = min(len(_AT) - 2, bisect_right(_AT, share) - 1)
    within = (share - _AT[at]) / (_AT[at + 1] - _AT[at])
    return math.exp(math.log(quantiles[at]) * (1 - within) + math.log(quantiles[at + 1]) * within)


def unevenness(shape: Shape, rng: random.Random) -> Iterator[float]:
    """By how much each minute is busier than the day alone would have it: 1 on a mean, for ever.

    A gamma process of the first order: of each minute's excess a part, drawn, is the last one's (P. A. W.
    Lewis, E. McKenzie, D. K. Hugus, "Gamma processes", 1989), which keeps distribution and autocorrelation.
    """
    k, kept = 1.0 / shape.minute_cv**2, shape.minute_ac
    current = rng.gammavariate(k, 1.0 / k)
    while True:
        yield current
        share = rng.betavariate(k * kept, k * (1.0 - kept)) if kept else 0.0
        current = share * current + rng.gammavariate(k * (1.0 - kept), 1.0 / k)


def poisson(mean: float, rng: random.Random) -> int:
    """A number of events, so many on a mean."""
    if mean > 50:
        return max(0, round(rng.gauss(mean, math.sqrt(mean))))
    limit, product, count = math.exp(-mean), rng.random(), 0
    while product > limit:
        product *= rng.random()
        count += 1
    return count
