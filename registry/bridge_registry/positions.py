"""Positions of what a leading registry moves: each ahead of the store by what was measured since.

A position takes effect when the store has it and the watch brought it back, so a new leader goes on from what
agents act on. What is only measured is saved now and then: a new leader has little to measure again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

import msgspec

from bridge_core.errors import BridgeError, Unavailable
from bridge_core.store.api import Delete, Put, Store, Unchanged
from bridge_registry.records import encode

P = TypeVar("P", bound=msgspec.Struct)


class Office(Protocol):
    """Whether this registry leads; see `bridge_registry.leadership`."""

    def leads(self) -> bool:
        """Whether it leads now."""

    def fence(self) -> Unchanged:
        """The condition of its writes. Raises Unavailable when it does not lead."""


class Positions(Generic[P]):
    """The positions of one kind, by name; for the one controller that moves them.

    Args:
        store: etcd.
        office: Only the leader writes.
        prefix: Of the keys.
        stored: What the watch brought, with revisions.
        monotonic: Seconds that only go on.
        every_s: How old what is only measured may become in the store.
    """

    def __init__(
        self,
        store: Store,
        office: Office,
        prefix: str,
        stored: Callable[[], Mapping[str, tuple[P, int]]],
        *,
        monotonic: Callable[[], float],
        every_s: float,
    ) -> None:
        self._store = store
        self._office = office
        self._prefix = prefix
        self._stored = stored
        self._monotonic = monotonic
        self._every_s = every_s
        # With the revision that they come from.
        self._ahead: dict[str, tuple[P, int]] = {}
        self._saved_at: dict[str, float] = {}

    def fall_back(self) -> None:
        """Goes on from the store alone: another may have led meanwhile."""
        self._ahead.clear()

    def of(self, name: str) -> tuple[P, int] | None:
        """A position to go on from, and its revision; what is stored stands over what was made of older."""
        stored, ahead = self._stored().get(name), self._ahead.get(name)
        if ahead is not None and (stored is None or ahead[1] >= stored[1]):
            return ahead
        return stored

    def due(self, name: str) -> bool:
        """Whether what was measured is to be saved again."""
        return self._monotonic() - self._saved_at.get(name, 0.0) > self._every_s

    def keep(self, name: str, position: P, revision: int) -> None:
        """Keeps a position here alone, made from the one of this revision."""
        self._ahead[name] = (position, revision)

    async def save(self, name: str, position: P, revision: int, *, changed: str) -> None:
        """Writes a position made from the one of this revision.

        Raises:
            Unavailable, StoreRefused: it is not saved, or nobody knows; `changed`: another one was.
        """
        key = self._prefix + name
        try:
            outcome = await self._store.commit(
                [Put(key, encode(position))], if_=[Unchanged(key, revision), self._office.fence()]
            )
        except BridgeError:
            self._ahead.pop(name, None)  # it may be stored or not: the watch will tell
            raise
        if not outcome.committed:
            self._ahead.pop(name, None)
            raise Unavailable(changed, hint="try again")
        self._ahead[name] = (position, outcome.revision)
        self._saved_at[name] = self._monotonic()

    async def forget(self, name: str) -> None:
        """Deletes a position.

        Raises:
            Unavailable, StoreRefused: it is still there, or nobody knows.
        """
        outcome = await self._store.commit([Delete(self._prefix + name)], if_=[self._office.fence()])
        if not outcome.committed:
            raise Unavailable(f"{name} is not forgotten: another registry leads", hint="try again")
        self._ahead.pop(name, None)
