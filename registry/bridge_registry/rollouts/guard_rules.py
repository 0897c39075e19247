"""Whether a canary is worse than the stable side: pure.

Rules:
1. A canary is judged once it has had `min_requests`.
2. An error rate is too high when even the lower end of its 99.9 % confidence interval (Wilson's) lies
   above the stable side's by more than is allowed: a single failure among few is no verdict, and the
   interval is that wide since it is looked at every second. The stable side counts as if it had had
   another twenty requests at 2.5 %: near the end of a rollout it has too few to show its own rate.
3. Medians are compared when both sides have had `min_requests` answers; the 95th percentile, which is
   the worst of twenty, and speeds, which swing with whatever else a machine does, with three times as
   many. A time to the first byte is too long when even the lower end of what the canary's may be
   (two standard deviations of its rank) lies above what is allowed of the upper end of the stable
   side's: on a machine that has other work at times every healthy canary was late at some moment.
4. A time to the first byte that is longer by less than the slack is not regarded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from bridge_core.counts import Counts
from bridge_registry.rollouts.plan import Guards

_Z: Final = 3.29
_SURE: Final = 2.0
_PRIOR_ERRORS: Final = 0.5
_PRIOR_REQUESTS: Final = 20


def verdict(guards: Guards, stable: Counts, canary: Counts) -> str:
    """Why the canary has failed; empty while it has not."""
    if canary.requests < max(1, guards.min_requests):
        return ""
    return next(_faults(guards, stable, canary), "")


def _faults(guards: Guards, stable: Counts, canary: Counts) -> Iterator[str]:
    for what, allowed, bad, old_bad in (
        ("error rate", guards.error_rate, canary.errors, stable.errors),
        ("in-stream error rate", guards.stream_error_rate, canary.stream_errors, stable.stream_errors),
    ):
        usual = (old_bad + _PRIOR_ERRORS) / (stable.requests + _PRIOR_REQUESTS)
        if allowed is not None and lower_bound(bad, canary.requests) > usual + allowed:
            there = f"{old_bad} of {stable.requests}"
            yield f"{what} {bad / canary.requests:.1%} ({bad} of {canary.requests}) against {there}"
    answered = min(stable.answered, canary.answered)
    if answered < max(1, guards.min_requests):
        return
    for q, times, needed in ((0.5, guards.ttft_p50, 1), (0.95, guards.ttft_p95, 3)):
        if times is None or answered < needed * guards.min_requests:
            continue
        old = stable.ttft_quantile(_rank(q, stable.answered, _SURE))
        new = canary.ttft_quantile(_rank(q, canary.answered, -_SURE))
        if new > old * times and new - old > guards.ttft_slack_s:
            seen = canary.ttft_quantile(q), stable.ttft_quantile(q)
            yield f"time to first byte p{q * 100:.0f} {seen[0]:.3f} s against {seen[1]:.3f} s"
    old, new = stable.tokens_per_s, canary.tokens_per_s
    if guards.tokens_per_s is None or answered < 3 * guards.min_requests:
        return
    if 0 < new < old * guards.tokens_per_s:
        yield f"{new:.1f} tokens/s against {old:.1f}"


def _rank(q: float, count: int, deviations: float) -> float:
    """The share of `count` samples below which their q-quantile may lie, so many deviations off."""
    return min(1.0, max(0.0, q + deviations * math.sqrt(q * (1 - q) / count)))


def lower_bound(bad: int, count: int) -> float:
    """Lower end of the 99.9 % confidence interval of the share `bad` of `count` (Wilson's)."""
    if not count or not bad:
        return 0.0
    share, z2 = bad / count, _Z * _Z
    middle = share + z2 / (2 * count)
    spread = _Z * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    return (middle - spread) / (1 + z2 / count)
