"""What one agent knows of its links to the other nodes, and what others say of theirs.

Rules:
1. A link is cut once its node is silent and the last question could not be brought there: no connection
   came about. It is whole again with the first answer. Over a cut link nothing is sent: it would fail as
   the question did, only later.
2. A node is far when even the quickest of its last answers took long: distance holds up every answer, a
   machine that has much to do only some. What is usual within one site counts as nothing.
3. Each node tells the others whom it cannot reach, so that one can say whether somebody else could.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

FAR_S: Final = 0.1
_LAST: Final = 8  # answers that tell of the distance
_FEWEST: Final = 4  # before which nothing is said of it
_NAMED: Final = 3  # nodes that a message names


class LinkBook:
    """The links of one agent. Times are in seconds.

    Attributes:
        far: How long the answers of far nodes take, by node; replaced, never changed.
    """

    def __init__(self) -> None:
        self.far: Mapping[str, float] = {}
        self._took: dict[str, tuple[float, ...]] = {}  # the last answers
        self._silent: set[str] = set()
        self._failed: dict[str, str] = {}  # why the last question was not brought there
        self._unreached: dict[str, frozenset[str]] = {}  # what each node said

    def answered(self, node: str, took_s: float, unreached: Iterable[str]) -> None:
        """A node answered after so long, and said whom it cannot reach."""
        self._silent.discard(node)
        self._failed.pop(node, None)
        self._unreached[node] = frozenset(unreached)
        last = self._took[node] = (*self._took.get(node, ()), took_s)[-_LAST:]
        quickest = min(last) if len(last) >= _FEWEST else 0.0
        if quickest >= FAR_S:
            self.far = {**self.far, node: quickest}
        elif node in self.far:
            self.far = {name: took for name, took in self.far.items() if name != node}

    def fell_silent(self, node: str) -> None:
        """A node left its question unanswered for too long."""
        self._silent.add(node)

    def not_brought(self, node: str, reason: str) -> None:
        """No connection for a question came about."""
        self._failed[node] = reason

    def fault(self, node: str) -> str:
        """Why the link to a node is cut; empty while it is not."""
        return self._failed.get(node, "") if node in self._silent else ""

    def unreached(self) -> tuple[str, ...]:
        """The nodes that this one cannot reach now, to tell the others."""
        return tuple(sorted(self._silent))

    def forget(self, known: Collection[str]) -> None:
        """Drops all nodes but these."""
        self._silent &= set(known)
        for book in (self._took, self._failed, self._unreached):
            for node in book.keys() - known:
                del book[node]
        self.far = {name: took for name, took in self.far.items() if name in known}

    def who_can(self, node: str) -> tuple[str, ...]:
        """Nodes that this one reaches and that did not say that they cannot reach `node`."""
        return tuple(
            sorted(
                name
                for name, unreached in self._unreached.items()
                if name not in self._silent and name != node and node not in unreached
            )
        )

    def words(self, own: str, node: str, address: str, reason: str) -> str:
        """What to tell a client whose request `own` could not bring to `node`."""
        told = f"{own} cannot reach {node} at {address}: {reason}"
        able = self.who_can(node)
        return f"{told}; {', '.join(able[:_NAMED])} can" if able else told
