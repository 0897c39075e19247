"""Which instances are members: pure. An outage of the store must not look like the death of the mesh.

Rules:
1. An instance is a member from when its key is put until its key goes (its lease ended).
2. While the store does not answer, nothing changes.
3. A key's going is believed at once, except when it is suspicious:
   a. within one lease TTL after the store answers again: agents could not renew their leases, and
      get that long to register anew;
   b. when it is missing from a new listing, which comes after a gap in what was seen, the time
      before this registry began included;
   c. when more than half of the members (and at least two) have gone within one TTL: that is
      rather the store's fault than theirs. What went in that time before comes back, too;
   d. while no store guard lives: nobody can renew. It stays until one TTL after one is there again.
   The instance then stays a member for one TTL; if its key is put again it never was gone.
4. An instance that said it is draining goes at once: its agent revoked the lease itself.

Invariant: a member is confirmed (has a key) or missing (has a deadline), never both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from bridge_core.snapshot import Instance


class Membership:
    """The members. Times are monotonic seconds.

    Args:
        ttl_s: The lease TTL, which is also the period of grace.
        remembered: Members of the last snapshot, from before this registry began.
    """

    def __init__(self, ttl_s: float, remembered: Iterable[Instance]) -> None:
        self.ttl_s = ttl_s
        self._confirmed: dict[str, Instance] = {}
        self._missing = {instance.id: (instance, math.inf) for instance in remembered}
        self._lost: dict[str, tuple[Instance, float]] = {}  # believed gone within the last TTL
        self._suspicious_until = -math.inf
        self._cut_off = False

    @property
    def members(self) -> dict[str, Instance]:
        """Every member by id."""
        return {**{name: held for name, (held, _) in self._missing.items()}, **self._confirmed}

    @property
    def missing(self) -> frozenset[str]:
        """Members that stay by grace alone."""
        return frozenset(self._missing)

    def put(self, instance: Instance) -> None:
        """The instance's key was put."""
        self._missing.pop(instance.id, None)
        self._lost.pop(instance.id, None)
        self._confirmed[instance.id] = instance

    def delete(self, name: str, now: float) -> None:
        """The instance's key went."""
        instance = self._confirmed.pop(name, None)
        if instance is None or instance.state == "draining":
            return
        self._lost = {lost: entry for lost, entry in self._lost.items() if entry[1] > now - self.ttl_s}
        self._lost[name] = (instance, now)
        many = len(self._lost) >= 2 and len(self._lost) > len(self._confirmed)
        if many or self._cut_off:
            self._hold(self._lost, now)
        elif now < self._suspicious_until:
            self._hold((name,), now)

    def replace(self, instances: Iterable[Instance], now: float) -> None:
        """A new listing: these have keys, no others do."""
        before = self._confirmed
        self._confirmed = {instance.id: instance for instance in instances}
        gone = {name: held for name, held in before.items() if name not in self._confirmed}
        for name, instance in gone.items():
            if instance.state != "draining":
                self._missing[name] = (instance, self._deadline(now))
        for name, (instance, deadline) in list(self._missing.items()):
            if name in self._confirmed:
                del self._missing[name]
            else:
                self._missing[name] = (instance, min(deadline, self._deadline(now)))

    def cut_off(self, now: float) -> None:
        """No store guard lives any more (rule 3d)."""
        self._cut_off = True
        self._hold(self._lost, now)
        self._missing = {name: (held, math.inf) for name, (held, _) in self._missing.items()}

    def guarded_again(self, now: float) -> None:
        """A store guard is there again."""
        if self._cut_off:
            self._cut_off = False
            self.store_answers_again(now)

    def store_answers_again(self, now: float) -> None:
        """The store was away until now: everybody gets a TTL from here (rule 3a)."""
        self._suspicious_until = now + self.ttl_s
        self._hold(self._lost, now)
        self._missing = {name: (held, self._deadline(now)) for name, (held, _) in self._missing.items()}

    def deadline(self) -> float | None:
        """When `settle` has something to do next; None: nothing is missing, or no listing came yet."""
        nearest = min((deadline for _, deadline in self._missing.values()), default=math.inf)
        return None if nearest == math.inf else nearest

    def settle(self, now: float) -> tuple[str, ...]:
        """Drops who did not come back in time. Not to be called while the store is away (rule 2)."""
        dropped = tuple(name for name, (_, deadline) in self._missing.items() if deadline <= now)
        for name in dropped:
            del self._missing[name]
        return dropped

    def validate(self) -> None:
        """Raises AssertionError if the invariant is broken; for tests."""
        both = self._confirmed.keys() & self._missing.keys()
        if both:
            raise AssertionError(f"confirmed and missing at once: {sorted(both)}")

    def _hold(self, names: Iterable[str], now: float) -> None:
        for name in list(names):
            if name not in self._confirmed and name in self._lost:
                self._missing[name] = (self._lost.pop(name)[0], self._deadline(now))

    def _deadline(self, now: float) -> float:
        return math.inf if self._cut_off else now + self.ttl_s
