"""Where the rest of a stream is asked for: never outside of its route, first where a slot is free."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.routing.choose import Load
from bridge_agent.routing.resume import ContinuationPlace, better, places, renders_only
from bridge_agent.routing.resume.plan import ResumableRequest, render_body
from bridge_agent.routing.view import Index
from bridge_core.names import canonical
from bridge_core.snapshot import (
    Backend,
    Instance,
    MemberModel,
    Node,
    Route,
    Snapshot,
    Version,
    encode_entry,
)

X = canonical("x")
SOUGHT = ContinuationPlace(X, "d1")


def mesh(instances: dict[str, dict[str, Any]], *routes: Route) -> Index:
    """Instances by node name, each with two slots and the model x of digest d1 unless it says otherwise."""
    entries = {}
    for name, fields in instances.items():
        labels = fields.pop("labels", {})
        model = MemberModel("x", fields.pop("digest", "d1"))
        given_ = {"models": (model,), "slots": 2, **fields}
        entries[f"instance/{name}/0"] = encode_entry(Instance(f"{name}/0", name, **given_))
        entries[f"node/{name}"] = encode_entry(Node(name, f"{name}:1", labels=labels))
    entries |= {f"route/{route.name}": encode_entry(route) for route in routes}
    return Index("me", Snapshot(Version(1, 1), entries), ())


def three() -> dict[str, dict[str, Any]]:
    return {name: {} for name in "abc"}


def names(index: Index, sought: ContinuationPlace = SOUGHT, load: Load | None = None, *avoided: str) -> str:
    return "".join(one.node for one in places(index, sought, load or Load({}), avoided))


def test_who_has_a_free_slot_comes_first_and_the_least_busy_before_the_others() -> None:
    assert names(mesh(three()), load=Load({"a/0": 2, "b/0": 1})) == "cba"
    assert names(mesh(three()), load=Load({"a/0": 5, "b/0": 3, "c/0": 4})) == "bca"


def test_a_model_in_memory_goes_before_one_on_disk_but_not_before_a_free_slot() -> None:
    nodes = three() | {"c": {"loaded": ("x",)}}
    assert names(mesh(nodes)) == "cab"
    nodes = three() | {"c": {"loaded": ("x",)}}
    assert names(mesh(nodes), load=Load({"c/0": 2})) == "abc"


def test_where_it_died_a_moment_ago_it_is_not_asked_for() -> None:
    assert names(mesh(three()), SOUGHT, None, "a/0", "c/0") == "b"


def test_only_the_same_model_will_do() -> None:
    nodes = three() | {"b": {"digest": "d2"}}
    assert names(mesh(nodes)) == "ac"
    assert names(mesh({"a": {"digest": "d2"}})) == ""
    assert names(mesh(three()), ContinuationPlace(canonical("nobody-has-it"))) == ""


def test_those_that_do_not_answer_come_last_and_those_ejected_before_them() -> None:
    down = {"a": 1.0}
    ejected = {"b/0": 1.0}
    load = Load({"c/0": 9}, lambda subject: ejected.get(subject, 0.0), lambda subject: down.get(subject, 0.0))
    assert names(mesh(three()), load=load) == "cba"


def test_those_that_fall_together_with_the_dead_come_after_the_others() -> None:
    nodes = three() | {"a": {"failure_domain": "gpu0"}}
    assert names(mesh(nodes), ContinuationPlace(X, "d1", domain="gpu0")) == "bca"


def test_what_narrows_a_backend_holds_for_the_rest() -> None:
    route = Route(
        "r", (Backend("x", name="own", instances=("a/0",)), Backend("x", name="other", labels={"z": "1"}))
    )
    nodes = three() | {"b": {"labels": {"z": "1"}}}
    sought = ContinuationPlace(X, "d1", "r", "own")
    assert names(mesh(nodes, route), sought) == "ab"
    nodes = three() | {"b": {"labels": {"z": "1"}}}
    assert names(mesh(nodes, route), ContinuationPlace(X, "d1", "r", "other")) == "ba"
    nodes = three() | {"b": {"labels": {"z": "1"}}}
    assert names(mesh(nodes, route), sought, None, "a/0") == "b"


def test_the_backends_of_a_fallback_narrow_too() -> None:
    routes = (Route("r", (Backend("gone"),), fallback="f"), Route("f", (Backend("x", instances=("c/0",)),)))
    assert names(mesh(three(), *routes), ContinuationPlace(X, "d1", "r", "x")) == "c"


def test_a_route_that_is_gone_narrows_nothing() -> None:
    assert names(mesh(three()), ContinuationPlace(X, "d1", "r", "own")) == "abc"
    other = Route("r", (Backend("y"),))
    assert names(mesh(three(), other), ContinuationPlace(X, "d1", "r", "own")) == "abc"


def test_who_waits_goes_where_a_slot_is_free() -> None:
    index = mesh(three())
    waits = {"a/0": 3, "b/0": 2, "c/0": 2}
    assert not better(index, SOUGHT, Load(waits), "a/0")
    assert better(index, SOUGHT, Load(waits | {"c/0": 1}), "a/0")
    assert not better(index, SOUGHT, Load(waits | {"c/0": 1}), "a/0", {"c/0"})
    assert not better(index, SOUGHT, Load({"a/0": 2}), "a/0"), "it runs there: nobody waits"
    ejected = Load(waits | {"c/0": 0}, lambda subject: float(subject == "c/0"))
    assert not better(index, SOUGHT, ejected, "a/0"), "nobody goes to one that just failed"


def test_who_waits_at_its_own_backend_stays_there() -> None:
    """Were it to leave, it would be sent back there at once."""
    route = Route("r", (Backend("x", name="own", instances=("a/0",)), Backend("x", name="b", weight=1)))
    index = mesh(three(), route)
    sought = ContinuationPlace(X, "d1", "r", "own")
    assert places(index, sought, Load({"a/0": 3}))[0].id == "a/0"
    assert not better(index, sought, Load({"a/0": 3}), "a/0")


@given(st.lists(st.integers(0, 6), min_size=3, max_size=3), st.sampled_from(["a/0", "b/0", "c/0"]))
def test_going_elsewhere_always_helps(work: list[int], asked: str) -> None:
    """Whoever moves finds a free slot, so nobody moves to and fro."""
    index = mesh(three())
    load = Load(dict(zip(("a/0", "b/0", "c/0"), work, strict=True)))
    if better(index, SOUGHT, load, asked):
        first = places(index, SOUGHT, load)[0]
        assert first.id != asked
        assert load.work[first.id] < first.slots
        assert load.work[asked] > index.targets[asked].slots


def test_only_a_request_to_render_needs_no_slot() -> None:
    asked = render_body(ResumableRequest("/api/chat", {"model": "x", "messages": []}))
    assert asked is not None
    assert renders_only(asked)
    for body in (
        b'{"model":"x","options":{"_debug_render_only":true}}',
        b'{"_debug_render_only":true,"_Debug_Render_Only":false}',
        b'{"_debug_render_only":false}',
        b'{"prompt":"\\"_debug_render_only\\":true}"}',
        b"",
    ):
        assert not renders_only(body)
