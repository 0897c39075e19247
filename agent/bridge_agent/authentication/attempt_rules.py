"""How often an address may fail to say who it is: pure.

Rules:
1. An address may fail `FREE` times. From then on what it shows is not looked at for a while, and it is
   told when to come again: a second after the first such failure, twice as long after each further one,
   never more than `LONGEST_S`.
2. What comes during that time costs a look into a table and lengthens nothing. After it the next
   credential is looked at: a right one passes, a wrong one doubles the time.
3. A credential that was right at this node lately passes at any time: whoever fails behind the same
   address (a NAT, a proxy, this machine's loopback) keeps nobody out who is known already, and keeps out
   who is new for `LONGEST_S` at a stretch. A right one forgives no failures: else who has one could guess
   on at will.
4. A failure is forgotten after `FORGET_S`, one at a time. The table holds `MOST` addresses; beyond that
   the one that was quiet for longest is forgotten.
5. Addresses of IPv6 count by their /64, which is what one customer has at least; an IPv4 address inside
   IPv6 counts as itself. The loopback counts like any other.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import msgspec

from bridge_core.addresses import source_of

FREE: Final = 10
LONGEST_S: Final = 60.0
FORGET_S: Final = 30.0
MOST: Final = 16_384
MOST_KNOWN: Final = 16_384
KNOWN_S: Final = 86_400.0


class _Failures(msgspec.Struct, gc=False):
    """Of one address: how many, since when they are counted down, and until when nothing is looked at."""

    count: int
    since: float
    until: float


class Attempts:
    """Failures by address, and the credentials that were right. Times in monotonic seconds."""

    def __init__(self) -> None:
        self._failures: dict[str, _Failures] = {}
        self._known: dict[int, float] = {}

    def wait(self, address: str, now: float) -> float:
        """For how long what this address shows is not looked at; 0: it is."""
        if not self._failures:
            return 0.0
        found = self._failures.get(group_of(address))
        return 0.0 if found is None else max(0.0, found.until - now)

    def failed(self, address: str, now: float) -> None:
        """A credential of this address was looked at, and was none."""
        group = group_of(address)
        found = self._failures.pop(group, None)
        if found is None:
            found = _Failures(0, now, 0.0)
        forgotten = int((now - found.since) / FORGET_S)
        found.count = max(0, found.count - forgotten) + 1
        found.since = now if found.count == 1 else found.since + forgotten * FORGET_S
        excess = found.count - FREE
        if excess > 0:
            found.until = now + min(LONGEST_S, 2.0 ** min(excess - 1, 16))
        self._failures[group] = found  # at the end: the table is in the order of the last failure
        while len(self._failures) > MOST:
            del self._failures[next(iter(self._failures))]

    def passed(self, fingerprint: int, now: float) -> None:
        """A credential with this fingerprint was right."""
        self._known.pop(fingerprint, None)
        self._known[fingerprint] = now
        while len(self._known) > MOST_KNOWN:
            del self._known[next(iter(self._known))]

    def is_known(self, fingerprint: int, now: float) -> bool:
        """Whether a credential with this fingerprint was right lately: it may be looked at again."""
        return now - self._known.get(fingerprint, -KNOWN_S) < KNOWN_S

    @property
    def addresses(self) -> int:
        """How many addresses have failures that are not forgotten."""
        return len(self._failures)


group_of: Final = lru_cache(maxsize=1024)(source_of)
"""What is counted together with an address."""
