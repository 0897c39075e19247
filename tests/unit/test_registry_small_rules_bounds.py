"""Pictures, authorities, joins and grace at the limits of their rules."""

from __future__ import annotations

from typing import Any

import pytest

from bridge_core.counts import Counter, Counts
from bridge_core.mesh_picture import NodePicture, RegistryPicture, RolloutPicture
from bridge_core.snapshot import (
    Backend,
    Instance,
    MemberModel,
    Route,
    Snapshot,
    Version,
    encode_entry,
)
from bridge_registry.console.picture_rules import Seen, paint
from bridge_registry.enrolment import authority_rules as authorities
from bridge_registry.enrolment import join_rules
from bridge_registry.enrolment.authority_rules import Authorities, Holders, Issuer, NodeTrust, StepRefused
from bridge_registry.enrolment.grace_rules import Budgets
from bridge_registry.enrolment.join_rules import EnrolmentRefused
from bridge_registry.membership.load_book import NodeLoad
from bridge_registry.membership.node_status import NodeStanding
from bridge_registry.records import NodeRecord
from bridge_registry.rollouts.plan import RolloutPlan, Step
from bridge_registry.rollouts.rollout_rules import Happening, RolloutPosition

# -- pictures

LOAD = NodeLoad(50.0, 2_000_999, 3, Version(), heard=50.0, silent_peers={"n2": 7}, instances={"n1/0": (5, 2)})


def painted(**fields: Any) -> Any:
    registry = RegistryPicture("lab", "r1", "1.0", leads=True)
    base = {"standings": (), "rejected": {}, "members": (), "snapshot": Snapshot(Version(), {})}
    return paint(Seen(at_unix=1000.0, ahead=900.5, registry=registry, **{**base, **fields}))


def node(load: NodeLoad | None = LOAD, *, reports: bool = True, **fields: Any) -> NodePicture:
    record = NodeRecord("n1", "n1:1", expires=77.9, labels={"zone": "x"}, version="1.1")
    standing = NodeStanding(record, ("n1/0",), load, reports, safe_to_stop=True)
    (found,) = painted(standings=(standing,), **fields).nodes
    assert isinstance(found, NodePicture)
    return found


MEMBERS = (
    Instance("n1/10", "n1", models=(MemberModel("b"), MemberModel("a")), loaded=("b",), slots=2, weight=50),
    Instance("n1/0", "n1", slots=4),
    Instance("n2/0", "n2", models=(MemberModel("a"),)),
)


def test_a_node_that_reports() -> None:
    found = node(members=MEMBERS, rejected={"n1": "digest"}, by_node={"n1": Counts(90, 3, 3)})
    assert (found.state, found.since_unix, found.in_flight, found.silent_to) == (
        "serving",
        2000,
        3,
        {"n2": 7},
    )
    assert (found.expires_unix, found.safe_to_stop, found.rejected) == (77, True, "digest")
    assert (found.requests_per_s, found.errors_per_s) == (1.5, 0.1)
    first, second = found.instances
    assert (first.id, first.in_flight, first.queued, first.slots) == ("n1/0", 5, 2, 4)
    assert (second.id, second.in_flight, second.queued, second.weight) == ("n1/10", 0, 0, 50)
    assert (second.models, second.loaded) == (("a:latest", "b:latest"), ("b:latest",))


def test_a_node_that_is_away_or_was_never_heard_of() -> None:
    away = node(reports=False)
    assert (away.state, away.since_unix, away.in_flight, away.silent_to) == ("away", 950, 0, {})
    assert (away.instances, away.rejected, away.requests_per_s) == ((), "", 0.0)
    silent = node(reports=False, members=MEMBERS).instances
    assert [(one.in_flight, one.queued) for one in silent] == [(0, 0), (0, 0)]
    never = node(None, reports=False)
    assert (never.since_unix, never.in_flight) == (0, 0)
    new = node(None, members=MEMBERS)
    assert (new.since_unix, new.in_flight, new.instances[0].in_flight) == (0, 0, 0)


