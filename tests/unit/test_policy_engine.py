"""What access policies decide: rule by rule."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_core.identity.principal import Principal, local
from bridge_core.names import canonical
from bridge_core.policy.conditions import Answer, Check, fault
from bridge_core.policy.defaults import CHANGES, USES, may_by_default
from bridge_core.policy.engine import PolicyBook, Verdict
from bridge_core.policy.facts import UNREADABLE, Facts, clock, node_facts, number
from bridge_core.policy.globs import Glob
from bridge_core.policy.statements import AccessPolicy, Condition, Resource, Subject
from bridge_core.policy.subjects import Subjects, identities
from bridge_core.security_settings import SecuritySettings

OPEN = SecuritySettings()
ANN = Principal("client", "ann", "spiffe://m/client/ann", ("finance", "staff"), {"department": "finance"})
EVE = Principal("client", "eve", "spiffe://m/client/eve")
ROOT = Principal("admin", "root", "spiffe://m/admin/root", (), {"role": "operator"})
VIEWER = Principal("admin", "vic", "spiffe://m/admin/vic", (), {"role": "viewer"})
NODE = Principal("node", "n1", "spiffe://m/node/n1")


def rule(name: str, who: str, *actions: Any, on: str = "Model/m", **more: Any) -> AccessPolicy:
    kind, _, named = who.partition("/")
    its, _, what = on.partition("/")
    return AccessPolicy(
        name,
        (Subject(kind, named),),  # type: ignore[arg-type]
        (Resource((its,), (what,)),),  # type: ignore[arg-type]
        actions or ("predict",),
        **more,
    )


def when(key: str, operator: Any, *values: str) -> tuple[Condition, ...]:
    return (Condition(key, operator, values),)


def ask(
    policies: list[AccessPolicy],
    who: Principal,
    action: Any = "predict",
    model: str = "m",
    facts: Facts | None = None,
    *,
    kind: Any = "Model",
    mesh: SecuritySettings = OPEN,
) -> Verdict:
    name = canonical(model) if kind == "Model" and model else model
    return PolicyBook(policies, mesh).decide(who, action, kind, name, facts or Facts())


def may(*given: Any, **more: Any) -> bool:
    return ask(*given, **more).allowed


# -- rules 1 to 4


def test_a_deny_wins_over_every_allow_and_over_admins() -> None:
    both = [rule("a", "User/*", "*"), rule("z", "User/*", "predict", effect="Deny")]
    assert ask(both, ANN) == Verdict(False, "z", "policy z denies it")
    assert not may(both, ROOT)
    assert may(both, ANN, "embed")


def test_an_allow_closes_its_model_to_everybody_else_but_admins() -> None:
    one = [rule("a", "User/ann")]
    assert ask(one, ANN) == Verdict(True, "a", "policy a allows it")
    for who in (EVE, NODE, local("n1")):
        for action in USES | CHANGES:
            assert not may(one, who, action), (who, action)
    assert all(may(one, ROOT, action) for action in USES | CHANGES)
    assert {action for action in USES | CHANGES if may(one, VIEWER, action)} == {"list", "show", "explain"}
    assert may(one, EVE, model="other")


def test_a_viewer_sees_everything_and_else_may_what_a_client_may() -> None:
    assert {action for action in USES | CHANGES if may([], VIEWER, action)} == USES
    closed = SecuritySettings("Deny")
    sees = {action for action in USES | CHANGES if may([], VIEWER, action, mesh=closed)}
    assert sees == {"list", "show", "explain"}
    client = Principal("client", "vic", "spiffe://m/client/vic", (), {"role": "admin"})
    assert not may([], client, "delete")


@pytest.mark.parametrize("action", sorted((USES | CHANGES) - {"predict", "embed"}))
def test_an_allow_of_another_action_takes_nothing_from_anybody(action: Any) -> None:
    one = [rule("a", "User/ann", action)]
    assert may(one, EVE)
    assert may(one, local("n1"), "delete")
    assert may(one, ANN, action)


@pytest.mark.parametrize("action", ["predict", "embed", "*"])
def test_who_may_ask_a_model_may_look_at_it(action: Any) -> None:
    one = [rule("a", "User/ann", action)]
    assert may(one, ANN, "list")
    assert may(one, ANN, "show")
    assert may(one, ANN, "unload") is (action == "*")


def test_a_deny_of_predict_hides_nothing() -> None:
    one = [rule("a", "User/ann", "predict", effect="Deny")]
    assert not may(one, ANN)
    assert may(one, ANN, "list")
    assert may(one, ANN, "embed")


def test_of_several_that_decide_the_first_by_name_is_told() -> None:
    several = [rule(name, "User/ann") for name in ("c", "a", "b")]
    assert ask(several, ANN).policy == "a"
    denies = [rule(name, "User/ann", effect="Deny") for name in ("c", "a", "b")]
    assert ask([*several, *denies], ANN).policy == "a"


# -- the defaults


@pytest.mark.parametrize("action", sorted(USES | CHANGES))
def test_the_defaults_of_models(action: Any) -> None:
    uses = action in USES
    closed = SecuritySettings("Deny")
    for who, at_allow, at_deny in (
        (ANN, uses, False),
        (NODE, uses, False),
        (Principal("user", "x", "corp#x"), uses, False),
        (ROOT, True, True),
        (local("n1"), True, True),
    ):
        assert may([], who, action) is at_allow, who
        assert may([], who, action, mesh=closed) is at_deny, who
        assert may_by_default(who, action, "Model", "m", OPEN) is at_allow
    by_policy = SecuritySettings(local_listener="policy")
    assert may([], local("n1"), action, mesh=by_policy) is uses


@pytest.mark.parametrize("action", [*sorted(CHANGES), "admin"])
def test_the_defaults_of_nodes(action: Any) -> None:
    changes = action in CHANGES
    assert may([], ANN, action, "n1", kind="Node") is changes  # what it may do to models decides
    assert may([], local("n1"), action, "n1", kind="Node")
    assert not may([], local("n1"), action, "n2", kind="Node")
    assert may([], ROOT, action, "n2", kind="Node")
    assert may([rule("a", "Node/n1", action, on="Node/n2")], local("n1"), action, "n2", kind="Node")


def test_a_listener_that_is_off_lets_nobody_in_whatever_policies_say() -> None:
    off = SecuritySettings(local_listener="off")
    assert not may([rule("a", "Node/n1", "*")], local("n1"), mesh=off)
    assert may([rule("a", "Node/n1", "*")], NODE, mesh=off)


# -- rule 6


def test_a_policy_in_shadow_decides_nothing_and_is_named_where_it_would_have_refused() -> None:
    deny = rule("deny", "User/ann", effect="Deny", shadow=True)
    close = rule("close", "User/eve", shadow=True)
    assert ask([deny, close], ANN).shadowed == ("close", "deny")
    assert ask([deny, close], EVE) == Verdict(
        True, "", "no policy says otherwise, and by default it is allowed"
    )
    assert ask([deny, close], ROOT).shadowed == ()
    assert ask([deny, close, rule("in-force", "User/ann")], ANN).shadowed == ("deny",)
    refused = ask([deny, rule("no", "User/ann", effect="Deny")], ANN)
    assert (refused.policy, refused.shadowed) == ("no", ())


# -- rule 7


@pytest.mark.parametrize(
    "spelling", ["m", "M", "m:latest", "M:LATEST", "library/m", "registry.ollama.ai/library/m:latest"]
)
def test_a_model_is_the_same_in_every_spelling_on_both_sides(spelling: str) -> None:
    one = [rule("a", "User/*", effect="Deny", on=f"Model/{spelling}")]
    for asked in ("m", "M:Latest", "library/m", "https://registry.ollama.ai/library/m"):
        assert not may(one, ANN, model=asked)
    assert may(one, ANN, model="m:7b")
    assert may(one, ANN, model="team/m")


@pytest.mark.parametrize(
    ("pattern", "fits", "fits_not"),
    [
        ("*", ("m", "team/m", "hf.co/team/m:q4"), ()),
        ("llama*", ("llama3", "LLAMA3:7b", "library/llama"), ("team/llama3", "llama.example/a/b", "allama")),
        ("*:7b", ("m:7b", "M:7B"), ("m", "team/m:7b")),
        ("team/*", ("team/m", "TEAM/x:7b"), ("team/a/b", "m", "steam/m")),
        ("hf.co/*/*", ("hf.co/a/b:q4",), ("hf.co.evil/a/b", "hf/co/a")),
        ("library/*", ("m", "m:7b"), ("team/m",)),
        ("a*b*c", ("abc", "axbxc", "abbc"), ("ab", "acb")),
    ],
)
def test_patterns_of_models(pattern: str, fits: tuple[str, ...], fits_not: tuple[str, ...]) -> None:
    one = [rule("a", "User/*", effect="Deny", on=f"Model/{pattern}")]
    assert [name for name in fits if may(one, ANN, model=name)] == []
    assert [name for name in fits_not if not may(one, ANN, model=name)] == []


def test_what_is_no_models_name_fits_no_pattern_but_the_whole() -> None:
    book = PolicyBook([rule("a", "User/ann", "pull", on="Model/mine*")], OPEN)
    assert not book.decide(ANN, "pull", "Model", "mine/../x", Facts()).allowed
    assert (
        PolicyBook([rule("a", "User/ann", "pull", on="Model/*")], OPEN)
        .decide(ANN, "pull", "Model", "mine/../x", Facts())
        .allowed
    )


# -- rule 8


def test_what_cannot_be_known_yet_refuses_nothing_and_says_so() -> None:
    eu = when("node.zone", "In", "eu")
    allow, deny = rule("a", "User/ann", conditions=eu), rule("d", "User/ann", effect="Deny", conditions=eu)
    assert ask([allow], ANN) == Verdict(True, "a", "policy a allows it", (), by_node=True)
    assert ask([deny], ANN).by_node
    there, elsewhere = Facts(node=node_facts("n", {"zone": "eu"})), Facts(node={"name": "n"})
    assert may([allow], ANN, facts=there)
    assert not may([allow], ANN, facts=elsewhere)
    assert not may([deny], ANN, facts=there)
    assert ask([deny], ANN, facts=elsewhere) == ask([], ANN)
    assert ask([rule("b", "User/ann", conditions=eu), allow], ANN).policy == "a"
    sure = rule("s", "User/ann")
    assert ask([allow, sure], ANN) == Verdict(True, "s", "policy s allows it")


def test_a_clients_address_is_the_entry_nodes_to_judge() -> None:
    inside = [rule("a", "User/ann", conditions=when("network", "CIDR", "10.0.0.0/8"))]
    assert may(inside, ANN, facts=Facts(network="10.1.2.3"))
    assert may(inside, ANN, facts=Facts(network="::ffff:10.1.2.3"))
    for address in ("11.1.2.3", "", "nonsense", "::1", "fe80::1%eth0"):
        assert not may(inside, ANN, facts=Facts(network=address)), address
    assert ask(inside, ANN, facts=Facts(network=None)).by_node


# -- rule 9


def test_what_names_no_model_is_allowed_by_any_allow_and_refused_by_a_deny_of_all() -> None:
    mine = rule("a", "User/ann", "create", on="Model/mine/*")
    assert may([mine], ANN, "create", "")
    assert not may([mine], EVE, "create", "")
    assert may([mine, rule("d", "User/ann", "create", effect="Deny")], ANN, "create", "")
    assert not may([mine, rule("d", "User/ann", "create", effect="Deny", on="Model/*")], ANN, "create", "")
    assert may([rule("c", "User/eve", "*", on="Model/*")], local("n"), "create", "")


# -- subjects


@pytest.mark.parametrize(
    ("who", "names", "names_not"),
    [
        (
            ANN,
            ("User/ann", "User/*", "User/a*", "Group/finance", "Group/sta*"),
            ("User/Ann", "User/an", "Group/fin"),
        ),
        (ROOT, ("User/root", "User/*"), ("Group/*", "Node/root")),
        (NODE, ("Node/n1", "Node/*", "Node/n*"), ("User/n1", "User/*")),
        (local("n1"), ("Node/n1",), ("User/local", "User/n1", "Node/n2")),
        (
            Principal("user", "ann", "corp#ann", ("g",)),
            ("User/corp#ann", "User/corp#*", "User/*#ann", "User/*", "Group/g"),
            ("User/ann", "User/a*", "User/c*", "User/corp", "ServiceAccount/*"),
        ),
        (Principal("user", "a#b", "corp#a#b"), ("User/corp#*", "User/corp#a#b"), ("User/*#b", "User/corp#a")),
        (
            Principal("user", "x", "k#system:serviceaccount:ns:web", service_account=True),
            ("ServiceAccount/k#ns:web", "ServiceAccount/k#ns:*", "User/k#system:serviceaccount:ns:web"),
            ("ServiceAccount/ns:web", "ServiceAccount/other#ns:web", "ServiceAccount/k#other:web"),
        ),
        (
            Principal("user", "x", "k#system:serviceaccount:ns:web"),
            ("User/k#system:serviceaccount:ns:web",),
            ("ServiceAccount/k#ns:web",),
        ),
        (Principal("client", "corp#ann", "spiffe://m/client/x"), (), ("User/corp#ann", "User/*")),
    ],
)
def test_whom_policies_name(who: Principal, names: tuple[str, ...], names_not: tuple[str, ...]) -> None:
    def named(text: str) -> bool:
        kind, _, name = text.partition("/")
        return Subjects([Subject(kind, name)]).include(identities(who))  # type: ignore[arg-type]

    assert [one for one in names if not named(one)] == []
    assert [one for one in names_not if named(one)] == []


# -- conditions


@pytest.mark.parametrize(
    ("condition", "attributes", "in_allow", "in_deny"),
    [
        (("k", "In", "a", "b"), {"k": "b"}, True, True),
        (("k", "In", "a"), {"k": "A"}, False, False),
        (("k", "In", "a"), {}, False, False),
        (("k", "NotIn", "a"), {"k": "b"}, True, True),
        (("k", "NotIn", "a"), {"k": "a"}, False, False),
        (("k", "NotIn", "a"), {}, False, True),  # who has none passes no Allow, and escapes no Deny
        (("k", "Exists"), {"k": ""}, True, True),
        (("k", "Exists"), {}, False, False),
        (("k", "Gt", "2"), {"k": "3"}, True, True),
        (("k", "Gt", "2"), {"k": "2"}, False, False),
        (("k", "Gt", "2"), {"k": "10"}, True, True),  # as numbers, not as words
        (("k", "Gt", "2"), {"k": "many"}, False, True),
        (("k", "Gt", "2"), {"k": "1e9"}, False, True),
        (("k", "Gt", "2"), {"k": "nan"}, False, True),
        (("k", "Gt", "2"), {}, False, False),
        (("k", "Lt", "2"), {"k": "-3"}, True, True),
        (("k", "Matches", "a*c", "x"), {"k": "abc"}, True, True),
        (("k", "Matches", "a*c"), {"k": "abcd"}, False, False),
        (("k", "Matches", "a*c"), {}, False, False),
        (("k", "CIDR", "10.0.0.0/8"), {"k": "10.0.0.1"}, False, True),  # it makes no sense
        (("k", "Gt", "2", "3"), {"k": "5"}, False, True),
        (("k", "In"), {"k": "5"}, False, True),
    ],
)
def test_conditions_on_attributes(
    condition: tuple[Any, ...], attributes: dict[str, str], in_allow: bool, in_deny: bool
) -> None:
    who = Principal("client", "x", "spiffe://m/client/x", (), attributes)
    conditions = when(*condition)
    assert may([rule("a", "User/x", conditions=conditions)], who) is in_allow
    assert may([rule("a", "User/x", conditions=conditions, effect="Deny")], who) is not in_deny


def test_a_request_that_says_what_is_no_number_passes_no_allow_and_no_deny() -> None:
    for key in ("num_ctx", "keep_alive", "images"):
        facts = Facts(**{key: UNREADABLE})
        for operator in ("Gt", "Lt", "In", "NotIn"):
            conditions = when(key, operator, "5")
            assert not may([rule("a", "User/ann", conditions=conditions)], ANN, facts=facts)
            assert not may([rule("a", "User/ann", conditions=conditions, effect="Deny")], ANN, facts=facts)


@pytest.mark.parametrize(
    ("at", "second", "day"),
    [
        (0, 0, "Thu"),
        (86_399, 86_399, "Thu"),
        (86_400, 0, "Fri"),
        (1_700_000_000, 80_000, "Tue"),
        (259_200, 0, "Sun"),
    ],
)
def test_the_time_of_the_day_and_the_weekday(at: int, second: int, day: str) -> None:
    facts = Facts(float(at))
    assert (facts.second_of_day, facts.weekday) == (second, day)


def test_office_hours() -> None:
    office = [rule("a", "User/ann", conditions=(*when("time", "Gt", "07:59"), *when("time", "Lt", "18:00")))]
    hours = [hour for hour in range(24) if may(office, ANN, facts=Facts(hour * 3600.0))]
    assert hours == list(range(8, 18))


def test_attributes_do_not_stand_for_what_is_asked_about_a_request() -> None:
    who = Principal("client", "x", "t", (), {"num_ctx": "1", "node.zone": "eu", "network": "10.0.0.1"})
    assert not may([rule("a", "User/x", conditions=when("num_ctx", "Lt", "5"))], who)
    assert not may([rule("a", "User/x", conditions=when("node.zone", "In", "eu"))], who, facts=Facts(node={}))
    assert not may(
        [rule("a", "User/x", conditions=when("network", "CIDR", "10.0.0.0/8"))],
        who,
        facts=Facts(network="8.8.8.8"),
    )


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        (("time", "In", "08:00"), "In does not fit time: one of Gt, Lt"),
        (("time", "Gt", "8:00"), "'8:00' is no time of the day such as 08:00 (UTC)"),
        (("time", "Gt", "24:00"), "'24:00' is no time of the day"),
        (("weekday", "In", "Monday"), "'Monday' is no day: one of Mon, Tue"),
        (("weekday", "Gt", "Mon"), "Gt does not fit weekday"),
        (("network", "CIDR", "10.0.0.0/33"), "'10.0.0.0/33' is no network such as 10.0.0.0/8"),
        (("network", "CIDR", "10.0.0.1/8"), "has host bits set"),
        (("network", "In", "10.0.0.1"), "In does not fit network"),
        (("department", "CIDR", "10.0.0.0/8"), "CIDR does not fit department"),
        (("department", "In"), "In needs a value"),
        (("department", "Exists", "x"), "Exists takes no values"),
        (("level", "Gt", "high"), "'high' is no number"),
        (("level", "Gt", "1", "2"), "Gt takes one value"),
        (("num_ctx", "In", "8k"), "'8k' is no number"),
        (("num_ctx", "Matches", "8*"), "Matches does not fit num_ctx"),
        (("node.", "Exists"), "needs a label behind it"),
    ],
)
def test_a_condition_that_makes_no_sense_is_told(condition: tuple[Any, ...], says: str) -> None:
    (one,) = when(*condition)
    assert says in (fault(one) or "")
    assert Check(one).of_attribute("1") is Check(one).of_request(Facts(node={})) is Answer.UNDECIDED


# -- patterns, numbers, clocks


@given(st.text("ab*", max_size=12), st.text("ab", max_size=12))
def test_a_pattern_fits_what_its_regular_expression_does(pattern: str, text: str) -> None:
    import re

    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None
    assert Glob(pattern).matches(text) is expected


@given(st.text("a/*", max_size=8), st.text("a/", max_size=8))
def test_a_star_within_slashes_goes_over_none(pattern: str, text: str) -> None:
    import re

    expected = (
        pattern == "*" or re.fullmatch("[^/]*".join(map(re.escape, pattern.split("*"))), text) is not None
    )
    assert Glob(pattern, "/").matches(text) is expected


def test_the_ends_of_a_pattern_do_not_share_characters() -> None:
    assert not Glob("ab*ba").matches("aba")
    assert Glob("ab*ba").matches("abba")


def test_a_hostile_pattern_takes_no_time() -> None:
    assert not Glob("*a" * 128 + "b").matches("a" * 4096)  # a regular expression would be at it for ever


@given(st.text(max_size=20))
def test_nothing_that_is_no_number_or_time_is_one(text: str) -> None:
    found = number(text)
    assert found is None or (found == float(text) and "e" not in text.lower() and "n" not in text.lower())
    at = clock(text)
    assert at is None or (len(text) == 5 and 0 <= at < 86_400)


# -- what may never happen


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["ann", "eve", "*"]), max_size=4),
    st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_more_denies_never_allow_more(names: list[str], shadows: list[bool]) -> None:
    policies = [rule(f"p{at}", f"User/{name}") for at, name in enumerate(names)]
    deny = rule("deny", "User/ann", effect="Deny", shadow=shadows[0])
    for who in (ANN, EVE, ROOT):
        assert may([*policies, deny], who) <= may(policies, who)


def test_what_is_remembered_is_bounded_and_changes_no_answer() -> None:
    book = PolicyBook([rule("a", "User/ann", on="Model/m*")], OPEN)
    rights = book.rights(EVE)
    for number_ in range(20_000):
        assert rights.decide("predict", "Model", canonical(f"x{number_}"), Facts()).allowed
        assert not rights.decide("predict", "Model", canonical(f"m{number_}"), Facts()).allowed
        assert len(rights._cases) + len(rights.settled) <= 8192
    assert len(rights._cases) + len(rights.settled) <= 8192
    assert len(book._about) <= 8192


@pytest.mark.parametrize(
    ("operator", "num_ctx", "in_allow", "in_deny"),
    [
        ("In", 5.0, True, True),
        ("In", 8.0, True, True),
        ("In", 6.0, False, False),
        ("In", None, False, False),
        ("NotIn", 5.0, False, False),
        ("NotIn", 6.0, True, True),
        ("NotIn", None, False, True),  # what is not said passes no Allow, and escapes no Deny
    ],
)
def test_numbers_of_a_request_among_others(
    operator: Any, num_ctx: float | None, in_allow: bool, in_deny: bool
) -> None:
    conditions, facts = when("num_ctx", operator, "5", "8"), Facts(num_ctx=num_ctx)
    assert (
        may([rule("a", "User/ann", conditions=conditions)], ANN, facts=facts, mesh=SecuritySettings("Deny"))
        is in_allow
    )
    assert may([rule("a", "User/ann", conditions=conditions, effect="Deny")], ANN, facts=facts) is not in_deny


def test_of_a_request_nothing_is_known_where_nothing_is_said() -> None:
    assert (Facts().second_of_day, Facts().weekday, Facts().node) == (0, "Thu", None)


def test_documents_are_nobodys_but_an_admins() -> None:
    assert not may_by_default(ANN, "show", "Config", "mesh", OPEN)
    assert may_by_default(ROOT, "show", "Config", "mesh", OPEN)


def test_a_request_brings_no_images_and_a_verdict_is_final_where_nothing_else_is_said() -> None:
    none = when("images", "Lt", "1")
    assert not may([rule("d", "User/ann", conditions=none, effect="Deny")], ANN, facts=Facts())
    assert Verdict(True) == Verdict(True, "", "", (), by_node=False)
