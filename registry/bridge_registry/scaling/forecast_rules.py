"""The slow loop: what the load was at this time of day, and so what is to be expected soon. Pure.

Rules:
1. A day is 288 buckets of five minutes. A bucket is the mean of the needed slots in it, over days: the
   newest day counts half.
2. Expected is the most of the buckets that begin within the time looked ahead, times how today compares
   with that day now; by no more than twice or half, so that one odd quarter of an hour does not carry over.
3. A rise by less than a quarter, from the mean of the bucket that is and the one before, is none: buckets
   differ by as much by chance, and so little is followed as soon as it is there.
4. What was never seen is not forecast: 0.
"""

from __future__ import annotations

from typing import Final

from bridge_registry.scaling.plan import BUCKETS, UNSEEN

BUCKET_S: Final = 300  # BUCKETS of them are a day
_NEWEST: Final = 0.5
_LEAST, _MOST = 0.5, 2.0
_RISE: Final = 1.25
_NOTHING: Final = 0.05  # slots; a day that had none says nothing of how today compares

Bucket = tuple[int, float, int]


def note(
    profile: tuple[float, ...], bucket: Bucket, need: float, now: float
) -> tuple[tuple[float, ...], Bucket]:
    """The profile and the bucket under way with one more measurement."""
    number = int(now // BUCKET_S) % BUCKETS
    at, total, count = bucket
    if number == at:
        return profile, (at, total + need, count + 1)
    if count > 0 and at in range(BUCKETS):  # what lies in the store may be anything
        values = list(profile if len(profile) == BUCKETS else UNSEEN)
        mean = total / count
        values[at] = round(mean if values[at] < 0 else values[at] + _NEWEST * (mean - values[at]), 2)
        profile = tuple(values)
    return profile, (number, need, 1)


def expected(profile: tuple[float, ...], need: float, now: float, ahead_s: float) -> float:
    """Slots that will be needed at some moment of the next `ahead_s`; 0: not known."""
    if len(profile) != BUCKETS:
        return 0.0
    here = int(now // BUCKET_S)
    last = int((now + ahead_s) // BUCKET_S)
    most = max((profile[at % BUCKETS] for at in range(here + 1, last + 1)), default=0.0)
    current = profile[here % BUCKETS]
    if current < 0:
        return 0.0
    before = profile[(here - 1) % BUCKETS]
    if before >= 0:
        current = (before + current) / 2
    if current < most < _RISE * current:
        most = current
    ratio = 1.0 if current < _NOTHING else min(_MOST, max(_LEAST, need / current))
    return max(0.0, most) * ratio
