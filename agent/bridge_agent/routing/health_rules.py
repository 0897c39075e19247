"""Health of instances and nodes, from what they did to requests and from whether they answer.

Rules:
1. A failure to connect takes a subject for down at once. Other failures eject it at so many in a
   row, or where its success rate lies far below the others'.
2. The n-th ejection lasts base * 2^(n-1), up to a maximum; a success ends the run of failures,
   and, once the subject has served for as long as its last ejection lasted, the growth too.
3. After an ejection the subject is eligible again; one more failure ejects it again at once.
4. A circuit opens when so large a share of the window's requests failed. After its time one
   request at a time is let through (half open); a success closes it, a failure opens it again.
   Share, window and time are those of the policy of the request that fails: each length of window
   that policies ask for is counted by itself, over all requests, from its first failure on.
5. Who asked for patience (Retry-After) is passed over for that long.
6. A node that leaves the peers' exchange unanswered is down until it answers (`silent`, `spoke`).
7. A refusal is no fault of health, nor is a 500: a request that is itself to blame would eject
   every instance that it is tried on.

How many may be ejected together is a choice's own matter (`choose`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import Enum
from typing import Final

from bridge_core.snapshot import RoutePolicy
from bridge_core.traffic import Breaker

_LONGEST_PATIENCE_S: Final = 30.0
_FEWEST_OTHERS: Final = 2  # with fewer there is nobody to be worse than
_FAR_ABOVE: Final = 1.9  # standard deviations, as Envoy's default
_LEAST_GAP: Final = 0.15


class Failure(Enum):
    """How an attempt failed."""

    CONNECT = "connect"  # nothing was sent
    CUT = "cut"  # the connection ended before the answer did
    TIMEOUT = "timeout"
    REFUSED = "refused"  # it said that it takes no more work: no fault of its health
    SERVER_ERROR = "server_error"  # its engine failed behind the hop
    ANSWERED_500 = "answered_500"  # its runner died, or the request is itself to blame: nobody knows
    NOT_LOADED = "not_loaded"  # its engine could not bring the model into memory


_NO_FAULT: Final = frozenset({Failure.REFUSED, Failure.ANSWERED_500, Failure.NOT_LOADED})


class Window:
    """Counts of the last `length_s` seconds, in two halves: cheap, and off by at most half of it."""

    __slots__ = ("_began", "_length", "_now", "_past")

    def __init__(self, length_s: float, now: float) -> None:
        self._length = length_s
        self._began = now
        self._now = [0, 0]
        self._past = [0, 0]

    def count(self, now: float, *, failed: bool) -> None:
        """Counts one request."""
        self._turn(now)
        self._now[failed] += 1

    def totals(self, now: float) -> tuple[int, int]:
        """Requests and failures in the window."""
        self._turn(now)
        good, bad = (a + b for a, b in zip(self._now, self._past, strict=True))
        return good + bad, bad

    def _turn(self, now: float) -> None:
        age = now - self._began
        if age >= self._length / 2:
            self._past = self._now if age < self._length else [0, 0]
            self._now = [0, 0]
            self._began = now


class _Record:
    __slots__ = (
        "down",
        "ejections",
        "failures",
        "lasted",
        "open_s",
        "open_until",
        "patience",
        "tripped",
        "until",
        "windows",
    )

    def __init__(self) -> None:
        self.failures = 0
        self.ejections = 0
        self.until = 0.0
        self.lasted = 0.0
        self.down = 0.0  # taken for dead until then
        self.patience = 0.0
        self.tripped = False
        self.open_until = 0.0
        self.open_s = 0.0
        self.windows: dict[float, Window] = {}  # by length

    def window(self, length_s: float, now: float) -> Window:
        """The window of that length, begun now where there is none."""
        found = self.windows.get(length_s)
        if found is None:
            found = self.windows[length_s] = Window(length_s, now)
        return found

    def count(self, now: float, *, failed: bool) -> None:
        """Counts one request in every window."""
        for window in self.windows.values():
            window.count(now, failed=failed)

    def speaks(self, now: float) -> bool:
        running = max(self.until + self.lasted, self.patience, self.open_until, self.down)
        failed = any(window.totals(now)[1] > 0 for window in self.windows.values())
        return now < running or self.tripped or failed


class HealthBook:
    """What subjects (instances, nodes) did lately, by id. While nobody fails nothing is kept.

    Times are monotonic seconds. The policy of an event is that of the request it happened to.

    Attributes:
        quiet: Nobody has failed: nothing needs to be looked up.
    """

    def __init__(self, policy: RoutePolicy | None = None) -> None:
        self._policy = policy or RoutePolicy()
        self._records: dict[str, _Record] = {}
        self._silent: set[str] = set()
        self.quiet = True

    # -- questions

    def ejected(self, subject: str, now: float) -> float:
        """For how many seconds more the subject is passed over; 0: it is not."""
        record = self._records.get(subject)
        if record is None:
            return 0.0
        return max(0.0, record.until - now, record.patience - now, record.open_until - now)

    def down(self, subject: str, now: float) -> float:
        """For how many seconds more the subject is taken for dead; 0: it is not."""
        if subject in self._silent:
            return 1.0
        record = self._records.get(subject)
        return 0.0 if record is None else max(0.0, record.down - now)

    def ejections(self, now: float) -> dict[str, float]:
        """Who is passed over at `now`, and for how much longer."""
        names = {*self._records, *self._silent}
        left = {name: max(self.ejected(name, now), self.down(name, now)) for name in names}
        return {name: seconds for name, seconds in left.items() if seconds > 0}

    # -- events

    def began(self, subject: str, now: float) -> None:
        """A request was sent there: through a half open circuit no second one for its time."""
        record = self._records.get(subject)
        if record is not None and record.tripped:
            record.open_until = now + record.open_s

    def failed(self, subject: str, failure: Failure, now: float, policy: RoutePolicy | None = None) -> bool:
        """Notes a failure; True when it ejects the subject."""
        if failure in _NO_FAULT:
            return False
        policy = policy or self._policy
        record = self._record(subject, now)
        record.failures += 1
        window = record.window(policy.breaker.window_s, now)
        record.count(now, failed=True)
        self._trip(record, window, policy.breaker, now)
        unreachable = failure is Failure.CONNECT
        if now < record.until or not (unreachable or self._outlies(subject, record, policy, now)):
            return False
        record.ejections += 1
        outlier = policy.outlier
        record.lasted = min(
            outlier.max_ejection_s, outlier.base_ejection_s * 2.0 ** min(60, record.ejections - 1)
        )
        record.until = now + record.lasted
        if unreachable:
            record.down = record.until
        return True

    def succeeded(self, subject: str, now: float) -> None:
        """Notes an answer. While somebody fails, those who do not are counted too, to compare with."""
        if not self._records:
            return
        record = self._record(subject, now)
        record.failures = 0
        record.down = 0.0
        record.count(now, failed=False)
        if record.tripped:
            record.tripped, record.open_until = False, 0.0
            record.windows = {length_s: Window(length_s, now) for length_s in record.windows}
        if now >= record.until + record.lasted:
            record.ejections = 0

    def asked_for_patience(self, subject: str, seconds: float, now: float) -> None:
        """It answered with Retry-After."""
        record = self._record(subject, now)
        record.patience = max(record.patience, now + min(_LONGEST_PATIENCE_S, seconds))

    def silent(self, node: str) -> None:
        """The node does not answer its peers."""
        self._silent.add(node)
        self.quiet = False

    def spoke(self, node: str, now: float) -> None:
        """The node answered its peers: a failure to connect to it is over, too."""
        self._silent.discard(node)
        record = self._records.get(node)
        if record is not None:
            record.down = 0.0
            record.until = min(record.until, now)
        self._hush()

    def forget(self, known: Iterable[str]) -> None:
        """Drops the records of all but these subjects."""
        kept = set(known)
        self._records = {name: record for name, record in self._records.items() if name in kept}
        self._silent &= kept
        self._hush()

    def tidy(self, now: float) -> None:
        """Drops every record once none says anything any more: no recent failure, no time running."""
        if not any(record.speaks(now) for record in self._records.values()):
            self._records.clear()
            self._hush()

    # -- judging

    def _hush(self) -> None:
        self.quiet = not self._records and not self._silent

    def _record(self, subject: str, now: float) -> _Record:
        record = self._records.get(subject)
        if record is None:
            record = self._records[subject] = _Record()
            self.quiet = False
            record.window(self._policy.breaker.window_s, now)  # the one in which all are compared
        return record

    @staticmethod
    def _trip(record: _Record, window: Window, breaker: Breaker, now: float) -> None:
        total, bad = window.totals(now)
        enough = total >= breaker.min_requests and bad >= breaker.failure_share * total
        if record.tripped or enough:
            record.tripped = True
            record.open_s = breaker.open_s
            record.open_until = max(record.open_until, now + breaker.open_s)

    def _outlies(self, subject: str, record: _Record, policy: RoutePolicy, now: float) -> bool:
        if record.ejections > 0 or record.failures >= policy.outlier.consecutive_failures:
            return True
        return policy.outlier.success_rate and self._far_above(subject, policy.breaker.min_requests, now)

    def _far_above(self, subject: str, least: int, now: float) -> bool:
        length_s = self._policy.breaker.window_s
        rates = {}
        for name, record in self._records.items():
            if ("/" in name) is not ("/" in subject):
                continue  # a node's own record says of its instance once more what the instance's does
            total, bad = record.window(length_s, now).totals(now)
            if total >= least:
                rates[name] = bad / total
        own = rates.pop(subject, None)
        if own is None or len(rates) < _FEWEST_OTHERS:
            return False
        others = list(rates.values())
        mean = sum(others) / len(others)
        spread = math.sqrt(sum((rate - mean) ** 2 for rate in others) / len(others))
        return own > mean + max(_LEAST_GAP, _FAR_ABOVE * spread)


def retry_allowed(requests: int, retries: int, budget: float, floor: int) -> bool:
    """Whether one more retry may run beside so many requests and retries in progress."""
    return retries < max(floor, int(budget * requests))
