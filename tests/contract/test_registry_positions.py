"""Positions of what a leader moves: only the leader writes, whether it saves or forgets."""

from __future__ import annotations

import msgspec
import pytest

from bridge_core.errors import Unavailable
from bridge_core.store.api import Put, Unchanged
from bridge_registry.positions import Positions
from tests.fakes.store import FakeEtcd, FakeStore

KEY = "/m/positions/a"


class Position(msgspec.Struct):
    step: int


class Office:
    """Held while `/m/leader` is what it was."""

    def __init__(self, revision: int) -> None:
        self.revision = revision

    def leads(self) -> bool:
        return True

    def fence(self) -> Unchanged:
        return Unchanged("/m/leader", self.revision)


async def positions(store: FakeStore) -> Positions[Position]:
    held = await store.commit([Put("/m/leader", b"me")])
    office = Office(held.revision)
    made = Positions[Position](store, office, "/m/positions/", dict, monotonic=lambda: 100.0, every_s=30.0)
    await made.save("a", Position(3), 0, changed="a changed meanwhile")
    return made


async def test_what_is_forgotten_is_gone_from_the_store() -> None:
    store = FakeStore(FakeEtcd())
    held = await positions(store)
    await held.forget("a")
    assert await store.get(KEY) is None
    assert held.of("a") is None


async def test_who_does_not_lead_any_more_neither_saves_nor_forgets() -> None:
    store = FakeStore(FakeEtcd())
    held = await positions(store)
    _, revision = held.of("a") or (None, 0)
    await store.commit([Put("/m/leader", b"another")])
    with pytest.raises(Unavailable, match="another registry leads"):
        await held.forget("a")
    assert await store.get(KEY) is not None
    assert held.of("a") is not None  # so it is asked to forget it once more
    with pytest.raises(Unavailable, match="a changed meanwhile"):
        await held.save("a", Position(4), revision, changed="a changed meanwhile")
    assert held.of("a") is None
