"""What requests came to, as agents count it and rollouts compare it: pure.

Times to the first byte are kept in buckets that each are a quarter wider than the one before, so a
percentile read from them is at most that much too high.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import zip_longest
from typing import Final

import msgspec

# Upper bounds, seconds: 1 ms to 4.5 minutes, then everything slower.
BOUNDS: Final = tuple(round(0.001 * 1.25**n, 6) for n in range(57))


class Counts(msgspec.Struct, frozen=True, omit_defaults=True):
    """Sums over requests that ended, without those that their client gave up.

    Attributes:
        requests: How many.
        errors: Those that ended with an error before a first byte.
        stream_errors: Those that broke off, or held an error, after it.
        ttft: Times to the first byte by bucket, trailing zeros left out.
        ttft_s: Their sum.
        tokens: Generated.
        generating_s: What that took after the first byte.
    """

    requests: int = 0
    errors: int = 0
    stream_errors: int = 0
    ttft: tuple[int, ...] = ()
    ttft_s: float = 0.0
    tokens: int = 0
    generating_s: float = 0.0

    def plus(self, other: Counts) -> Counts:
        """Both together."""
        return Counts(
            self.requests + other.requests,
            self.errors + other.errors,
            self.stream_errors + other.stream_errors,
            tuple(a + b for a, b in zip_longest(self.ttft, other.ttft, fillvalue=0)),
            self.ttft_s + other.ttft_s,
            self.tokens + other.tokens,
            self.generating_s + other.generating_s,
        )

    def since(self, earlier: Counts) -> Counts:
        """What was added since `earlier`, which these counters had shown before."""
        return Counts(
            max(0, self.requests - earlier.requests),
            max(0, self.errors - earlier.errors),
            max(0, self.stream_errors - earlier.stream_errors),
            tuple(max(0, a - b) for a, b in zip_longest(self.ttft, earlier.ttft, fillvalue=0)),
            max(0.0, self.ttft_s - earlier.ttft_s),
            max(0, self.tokens - earlier.tokens),
            max(0.0, self.generating_s - earlier.generating_s),
        )

    @property
    def failed(self) -> int:
        """Requests that failed, before a first byte or after it."""
        return self.errors + self.stream_errors

    @property
    def error_rate(self) -> float:
        """Share of the requests that failed before a byte."""
        return self.errors / self.requests if self.requests else 0.0

    @property
    def stream_error_rate(self) -> float:
        """Share of the requests that failed after one."""
        return self.stream_errors / self.requests if self.requests else 0.0

    @property
    def answered(self) -> int:
        """Requests that had a first byte."""
        return sum(self.ttft)

    @property
    def tokens_per_s(self) -> float:
        """Of one stream; 0 when nothing was generated."""
        return self.tokens / self.generating_s if self.generating_s > 0 else 0.0

    def ttft_quantile(self, q: float) -> float:
        """Seconds within which the share `q` of the answers began; 0 without any."""
        wanted, seen = q * self.answered, 0
        for at, count in enumerate(self.ttft):
            seen += count
            if count and seen >= wanted:
                return BOUNDS[min(at, len(BOUNDS) - 1)]
        return 0.0


class Counter:
    """Counts of one backend that grow; for the one task that feeds it."""

    __slots__ = ("_errors", "_generating_s", "_requests", "_stream_errors", "_tokens", "_ttft", "_ttft_s")

    def __init__(self) -> None:
        self._requests = self._errors = self._stream_errors = self._tokens = 0
        self._ttft = [0] * (len(BOUNDS) + 1)
        self._ttft_s = self._generating_s = 0.0

    def answered(self, ttft_s: float, *, tokens: int, generating_s: float, broken: bool) -> None:
        """A request that had a first byte ended; `broken`: not as it should."""
        self._requests += 1
        self._stream_errors += broken
        self._ttft[bisect_left(BOUNDS, ttft_s)] += 1
        self._ttft_s += ttft_s
        self._tokens += tokens
        self._generating_s += generating_s

    def failed(self) -> None:
        """A request ended without a first byte."""
        self._requests += 1
        self._errors += 1

    @property
    def counts(self) -> Counts:
        """So far."""
        last = max((at for at, count in enumerate(self._ttft) if count), default=-1)
        return Counts(
            self._requests,
            self._errors,
            self._stream_errors,
            tuple(self._ttft[: last + 1]),
            self._ttft_s,
            self._tokens,
            self._generating_s,
        )
