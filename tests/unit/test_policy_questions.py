"""A question to the policies in an admin's words: whom, what, of what, and what else is so."""

from __future__ import annotations

import math

import pytest

from bridge_core.clients import Admin, Client
from bridge_core.errors import BridgeError
from bridge_core.identity.principal import ROLE, Principal, local
from bridge_core.names import canonical
from bridge_registry.traffic import access_rules as rules
from bridge_registry.traffic.access_rules import Known

KNOWN = Known(
    "mesh",
    {"ann": Client("ann", ("staff",), {"team": "x", "level": "1"})},
    {"root": Admin("root", "operator")},
    ("cluster",),
)


def subject(text: str, known: Known = KNOWN) -> Principal:
    return rules.subject(text, ("more",), {"level": "2"}, known)


def test_whom_an_admin_means() -> None:
    ann = Principal(
        "client", "ann", "spiffe://mesh/client/ann", ("staff", "more"), {"team": "x", "level": "2"}
    )
    assert subject("ann") == subject("client/ann") == ann
    assert subject("local@n1") == local("n1")
    assert subject("group/dev") == Principal(
        "client", "", "any client of dev", ("dev", "more"), {"level": "2"}
    )
    assert subject("node/n1") == Principal("node", "n1", "spiffe://mesh/node/n1", ("more",), {"level": "2"})
    assert subject("admin/root") == Principal(
        "admin", "root", "spiffe://mesh/admin/root", (), {ROLE: "operator"}
    )
    user = Principal("user", "eve", "corp#eve", ("more",), {"level": "2"})
    assert subject("corp#eve") == subject("user/corp#eve") == user
    assert not user.service_account
    pod = subject("cluster#system:serviceaccount:ns:web")
    assert (pod.name, pod.service_account) == ("system:serviceaccount:ns:web", True)
    assert subject("corp#a/b").name == "a/b", "a slash behind the # is the subject's own"


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("", "names nobody", "NAME, client/NAME"),
        ("client/", "names nobody", "NAME, client/NAME"),
        ("anne", "there is no client anne", "ann"),
        ("zzzzzzzz", "there is no client zzzzzzzz", "NAME, client/NAME"),
        ("admin/nobody", "there is no admin nobody", "admin list"),
        ("user/eve", "a user is <provider>#<subject>", "NAME"),
        ("user/#eve", "a user is <provider>#<subject>", "NAME"),
        ("user/corp#", "a user is <provider>#<subject>", "NAME"),
        ("robot/x", "'robot' is no kind of subject", "NAME"),
    ],
)
def test_who_is_nobody(text: str, says: str, hint: str) -> None:
    with pytest.raises(BridgeError) as caught:
        subject(text)
    assert says in caught.value.message
    assert hint in caught.value.hint


def test_where_there_are_no_clients_the_forms_are_told() -> None:
    with pytest.raises(BridgeError) as caught:
        subject("ann", Known("mesh", {}, {}))
    assert caught.value.hint.startswith("NAME, client/NAME")


def test_what_can_be_asked_for() -> None:
    assert [rules.action(text) for text in ("predict", "list", "admin")] == ["predict", "list", "admin"]
    for text in ("*", "drain", "Predict", ""):
        with pytest.raises(BridgeError, match="is no action of policies"):
            rules.action(text)
    with pytest.raises(BridgeError, match="did you mean predict"):
        rules.action("predct")


def test_what_it_is_done_to() -> None:
    assert rules.resource("", "M") == rules.resource("Model", "m:latest") == ("Model", canonical("m"))
    assert rules.resource("Model", "") == ("Model", "")
    assert rules.resource("Node", "n1") == ("Node", "n1")
    for kind, name, says in (
        ("Node", "", "which node"),
        ("Config", "x", "a Model or a Node, not a Config"),
        ("", "../x", "is not a model name"),
    ):
        with pytest.raises(BridgeError, match=says):
            rules.resource(kind, name)


def test_what_is_of_the_request_and_what_of_the_subject() -> None:
    given = {"num_ctx": "5", "node.zone": "eu", "department": "x", "nodes": "y"}
    assert rules.split(given) == ({"num_ctx": "5", "node.zone": "eu"}, {"department": "x", "nodes": "y"})


SUNDAY = 259_200.0  # the fourth of January 1970
NOON = 43_200.0


@pytest.mark.parametrize(
    ("given", "day", "second"),
    [
        ({}, "Sun", 7),
        ({"time": "12:00"}, "Sun", NOON),
        ({"weekday": "Mon"}, "Mon", 7),
        ({"weekday": "Sun"}, "Sun", 7),
        ({"weekday": "Wed", "time": "12:00"}, "Wed", NOON),
        ({"time": "00:00"}, "Sun", 0),
    ],
)
def test_the_moment_that_is_asked_about(given: dict[str, str], day: str, second: float) -> None:
    found = rules.facts(given, SUNDAY + 7.0)
    assert (found.weekday, found.second_of_day) == (day, second)
    assert found.now > 0.0


def test_what_else_is_so() -> None:
    bare = rules.facts({}, 0.0)
    assert (bare.network, bare.num_ctx, bare.keep_alive, bare.images, bare.node) == (
        None,
        None,
        None,
        0.0,
        None,
    )
    full = {"network": "10.0.0.1", "num_ctx": "8", "images": "2", "node.zone": "eu", "keep_alive": "90"}
    found = rules.facts(full, 0.0)
    assert (found.network, found.num_ctx, found.images, found.keep_alive) == ("10.0.0.1", 8.0, 2.0, 90.0)
    assert found.node == {"zone": "eu"}
    assert rules.facts({"keep_alive": "5m"}, 0.0).keep_alive == 300.0
    assert rules.facts({"keep_alive": "-1"}, 0.0).keep_alive == math.inf
    assert rules.facts({"keep_alive": "-0.5"}, 0.0).keep_alive == -0.5
    assert rules.facts({"keep_alive": "0"}, 0.0).keep_alive == 0.0


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"time": "8:00"}, "time=8:00 is no time of the day"),
        ({"weekday": "Monday"}, "weekday=Monday is no day: one of Mon"),
        ({"num_ctx": "8k"}, "num_ctx=8k is no number"),
        ({"images": "two"}, "images=two is no number"),
        ({"keep_alive": "soon"}, "keep_alive=soon is no number of seconds, and no duration"),
    ],
)
def test_what_cannot_be_so(given: dict[str, str], says: str) -> None:
    with pytest.raises(BridgeError, match=says):
        rules.facts(given, 0.0)