def test_models_with_how_many_have_them_and_how_they_are_used() -> None:
    counter = Counter()
    for ttft in (0.001, 0.001, 0.001, 1.0):
        counter.answered(ttft, tokens=15, generating_s=1.0, broken=False)
    counter.failed()
    names = {one.name: one for one in painted(members=MEMBERS, by_model={"gone": counter.counts}).models}
    assert list(names) == ["a:latest", "b:latest", "gone:latest"]
    assert (names["a:latest"].instances, names["a:latest"].loaded) == (2, 0)
    assert (names["b:latest"].instances, names["b:latest"].loaded) == (1, 1)
    assert names["a:latest"].requests_per_s == 0.0
    gone = names["gone:latest"]
    assert (gone.instances, gone.loaded) == (0, 0)
    assert (gone.requests_per_s, gone.errors_per_s, gone.tokens_per_s) == (0.083, 0.017, 1.0)
    assert (gone.ttft_p50, gone.ttft_p95 > 0.9) == (0.001, True)
    twice = (
        Instance("n/0", "n", models=(MemberModel("a"),), loaded=("a",)),
        Instance("n/1", "n", models=(MemberModel("a"),), loaded=("a",)),
    )
    (both,) = painted(members=twice).models
    assert (both.instances, both.loaded) == (2, 2)


def test_routes_and_rollouts() -> None:
    plan = RolloutPlan("r", "chat", "old", "new", (Step(10.0, 300.0), Step(100.0, 60.0)))
    route = Route("chat", (Backend("x", 3, name="old"), Backend("y", 1, name="new")))
    snapshot = Snapshot(Version(1, 1), {"route/chat": encode_entry(route)})
    position = RolloutPosition(
        plan.identity, step=1, elapsed_s=12.6, stable=Counts(10, 1), canary=Counts(4, 2)
    )
    found = painted(snapshot=snapshot, rollouts=((plan, position),))
    (picture,) = found.routes
    assert [(one.name, one.share) for one in picture.backends] == [("old", 0.75), ("new", 0.25)]
    (rollout,) = found.rollouts
    assert isinstance(rollout, RolloutPicture)
    assert (rollout.step, rollout.steps, rollout.elapsed_s, rollout.hold_s) == (1, 2, 13, 60.0)
    assert (rollout.canary_share, rollout.canary_requests) == (0.25, 4)
    assert (rollout.stable_error_rate, rollout.canary_error_rate) == (0.1, 0.5)
    told = tuple(Happening(float(at), f"line {at}") for at in range(25))
    eventful = RolloutPosition(plan.identity, events=told)
    (long,) = painted(rollouts=((plan, eventful),)).rollouts
    assert long.events == tuple((float(at), f"line {at}") for at in range(5, 25))
    (lost,) = painted(rollouts=((plan, position),)).rollouts
    assert lost.canary_share == 0.0


# -- authorities


def issuer(number: int, **fields: Any) -> Issuer:
    return Issuer(f"i{number}", f"I{number}", f"R{number}", f"r{number}", b"key", **fields)


@pytest.mark.parametrize(
    ("states", "sound"),
    [
        ((), False),
        (("issuing",), True),
        (("retired",), False),
        (("issuing", "retired"), True),
        (("issuing", "issuing"), False),
        (("retired", "announced"), False),
        (("issuing", "retired", "announced"), False),
    ],
)
def test_one_issues_and_one_other_at_most(states: tuple[Any, ...], sound: bool) -> None:
    assert Authorities(tuple(issuer(at, state=state) for at, state in enumerate(states))).sound is sound


def test_moments_of_a_rotation() -> None:
    steady = Authorities((issuer(0),))
    assert steady.issuing.since == 0.0
    announced = authorities.begin(steady, issuer(1), 5.0)
    assert announced.other is not None
    assert (announced.other.state, announced.other.since) == ("announced", 5.0)
    assert authorities.abort(announced, 6.0) == steady
    issued = authorities.issue(announced, Holders(), 7.0)
    assert [(one.pin, one.state, one.since) for one in issued.issuers] == [
        ("i1", "issuing", 7.0),
        ("i0", "retired", 7.0),
    ]
    assert list(issued.roots) == ["r1", "r0"]
    back = authorities.abort(issued, 8.0)
    assert [(one.pin, one.state, one.since) for one in back.issuers] == [
        ("i0", "issuing", 8.0),
        ("i1", "retired", 8.0),
    ]
    with pytest.raises(StepRefused, match="no CA is announced"):
        authorities.issue(issued, Holders(), 9.0)


