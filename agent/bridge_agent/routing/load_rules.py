"""How much work each instance has, as far as one agent can know.

Rules:
1. An agent counts its own requests itself. What others have at an instance is what the instance's
   owner last said it has in all, less what was this agent's own at that moment.
2. What an owner said is forgotten after a time: a stale word is worse than none.
   A request of this agent's that was given up in its prefill counts as others' until the owner's
   next word: its engine is busy with it yet.
3. An instance that came (back) is remembered with its time, for slow start.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping


class LoadBook:
    """The work at instances, by id.

    Args:
        own: This agent's requests in flight, kept by whoever counts them.
        fresh_s: For how long an owner's word counts.
    """

    def __init__(self, own: Mapping[str, int], fresh_s: float = 3.0) -> None:
        self._own = own
        self._fresh_s = fresh_s
        self._others: dict[str, tuple[int, float]] = {}
        self._came: dict[str, float] = {}
        self._known: frozenset[str] | None = None

    def heard(self, instance: str, total: int, now: float) -> None:
        """The owner said how many requests it has there in all."""
        others = total - self._own.get(instance, 0)
        if others > 0:
            self._others[instance] = (others, now)
        else:
            self._others.pop(instance, None)

    def lingers(self, instance: str, now: float) -> None:
        """A request of this agent's was given up there before it had an answer."""
        others, _ = self._others.get(instance, (0, now))
        self._others[instance] = (others + 1, now)

    def work(self, now: float) -> Mapping[str, int]:
        """Everybody's requests; instances without any may be missing."""
        if not self._others:
            return self._own
        work = dict(self._own)
        for instance, (count, at) in list(self._others.items()):
            if now - at > self._fresh_s:
                del self._others[instance]
            else:
                work[instance] = work.get(instance, 0) + count
        return work

    def present(self, instances: Collection[str], now: float) -> None:
        """These take requests now; those that did not before came (back) at `now`."""
        known = frozenset(instances)
        if self._known is not None:  # what was there when this agent began is old
            self._came.update(dict.fromkeys(known - self._known, now))
        self._came = {id_: at for id_, at in self._came.items() if id_ in known}
        self._known = known

    def ages(self, now: float, longest_s: float) -> Mapping[str, float]:
        """How long ago each instance came (back); those that did longer ago than that are left out."""
        if self._came:
            self._came = {id_: at for id_, at in self._came.items() if now - at < longest_s}
        return {id_: now - at for id_, at in self._came.items()}
