"""When a model that nobody is known to have may be there all the same."""

from __future__ import annotations

import pytest

from bridge_agent.engines.view import InstanceState, LocalInstance
from bridge_agent.routing.unheard import PATIENCE_S, Unheard
from bridge_agent.routing.view import Index
from bridge_core.snapshot import EMPTY, Instance, MemberModel, Node, Snapshot, Version, encode_entry

SOME = (MemberModel("x:latest"),)


def own(state: InstanceState = "ready", models: tuple[MemberModel, ...] = SOME) -> LocalInstance:
    return LocalInstance("me/0", "127.0.0.1", 1, state, models)


def snapshot(*documents: Node | Instance) -> Snapshot:
    entries = {}
    for one in documents:
        kind, name = ("node", one.name) if isinstance(one, Node) else ("instance", one.id)
        entries[f"{kind}/{name}"] = encode_entry(one)
    return Snapshot(Version(1, 1), entries)


def reason(mesh: Snapshot, local: LocalInstance | None = None, *, first: Snapshot = EMPTY) -> str:
    """What is said right after `mesh` came, to an agent that started with `first`."""
    instances = (local or own(),)
    unheard = Unheard(Index("me", first, instances), 0.0)
    unheard.follow(Index("me", mesh, instances), 1.0)
    return unheard.reason(1.0)


ME, PEER = Node("me", "me:1"), Node("peer", "peer:1")


@pytest.mark.parametrize(
    ("mesh", "local", "says"),
    [
        ((ME,), own(), ""),
        ((ME,), own("starting", ()), "me/0 is starting"),
        # It said so before it was started again.
        ((ME,), own("starting"), ""),
        ((ME,), own("ready", ()), ""),
        ((ME,), own("stopped", ()), ""),
        ((ME, PEER), own(), "node peer is not there yet"),
        ((ME, PEER, Instance("peer/0", "peer", models=SOME)), own(), ""),
        ((ME, PEER, Instance("peer/0", "peer")), own(), ""),
        ((ME, PEER, Instance("peer/0", "peer", state="starting")), own(), "peer/0 is starting"),
        ((ME, PEER, Instance("peer/0", "peer", state="starting", models=SOME)), own(), ""),
        # An admin took these out: nothing is expected of them.
        ((ME, Node("peer", "peer:1", state="drained")), own(), ""),
        ((ME, Node("peer", "peer:1", state="revoked")), own(), ""),
    ],
)
def test_what_has_yet_to_say_which_models_it_has(
    mesh: tuple[Node | Instance, ...], local: LocalInstance, says: str
) -> None:
    assert reason(snapshot(*mesh), local) == says


def test_a_snapshot_from_the_last_run_is_not_the_last_word() -> None:
    kept = snapshot(ME)
    assert "heard nothing of the mesh yet" in reason(kept, first=kept)
    assert reason(snapshot(ME), first=kept) == ""


def test_nothing_is_waited_for_for_ever() -> None:
    kept = snapshot(ME, PEER, Instance("peer/0", "peer", state="starting"))
    unheard = Unheard(Index("me", kept, (own("starting", ()),)), 10.0)
    assert unheard.reason(10.0 + PATIENCE_S - 0.1)
    # News of others are no reason to begin anew.
    unheard.follow(Index("me", kept, (own("starting", ()),)), 20.0)
    assert unheard.reason(10.0 + PATIENCE_S) == ""
    # One that went away is, once it has been there.
    unheard.follow(Index("me", snapshot(ME, PEER, Instance("peer/0", "peer")), (own(),)), 100.0)
    assert unheard.reason(100.0) == ""
    unheard.follow(Index("me", snapshot(ME, PEER), (own(),)), 200.0)
    assert unheard.reason(200.0) == "node peer is not there yet"
    assert unheard.reason(200.0 + PATIENCE_S) == ""


def test_without_any_snapshot_nothing_is_ever_known() -> None:
    unheard = Unheard(Index("me", EMPTY, (own(),)), 0.0)
    assert "no snapshot" in unheard.reason(0.0)
    assert "no snapshot" in unheard.reason(10 * PATIENCE_S)
