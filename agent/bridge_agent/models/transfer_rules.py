"""Which pieces of a blob are asked of whom, asked again, or given up. Pure.

Rules:
1. A piece is with one source at a time, or is here. A source has at most `EACH` of them under way, all
   together `TOGETHER`.
2. Of the pieces that a source has and this node lacks, the one that the fewest sources have goes first;
   of equally rare ones chance decides, so that many nodes that fetch a blob soon have different pieces to
   give to each other.
   The source with the fewest under way is asked, and of equals the one that has least: fewer others ask it.
3. A piece that only one source has is asked for by one of the nodes that fetch the blob, and the others
   have it from there: else all of them ask the one that is first to have it, which then sends every piece
   to everybody. Its number says whose it is. A node that could ask for nothing else for `ALONE_S` asks for
   all of them during `OPEN_S`: whose they are may be slow, or gone.
4. A source that fails `STRIKES` times in a row is dropped. One that sends a piece whose hash is not the one
   that it names is dropped at once, by its name. One that is busy rests for `REST_S`.
5. A whole that has another digest than it should: every piece that another source knows by another hash is
   fetched again, and who gave it is dropped. Where nobody contradicts, all that came from other nodes is
   fetched again, and all of them are dropped: only the digest proves anything.
6. A dropped source is not asked again in this transfer, whatever it says that it has.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

EACH: Final = 3
TOGETHER: Final = 8
STRIKES: Final = 3
REST_S: Final = 0.25
ALONE_S: Final = 0.5
OPEN_S: Final = 5.0
MOST_SOURCES: Final = 64
_LOOKED_AT: Final = 64  # candidates of which the rarest is taken

OUTSIDE: Final = ""
"""As a source's name: the blob's origin outside the mesh."""


class Ask(msgspec.Struct, frozen=True):
    """A piece is to be asked of a source."""

    source: str
    piece: int


class Source(msgspec.Struct):
    """Who has pieces.

    Attributes:
        have: A number whose bits are the pieces that it has.
        asked: Pieces under way from it.
        strikes: Failures since its last piece.
        rests: Until when it is not asked, in monotonic seconds.
        dropped: Why it is not asked any more; empty: it is.
    """

    have: int = 0
    asked: set[int] = msgspec.field(default_factory=set)
    strikes: int = 0
    rests: float = 0.0
    dropped: str = ""


class Transfer:
    """One blob on its way to this node; times are monotonic seconds.

    Args:
        count: How many pieces it has.
        have: Those that are here already, as a number of bits.

    Attributes:
        have: The pieces that are here.
        given: Who gave which of them, as far as they came in this run; `OUTSIDE` for the origin.
    """

    def __init__(self, count: int, have: int = 0) -> None:
        self._all = (1 << count) - 1
        self._count = count
        self.have = have
        self.given: dict[int, str] = {}
        self._sources: dict[str, Source] = {}
        self._asked = 0  # bits of the pieces under way, also from outside
        self._share = self._all
        self._idle_since, self._open_until = math.inf, -math.inf

    @property
    def whole(self) -> bool:
        """Every piece is here."""
        return self.have == self._all

    @property
    def sources(self) -> Mapping[str, Source]:
        """By node."""
        return self._sources

    @property
    def dropped(self) -> dict[str, str]:
        """Nodes that are asked nothing any more, and why."""
        return {name: one.dropped for name, one in self._sources.items() if one.dropped}

    @property
    def uncovered(self) -> int:
        """The pieces, as bits, that are not here and that no source has."""
        known = self.have
        for one in self._sources.values():
            if not one.dropped:
                known |= one.have
        return self._all & ~known

    def heard(self, source: str, have: int) -> None:
        """A node has said which pieces it has."""
        known = self._sources.get(source)
        if known is None:
            if len(self._sources) >= MOST_SOURCES:
                return
            known = self._sources[source] = Source()
        known.have = have & self._all

    def shared(self, place: int, nodes: int) -> None:
        """So many nodes fetch the blob, and this one's place among them, from 0 on, is `place`."""
        own = len(range(place, self._count, nodes))
        # A bit in each `nodes`, `own` times. Set one by one, those of a large blob would hold up the loop.
        self._share = ((1 << nodes * own) - 1) // ((1 << nodes) - 1) << place

    def next(self, now: float, draw: int) -> Ask | None:
        """The next piece to ask for; None: nothing can be asked at present.

        Args:
            now: The time.
            draw: Any number: chance.
        """
        under_way = sum(len(one.asked) for one in self._sources.values())
        if under_way >= TOGETHER:
            return None
        missing = self._all & ~self.have & ~self._asked
        missing &= ~self._held_back(now, missing, idle=not under_way)
        able = [
            (len(one.asked), one.have.bit_count(), at, name, one)
            for at, (name, one) in enumerate(self._sources.items())
            if not one.dropped and one.rests <= now and len(one.asked) < EACH and one.have & missing
        ]
        if not able:
            return None
        *_, name, source = min(able, key=lambda one: (*one[:2], (one[2] + draw) % len(self._sources)))
        piece = self._rarest(source.have & missing, draw)
        source.asked.add(piece)
        self._asked |= 1 << piece
        return Ask(name, piece)

    def _held_back(self, now: float, lacks: int, *, idle: bool) -> int:
        """The pieces of `lacks`, as bits, that other nodes are to ask their only source for."""
        once = twice = 0
        for one in self._sources.values():
            if not one.dropped:
                twice |= once & one.have
                once |= one.have
        others = lacks & once & ~twice & ~self._share
        if not (idle and others):
            self._idle_since = math.inf
        elif self._idle_since == math.inf:
            self._idle_since = now
        elif now - self._idle_since >= ALONE_S:
            self._idle_since, self._open_until = math.inf, now + OPEN_S
        return 0 if now < self._open_until else others

    def next_outside(self, draw: int) -> int | None:
        """The next piece to fetch from the origin: one that no node has; None: there is none such now.

        Of these the first after `draw` in the blob's order: what follows each other comes in one answer.
        """
        wanted = self.uncovered & ~self._asked
        after = wanted >> draw << draw
        chosen = after or wanted
        if not chosen:
            return None
        piece = _lowest(chosen)
        self._asked |= 1 << piece
        return piece

    def came(self, piece: int, source: str) -> None:
        """A piece came, had the hash that it was sent with, and is on disk."""
        self._over(piece, source)
        if known := self._sources.get(source):
            known.strikes = 0
        if not self.have >> piece & 1:
            self.have |= 1 << piece
            self.given[piece] = source

    def failed(self, piece: int, source: str, why: str) -> None:
        """A piece did not come."""
        self._over(piece, source)
        if known := self._sources.get(source):
            known.strikes += 1
            if known.strikes >= STRIKES:
                self.drop(source, f"failed {known.strikes} times in a row, last: {why}")

    def busy(self, piece: int, source: str, now: float) -> None:
        """The source serves as many as it will."""
        self._over(piece, source)
        if known := self._sources.get(source):
            known.rests = now + REST_S

    def drop(self, source: str, why: str) -> None:
        """A source is asked nothing any more."""
        known = self._sources.setdefault(source, Source())
        known.dropped = known.dropped or why

    def gone(self, source: str) -> None:
        """A source says that it has nothing, or does not answer: it may come back."""
        if known := self._sources.get(source):
            known.have = 0

    def wrong(self, hashes: Mapping[int, str], said: Mapping[str, Mapping[int, str]]) -> set[int]:
        """The whole has another digest than it should; returns the pieces that are fetched again.

        Args:
            hashes: Of each piece that is here.
            said: What nodes that have the whole blob say that the hashes are.
        """
        bad: set[int] = set()
        for piece, found in hashes.items():
            giver = self.given.get(piece)
            others = [known for node, known in said.items() if node != giver]
            if any(known.get(piece, found) != found for known in others):
                bad.add(piece)
                if giver:
                    self.drop(giver, f"its piece {piece} is not the one that other nodes have")
        if not bad:
            bad = set(range(self._count))
            for giver in {one for one in self.given.values() if one}:
                self.drop(giver, "what came from it made no whole of the right digest")
        self._lose(bad)
        return bad

    def _lose(self, pieces: Iterable[int]) -> None:
        for piece in pieces:
            self.have &= ~(1 << piece)
            self.given.pop(piece, None)

    def _over(self, piece: int, source: str) -> None:
        self._asked &= ~(1 << piece)
        if known := self._sources.get(source):
            known.asked.discard(piece)

    def _rarest(self, pieces: int, draw: int) -> int:
        """Of these pieces, looked at from a chance place on, the one that the fewest sources have."""
        start = draw % self._count
        ahead = pieces >> start << start
        behind = pieces & ~ahead
        candidates: list[int] = []
        for part in (ahead, behind):
            left = part
            while left and len(candidates) < _LOOKED_AT:
                candidates.append(_lowest(left))
                left &= left - 1
        sources = [one.have for one in self._sources.values() if not one.dropped]
        return min(candidates, key=lambda piece: sum(have >> piece & 1 for have in sources))


def _lowest(bits: int) -> int:
    """The place of the lowest bit that is set."""
    return (bits & -bits).bit_length() - 1
