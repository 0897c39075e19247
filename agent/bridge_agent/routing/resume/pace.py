"""How long a stream may be silent before it counts as dead: learnt from each model's own pauses.

Rules:
1. Only pauses after the first record count; prefill and loading a model have no pace.
2. Streams are looked at in ticks, not measured record by record: pauses shorter than a tick are
   counted as none, which is what they are to a limit of many seconds.
3. The limit is a multiple of the pause that all but one in a hundred stay under, never below the floor
   and never above the ceiling.
4. What was learnt fades, so that a model that became faster is soon held to it.
"""

from __future__ import annotations

from typing import Final

TIMES: Final = 4.0
_SHARE: Final = 0.99
_FADE_AT: Final = 20_000  # pauses after which old ones count half


class Pace:
    """The pauses of one model's streams, in whole ticks."""

    __slots__ = ("_counts", "_total")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}  # pauses of at least one tick, by length
        self._total = 0

    def moved(self, records: int, after: int) -> None:
        """A stream brought `records`, the first one after `after` ticks of silence."""
        self._total += records
        if after:
            self._counts[after] = self._counts.get(after, 0) + 1
        if self._total > _FADE_AT:
            self._total //= 2
            self._counts = {length: count // 2 for length, count in self._counts.items()}

    def limit(self, *, floor: int, ceiling: int) -> int:
        """Ticks of silence after which a stream of this model counts as dead."""
        longer, usual = self._total * (1 - _SHARE), 0
        seen = 0
        for length in sorted(self._counts, reverse=True):
            seen += self._counts[length]
            if seen > longer:
                usual = length
                break
        # A pause of n whole ticks may have been nearly n + 1.
        return min(ceiling, max(floor, round(TIMES * (usual + 1)) if usual else 0))


class _Watched:
    __slots__ = ("fed", "silent")

    def __init__(self, fed: int) -> None:
        self.fed = fed
        self.silent = 0


class Stalls:
    """The silence of all open streams of one gateway: ticks in, stalled streams out.

    Args:
        floor: Least ticks of silence that count as death.
        ceiling: Most ticks that a learnt limit may grow to.
    """

    def __init__(self, floor: int, ceiling: int) -> None:
        self._floor = floor
        self._ceiling = ceiling
        self._paces: dict[str, Pace] = {}
        self._watched: dict[object, _Watched] = {}

    def __len__(self) -> int:
        return len(self._watched)

    def open(self, stream: object) -> None:
        """A stream began."""
        self._watched[stream] = _Watched(0)

    def close(self, stream: object) -> None:
        """A stream is over, or no longer looked after."""
        self._watched.pop(stream, None)

    def tick(self, stream: object, model: str, fed: int, *, waits: bool) -> bool:
        """Looks at one stream; True when it counts as dead.

        Args:
            stream: As given to `open`.
            model: Whose pace it has.
            fed: Records it brought so far.
            waits: Its silence is our own: the client reads slowly.
        """
        watched = self._watched.get(stream)
        if watched is None or waits or not fed:
            if watched is not None:
                watched.silent = 0
            return False
        if fed != watched.fed:
            pace = self._paces.setdefault(model, Pace())
            pace.moved(fed - watched.fed, watched.silent if watched.fed else 0)
            watched.fed, watched.silent = fed, 0
            return False
        watched.silent += 1
        return watched.silent >= self.limit(model)

    def limit(self, model: str) -> int:
        """Ticks of silence that end a stream of this model."""
        pace = self._paces.get(model)
        return self._floor if pace is None else pace.limit(floor=self._floor, ceiling=self._ceiling)
