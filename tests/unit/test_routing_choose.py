"""Where a request goes: eligibility, order, bounded load, panic, routes and fallbacks."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_agent.engines.view import LocalInstance
from bridge_agent.routing.affinity import affinity_key
from bridge_agent.routing.choose import MAX_CANDIDATES, Load, choose, named_choice
from bridge_agent.routing.replay_rules import Past, replay, tally
from bridge_agent.routing.view import Index, MeshView, Target
from bridge_core.names import canonical
from bridge_core.snapshot import (
    Backend,
    Instance,
    LoadingModel,
    MemberModel,
    MeshConfig,
    Node,
    Route,
    RoutePolicy,
    Snapshot,
    Version,
    encode_entry,
)
from bridge_core.traffic import Outlier, split

X = canonical("x")
IDLE = Load({})


def snapshot(
    instances: dict[str, dict[str, Any]],
    nodes: dict[str, dict[str, Any]] | None = None,
    routes: tuple[Route, ...] = (),
) -> Snapshot:
    """Instances by node name; each has the model x unless it says otherwise."""
    entries = {}
    for name, fields in instances.items():
        models = tuple(MemberModel(model) for model in fields.pop("models", ("x:latest",)))
        entries[f"instance/{name}/0"] = encode_entry(Instance(f"{name}/0", name, models=models, **fields))
        node = {"peer": f"{name}:11445", **(nodes or {}).get(name, {})}
        entries[f"node/{name}"] = encode_entry(Node(name, **node))
    for route in routes:
        entries[f"route/{route.name}"] = encode_entry(route)
    return Snapshot(Version(1, 1), entries)


def index(*args: Any, own: str = "me", local: tuple[LocalInstance, ...] = (), **more: Any) -> Index:
    return Index(own, snapshot(*args, **more), local)


def names(decision: Any) -> list[str]:
    return [target.node for target in decision.candidates]


def skipped(decision: Any) -> dict[str, str]:
    return {one.instance: one.reason for one in decision.skipped}


def five() -> dict[str, dict[str, Any]]:
    return {name: {} for name in "abcde"}


def test_the_order_is_the_rings() -> None:
    mesh = index(five())
    for number in range(50):
        key = f"k{number}".encode()
        order = [id_.partition("/")[0] for id_ in mesh.ring.lookup(key)]
        assert names(choose(mesh, X, key, IDLE)) == order[:MAX_CANDIDATES]


def test_the_ring_is_followed_no_further_than_there_are_candidates() -> None:
    """Compiled, a generator expression is a list: of a mesh of a thousand that would be the whole ring."""

    class Counted(dict[str, Target]):
        asked = 0

        def __getitem__(self, id_: str) -> Target:
            self.asked += 1
            return super().__getitem__(id_)

    mesh = index({f"n{number}": {"loaded": ("x:latest",)} for number in range(40)})
    pool = mesh.pool(X)
    assert pool is not None
    counted = Counted(pool.targets)
    mesh._pools[X] = msgspec.structs.replace(pool, targets=counted)
    assert len(choose(mesh, X, b"key", IDLE).candidates) == MAX_CANDIDATES
    assert 0 < counted.asked <= MAX_CANDIDATES


@given(st.integers(0, 99), st.sets(st.sampled_from("abcde")))
def test_who_has_the_model_in_memory_comes_before_who_would_have_to_load_it(
    number: int, having: set[str]
) -> None:
    """Who has not loaded it has nothing cached of any conversation."""
    mesh = index({name: {"loaded": ("x:latest",) if name in having else ()} for name in "abcde"})
    key = f"k{number}".encode()
    order = [id_.partition("/")[0] for id_ in mesh.ring.lookup(key)]
    found = names(choose(mesh, X, key, IDLE))
    if order[0] in having or not having:
        assert found == order[:MAX_CANDIDATES]
    else:
        # The same one for all turns of a conversation, whichever has it loaded.
        assert found[0] == next(name for name in order if name in having)
    assert len(found) == len(set(found)) == MAX_CANDIDATES


def test_one_that_is_too_busy_does_not_keep_the_others_from_loading_the_model() -> None:
    mesh = index({name: {"loaded": ("x:latest",) if name == "a" else ()} for name in "abcde"})
    for number in range(20):
        assert names(choose(mesh, X, b"%d" % number, Load({"a/0": 40})))[0] != "a"


def test_an_unknown_model_is_not_known() -> None:
    decision = choose(index(five()), canonical("nope"), b"k", IDLE)
    assert (decision.known, decision.candidates) == (False, ())


@pytest.mark.parametrize(
    ("fields", "node", "reason"),
    [
        ({"state": "draining"}, {}, "instance is draining"),
        ({"state": "starting"}, {}, "instance is starting"),
        ({}, {"state": "drained"}, "node is drained"),
        ({}, {"state": "revoked"}, "node is revoked"),
        ({}, {"peer": ""}, "node has no peer address"),
    ],
)
@pytest.mark.parametrize("others", [{}, {"b": {}}])
def test_who_is_not_eligible_is_named_with_the_reason(
    fields: dict[str, Any], node: dict[str, Any], reason: str, others: dict[str, Any]
) -> None:
    mesh = index({"a": dict(fields), **{name: {} for name in others}}, {"a": node})
    decision = choose(mesh, X, b"k", IDLE)
    assert names(decision) == list(others)
    assert decision.known
    assert skipped(decision)["a/0"] == reason


def test_an_instance_of_a_node_that_is_not_enrolled_is_skipped() -> None:
    entries = {"instance/a/0": encode_entry(Instance("a/0", "a", models=(MemberModel("x"),)))}
    decision = choose(Index("me", Snapshot(Version(1, 1), entries), ()), X, b"k", IDLE)
    assert skipped(decision) == {"a/0": "node is not enrolled"}


def local(
    id_: str, *, state: Any = "ready", port: int = 5, models: tuple[str, ...] = ("x",)
) -> LocalInstance:
    return LocalInstance(id_, "127.0.0.1", port, state, tuple(MemberModel(model) for model in models))


def differing(*digests: tuple[str, str], state: Any = None, drained: str = "", own: str = "me") -> Index:
    """Nodes with the model x of a digest each; the own one has an instance in this state."""
    entries, mine = {}, ()
    for node, digest in digests:
        models = (MemberModel("x", digest),)
        entries[f"instance/{node}/0"] = encode_entry(Instance(f"{node}/0", node, models=models))
        state_of = "drained" if node == drained else "active"
        entries[f"node/{node}"] = encode_entry(Node(node, f"{node}:11445", state_of))
        if node == own:
            mine = (LocalInstance(f"{own}/0", "127.0.0.1", 5, state or "ready", models),)
    return Index(own, Snapshot(Version(1, 1), entries), mine)


def test_others_by_the_same_name_are_no_candidates_and_named_with_their_digest() -> None:
    decision = choose(differing(("me", "new"), ("b", "old"), ("c", "new")), X, b"k", IDLE)
    assert set(names(decision)) == {"me", "c"}
    assert skipped(decision) == {"b/0": "has other weights by this name: digest old, new is meant here"}
    alone = choose(differing(("me", "new"), ("b", "old"), ("c", "old")), X, b"k", IDLE)
    assert (names(alone), set(skipped(alone))) == (["me"], {"b/0", "c/0"})


def test_a_node_whose_engine_starts_again_does_not_turn_to_other_weights() -> None:
    restarting = choose(differing(("me", "new"), ("b", "old"), state="starting"), X, b"k", IDLE)
    assert (names(restarting), restarting.known) == ([], True)
    stopped = choose(differing(("me", "new"), ("b", "old"), state="stopped"), X, b"k", IDLE)
    assert names(stopped) == ["b"]
    drained = choose(differing(("me", "new"), ("b", "old"), drained="me"), X, b"k", IDLE)
    assert names(drained) == ["b"]


def test_over_a_hop_the_other_node_says_which_instance_is_meant() -> None:
    mesh = differing(("me", "new"), ("b", "old"), ("c", "old"))
    found = named_choice(mesh, X, "me/0")
    assert found is not None
    assert names(found) == ["me"]


def test_a_narrowed_backend_means_what_its_own_part_of_the_mesh_has() -> None:
    mesh = differing(("a", "old"), ("b", "old"), ("c", "new"))
    route = Route("r", (Backend("x", instances=("c/0",)),))
    entries = {**mesh.snapshot.entries, "route/r": encode_entry(route)}
    decision = choose(Index("me", Snapshot(Version(1, 2), entries), ()), canonical("r"), b"k", IDLE)
    assert names(decision) == ["c"]
    assert skipped(decision)["a/0"] == "not an instance of this backend"


@given(digests=st.lists(st.sampled_from(["one", "two"]), min_size=2, max_size=6), number=st.integers(0, 99))
@settings(max_examples=50)
def test_where_all_agree_the_ring_is_as_if_digests_were_unknown(digests: list[str], number: int) -> None:
    same = differing(*((f"n{at}", "one") for at in range(len(digests))))
    unknown = differing(*((f"n{at}", "") for at in range(len(digests))))
    key = f"k{number}".encode()
    assert names(choose(same, X, key, IDLE)) == names(choose(unknown, X, key, IDLE))
    mixed = choose(differing(*((f"n{at}", digest) for at, digest in enumerate(digests))), X, key, IDLE)
    assert len({digests[int(name[1:])] for name in names(mixed)}) == 1


def test_about_its_own_node_the_supervisor_is_right() -> None:
    mesh = index({"me": {}, "b": {"models": ("y",)}}, local=(local("me/0", state="starting"),))
    assert skipped(choose(mesh, X, b"k", IDLE)) == {"me/0": "instance is starting"}
    gone = index({"me": {}})
    assert not choose(gone, X, b"k", IDLE).known
    fresh = index({}, local=(local("me/0"),))
    assert [t.address for t in choose(fresh, X, b"k", IDLE).candidates] == ["127.0.0.1:5"]


def test_a_forwarded_request_stays_on_this_node() -> None:
    mesh = index(five(), own="a", local=(local("a/0"), local("a/1")))
    decision = choose(mesh, X, b"k", IDLE, only_local=True)
    assert {target.id for target in decision.candidates} == {"a/0", "a/1"}
    assert set(skipped(decision).values()) == {"not of this node"}


def test_who_is_ejected_is_skipped_until_nobody_is_left() -> None:
    mesh = index(five())
    first = names(choose(mesh, X, b"k", IDLE))
    load = Load({}, lambda subject: float(subject == first[0]))
    assert names(choose(mesh, X, b"k", load))[:2] == first[1:3]
    assert skipped(choose(mesh, X, b"k", load))[f"{first[0]}/0"] == "ejected after failures"
    panic = choose(mesh, X, b"k", Load({}, lambda _subject: 1.0))
    assert panic.panic
    assert names(panic) == first


def test_an_ejected_instance_is_skipped_by_its_own_id() -> None:
    mesh = index(five())
    first = choose(mesh, X, b"k", IDLE).candidates[0].id
    assert choose(mesh, X, b"k", Load({}, lambda subject: float(subject == first))).candidates[0].id != first


@settings(max_examples=60)
@given(
    st.dictionaries(st.sampled_from([f"{name}/0" for name in "abcde"]), st.integers(1, 40)),
    st.binary(min_size=1, max_size=8),
)
def test_the_first_choice_is_never_over_its_bound(counts: dict[str, int], key: bytes) -> None:
    mesh = index(five())
    first = choose(mesh, X, key, Load(counts)).candidates[0]
    total = sum(counts.values())
    assert counts.get(first.id, 0) < 1.25 * (total + 1) / 5 + 1


def test_who_is_over_its_bound_is_the_last_resort() -> None:
    mesh = index({"a": {}, "b": {}})
    key = next(k for k in (b"%d" % n for n in range(99)) if names(choose(mesh, X, k, IDLE))[0] == "a")
    decision = choose(mesh, X, key, Load({"a/0": 9}))
    assert names(decision) == ["b", "a"]
    assert skipped(decision) == {"a/0": "over its bounded share"}


def test_a_choice_of_a_key_is_the_same_at_every_node() -> None:
    for number in range(20):
        key = b"%d" % number
        decisions = {tuple(names(choose(index(five(), own=own), X, key, IDLE))) for own in ("m", "n")}
        assert len(decisions) == 1


# -- routes


def test_a_routes_shares_are_its_weights() -> None:
    route = Route("r", (Backend("one", 70), Backend("two", 20), Backend("three", 10), Backend("off", 0)))
    shares = Counter(split(route, b"%d" % number)[0].model for number in range(10_000))
    assert shares.keys() == {"one", "two", "three"}
    for model, share in (("one", 0.7), ("two", 0.2), ("three", 0.1)):
        assert abs(shares[model] / 10_000 - share) < 0.01


def test_a_routes_choice_sticks_to_the_key() -> None:
    route = Route("r", (Backend("one", 50), Backend("two", 50)))
    assert all(split(route, b"k") == split(route, b"k") for _ in range(5))
    assert sorted(backend.model for backend in split(route, b"k")) == ["one", "two"]


def test_a_route_with_nobody_for_one_backend_uses_the_other() -> None:
    route = Route("r", (Backend("gone", 99), Backend("x", 1)), RoutePolicy(deadline_s=7.0))
    decision = choose(index(five(), routes=(route,)), canonical("r"), b"k", IDLE)
    assert (decision.model, decision.rewritten, decision.route, decision.policy.deadline_s) == (
        X,
        "x",
        "r",
        7.0,
    )


def test_a_backend_on_trial_has_another_to_spare() -> None:
    route = Route("chat", (Backend("x", 90), Backend("y", 10, on_trial=True)))
    two = {"a": {"models": ("x:latest", "y:latest")}, "b": {"models": ("x:latest",)}}
    one = index(two, routes=(route,))
    decisions = [choose(one, canonical("chat"), str(number).encode(), IDLE) for number in range(200)]
    for decision in decisions:
        if decision.backend == "x":
            assert decision.spare is None
        else:
            assert decision.spare is not None
            assert (decision.spare.backend, decision.spare.rewritten) == ("x", "x")
            assert set(names(decision.spare)) == {"a", "b"}
    assert {decision.backend for decision in decisions} == {"x", "y"}


def test_a_backend_on_trial_that_nobody_can_stand_in_for_serves_alone() -> None:
    route = Route("chat", (Backend("gone", 90), Backend("y", 10, on_trial=True)))
    decision = choose(index({"a": {"models": ("y:latest",)}}, routes=(route,)), canonical("chat"), b"k", IDLE)
    assert (decision.backend, decision.spare) == ("y", None)
    assert names(decision) == ["a"]


def test_fallbacks_are_followed_through_routes_and_never_in_circles() -> None:
    routes = (
        Route("r", (Backend("gone"),), fallback="s"),
        Route("s", (Backend("gone"),), fallback="x"),
        Route("circle", (Backend("gone"),), fallback="round"),
        Route("round", (Backend("gone"),), fallback="circle"),
    )
    mesh = index(five(), routes=routes)
    assert choose(mesh, canonical("r"), b"k", IDLE).model == X
    assert not choose(mesh, canonical("circle"), b"k", IDLE).candidates


def test_a_route_of_weight_zero_serves_nobody() -> None:
    decision = choose(index(five(), routes=(Route("r", (Backend("x", 0),)),)), canonical("r"), b"k", IDLE)
    assert (decision.known, decision.candidates) == (True, ())


# -- the view


def test_a_view_replaces_its_index_as_a_whole() -> None:
    view = MeshView("me")
    seen: list[Index] = []
    view.subscribe(seen.append)
    view.publish(snapshot(five()))
    before = view.index
    view.publish_local((local("me/0"),))
    assert view.index is not before
    assert before.pool(X) is not None
    assert len(before.pool(X).targets) == 5  # type: ignore[union-attr]
    assert len(view.index.pool(X).targets) == 6  # type: ignore[union-attr]
    assert seen == [before, view.index]


def test_names_that_no_request_can_spell_are_left_out() -> None:
    mesh = index({"a": {"models": ("bad name!", "x")}}, routes=(Route("also bad!", (Backend("x"),)),))
    assert list(mesh.models) == [X]
    assert mesh.routes == {}


# -- affinity


def raw(**fields: Any) -> dict[str, Any]:
    return {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()}


def key(fields: dict[str, Any], session: bytes | None = None) -> bytes:
    return affinity_key(X, fields, session=session, client=b"1.2.3.4")


SYSTEM = {"role": "system", "content": "be brief"}
FIRST = {"role": "user", "content": "hello"}
LATER = [{"role": "assistant", "content": "hi"}, {"role": "user", "content": "more"}]


def test_the_key_of_a_conversation_stays_from_turn_to_turn() -> None:
    start = key(raw(messages=[SYSTEM, FIRST]))
    assert key(raw(messages=[SYSTEM, FIRST, *LATER])) == start
    assert key(raw(messages=[FIRST])) != start
    assert key(raw(messages=[SYSTEM, {**FIRST, "content": "other"}])) != start
    assert key(raw(messages=[FIRST], system="be brief")) != key(raw(messages=[FIRST]))


def test_a_session_overrides_the_conversation() -> None:
    assert key(raw(messages=[FIRST]), b"s") == key(raw(prompt="other"), b"s")


def test_a_prompt_counts_by_its_beginning() -> None:
    assert key(raw(prompt="p" * 600 + "a")) == key(raw(prompt="p" * 600 + "b"))
    assert key(raw(prompt="a")) != key(raw(prompt="b"))


@pytest.mark.parametrize("fields", [{}, {"messages": []}, {"prompt": ""}, {"prompt": None}])
def test_without_a_conversation_the_client_is_the_key(fields: dict[str, Any]) -> None:
    assert key(raw(**fields)) == affinity_key(X, {}, session=None, client=b"1.2.3.4")
    assert key(raw(**fields)) != affinity_key(X, {}, session=None, client=b"1.2.3.5")


@pytest.mark.parametrize("messages", [[1, 2], ["a"], "text", {"a": 1}, [None]])
def test_odd_messages_have_a_key_too(messages: Any) -> None:
    assert key(raw(messages=messages))


def test_a_conversation_has_one_key_in_every_api_and_however_it_is_written() -> None:
    first = "What is the capital of France?"
    ollama = raw(messages=[{"role": "system", "content": "be brief"}, {"role": "user", "content": first}])
    openai_parts = raw(
        messages=[
            {"content": [{"type": "text", "text": "be brief"}], "role": "system"},
            {"content": [{"type": "text", "text": first}], "role": "user", "name": "x"},
        ]
    )
    anthropic = raw(system="be brief", messages=[{"role": "user", "content": first}])
    anthropic_parts = raw(
        system=[{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}],
        messages=[{"role": "user", "content": [{"type": "text", "text": first}]}],
    )
    spaced = {"messages": msgspec.Raw(msgspec.json.format(bytes(ollama["messages"]), indent=4))}
    responses = raw(instructions="be brief", input=[{"role": "user", "content": first}])
    keys = {key(one) for one in (ollama, openai_parts, anthropic, anthropic_parts, spaced, responses)}
    assert len(keys) == 1
    later = raw(system="be brief", messages=[{"role": "user", "content": first}, *LATER])
    assert key(later) in keys


@pytest.mark.parametrize(
    ("affinity", "same_client", "same_talk"),
    [
        ("conversation", False, True),
        ("session", True, False),
        ("client", True, False),
        ("none", False, False),
    ],
)
def test_an_affinity_says_what_keeps_requests_together(
    affinity: Any, same_client: bool, same_talk: bool
) -> None:
    def make(talk: str, client: bytes, nonce: bytes) -> bytes:
        fields = raw(messages=[{"role": "user", "content": talk}])
        return affinity_key(X, fields, session=None, client=client, affinity=affinity, nonce=nonce)

    assert (make("one", b"c", b"1") == make("two", b"c", b"2")) is same_client
    assert (make("one", b"c", b"1") == make("one", b"d", b"2")) is same_talk


# -- strategies and policies


def test_a_route_and_the_mesh_say_how_an_instance_is_chosen() -> None:
    entries = snapshot(five()).entries
    entries["mesh"] = encode_entry(MeshConfig(defaults=RoutePolicy(strategy="round_robin")))
    entries["route/r"] = encode_entry(Route("r", (Backend("x"),), RoutePolicy(strategy="least_request")))
    mesh = Index("me", Snapshot(Version(1, 1), entries), ())
    load = Load({})
    assert sorted(names(choose(mesh, X, b"k", load))[0] for _ in range(5)) == list("abcde")
    decision = choose(mesh, canonical("r"), b"k", Load({"a/0": 1, "b/0": 1, "c/0": 1, "d/0": 1}))
    assert (decision.strategy, names(decision)[0], decision.work[0]) == ("least_request", "e", 0)


def test_a_backend_takes_its_own_instances_only() -> None:
    labelled = Backend("x", labels={"gpu": "h200"}, name="fast")
    named = Backend("x", instances=("b/0", "gone/0"), name="named")
    nodes = {"a": {"labels": {"gpu": "h200"}}, "b": {}, "c": {}}
    routes = (Route("r", (labelled,)), Route("s", (named,)))
    mesh = index({name: {} for name in "abc"}, nodes, routes)
    decision = choose(mesh, canonical("r"), b"k", IDLE)
    assert (names(decision), decision.backend) == (["a"], "fast")
    assert set(skipped(decision).values()) == {"its node lacks the backend's labels"}
    assert names(choose(mesh, canonical("s"), b"k", IDLE)) == ["b"]


def test_backends_of_one_model_each_have_their_own_turns() -> None:
    policy = RoutePolicy(strategy="round_robin")
    sides = tuple(Backend("x", labels={"side": side}, name=side) for side in ("left", "right"))
    nodes = {name: {"labels": {"side": "left" if name < "c" else "right"}} for name in "abcd"}
    routes = tuple(Route(side.name, (side,), policy) for side in sides)
    mesh, load = index({name: {} for name in "abcd"}, nodes, routes), Load({})
    counts = Counter(
        names(choose(mesh, canonical(side), b"k", load))[0] for _ in range(100) for side in ("left", "right")
    )
    assert counts == dict.fromkeys("abcd", 50)


def test_the_bound_of_a_narrowed_backend_is_of_its_own_instances() -> None:
    mesh_of_ten = {f"n{at}": {} for at in range(10)}
    backend = Backend("x", instances=("n0/0", "n1/0"))
    mesh = index(mesh_of_ten, routes=(Route("r", (backend,)),))
    work = {"n0/0": 8, "n1/0": 2}
    first = {names(choose(mesh, canonical("r"), b"%d" % key, Load(work)))[0] for key in range(50)}
    assert first == {"n1"}


def test_those_that_are_down_make_no_room_for_others() -> None:
    mesh = index({name: {} for name in "abc"})
    load = Load({"a/0": 6, "b/0": 4}, None, lambda subject: float(subject == "c"))
    first = {names(choose(mesh, X, b"%d" % key, load))[0] for key in range(50)}
    assert first == {"a", "b"}  # over a third of the work each, under its five eighths of what there is
    load = Load({"a/0": 8, "b/0": 2}, None, lambda subject: float(subject == "c"))
    assert {names(choose(mesh, X, b"%d" % key, load))[0] for key in range(50)} == {"b"}


def test_a_route_says_how_slowly_its_instances_start() -> None:
    def shares_at(age_s: float, slow_start_s: float) -> Counter[str]:
        policy = RoutePolicy(strategy="round_robin", slow_start_s=slow_start_s)
        mesh = index({name: {} for name in "ab"}, routes=(Route("r", (Backend("x"),), policy),))
        assert mesh.slow_start_s == max(slow_start_s, mesh.defaults.slow_start_s)
        load = Load({}, ages={"b/0": age_s})
        return Counter(names(choose(mesh, canonical("r"), b"k", load))[0] for _ in range(90))

    assert shares_at(5.0, 10.0) == {"a": 60, "b": 30}
    assert shares_at(30.0, 60.0) == {"a": 60, "b": 30}
    assert shares_at(5.0, 0.0) == {"a": 45, "b": 45}


def test_a_route_with_a_model_that_is_down_is_not_a_route_to_nowhere() -> None:
    down = {"a": {"state": "starting", "models": ("x:latest", "y:latest")}}
    for route in (
        Route("r", (Backend("nope", 99), Backend("x", 1))),
        Route("r", (Backend("nope"),), fallback="y"),
    ):
        mesh = index({name: dict(fields) for name, fields in down.items()}, routes=(route,))
        decisions = [choose(mesh, canonical("r"), b"%d" % key, IDLE) for key in range(20)]
        assert {(decision.known, decision.candidates) for decision in decisions} == {(True, ())}
    mesh = index(five(), routes=(Route("r", (Backend("nope"), Backend("neither")), fallback="nor"),))
    assert not choose(mesh, canonical("r"), b"k", IDLE).known


def test_never_more_than_the_share_is_ejected_and_those_nearly_over_come_back() -> None:
    left = {"a/0": 1.0, "b/0": 3.0, "c/0": 2.0}
    policy = RoutePolicy(outlier=Outlier(max_ejected=0.4, panic_threshold=0.2), strategy="least_request")
    mesh = index(five(), routes=(Route("r", (Backend("x"),), policy),))
    decision = choose(mesh, canonical("r"), b"k", Load({}, lambda subject: left.get(subject, 0.0)))
    assert sorted(names(decision)) == ["a", "d", "e"]
    assert not decision.panic


def test_with_too_few_healthy_ones_health_is_not_regarded_but_the_dead_stay_out() -> None:
    mesh = index(five())
    load = Load(
        {}, lambda subject: float(subject in {"a/0", "b/0", "c/0"}), lambda subject: float(subject == "d")
    )
    decision = choose(mesh, X, b"k", load)
    assert decision.panic
    assert sorted(names(decision)) == ["a", "b", "c", "e"]
    assert skipped(decision) == {"d/0": "does not answer"}
    everybody = choose(mesh, X, b"k", Load({}, None, lambda _subject: 1.0))
    assert (len(names(everybody)), everybody.panic) == (MAX_CANDIDATES, True)


# -- replay


def test_a_replay_decides_past_requests_under_another_configuration() -> None:
    old = Route("r", (Backend("x", 100, instances=("a/0",), name="old"),), RoutePolicy(affinity="none"))
    shifted = Route(
        "r",
        (
            Backend("x", 50, instances=("a/0",), name="old"),
            Backend("x", 50, instances=("b/0",), name="new"),
        ),
    )
    past = [Past(float(at), canonical("r"), b"%d" % at, "a/0", 0.5) for at in range(1_000)]
    before = replay(index({"a": {}, "b": {}}, routes=(old,)), past)
    assert {one.instance for one in before} == {"a/0"}
    after = replay(index({"a": {}, "b": {}}, routes=(shifted,)), past)
    found = tally(past, after)[canonical("r")]
    assert (found.requests, found.unserved, found.queued) == (1_000, 0, 0)
    assert abs(found.by_backend["new"] - 500) < 60
    assert tally(past, replay(index({"c": {"models": ("y",)}}), past))[canonical("r")].unserved == 1_000


def test_a_replay_counts_who_would_have_had_to_wait() -> None:
    past = [Past(0.1 * at, X, b"same", "a/0", 1.0) for at in range(20)]
    policy = RoutePolicy(strategy="least_request")
    mesh = index({"a": {"slots": 5}, "b": {"slots": 5}}, routes=(Route("x", (Backend("x"),), policy),))
    assert tally(past, replay(mesh, past))[X].queued == 0
    lone = index({"a": {"slots": 5}})
    assert tally(past, replay(lone, past))[X].queued == 15


STRATEGIES = ("ring_hash", "round_robin", "least_request", "residency")


def weighed(strategy: str, **weights: int) -> Index:
    """Nodes of these weights, by a route of this strategy."""
    route = Route("r", (Backend("x"),), policy=RoutePolicy(strategy=strategy))
    return index({name: {"weight": weight} for name, weight in weights.items()}, routes=(route,))


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(key=st.binary(max_size=8), draw=st.integers(0, 10_000))
def test_an_instance_of_weight_0_is_for_when_nobody_else_can(strategy: str, key: bytes, draw: int) -> None:
    found = weighed(strategy, a=0, b=100, c=1)
    busy = {"b/0": 90, "c/0": 90}
    for work in ({}, busy):
        order = names(choose(found, canonical("r"), key, Load(work, draw=draw)))
        assert (sorted(order[:2]), order[2:]) == (["b", "c"], ["a"])
    down = {"b/0": 9.0, "c/0": 9.0}
    left = choose(
        found, canonical("r"), key, Load({}, down=lambda subject: down.get(subject, 0.0), draw=draw)
    )
    assert names(left) == ["a"]
    alone = choose(weighed(strategy, a=0), canonical("r"), key, Load({}, draw=draw))
    assert names(alone) == ["a"]
    both = choose(weighed(strategy, a=0, d=0), canonical("r"), key, Load({}, draw=draw))
    assert sorted(names(both)) == ["a", "d"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_backend_that_only_one_of_weight_0_serves_is_served(strategy: str) -> None:
    route = Route("r", (Backend("x", instances=("a/0",)),), policy=RoutePolicy(strategy=strategy))
    found = index({"a": {"weight": 0}, "b": {}}, routes=(route,))
    assert names(choose(found, canonical("r"), b"k", IDLE)) == ["a"]


# -- a model that nobody has in memory


def nowhere(_model: str) -> str:
    return ""


COLD = Load({}, cold=nowhere)


@given(st.integers(0, 99), st.integers(0, 99))
def test_a_cold_model_goes_to_the_same_instance_whoever_asks(one: int, other: int) -> None:
    mesh = index(five())
    decided = [names(choose(mesh, X, f"k{number}".encode(), COLD)) for number in (one, other)]
    assert decided[0] == decided[1] == [id_.partition("/")[0] for id_ in mesh.ring.lookup(X.encode())][:4]


@given(st.integers(0, 99), st.sampled_from("abcde"))
def test_where_it_is_being_loaded_is_asked_first_over_its_share_or_not(number: int, loading: str) -> None:
    load = LoadingModel("x:latest", 1000.0, 10.0)
    mesh = index(five() | {loading: {"loading": (load,)}})
    decided = choose(mesh, X, f"k{number}".encode(), Load({f"{loading}/0": 500}, cold=nowhere))
    assert names(decided)[0] == loading


def test_where_this_entry_sent_the_first_one_counts_as_much() -> None:
    mesh = index(five())
    for sent in "abcde":
        decided = choose(mesh, X, b"k", Load({f"{sent}/0": 9}, cold=lambda _, sent=sent: f"{sent}/0"))
        assert names(decided)[0] == sent


def test_without_a_known_load_a_cold_models_bounded_share_holds() -> None:
    mesh = index(five())
    first = names(choose(mesh, X, b"k", COLD))[0]
    crowded = choose(mesh, X, b"k", Load({f"{first}/0": 50}, cold=nowhere))
    assert names(crowded)[0] != first


def test_once_it_is_in_memory_somewhere_conversations_decide_again() -> None:
    mesh = index(five() | {name: {"loaded": ("x:latest",)} for name in "ab"})
    assert {names(choose(mesh, X, f"k{number}".encode(), COLD))[0] for number in range(30)} == {"a", "b"}


def test_a_copy_in_memory_that_takes_no_work_makes_nothing_warm() -> None:
    mesh = index(five() | {"a": {"loaded": ("x:latest",), "state": "draining"}})
    first = {names(choose(mesh, X, f"k{number}".encode(), COLD))[0] for number in range(30)}
    assert len(first) == 1


@pytest.mark.parametrize("strategy", ["round_robin", "least_request"])
def test_strategies_that_spread_are_left_alone(strategy: Any) -> None:
    route = Route("r", (Backend("x"),), policy=RoutePolicy(strategy=strategy))
    mesh = index(five(), routes=(route,))
    turns = Load({}).turns
    first = [
        names(choose(mesh, canonical("r"), b"k", Load({}, turns=turns, draw=number, cold=nowhere)))[0]
        for number in range(20)
    ]
    assert len(set(first)) > 1


def test_residency_meets_at_one_instance_too() -> None:
    route = Route("r", (Backend("x"),), policy=RoutePolicy(strategy="residency"))
    mesh = index(five(), routes=(route,))
    first = {
        names(choose(mesh, canonical("r"), b"%d" % number, Load({}, draw=number, cold=nowhere)))[0]
        for number in range(20)
    }
    assert len(first) == 1
