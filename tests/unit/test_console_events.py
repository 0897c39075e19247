"""What is told of the difference between two pictures, and by the feed that paints them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import msgspec
import pytest

from bridge_core.mesh_picture import (
    InstancePicture,
    MeshPicture,
    NodePicture,
    RegistryPicture,
    RolloutPicture,
    node_state,
    parts,
)
from bridge_registry.console.event_rules import happened
from bridge_registry.console.feed import CHANGES_KEPT, EVENTS_KEPT, Feed

ENGINE = InstancePicture("n1/0", "ready", "llamacpp", 4)
NODE = NodePicture("n1", "serving", version="1.0", address="n1:1", instances=(ENGINE,))
REGISTRY = RegistryPicture("lab", "r1", "1.0", True, "r1", "r1:1")
ROLLOUT = RolloutPicture("chat", "chat", "progressing", 0, 3, 0.0, 300.0, "", "old", "new")
PICTURE = MeshPicture(0.0, REGISTRY, (NODE,), rollouts=(ROLLOUT,))


def with_node(**changes: object) -> MeshPicture:
    return msgspec.structs.replace(PICTURE, nodes=(msgspec.structs.replace(NODE, **changes),))


def with_registry(**changes: object) -> MeshPicture:
    return msgspec.structs.replace(PICTURE, registry=msgspec.structs.replace(REGISTRY, **changes))


def with_rollout(**changes: object) -> MeshPicture:
    return msgspec.structs.replace(PICTURE, rollouts=(msgspec.structs.replace(ROLLOUT, **changes),))


@pytest.mark.parametrize(
    ("after", "kind", "level", "text"),
    [
        (with_node(state="away", instances=()), "node_away", "bad", "n1 is away"),
        (with_node(state="no engine", instances=()), "node_no_engine", "bad", "n1 has no engine"),
        (with_node(state="drained"), "node_drained", "info", "n1 is drained"),
        (with_node(state="revoked"), "node_revoked", "warn", "n1 is revoked"),
        (with_node(state="odd"), "node_state", "warn", "n1 is odd"),
        (with_node(rejected="digest"), "snapshot_refused", "bad", "n1 refused the snapshot: digest"),
        (with_node(silent_to={"n2": 5}), "peer_silent", "warn", "n1 gets no answer from n2"),
        (with_node(version="1.1"), "version", "info", "n1 runs 1.1, no longer 1.0"),
        (with_node(instances=()), "instance_gone", "bad", "n1/0 is off the ring"),
        (
            with_node(instances=(msgspec.structs.replace(ENGINE, state="starting"),)),
            "instance_state",
            "warn",
            "n1/0 is starting",
        ),
        (
            with_node(instances=(ENGINE, msgspec.structs.replace(ENGINE, id="n1/1"))),
            "instance_joined",
            "info",
            "n1/1 is on the ring",
        ),
        (msgspec.structs.replace(PICTURE, nodes=()), "node_left", "info", "n1 has left"),
        (
            msgspec.structs.replace(PICTURE, nodes=(NODE, msgspec.structs.replace(NODE, name="n2"))),
            "node_joined",
            "info",
            "n2 joined",
        ),
        (with_registry(leader="r2"), "leader", "info", "r2 leads"),
        (with_registry(leader=""), "no_leader", "bad", "no registry leads"),
        (with_registry(store_fault="for 3 s"), "etcd_away", "bad", "for 3 s"),
        (with_registry(concerns=("2 records",)), "concern", "warn", "2 records"),
        (with_rollout(step=1), "rollout_step", "info", "step 2 of 3"),
        (with_rollout(phase="paused", reason="by ann"), "rollout_phase", "warn", "is paused: by ann"),
        (with_rollout(phase="rolled-back"), "rollout_phase", "bad", "is rolled-back"),
        (with_rollout(phase="complete"), "rollout_phase", "info", "is complete"),
        (msgspec.structs.replace(PICTURE, rollouts=()), "rollout_gone", "info", "is gone"),
    ],
)
def test_each_change_is_told_once(after: MeshPicture, kind: str, level: str, text: str) -> None:
    (told,) = happened(PICTURE, after)
    assert (told.kind, told.level) == (kind, level)
    assert text in told.text
    assert happened(after, after) == []


def test_where_a_node_joined_is_told_as_far_as_it_is_known() -> None:
    def told(address: str) -> str:
        other = msgspec.structs.replace(NODE, name="n2", address=address)
        return happened(PICTURE, msgspec.structs.replace(PICTURE, nodes=(NODE, other)))[0].text

    assert told("n2:1") == "n2 joined at n2:1"
    assert told("") == "n2 joined at no address"


def test_what_is_mended_is_told_too() -> None:
    def kinds(before: MeshPicture) -> list[str]:
        return [one.kind for one in happened(before, PICTURE)]

    assert kinds(with_node(state="away")) == ["node_serves"]
    assert kinds(with_node(silent_to={"n2": 5})) == ["peer_answers"]
    assert kinds(with_registry(store_fault="for 3 s")) == ["etcd_back"]
    assert kinds(with_registry(concerns=("x",))) == ["concern_over"]
    assert kinds(msgspec.structs.replace(PICTURE, rollouts=())) == ["rollout"]


def test_figures_that_move_are_no_events() -> None:
    busy = with_node(in_flight=9, requests_per_s=3.0, since_unix=7, expires_unix=8)
    assert happened(PICTURE, busy) == []
    assert happened(with_registry(store_fault="for 3 s"), with_registry(store_fault="for 4 s")) == []
    assert (
        happened(with_registry(concerns=("away for 3 s",)), with_registry(concerns=("away for 4 s",))) == []
    )


def test_who_begins_to_lead_tells_nothing_that_it_hears_only_now() -> None:
    away = msgspec.structs.replace(NODE, state="away", instances=())
    deaf = msgspec.structs.replace(with_registry(leads=False, leader="r2"), nodes=(away,))
    assert [one.kind for one in happened(deaf, PICTURE)] == ["leader"]
    empty = msgspec.structs.replace(deaf, nodes=())
    assert [one.kind for one in happened(empty, PICTURE)] == ["leader", "node_joined"]


@pytest.mark.parametrize(
    ("recorded", "instances", "reports", "state"),
    [
        ("active", True, True, "serving"),
        ("active", True, False, "serving"),
        ("active", False, True, "no engine"),
        ("active", False, False, "away"),
        ("drained", True, True, "drained"),
        ("revoked", True, False, "revoked"),
    ],
)
def test_a_nodes_state_in_a_word(recorded: str, *, instances: bool, reports: bool, state: str) -> None:
    assert node_state(recorded, instances=instances, reports=reports) == state


def painted(pictures: Iterator[MeshPicture]) -> Feed:
    return Feed(lambda: next(pictures), wall=lambda: 42.0)


def test_a_feed_numbers_what_changed() -> None:
    again = with_node(in_flight=1)
    feed = painted(iter([PICTURE, PICTURE, again, with_node(state="away", instances=())]))
    feed.look()
    assert (feed.number, feed.parts, list(feed.events)) == (1, parts(PICTURE), [])
    feed.look()
    assert feed.number == 1
    feed.look()
    assert (feed.number, feed.since(1), feed.since(2)) == (2, frozenset({"node/n1"}), frozenset())
    feed.look()
    assert feed.since(0) == parts(PICTURE).keys()
    (event,) = feed.events
    assert (event.id, event.at_unix, event.kind, event.subject) == (1, 42.0, "node_away", "node/n1")
    assert feed.events_after(0) == [event]
    assert feed.events_after(1) == []
    assert feed.events_after(7) == [event], "an id of another life means all"
    assert feed.since(9) is None, "a picture of another life, too"


def test_what_is_too_old_is_not_remembered() -> None:
    many = EVENTS_KEPT + 3
    feed = painted(with_node(state="away" if turn % 2 else "serving") for turn in range(many))
    for _ in range(many):
        feed.look()
    assert len(feed.events) == EVENTS_KEPT
    assert feed.events[-1].id == many - 1
    assert feed.since(feed.number - CHANGES_KEPT) == frozenset({"node/n1"})
    assert feed.since(feed.number - CHANGES_KEPT - 1) is None


async def test_who_waits_is_woken_by_news_alone() -> None:
    feed = painted(iter([PICTURE, PICTURE, with_node(in_flight=3)]))
    feed.look()
    await feed.news(0.001)  # nothing: it returns by itself
    waiting = asyncio.create_task(feed.news(60.0))
    await asyncio.sleep(0)
    feed.look()
    await asyncio.sleep(0)
    assert not waiting.done()
    feed.look()
    await waiting
