"""Which pods may join: what Kubernetes has to say of a token, and which names are a pod's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_core.errors import Unavailable
from bridge_core.identity import JoinToken, PodToken, TokenFault, parse_token
from bridge_registry.enrolment.join_rules import EnrolmentRefused, JoinRefusal
from bridge_registry.enrolment.pod_rules import (
    Pod,
    audience_of,
    check_accounts,
    check_name,
    pod_of,
    request_of,
)
from bridge_registry.records import NodeRecord

AUDIENCE = audience_of("bridge.local")
ACCOUNTS = ("bridge:agent",)
POD = Pod("bridge:agent", "agent-1", "5f0c-01")
NAME, UID = "authentication.kubernetes.io/pod-name", "authentication.kubernetes.io/pod-uid"


def review(**more: object) -> bytes:
    status: dict[str, Any] = {
        "authenticated": True,
        "audiences": [AUDIENCE],
        "user": {
            "username": "system:serviceaccount:bridge:agent",
            "extra": {NAME: ["agent-1"], UID: ["5f0c-01"]},
        },
    }
    return json.dumps({"kind": "TokenReview", "status": {**status, **more}}).encode()


def user(username: str = "system:serviceaccount:bridge:agent", **extra: list[str]) -> dict[str, object]:
    return {"username": username, "extra": {NAME: extra.get("name", ["a"]), UID: extra.get("uid", ["5f"])}}


def test_a_token_that_kubernetes_vouches_for_is_its_pods() -> None:
    assert pod_of(review(), AUDIENCE, ACCOUNTS) == POD
    assert json.loads(request_of("t", AUDIENCE))["spec"] == {"token": "t", "audiences": [AUDIENCE]}


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [
        (review(authenticated=False), JoinRefusal.UNAUTHENTICATED),
        (b"{}", JoinRefusal.UNAUTHENTICATED),
        (review(audiences=[]), JoinRefusal.UNAUTHENTICATED),
        (review(audiences=["https://kubernetes.default.svc"]), JoinRefusal.UNAUTHENTICATED),
        (review(audiences=[AUDIENCE + "x"]), JoinRefusal.UNAUTHENTICATED),
        (review(user=user("system:serviceaccount:bridge:other")), JoinRefusal.DENIED),
        (review(user=user("system:serviceaccount:other:agent")), JoinRefusal.DENIED),
        (review(user=user("system:node:agent-1")), JoinRefusal.DENIED),
        (review(user=user("bridge:agent")), JoinRefusal.DENIED),
        (review(user=user(name=[])), JoinRefusal.UNAUTHENTICATED),
        (review(user=user(name=["a", "b"])), JoinRefusal.UNAUTHENTICATED),
        (review(user=user(uid=[])), JoinRefusal.UNAUTHENTICATED),
        (review(user=user(uid=["../x"])), JoinRefusal.UNAUTHENTICATED),
        (review(user={"username": "system:serviceaccount:bridge:agent"}), JoinRefusal.UNAUTHENTICATED),
    ],
)
def test_what_lets_nobody_in(answer: bytes, refusal: JoinRefusal) -> None:
    with pytest.raises(EnrolmentRefused) as caught:
        pod_of(answer, AUDIENCE, ACCOUNTS)
    assert caught.value.refusal is refusal


@given(
    st.binary(max_size=200)
    | st.dictionaries(st.text(), st.integers()).map(lambda one: json.dumps(one).encode())
)
def test_nothing_that_is_no_review_is_believed(answer: bytes) -> None:
    with pytest.raises((EnrolmentRefused, Unavailable)):
        pod_of(answer, AUDIENCE, ACCOUNTS)


@pytest.mark.parametrize(
    ("node", "existing", "refusal"),
    [
        ("agent-1", None, None),
        ("agent-2", None, JoinRefusal.DENIED),
        ("agent-1", NodeRecord("agent-1", token="pod:bridge/5f0c-00"), None),
        ("agent-1", NodeRecord("agent-1", token="pod:bridge/5f0c-01"), None),
        ("agent-1", NodeRecord("agent-1", token="pod:bridge/5f0c-00", state="revoked"), None),
        ("agent-1", NodeRecord("agent-1", token="pod:bridge/5f0c-01", state="revoked"), JoinRefusal.DENIED),
        ("agent-1", NodeRecord("agent-1", token="pod:bridge/5f0c-01", state="drained"), None),
        ("agent-1", NodeRecord("agent-1", token="pod:other/5f0c-01"), JoinRefusal.TAKEN),
        ("agent-1", NodeRecord("agent-1", token="0123456789abcdef"), JoinRefusal.TAKEN),
        ("agent-1", NodeRecord("agent-1", token="0123456789abcdef", state="revoked"), JoinRefusal.TAKEN),
        ("agent-1", NodeRecord("agent-1"), JoinRefusal.TAKEN),
    ],
)
def test_whose_a_name_is(node: str, existing: NodeRecord | None, refusal: JoinRefusal | None) -> None:
    if refusal is None:
        check_name(POD, node, existing)
        return
    with pytest.raises(EnrolmentRefused) as caught:
        check_name(POD, node, existing)
    assert caught.value.refusal is refusal


@pytest.mark.parametrize(
    "account", ["agent", "a:b:c", "A:b", ":b", "a:", "system:serviceaccount:a:b", "a: b"]
)
def test_accounts_that_are_none_are_refused(account: str) -> None:
    with pytest.raises(ValueError, match="NAMESPACE:NAME"):
        check_accounts([account])


def test_a_pods_token_is_told_from_a_join_token() -> None:
    pin = "ab" * 32
    token = PodToken(pin, "a-_1.b.c")
    assert parse_token(f" {token}\n") == token
    assert "a-_1" not in repr(token)
    join_token = JoinToken.mint(pin, bytes(40))
    assert parse_token(str(join_token)) == join_token


@pytest.mark.parametrize(
    "text",
    ["brk1.", "brk1." + "ab" * 32, f"brk1.{'ab' * 32}.a.b", f"brk1.{'ab' * 32}.a.b.c.d", "brk2.x",
     f"brk1.{'AB' * 32}.a.b.c", f"brk1.{'ab' * 32}.a.b.{'c' * 17_000}", f"brk1.{'ab' * 32}.a\r\nx.b.c"],
)  # fmt: skip
def test_what_is_no_token_at_all_is_refused_before_anybody_is_asked(text: str) -> None:
    with pytest.raises(TokenFault):
        parse_token(text)


def test_an_answer_without_a_status_vouches_for_nobody() -> None:
    with pytest.raises(EnrolmentRefused, match="does not know the service account's token"):
        pod_of(b"{}", AUDIENCE, ACCOUNTS)


def test_of_long_names_no_more_is_repeated_than_a_name_has() -> None:
    with pytest.raises(EnrolmentRefused, match=f"^'{'x' * 320}' may not"):
        pod_of(review(user=user("x" * 321)), AUDIENCE, ACCOUNTS)
    with pytest.raises(EnrolmentRefused, match=f"pod '{'x' * 253}', which"):
        check_name(Pod("bridge:agent", "x" * 254, "5f"), "agent-1", None)


def test_an_answer_has_a_quarter_of_a_mebibyte_at_most() -> None:
    whole = review()
    assert pod_of(whole + b" " * ((256 << 10) - len(whole)), AUDIENCE, ACCOUNTS) == POD
    with pytest.raises(Unavailable):
        pod_of(whole + b" " * ((256 << 10) + 1 - len(whole)), AUDIENCE, ACCOUNTS)