@pytest.mark.parametrize(("nodes", "more"), [(10, ""), (11, " and 1 more"), (13, " and 3 more")])
def test_ten_are_named_of_those_who_are_waited_for(nodes: int, more: str) -> None:
    announced = authorities.begin(Authorities((issuer(0),)), issuer(1), 1.0)
    holders = Holders({f"n{at:02}": NodeTrust("i0") for at in range(nodes)})
    ten = ", ".join(f"n{at:02}" for at in range(10))
    with pytest.raises(StepRefused, match=f"^{ten}{more} did not say"):
        authorities.issue(announced, holders, 2.0)


def test_force_is_said_and_not_taken_for_granted() -> None:
    announced = authorities.begin(Authorities((issuer(0),)), issuer(1), 1.0)
    deaf = Holders({"n1": NodeTrust("i0")})
    with pytest.raises(StepRefused):
        authorities.issue(announced, deaf, 2.0)
    issued = authorities.issue(announced, deaf, 2.0, force=True)
    with pytest.raises(StepRefused):
        authorities.finish(issued, deaf)
    assert authorities.finish(issued, deaf, force=True).issuing.pin == "i1"


# -- joins


@pytest.mark.parametrize(
    "address", ["h:0", "h:65536", "h:123456", "h:", "h:+1", "::1:5", "[h]:5", "[::1:5", "[::12:5", "h", "h:²"]
)
def test_what_is_no_peer_address(address: str) -> None:
    with pytest.raises(EnrolmentRefused):
        join_rules.check_peer_address(address)


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("H:1", "h:1"),
        ("h:65535", "h:65535"),
        ("h:00443", "h:443"),
        ("[::1]:5", "[::1]:5"),
        ("10.0.0.1:9", "10.0.0.1:9"),
    ],
)
def test_what_is_one(address: str, found: str) -> None:
    assert join_rules.check_peer_address(address) == found


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "224.0.0.1:1", "[ff02::1]:1"])
def test_nobody_is_reached_at_all_addresses_at_once(address: str) -> None:
    with pytest.raises(EnrolmentRefused, match="nobody can be reached"):
        join_rules.check_peer_address(address)


def test_of_a_long_address_three_hundred_characters_are_repeated() -> None:
    with pytest.raises(EnrolmentRefused, match=f"^'{'x' * 300}' is not"):
        join_rules.check_peer_address("x" * 301)


def test_how_many_names_and_labels_there_may_be() -> None:
    names = [f"h{number}.example" for number in range(64)]
    assert len(join_rules.check_dns_names(names)) == 64
    with pytest.raises(EnrolmentRefused, match="more than 64 host names"):
        join_rules.check_dns_names([*names, "one.more"])
    join_rules.check_labels({f"k{number}": "" for number in range(64)})
    with pytest.raises(EnrolmentRefused):
        join_rules.check_labels({f"k{number}": "" for number in range(65)})
    join_rules.check_labels({"k" * 128: "v" * 256})
    for labels in ({"k" * 129: ""}, {"k": "v" * 257}, {"k ": ""}, {"k": " v"}, {"k": "v\n"}, {"": ""}):
        with pytest.raises(EnrolmentRefused):
            join_rules.check_labels(labels)
    assert join_rules.check_version("v" * 64) == "v" * 64
    assert join_rules.check_version("") == ""
    for version in ("v" * 65, "1\n"):
        with pytest.raises(EnrolmentRefused, match="version is none"):
            join_rules.check_version(version)


def test_the_host_of_an_address() -> None:
    assert [join_rules.host_of(one) for one in ("h:1", "[::1]:1", "")] == ["h", "::1", ""]


# -- budgets


def test_a_budget_for_another_rate_and_of_so_many() -> None:
    budgets = Budgets(2, 10.0)
    assert [budgets.take("a", 0.0, 1.0) for _ in range(3)] == [True, True, False]
    assert not budgets.take("a", 0.9, 1.0)
    assert budgets.take("a", 1.0, 1.0)
    full = Budgets(1, 10.0, most=2)
    assert full.take("a", 0.0)
    assert full.take("b", 5.0)
    assert not full.take("c", 9.9)
    assert full.take("c", 10.0), "who has all of its budget back is forgotten"
    assert full.take("b", 15.0), "who is known is no further one"


def test_the_crowd_is_bounded_at_65536() -> None:
    budgets = Budgets(1, 1.0)
    assert all(budgets.take(f"n{number}", 0.0) for number in range(65_536))
    assert not budgets.take("one more", 0.0)
