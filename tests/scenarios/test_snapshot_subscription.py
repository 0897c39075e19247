"""An agent follows snapshots from whichever registry answers and keeps the last through anything."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from bridge_agent.membership.follow_rules import MAX_REJECTIONS
from bridge_agent.membership.registry_api import IssuedIdentity, Update
from bridge_agent.membership.subscription import SnapshotSubscription
from bridge_core.errors import Unavailable
from bridge_core.ring import ring_of
from bridge_core.snapshot import EMPTY, Instance, Node, Snapshot, Version, diff, encode_entry, whole
from bridge_core.snapshot_file import SnapshotFile
from tests.sealing_bed import SEALER
from tests.support import eventually


class ScriptedRegistry:
    """Sends what the test puts in; remembers what agents said. `down`: it does not answer."""

    def __init__(self, address: str = "r1:1", *, down: bool = False) -> None:
        self.address = address
        self.down = down
        self.opened = 0
        self.said: list[tuple[Version | None, str]] = []
        self._updates: asyncio.Queue[Update | None] = asyncio.Queue()

    def put(self, update: Update) -> None:
        self._updates.put_nowait(update)

    def hang_up(self) -> None:
        self._updates.put_nowait(None)

    @contextlib.asynccontextmanager
    async def watch(self) -> AsyncIterator[ScriptedRegistry]:
        self.opened += 1
        yield self

    async def send(self, have: Version | None, rejected: str = "") -> None:
        if self.down:
            raise Unavailable(f"registry {self.address} does not answer")
        self.said.append((have, rejected))

    async def receive(self) -> Update:
        update = await self._updates.get()
        if update is None:
            raise Unavailable(f"registry {self.address} ended the snapshot stream")
        return update

    async def renew(self, csr: bytes) -> IssuedIdentity:
        raise NotImplementedError

    async def leave(self) -> None:
        raise NotImplementedError


def snapshot(revision: int, *instances: str) -> Snapshot:
    entries = {f"node/{name}": encode_entry(Node(name=name)) for name in ("n1", "n2")}
    entries |= {f"instance/{name}": encode_entry(Instance(id=name, node="n1")) for name in instances}
    return Snapshot(Version(1, revision), entries)


def full(target: Snapshot) -> Update:
    return Update(whole(target), ring_of(target).digest)


def change(old: Snapshot, new: Snapshot) -> Update:
    return Update(diff(old, new), ring_of(new).digest)


@contextlib.asynccontextmanager
async def following(
    folder: Path,
    *registries: ScriptedRegistry,
    on_snapshot: Callable[[Snapshot], None] = lambda _: None,
    on_secrets: Callable[[Mapping[str, bytes]], None] | None = None,
) -> AsyncIterator[SnapshotSubscription]:
    file = SnapshotFile(folder / "snapshot", SEALER, now=lambda: 0.0)
    subscription = SnapshotSubscription(
        registries,
        file,
        on_snapshot=on_snapshot,
        on_secrets=on_secrets,
        now=lambda: 5.0,
        rng=random.Random(1),
    )
    task = asyncio.create_task(subscription.run())
    try:
        yield subscription
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_updates_are_applied_acknowledged_and_published(tmp_path: Path) -> None:
    registry, seen = ScriptedRegistry(), list[Snapshot]()
    first, second = snapshot(1, "n1/0"), snapshot(2, "n1/0", "n1/1")
    registry.put(full(first))
    registry.put(change(first, second))
    async with following(tmp_path, registry, on_snapshot=seen.append) as subscription:
        await eventually(lambda: len(registry.said) == 3)
        assert registry.said == [(None, ""), (first.version, ""), (second.version, "")]
        assert [one.version for one in seen] == [first.version, second.version]
        assert set(subscription.snapshot.instances) == {"n1/0", "n1/1"}
        assert subscription.status.up


async def test_secrets_are_taken_from_every_update_whatever_becomes_of_it(tmp_path: Path) -> None:
    registry, told = ScriptedRegistry(), list[Mapping[str, bytes]]()
    first = snapshot(1, "n1/0")
    wrong = Update(whole(snapshot(2)), b"another ring", {"a": b"2"})
    registry.put(Update(whole(first), ring_of(first).digest, {"a": b"1"}))
    registry.put(Update(diff(first, first), ring_of(first).digest))
    registry.put(wrong)
    async with following(tmp_path, registry, on_secrets=told.append):
        await eventually(lambda: len(registry.said) == 4)
    assert [rejected != "" for _, rejected in registry.said] == [False, False, False, True]
    assert told == [{"a": b"1"}, {"a": b"2"}]
    assert b"MQ==" not in SEALER.open((tmp_path / "snapshot").read_bytes(), "snapshot")


async def test_a_restarted_agent_has_its_snapshot_before_it_reaches_anyone(tmp_path: Path) -> None:
    registry = ScriptedRegistry()
    registry.put(full(snapshot(1, "n1/0")))
    async with following(tmp_path, registry):
        await eventually(lambda: len(registry.said) == 2)
    down = ScriptedRegistry(down=True)
    async with following(tmp_path, down) as subscription:
        assert set(subscription.snapshot.instances) == {"n1/0"}
        await eventually(lambda: "does not answer" in subscription.status.report().reason)
        assert not subscription.status.up
        down.down = False
        await eventually(lambda: down.said == [(Version(1, 1), "")])


async def test_another_registry_is_asked_when_one_does_not_answer(tmp_path: Path) -> None:
    registries = [
        ScriptedRegistry("r1:1", down=True),
        ScriptedRegistry("r2:1", down=True),
        ScriptedRegistry(),
    ]
    registries[2].put(full(snapshot(1)))
    async with following(tmp_path, *registries) as subscription:
        await eventually(lambda: subscription.snapshot.version == Version(1, 1))


async def test_a_wrong_base_is_rejected_and_a_whole_snapshot_taken_instead(tmp_path: Path) -> None:
    registry = ScriptedRegistry()
    first, second, third = snapshot(1), snapshot(2, "n1/0"), snapshot(3, "n1/1")
    registry.put(full(first))
    registry.put(change(second, third))
    registry.put(full(third))
    async with following(tmp_path, registry) as subscription:
        await eventually(lambda: len(registry.said) == 4)
        assert registry.said[2][0] == first.version
        assert "changes snapshot" in registry.said[2][1]
        assert subscription.snapshot.version == third.version


async def test_a_ring_that_differs_is_rejected_and_the_old_snapshot_stays(tmp_path: Path) -> None:
    registry = ScriptedRegistry()
    first, second = snapshot(1, "n1/0"), snapshot(2, "n1/1")
    registry.put(full(first))
    registry.put(Update(whole(second), ring_of(first).digest))
    async with following(tmp_path, registry) as subscription:
        await eventually(lambda: len(registry.said) == 3)
        assert "ring" in registry.said[2][1]
        assert subscription.snapshot.version == first.version


async def test_a_registry_that_only_sends_what_is_rejected_is_left(tmp_path: Path) -> None:
    registry = ScriptedRegistry()
    wrong = Update(whole(snapshot(2)), b"\0" * 32)
    for _ in range(MAX_REJECTIONS):
        registry.put(wrong)
    async with following(tmp_path, registry) as subscription:
        await eventually(lambda: registry.opened == 2)
        assert subscription.snapshot is EMPTY
        assert len([said for said in registry.said if said[1]]) == MAX_REJECTIONS


async def test_an_older_snapshot_never_replaces_a_newer_one(tmp_path: Path) -> None:
    registry = ScriptedRegistry()
    registry.put(full(snapshot(9)))
    registry.put(full(snapshot(8)))
    async with following(tmp_path, registry) as subscription:
        await eventually(lambda: len(registry.said) == 3)
        assert "goes back" in registry.said[2][1]
        assert subscription.snapshot.version == Version(1, 9)


async def test_a_stream_that_ends_is_opened_again_and_the_snapshot_stays(tmp_path: Path) -> None:
    registry = ScriptedRegistry()
    registry.put(full(snapshot(1)))
    registry.hang_up()
    async with following(tmp_path, registry) as subscription:
        await eventually(lambda: registry.opened == 2)
        assert registry.said[-1] in {(Version(1, 1), ""), (None, "")}
        assert subscription.snapshot.version == Version(1, 1)
