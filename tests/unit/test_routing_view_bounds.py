"""What a decision reads, and decisions at their limits: states, shares, fallbacks, keys, replays."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bridge_agent.engines.view import LocalInstance
from bridge_agent.routing.affinity import affinity_key
from bridge_agent.routing.choose import Decision, Load, choose, named_choice, only_choice, outside
from bridge_agent.routing.replay_rules import Past, Placed, ReplayTally, replay, tally
from bridge_agent.routing.unheard import Unheard
from bridge_agent.routing.view import Index, MeshView, Target
from bridge_core.names import canonical
from bridge_core.snapshot import (
    Backend,
    Instance,
    MemberModel,
    MeshConfig,
    Node,
    Route,
    RoutePolicy,
    Snapshot,
    Version,
    encode_entry,
)
from bridge_core.traffic import Outlier

X = canonical("x")
IDLE = Load({})


def snapshot(*documents: Node | Instance | Route | MeshConfig) -> Snapshot:
    entries = {}
    for one in documents:
        match one:
            case MeshConfig():
                entries["mesh"] = encode_entry(one)
            case Instance():
                entries[f"instance/{one.id}"] = encode_entry(one)
            case _:
                entries[f"{type(one).__name__.lower()}/{one.name}"] = encode_entry(one)
    return Snapshot(Version(1, 1), entries)


def remote(name: str, model: str = "x", **more: Any) -> Instance:
    return Instance(f"{name}/0", name, models=(MemberModel(model),), **more)


def local(**more: Any) -> LocalInstance:
    fields = {"id": "me/0", "host": "h", "port": 5, "state": "ready", "models": (MemberModel("x"),)}
    return LocalInstance(**(fields | more))


def mesh(
    *names: str, local_: tuple[LocalInstance, ...] = (), extra: tuple[Any, ...] = (), **more: Any
) -> Index:
    """Nodes of these names with an instance each."""
    documents = [Node(name, f"{name}:1") for name in names] + [remote(name, **more) for name in names]
    return Index("me", snapshot(*documents, *extra), local_)


def nodes(decision: Decision | None) -> str:
    return "" if decision is None else "".join(one.node for one in decision.candidates)


# -- the view


def test_a_target_has_one_slot_and_a_plain_weight_where_nothing_is_said() -> None:
    target = Target("a/0", "a", False, "a:1", True)
    assert (target.capacity, target.slots, target.starting) == (100, 1, False)


def test_an_instance_of_another_node_as_its_record_says() -> None:
    record = remote("a", slots=3, weight=50, loaded=("x", "bad name!"), failure_domain="g")
    target = Index("me", snapshot(Node("a", "a:1"), record), ()).targets["a/0"]
    assert (target.local, target.address, target.available, target.starting) == (False, "a:1", True, False)
    assert (target.slots, target.weight, target.capacity, target.failure_domain) == (3, 50, 150, "g")
    assert target.loaded == {X}
    starting = Index("me", snapshot(Node("a", "a:1"), remote("a", state="starting")), ()).targets["a/0"]
    assert (starting.available, starting.starting) == (False, True)
    assert Index("me", snapshot(remote("a")), ()).targets["a/0"].address == ""


@pytest.mark.parametrize(
    ("instance", "node", "reason"),
    [
        ({}, {}, ""),
        ({"state": "starting"}, {}, "instance is starting"),
        ({"port": 0}, {}, "engine does not listen"),
        ({"fault": "broken"}, {}, "broken"),
        ({}, {"state": "drained"}, "node is drained"),
        ({"port": 0, "fault": "broken"}, {"state": "drained"}, "engine does not listen"),
    ],
)
def test_why_an_instance_of_this_node_is_not_available(
    instance: dict[str, Any], node: dict[str, Any], reason: str
) -> None:
    index = Index("me", snapshot(Node("me", "me:1", **node)), (local(**instance),))
    (target,) = index.local
    assert (target.reason, target.available, target.local) == (reason, not reason, True)
    assert target.starting is (instance.get("state") == "starting")
    assert (target.slots, target.weight) == (local().slots, 100)
    draining = Index("me", snapshot(), (local(**instance),), draining=True).local[0]
    assert not draining.available
    assert draining.reason == (reason if instance else "this node is draining")


def test_this_nodes_instances_take_their_weight_from_their_record() -> None:
    record = Instance("me/0", "me", weight=25)
    index = Index("me", snapshot(Node("me", "me:1"), record, Instance("me/1", "me")), (local(),))
    assert index.targets["me/0"].weight == 25
    assert set(index.targets) == {"me/0"}, "what the supervisor no longer has is gone"


def test_a_record_of_another_node_under_an_id_of_ours_does_not_count() -> None:
    index = Index(
        "me", snapshot(Node("b", "b:1"), Instance("me/0", "b", models=(MemberModel("y"),))), (local(),)
    )
    assert index.targets["me/0"].local


def test_a_pool_is_of_those_that_have_the_model_and_its_capacity_of_those_available() -> None:
    instances = (remote("b", slots=2), remote("a"), remote("c", "y"), remote("d", state="draining"))
    index = Index("me", snapshot(*(Node(name, f"{name}:1") for name in "abcd"), *instances), ())
    pool = index.pool(X)
    assert pool is not None
    assert (list(pool.targets), pool.capacity) == (["a/0", "b/0", "d/0"], 300)
    assert index.pool(X) is pool
    assert index.pool(canonical("z")) is None
    assert set(index.models) == {X, canonical("y")}


def test_models_of_the_same_instances_share_a_ring() -> None:
    both = (MemberModel("x"), MemberModel("y"))
    index = Index("me", snapshot(Node("a", "a:1"), Instance("a/0", "a", models=both)), ())
    one, other = index.pool(X), index.pool(canonical("y"))
    assert one is not None
    assert other is not None
    assert one.ring is other.ring
    assert one.name == X


@pytest.mark.parametrize(
    ("mesh_s", "route_s", "longest"), [(0.0, 0.0, 0.0), (5.0, 3.0, 5.0), (2.0, 7.0, 7.0)]
)
def test_the_longest_slow_start_that_anybody_asks_for(mesh_s: float, route_s: float, longest: float) -> None:
    route = Route("r", (Backend("x"),), RoutePolicy(slow_start_s=route_s))
    config = MeshConfig(defaults=RoutePolicy(slow_start_s=mesh_s))
    assert Index("me", snapshot(route, config), ()).slow_start_s == longest
    assert Index("me", snapshot(config), ()).slow_start_s == mesh_s


def test_a_view_tells_whoever_listens_of_each_index_that_is_put_in_force() -> None:
    view, seen = MeshView("me"), []
    view.subscribe(seen.append)
    view.publish_local((local(),))
    assert view.index.local[0].available
    view.drain(draining=True)
    assert not view.index.local[0].available
    view.publish(snapshot(Node("me", "me:1")))
    assert not view.index.local[0].available, "a new snapshot ends no drain"
    view.drain(draining=False)
    assert view.index.local[0].available
    assert len(seen) == 4
    assert seen[-1] is view.index


# -- unheard


def test_what_has_not_come_within_half_a_minute_is_away() -> None:
    first = snapshot(Node("me", "me:1"))
    known = snapshot(Node("me", "me:1"), Node("b", "b:1"))
    unheard = Unheard(Index("me", first, ()), 0.0)
    assert "heard nothing" in unheard.reason(29.9)
    assert unheard.reason(30.0) == ""
    unheard.follow(Index("me", known, ()), 100.0)
    unheard.follow(Index("me", known, ()), 120.0)
    assert "node b" in unheard.reason(129.9)
    assert unheard.reason(130.0) == ""


# -- choices


def test_the_decision_for_a_model_in_one_place_is_made_once() -> None:
    index = mesh("a")
    decision = only_choice(index, X)
    assert decision is not None
    assert only_choice(index, X) is decision
    assert (nodes(decision), decision.known, decision.strategy) == ("a", True, "only")
    assert not decision.panic
    assert only_choice(mesh("a", "b"), X) is None
    assert only_choice(index, canonical("y")) is None
    assert only_choice(mesh("a", state="draining"), X) is None
    assert only_choice(mesh("a", extra=(Route("x", (Backend("x"),)),)), X) is None


@pytest.mark.parametrize(
    ("name", "instance", "state", "found"),
    [
        (X, "me/0", "ready", "me"),
        (X, "me/0", "starting", ""),
        (X, "a/0", "ready", ""),
        (X, "me/9", "ready", ""),
        (canonical("y"), "me/0", "ready", ""),
        (canonical("z"), "me/0", "ready", ""),
    ],
)
def test_an_instance_that_another_agent_chose(name: str, instance: str, state: Any, found: str) -> None:
    extra = (Node("c", "c:1"), remote("c", "y"))
    index = mesh("a", local_=(local(state=state),), extra=extra)
    decision = named_choice(index, name, instance)
    assert nodes(decision) == found
    if decision is not None:
        assert (decision.known, decision.strategy) == (True, "named")


def test_a_request_over_a_hop_is_treated_as_its_route_says_there() -> None:
    route = Route("R", (Backend("x"),), RoutePolicy(deadline_s=7.0))
    config = MeshConfig(defaults=RoutePolicy(deadline_s=3.0))
    index = mesh(local_=(local(),), extra=(route, config))
    for came_by, deadline in (("r", 7.0), ("", 3.0), ("gone", 3.0)):
        named = named_choice(index, X, "me/0", came_by)
        assert named is not None
        assert named.policy.deadline_s == deadline
        decision = choose(index, X, b"k", IDLE, only_local=True, came_by=came_by)
        assert decision.policy.deadline_s == deadline
    # Of a route's name, too: over a hop it is a model's.
    assert choose(index, canonical("r"), b"k", IDLE, only_local=True).known is False
    assert choose(index, canonical("r"), b"k", IDLE).policy.deadline_s == 7.0


def chain(length: int) -> tuple[Route, ...]:
    """Routes that fall back on one another, the last one on the model."""
    names = [f"r{at}" for at in range(length)]
    return tuple(
        Route(name, (Backend("nobody"),), fallback=follow)
        for name, follow in zip(names, [*names[1:], "x"], strict=True)
    )


@pytest.mark.parametrize(("length", "found"), [(1, "a"), (5, "a"), (6, "")])
def test_fallbacks_are_followed_five_routes_far(length: int, found: str) -> None:
    decision = choose(mesh("a", extra=chain(length)), canonical("r0"), b"k", IDLE)
    assert nodes(decision) == found
    assert decision.route == "r0"
    assert decision.known is bool(found)


def test_a_circle_of_fallbacks_ends() -> None:
    routes = (
        Route("a", (Backend("nobody"),), fallback="b"),
        Route("b", (Backend("nobody"),), fallback="a"),
    )
    decision = choose(mesh("n", extra=routes), canonical("a"), b"k", IDLE)
    assert (nodes(decision), decision.known) == ("", False)


def test_a_model_that_is_down_is_told_before_one_that_nobody_has() -> None:
    down, unknown = Backend("x"), Backend("nobody")
    for backends in ((down, unknown), (unknown, down)):
        index = mesh("a", state="draining", extra=(Route("r", backends),))
        assert choose(index, canonical("r"), b"k", IDLE).known
    index = mesh("a", state="draining", extra=(Node("b", "b:1"), remote("b", "y", state="draining")))
    for one, other in (("x", "y"), ("y", "x")):
        entries = index.snapshot.entries
        entries = entries | {"route/r": encode_entry(Route("r", (Backend(one), Backend(other, 1))))}
        decision = choose(Index("me", Snapshot(Version(1, 1), entries), ()), canonical("r"), b"k", IDLE)
        assert decision.model == canonical(one), "of two that are down the first is told"
    index = mesh("a", state="draining", extra=(Route("r", (unknown,), fallback="x"),))
    assert choose(index, canonical("r"), b"k", IDLE).known
    empty = choose(mesh("a", extra=(Route("r", ()),)), canonical("r"), b"k", IDLE)
    assert (empty.known, empty.route, empty.candidates) == (True, "r", ())


def test_what_is_on_trial_has_the_next_that_is_not_to_spare() -> None:
    canary = Backend("y", 1000, on_trial=True)
    other = Backend("z", 1, on_trial=True)
    stable = Backend("x", 1)
    extra = (Node("b", "b:1"), remote("b", "y"), Node("c", "c:1"), remote("c", "z"))
    index = mesh("a", extra=(*extra, Route("r", (canary, other, stable))))
    decision = choose(index, canonical("r"), b"k", IDLE)
    assert (nodes(decision), nodes(decision.spare)) == ("b", "a")
    alone = mesh("q", model="w", extra=(*extra, Route("r", (canary, other))))
    decision = choose(alone, canonical("r"), b"k", IDLE)
    assert (nodes(decision), decision.spare) == ("b", None)
    plain = choose(mesh("a", extra=(Route("r", (stable,)),)), canonical("r"), b"k", IDLE)
    assert (nodes(plain), plain.spare, plain.rewritten, plain.backend) == ("a", None, "x", stable.key)


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        (Backend("x"), ""),
        (Backend("x", instances=("a/0",)), ""),
        (Backend("x", instances=("b/0",)), "not an instance of this backend"),
        (Backend("x", labels={"k": "v"}), ""),
        (Backend("x", labels={"k": "w"}), "its node lacks the backend's labels"),
        (Backend("x", labels={"k": "v", "m": "n"}), "its node lacks the backend's labels"),
    ],
)
def test_who_is_one_of_a_backends(backend: Backend, reason: str) -> None:
    index = Index("me", snapshot(Node("a", "a:1", labels={"k": "v"}), remote("a")), ())
    assert outside(index, backend, index.targets["a/0"]) == reason
    single = _single(index, backend)
    assert nodes(single) == ("" if reason else "a")
    assert [one.reason for one in single.skipped] == ([reason] if reason else [])


def _single(index: Index, backend: Backend) -> Decision:
    entries = index.snapshot.entries | {"route/r": encode_entry(Route("r", (backend,)))}
    return choose(Index("me", Snapshot(Version(1, 1), entries), ()), canonical("r"), b"k", IDLE)


def test_a_node_that_is_not_enrolled_has_no_labels() -> None:
    index = Index("me", snapshot(remote("a")), ())
    assert outside(index, Backend("x", labels={"k": "v"}), index.targets["a/0"])
    assert outside(index, Backend("x"), index.targets["a/0"]) == ""


def test_work_is_told_of_each_candidate() -> None:
    index = mesh("a", "b")
    decision = choose(index, X, b"k", Load({"a/0": 2}))
    work = dict(zip([one.id for one in decision.candidates], decision.work, strict=True))
    assert work == {"a/0": 2, "b/0": 0}
    assert decision.strategy == "ring_hash"
    assert not decision.panic


def bounded(work: dict[str, int], *, ring: int = 0, **load: Any) -> list[str]:
    """Who is over its bound of ε 0.25, of three instances of one slot."""
    decision = choose(mesh("a", "b", "c"), X, b"k%d" % ring, Load(work, **load))
    return sorted(one.instance for one in decision.skipped if one.reason == "over its bounded share")


@pytest.mark.parametrize(
    ("work", "over"),
    [
        ({}, []),
        # (1 + 0.25) * (total + 1) / 3, a part of a request rounded up, is what each may have.
        ({"a/0": 1}, ["a/0"]),
        ({"a/0": 1, "b/0": 2}, ["b/0"]),
        ({"a/0": 3, "b/0": 2, "c/0": 2}, []),
        ({"a/0": 4, "b/0": 2, "c/0": 2}, ["a/0"]),
        ({"a/0": 1, "elsewhere/0": 90}, ["a/0"]),
    ],
)
@pytest.mark.parametrize("listed", [False, True])
def test_the_bound_is_of_the_candidates_work(work: dict[str, int], over: list[str], listed: bool) -> None:
    load = {"ejected": lambda _subject: 0.0} if listed else {}
    assert bounded(work, **load) == over


def test_instances_without_a_share_serve_where_nobody_else_can() -> None:
    chosen = choose(mesh("a", "b", weight=0), X, b"k", Load({"a/0": 1})).candidates
    assert {target.id for target in chosen} == {"a/0", "b/0"}


def test_slow_start_lessens_a_share_until_its_window_is_over() -> None:
    config = MeshConfig(defaults=RoutePolicy(strategy="least_request", slow_start_s=10.0))
    index = mesh("a", "b", extra=(config,))

    def first(age: float, work: dict[str, int]) -> set[str]:
        load = [Load(work, ages={"a/0": age, "gone/0": 0.0}, draw=draw) for draw in range(8)]
        return {choose(index, X, b"k", one).candidates[0].node for one in load}

    assert first(5.0, {}) == {"b"}
    assert first(10.0, {}) == {"a", "b"}
    assert first(5.0, {"b/0": 1}) == {"a", "b"}, "half a share with no work is as a whole one with one"
    assert first(4.9, {"b/0": 1}) == {"b"}


def healthy(
    size: int, ejected: dict[str, float], down: dict[str, float] | None = None, **outlier: Any
) -> Decision:
    config = MeshConfig(defaults=RoutePolicy(outlier=Outlier(**outlier), strategy="round_robin"))
    index = mesh(*(f"n{at}" for at in range(size)), extra=(config,))
    book = down or {}
    return choose(
        index, X, b"k", Load({}, lambda name: ejected.get(name, 0.0), lambda name: book.get(name, 0.0))
    )


def out(decision: Decision) -> dict[str, str]:
    return {one.instance.removesuffix("/0"): one.reason for one in decision.skipped}


def test_no_more_than_the_share_is_ejected_and_those_whose_time_is_nearly_over_come_back() -> None:
    ejections = {"n0/0": 1.0, "n1": 2.0, "n2/0": 3.0}
    decision = healthy(4, ejections, max_ejected=0.5, panic_threshold=0.0)
    assert out(decision) == {"n1": "ejected after failures", "n2": "ejected after failures"}
    assert not decision.panic
    decision = healthy(4, ejections, max_ejected=0.1, panic_threshold=0.0)
    assert set(out(decision)) == {"n2"}, "one may always be"
    decision = healthy(4, ejections, max_ejected=1.0, panic_threshold=0.0)
    assert set(out(decision)) == {"n0", "n1", "n2"}
    decision = healthy(4, ejections, max_ejected=0.74, panic_threshold=0.0)
    assert set(out(decision)) == {"n1", "n2"}, "a part of one is none"


@pytest.mark.parametrize(("ejected", "panic"), [(1, False), (2, False), (3, True)])
def test_panic_begins_below_its_threshold(ejected: int, panic: bool) -> None:
    decision = healthy(4, {f"n{at}/0": 1.0 for at in range(ejected)}, max_ejected=1.0, panic_threshold=0.5)
    assert decision.panic is panic
    assert len(out(decision)) == (0 if panic else ejected)


def test_without_ejections_nothing_is_panic() -> None:
    assert not healthy(4, {}, panic_threshold=1.0).panic
    assert healthy(4, {"n0/0": 1.0}, panic_threshold=1.0).panic


def test_those_that_are_down_are_out_as_long_as_there_are_others() -> None:
    decision = healthy(3, {}, {"n0": 1.0, "n1/0": 1.0})
    assert out(decision) == {"n0": "does not answer", "n1": "does not answer"}
    assert nodes(decision) == "n2"
    dead = {f"n{at}": 1.0 for at in range(3)}
    decision = healthy(3, {}, dead)
    assert (len(decision.candidates), decision.panic, out(decision)) == (3, True, {})
    # The dead take no part in what share is healthy.
    decision = healthy(4, {"n2/0": 1.0}, {"n0": 1.0, "n1": 1.0}, panic_threshold=0.5)
    assert (decision.panic, out(decision)["n2"]) == (False, "ejected after failures")


def test_nobody_to_choose_from_is_no_panic() -> None:
    index = mesh("a", "b", state="draining")
    decision = choose(index, X, b"k", Load({}, lambda _: 1.0, lambda _: 1.0))
    assert (decision.candidates, decision.panic, decision.known) == ((), False, True)
    assert {one.reason for one in decision.skipped} == {"instance is draining"}


@pytest.mark.parametrize("health", [None, lambda _subject: 0.0])
def test_a_narrowed_backend_has_its_own_turns(health: Any) -> None:
    policy = RoutePolicy(strategy="round_robin")
    narrow = Route("r", (Backend("x", instances=("a/0", "b/0")),), policy)
    index = mesh("a", "b", "c", extra=(narrow, Route("all", (Backend("x"),), policy)))
    load = Load({}, health)
    seen = "".join(choose(index, canonical("r"), b"k", load).candidates[0].node for _ in range(4))
    assert seen == "abab"
    assert nodes(choose(index, canonical("all"), b"k", load)) == "abc", "its turns began nowhere else"
    assert choose(index, canonical("all"), b"k", load).candidates[0].node == "b"
    wide = mesh("a", "b", "c", extra=(MeshConfig(defaults=policy), Route("all", (Backend("x"),), policy)))
    turns = Load({}, health)
    assert choose(wide, X, b"k", turns).candidates[0].node == "a"
    assert choose(wide, canonical("all"), b"k", turns).candidates[0].node == "b", (
        "a whole model has one rotation"
    )


def test_a_load_says_nothing_of_itself() -> None:
    config = MeshConfig(defaults=RoutePolicy(strategy="least_request"))
    assert nodes(choose(mesh("a", "b", "c", extra=(config,)), X, b"k", Load({}))) == "abc"


# -- affinity


def key(session: bytes | None = None, affinity: Any = "conversation", **fields: Any) -> bytes:
    encoded = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()}
    return affinity_key(X, encoded, session=session, client=b"c", affinity=affinity, nonce=b"n")


def text(length: int, end: str = "") -> str:
    return "p" * length + end


@pytest.mark.parametrize(("length", "same"), [(510, False), (511, False), (512, True), (600, True)])
def test_of_a_short_prompt_512_bytes_count(length: int, same: bool) -> None:
    assert (key(prompt=text(length, "a")) == key(prompt=text(length, "b"))) is same


def test_of_a_long_prompt_511_bytes_count_undecoded() -> None:
    assert key(prompt=text(511, "a" + "x" * 999)) == key(prompt=text(511, "b" + "x" * 999))
    assert key(prompt=text(510, "a" + "x" * 999)) != key(prompt=text(510, "b" + "x" * 999))
    # Up to 1024 bytes of JSON it is decoded, and an escape counts as what it stands for.
    short, long = "é" * 200, "é" * 600
    escaped = [
        {"prompt": msgspec.Raw(('"' + one.replace("é", "\\u00e9") + '"').encode())} for one in (short, long)
    ]
    plain = [{"prompt": msgspec.Raw(msgspec.json.encode(one))} for one in (short[:100], short)]
    made = [affinity_key(X, one, session=None, client=b"c") for one in (*escaped, *plain)]
    assert made[0] != made[2]
    hundred = {"prompt": msgspec.Raw(b'"' + b"\\u00e9" * 100 + b'"')}
    assert affinity_key(X, hundred, session=None, client=b"c") == made[2]
    assert made[0] != made[3], "twelve hundred bytes are cut before they are decoded"


@pytest.mark.parametrize(("length", "same"), [(32_761, False), (32_762, False), (32_763, True)])
def test_of_a_conversation_32_kib_count(length: int, same: bool) -> None:
    def talk(end: str) -> bytes:
        return key(messages=[{"role": "user", "content": text(length, end)}])

    assert (talk("a") == talk("b")) is same, 'with "user:" before it'


def test_a_prompt_of_1024_bytes_is_decoded_and_a_longer_one_cut_behind_its_quote() -> None:
    assert key(prompt=text(511, "a" + "x" * 510)) != key(prompt=text(511, "b" + "x" * 510))
    assert key(prompt=text(511, "a" + "x" * 511)) == key(prompt=text(511, "b" + "x" * 511))
    assert key(prompt="a" + text(2000)) != key(prompt="b" + text(2000))


def test_keys_are_the_same_in_every_version() -> None:
    """A frozen vector: while a mesh is upgraded its agents have to agree on keys."""
    assert key(prompt="hello").hex() == "a4f07b51ef6b53b5f9bc2257abff887f"
    assert (
        key(messages=[{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]).hex()
        == "f25d0d17a2d085005e5d38b8f7a192b6"
    )
    assert key(b"session").hex() == "d14342e117020f56f93f6966e51637a6"


def test_a_list_of_prompts_is_no_conversation() -> None:
    assert key(prompt=["a", "b"]) != key(prompt=["a", "c"])
    assert key(input="a") != key(input="b")
    assert key(prompt=["a"]) != key(prompt=["b"])
    assert key(input=["a"]) != key(input=["b"])
    assert key(prompt=[]) == key() == key(input=[]) == key(prompt=None)


def test_roles_and_parts_tell_conversations_apart() -> None:
    def talk(*turns: tuple[str, Any]) -> bytes:
        return key(messages=[{"role": role, "content": content} for role, content in turns])

    assert talk(("system", "s"), ("user", "u")) == talk(("developer", "s"), ("user", "u"))
    assert talk(("assistant", "s"), ("user", "u")) != talk(("system", "s"), ("user", "u"))
    assert talk(("user", "u"), ("user", "v")) == talk(("user", "u"))
    assert talk(("user", ["a", "b"])) == talk(("user", [{"text": "a"}, {"type": "text", "text": "b"}]))
    assert talk(("user", [{"image": "a"}])) != talk(("user", [{"image": "b"}]))
    assert talk(("user", [{"text": 1}])) != talk(("user", [{"text": 2}]))
    assert talk(("user", [{"a": 1, "b": 2}])) == talk(("user", [{"b": 2, "a": 1}]))
    assert talk(("user", {"a": 1})) == talk(("user", None)) == talk(("user", [1, None]))


def test_of_an_odd_part_and_an_odd_turn_512_bytes_count() -> None:
    def part(length: int, end: str) -> bytes:
        return key(messages=[{"role": "user", "content": [{"a": text(length, end)}]}])

    for make in (part, lambda length, end: key(input=[text(length + 5, end)])):
        assert make(506, "a") == make(506, "b")  # after {"a":"
        assert make(505, "a") != make(505, "b")


def test_a_session_and_an_affinity_say_what_the_key_is_made_of() -> None:
    assert key(b"s", prompt="a") == key(b"s", prompt="b")
    assert key(b"", prompt="a") == key(None, prompt="a")
    assert key(b"s", "client", prompt="a") == key(None, "client") != key(None, "conversation", prompt="a")
    assert key(b"s", "session") == key(b"s") != key(None, "session")
    assert key(b"s", "none") == key(None, "none", prompt="a")


# -- replay


def past(at: float, took: float = 10.0, key_: bytes = b"k", asked: str = X, id_: str = "") -> Past:
    return Past(at, asked, key_, "a/0", took, id_)


def test_a_replay_has_a_request_there_for_as_long_as_it_took() -> None:
    placed = replay(mesh("a"), [past(0.0), past(9.9), past(10.0), past(10.0)])
    assert [one.behind for one in placed] == [0, 1, 1, 2]
    assert {one.instance for one in placed} == {"a/0"}


def test_a_replay_spreads_by_what_is_there_at_the_moment() -> None:
    config = MeshConfig(defaults=RoutePolicy(strategy="least_request"))
    index = mesh("a", "b", extra=(config,))
    placed = replay(index, [past(0.0), past(1.0), past(2.0), past(3.0)])
    assert sorted(one.instance for one in placed[:2]) == ["a/0", "b/0"]
    assert [one.behind for one in placed] == [0, 0, 1, 1]
    apart = replay(index, [past(float(at) * 20) for at in range(20)])
    assert {one.instance for one in apart} == {"a/0", "b/0"}, "whom a tie falls to changes"


def test_a_replay_of_what_nobody_has_and_of_what_has_no_key() -> None:
    assert replay(mesh("a"), [past(0.0, asked=canonical("z"))]) == [Placed("", "", 0)]
    index = mesh("a", "b", "c", "d")
    spread = replay(index, [past(at * 20.0, key_=b"", id_=f"r{at}") for at in range(40)])
    assert {one.instance for one in spread} == {"a/0", "b/0", "c/0", "d/0"}
    kept = replay(index, [past(at * 20.0, id_=f"r{at}") for at in range(40)])
    assert len({one.instance for one in kept}) == 1


def test_a_tally_counts_by_name() -> None:
    asked = [past(0.0), past(0.0), past(0.0, asked="r"), past(0.0)]
    placed = [Placed("a/0", "", 0), Placed("a/0", "b", 1), Placed("", "b", 0), Placed("b/0", "", 2)]
    found = tally(asked, placed)
    assert found[X] == ReplayTally(3, {"a/0": 2, "b/0": 1}, {"b": 1}, 0, 2)  # type: ignore[arg-type]
    assert found["r"] == ReplayTally(1, {}, {"b": 1}, 1, 0)  # type: ignore[arg-type]
