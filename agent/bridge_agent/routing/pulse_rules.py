"""Whether the nodes of the mesh still answer one another.

Rules:
1. A node is asked again once it answered and its interval is over. Nodes in use are asked at the
   quick interval; the others so rarely that all of them together cost no more than the bound.
2. A node whose question is unanswered for `silent_s` is silent; after `cut_s` requests on their
   way there are given up.
3. Whatever else it sends counts, too: a node whose streams go on is not cut for being slow.
4. Time that this process itself stood still is nobody else's silence.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Final, TypeAlias

import msgspec

_STOOD_STILL: Final = 3  # ticks late: so long nothing could be heard


_Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0.01, le=3600.0)]


class PulsePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How nodes are watched; seconds.

    Attributes:
        tick_s: How often the edge looks.
        quick_s: Between questions to a node in use.
        questions_per_s: To all others together, at most.
        silent_s: Unanswered for so long, a node gets no new requests.
        cut_s: Unanswered for so long, those that it has are given up.
    """

    tick_s: _Seconds = 0.1
    quick_s: _Seconds = 0.2
    questions_per_s: Annotated[float, msgspec.Meta(ge=0.1, le=10_000.0)] = 50.0
    silent_s: _Seconds = 0.7
    cut_s: _Seconds = 3.0


class Verdicts(msgspec.Struct, frozen=True):
    """What follows at one tick.

    Attributes:
        ask: Nodes to ask now.
        silent: Nodes that became silent.
        cut: Nodes whose requests are to be given up now.
    """

    ask: tuple[str, ...]
    silent: tuple[str, ...]
    cut: tuple[str, ...]


class _Peer:
    __slots__ = ("asked", "cut", "last", "pending", "silent")

    def __init__(self) -> None:
        self.last = float("-inf")  # when it was last asked
        self.asked: float | None = None  # the question that is unanswered since
        self.pending = False  # a question is on its way
        self.silent = False
        self.cut = False


class Pulse:
    """The questions to each node and their answers. Times are monotonic seconds."""

    def __init__(self, policy: PulsePolicy | None = None) -> None:
        self._policy = policy or PulsePolicy()
        self._peers: dict[str, _Peer] = {}
        self._ticked: float | None = None

    def tick(self, nodes: Collection[str], in_use: Collection[str], now: float) -> Verdicts:
        """What to do now. `nodes` are all that can be asked."""
        policy = self._policy
        self._forgive(now)
        self._peers = {name: self._peers.get(name) or _Peer() for name in nodes}
        rare = max(policy.quick_s, len(nodes) / policy.questions_per_s)
        ask, silent, cut = [], [], []
        for name, peer in self._peers.items():
            quick = name in in_use or peer.asked is not None
            if not peer.pending and now - peer.last >= (policy.quick_s if quick else rare):
                peer.last, peer.pending = now, True
                peer.asked = now if peer.asked is None else peer.asked
                ask.append(name)
            waited = 0.0 if peer.asked is None else now - peer.asked
            if waited >= policy.silent_s and not peer.silent:
                peer.silent = True
                silent.append(name)
            if waited >= policy.cut_s and not peer.cut:
                peer.cut = True
                cut.append(name)
        return Verdicts(tuple(ask), tuple(silent), tuple(cut))

    def answered(self, node: str) -> bool:
        """It answered; True when it had been silent."""
        peer = self._peers.get(node)
        if peer is None:
            return False
        was = peer.silent
        peer.asked, peer.pending, peer.silent, peer.cut = None, False, False, False
        return was

    def alive(self, node: str, now: float) -> None:
        """It sent something else."""
        peer = self._peers.get(node)
        if peer is not None and peer.asked is not None:
            peer.asked = now

    def failed(self, node: str) -> None:
        """The question did not get there: it stays unanswered, and is asked again."""
        peer = self._peers.get(node)
        if peer is not None:
            peer.pending = False

    def _forgive(self, now: float) -> None:
        policy = self._policy
        late = 0.0 if self._ticked is None else now - self._ticked - policy.tick_s
        self._ticked = now
        if late >= _STOOD_STILL * policy.tick_s:
            for peer in self._peers.values():
                if peer.asked is not None:
                    peer.asked += late
