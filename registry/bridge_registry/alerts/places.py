"""Which row of the arrays each series has that is watched: bounded in all, and for each node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, ItemsView, Iterable
from typing import Generic, TypeVar

Key = TypeVar("Key")


class Places(Generic[Key]):
    """See the module. Rows are in the order in which their series came.

    Args:
        most: Series in all.
        most_of_node: Of one node: one that has many, or makes them up, leaves the others theirs.
    """

    def __init__(self, most: int, most_of_node: int) -> None:
        self._most = most
        self._most_of_node = most_of_node
        self._rows: dict[Key, int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def items(self) -> ItemsView[Key, int]:
        """The series and their rows."""
        return self._rows.items()

    def row(self, key: Key) -> int | None:
        """That of a series; None: it has none."""
        return self._rows.get(key)

    def keys(self) -> list[Key]:
        """The series, in the order of their rows."""
        return list(self._rows)

    def keep(self, stays: Callable[[Key, int], bool]) -> list[int] | None:
        """Lets go of series; the rows that those which stay had, in the order of the rows that they have now.
        None: all of them stay.

        Args:
            stays: Whether one does, told its row.
        """
        kept = [(key, row) for key, row in self._rows.items() if stays(key, row)]
        if len(kept) == len(self._rows):
            return None
        self._rows = {key: at for at, (key, _) in enumerate(kept)}
        return [row for _, row in kept]

    def add(self, keys: Iterable[Key], node_of: Callable[[Key], str]) -> list[Key]:
        """Gives new rows, the last ones, to those of the series that have none, while there is room for
        them; those that got one.
        """
        of_node = Counter(node_of(key) for key in self._rows)
        fresh = []
        for key in keys:
            if key not in self._rows and of_node[node_of(key)] < self._most_of_node:
                of_node[node_of(key)] += 1
                fresh.append(key)
        fresh = fresh[: self._most - len(self._rows)]
        begin = len(self._rows)
        self._rows.update((key, begin + at) for at, key in enumerate(fresh))
        return fresh
