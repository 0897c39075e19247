"""JSON Web Tokens: whom they name, and every way in which one can be wrong."""

from __future__ import annotations

import hmac
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OctKey, RSAKey

from bridge_agent.authentication.tokens import MAX_BYTES, TokenRejected, check_time, issuers_of, verify
from tests.unit.token_support import (
    ISSUER,
    KUBERNETES,
    NOW,
    claims,
    ec,
    ed,
    key_set,
    part,
    pod_claims,
    provider,
    rsa,
    token,
)

ISSUERS = issuers_of([provider()])


def reason_of(bad: bytes, issuers: Any = None, now: float = NOW) -> str:
    with pytest.raises(TokenRejected) as caught:
        verify(bad, ISSUERS if issuers is None else issuers, now)
    return caught.value.reason


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (rsa(), "RS256"),
        (rsa(), "PS256"),
        (ec(), "ES256"),
        (ec("e2", "P-384"), "ES384"),
        (ed(), "Ed25519"),
    ],
    ids=["RS256", "PS256", "ES256", "ES384", "EdDSA"],
)
def test_a_good_token_names_its_subject_groups_and_attributes(key: Any, algorithm: str) -> None:
    verified = verify(token(key=key, algorithm=algorithm), ISSUERS, NOW)
    who = verified.principal
    assert (who.kind, who.name, who.text) == ("user", "ann", "corp#ann")
    assert who.groups == ("finance-analysts",)
    assert who.attributes == {"department": "finance"}
    assert not who.service_account
    assert verified.expires == NOW + 600


def test_the_fully_specified_name_of_an_algorithm_is_the_same_algorithm() -> None:
    assert verify(token(key=ed(), header={"alg": "Ed25519"}), ISSUERS, NOW).principal.name == "ann"


def test_a_projected_token_of_kubernetes_names_its_service_account_and_pod() -> None:
    issuers = issuers_of([provider(name="cluster", issuer=KUBERNETES, kubernetes=True, groups="")])
    who = verify(token(pod_claims()), issuers, NOW).principal
    assert who.text == "cluster#system:serviceaccount:shop:checkout"
    assert who.service_account
    assert who.attributes == {"namespace": "shop", "serviceaccount": "checkout", "pod": "checkout-7d9f"}
    assert who.groups == ("system:serviceaccounts", "system:serviceaccounts:shop")


@pytest.mark.parametrize(
    "said",
    [
        None,
        {},
        {"namespace": "shop"},
        {"namespace": "shop", "serviceaccount": {"name": "admin"}},
        {"namespace": "kube-system", "serviceaccount": {"name": "checkout"}},
        {"namespace": "shop", "serviceaccount": {"name": "checkout"}, "pod": "checkout"},
        {"namespace": ["shop"], "serviceaccount": {"name": "checkout"}},
    ],
)
def test_what_kubernetes_says_beside_the_subject_has_to_be_the_same(said: Any) -> None:
    issuers = issuers_of([provider(issuer=KUBERNETES, kubernetes=True)])
    assert reason_of(token(pod_claims(**{"kubernetes.io": said})), issuers) == "claims"


def embedded() -> bytes:
    """Signed by a key of its own making, which it brings along."""
    own = RSAKey.generate_key(2048, {"kid": "r1"})
    return token(key=own, header={"jwk": own.as_dict(private=False), "jku": "https://evil.example/keys"})


def confused(what: bytes) -> bytes:
    """The public key taken for the secret of an HMAC: where a verifier lets the token choose."""
    signed = part(b'{"alg":"HS256","typ":"JWT","kid":"r1"}') + b"." + part(json.dumps(claims()).encode())
    return signed + b"." + part(hmac.digest(what, signed, "sha256"))


def with_end(text: str) -> bytes:
    """Claims with this in the place of their end."""
    return json.dumps(claims()).replace(str(claims()["exp"]), text).encode()


WRONG: dict[str, tuple[Any, str]] = {
    "none": (lambda: part(b'{"alg":"none"}') + b"." + part(b"{}") + b".", "malformed"),
    "none, with a signature": (lambda: token(header={"alg": "none"}), "algorithm"),
    "NoNe": (lambda: token(header={"alg": "NoNe"}), "algorithm"),
    "HMAC with the PEM": (lambda: confused(rsa().as_pem(private=False)), "algorithm"),
    "HMAC with the DER": (lambda: confused(rsa().as_der(private=False)), "algorithm"),
    "HMAC with the key set": (lambda: confused(key_set(rsa()).encode()), "algorithm"),
    "HMAC that says RS256": (
        lambda: token(key=OctKey.import_key(b"k" * 32, {"kid": "r1"}), header={"alg": "RS256"}),
        "signature",
    ),
    "an algorithm that is not allowed": (lambda: token(algorithm="RS512"), "algorithm"),
    "no algorithm": (lambda: token(header={"alg": ...}), "algorithm"),
    "a list of algorithms": (lambda: token(header={"alg": ["RS256"]}), "algorithm"),
    "RSA's signature with a curve's key": (lambda: token(header={"kid": "e1"}), "key"),
    "a curve's algorithm with RSA's key": (lambda: token(header={"alg": "ES256"}), "key"),
    "another curve": (lambda: token(key=ec(), header={"alg": "ES384"}), "key"),
    "an unknown key": (lambda: token(header={"kid": "r2"}), "key"),
    "no key named, and two fit": (lambda: token(header={"kid": ...}), "signature-of-only"),
    "kid as a number": (lambda: token(header={"kid": 1}), "header"),
    "kid as a path": (lambda: token(header={"kid": "../../dev/null"}), "key"),
    "an embedded key": (embedded, "signature"),
    "somebody else's key": (lambda: token(key=ECKey.generate_key("P-256", {"kid": "e1"})), "signature"),
    "crit": (lambda: token(header={"crit": ["exp"]}), "header"),
    "crit, empty": (lambda: token(header={"crit": []}), "header"),
    "b64": (lambda: token(header={"b64": False}), "header"),
    "a token for logout": (lambda: token(header={"typ": "logout+jwt"}), "header"),
    "a proof of possession": (lambda: token(header={"typ": "dpop+jwt"}), "header"),
    "typ as a list": (lambda: token(header={"typ": ["JWT"]}), "header"),
    "another issuer": (lambda: token(claims(iss="https://evil.example")), "issuer"),
    "its issuer with a slash": (lambda: token(claims(iss=ISSUER + "/")), "issuer"),
    "its issuer in capitals": (lambda: token(claims(iss=ISSUER.upper())), "issuer"),
    "no issuer": (lambda: token(claims(iss=...)), "issuer"),
    "issuers": (lambda: token(claims(iss=[ISSUER])), "issuer"),
    "another audience": (lambda: token(claims(aud="other")), "audience"),
    "other audiences": (lambda: token(claims(aud=["other", "bridge2"])), "audience"),
    "no audience": (lambda: token(claims(aud=...)), "audience"),
    "an empty list of audiences": (lambda: token(claims(aud=[])), "audience"),
    "an audience in a list in a list": (lambda: token(claims(aud=[["bridge"]])), "audience"),
    "an audience as a mapping": (lambda: token(claims(aud={"bridge": 1})), "audience"),
    "65 audiences": (lambda: token(claims(aud=["bridge"] * 65)), "audience"),
    "expired": (lambda: token(claims(exp=NOW - 21)), "expired"),
    "no end": (lambda: token(claims(exp=...)), "claims"),
    "its end is null": (lambda: token(claims(exp=None)), "claims"),
    "its end is true": (lambda: token(claims(exp=True)), "claims"),
    "its end is a text": (lambda: token(claims(exp="1900000000")), "claims"),
    "its end is negative": (lambda: token(claims(exp=-1)), "claims"),
    "its end is 10**400": (lambda: token(claims(exp=10**400)), "claims"),
    "its end is 1e999": (lambda: token(with_end("1e999")), "claims"),
    "its end is Infinity": (lambda: token(with_end("Infinity")), "malformed"),
    "a number of 5,000 digits": (lambda: token(with_end("9" * 5000)), "malformed"),
    "not yet": (lambda: token(claims(nbf=NOW + 21)), "early"),
    "made in the future": (lambda: token(claims(iat=NOW + 21)), "early"),
    "no subject": (lambda: token(claims(sub=...)), "claims"),
    "an empty subject": (lambda: token(claims(sub="")), "claims"),
    "a subject with a line break": (lambda: token(claims(sub="ann\r\nx-bridge-hop: b")), "claims"),
    "a subject with a NUL": (lambda: token(claims(sub="ann\0")), "claims"),
    "a subject with half a character": (lambda: token(claims(sub="ann\ud800")), "claims"),
    "a subject with a space at its end": (lambda: token(claims(sub="ann ")), "claims"),
    "a subject as a number": (lambda: token(claims(sub=1)), "claims"),
    "a long subject": (lambda: token(claims(sub="a" * 257)), "claims"),
    "groups as a mapping": (lambda: token(claims(groups={"a": 1})), "claims"),
    "a group that is null": (lambda: token(claims(groups=["a", None])), "claims"),
    "513 groups": (lambda: token(claims(groups=["a"] * 513)), "claims"),
    "an attribute as a list": (lambda: token(claims(dept=["finance"])), "claims"),
    "an attribute as a fraction": (lambda: token(claims(dept=1.5)), "claims"),
    "claims as a list": (lambda: token(b"[]"), "malformed"),
    "claims as a text": (lambda: token(b'"a"'), "malformed"),
    "claims that are no JSON": (lambda: token(b"{"), "malformed"),
    "claims that are no UTF-8": (lambda: token(b'{"iss":"\xff\xfe"}'), "malformed"),
    "claims in UTF-16": (lambda: token(json.dumps(claims()).encode("utf-16")), "malformed"),
    "a claim twice": (lambda: token(b'{"sub":"ann",' + json.dumps(claims()).encode()[1:]), "malformed"),
    "a claim twice, within another": (
        lambda: token(json.dumps(claims()).encode()[:-1] + b',"a":{"b":1,"b":2}}'),
        "malformed",
    ),
    "the algorithm twice": (lambda: token(header=b'{"alg":"none","alg":"RS256","kid":"r1"}'), "malformed"),
    "200 claims": (lambda: token(claims(**{f"c{i}": 1 for i in range(200)})), "malformed"),
    "nine levels": (lambda: token(claims(a=json.loads("[" * 9 + "]" * 9))), "malformed"),
    "thousands of levels": (lambda: token(b"[" * 5500), "malformed"),
    "a header of thousands of levels": (lambda: token(b"{}", header=b"[" * 5500), "malformed"),
    "too long": (lambda: token(claims(a="x" * MAX_BYTES)), "malformed"),
    "two parts": (lambda: token().rpartition(b".")[0], "malformed"),
    "four parts": (lambda: token() + b".AAAA", "malformed"),
    "five parts, as encrypted ones have": (lambda: b".".join([b"AAAA"] * 5), "malformed"),
    "nothing": (lambda: b"", "malformed"),
    "padding": (lambda: token() + b"=", "malformed"),
    "a line break in it": (lambda: token()[:50] + b"\n" + token()[50:], "malformed"),
    "a line break after it": (lambda: token() + b"\n", "malformed"),
    "another alphabet": (lambda: token().replace(b".", b"+.", 1), "malformed"),
    "a part of an impossible length": (lambda: token()[:-1], "malformed-or-signature"),
    "its signature cut": (lambda: token()[:-8], "signature"),
    "no signature": (lambda: token().rpartition(b".")[0] + b".", "malformed"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_token_that_is_wrong_in_one_way_is_refused(name: str) -> None:
    make, expected = WRONG[name]
    bad = make()
    if expected == "signature-of-only":
        many = issuers_of([provider(keys=key_set(rsa("r1"), rsa("r2")))])
        assert reason_of(bad, many) == "key"
        return
    reason = reason_of(bad)
    assert reason in expected.split("-or-")


def test_a_token_without_an_id_of_a_key_is_taken_where_its_issuer_has_one_key_for_it() -> None:
    assert verify(token(header={"kid": ...}), ISSUERS, NOW).principal.name == "ann"


def test_a_refusal_never_repeats_what_the_token_says() -> None:
    secret = "Zr7kq2"
    for bad in (
        token(claims(iss=secret)),
        token(claims(aud=secret)),
        token(header={"alg": secret}),
        token(header={"kid": secret}),
        token(claims(sub=[secret])),
    ):
        with pytest.raises(TokenRejected) as caught:
            verify(bad, ISSUERS, NOW)
        assert secret not in str(caught.value)


def test_clocks_may_differ_by_twenty_seconds() -> None:
    assert verify(token(claims(exp=NOW - 20)), ISSUERS, NOW)
    assert verify(token(claims(nbf=NOW + 20, iat=NOW + 20)), ISSUERS, NOW)


def test_what_was_verified_counts_until_the_token_ends() -> None:
    verified = verify(token(), ISSUERS, NOW)
    check_time(verified, NOW + 620)
    with pytest.raises(TokenRejected):
        check_time(verified, NOW + 621)
    check_time(verified, NOW + 621, grace_s=60)


def test_a_key_that_is_for_one_algorithm_checks_no_other() -> None:
    only = RSAKey.import_key(rsa().as_dict(private=True) | {"alg": "RS256"})
    issuers = issuers_of([provider(keys=key_set(only))])
    assert verify(token(key=rsa()), issuers, NOW)
    assert reason_of(token(key=rsa(), algorithm="PS256"), issuers) == "key"


@pytest.mark.parametrize("keys", ["", "{", '{"keys":[]}'])
def test_an_issuer_without_keys_has_its_tokens_refused_and_says_so(keys: str) -> None:
    issuers = issuers_of([provider(keys=keys)])
    assert issuers[ISSUER].fault
    assert reason_of(token(), issuers) == "keys"


def test_an_issuer_only_speaks_for_itself() -> None:
    other = provider(name="other", issuer="https://other.example", keys=key_set(rsa("o1")))
    issuers = issuers_of([provider(), other])
    assert reason_of(token(key=rsa("o1"), header={"kid": "r1"}), issuers) == "signature"
    assert reason_of(token(key=rsa("o1")), issuers) == "key"
    assert (
        verify(token(claims(iss="https://other.example"), rsa("o1")), issuers, NOW).principal.text
        == "other#ann"
    )


def test_a_nested_claim_is_found_by_its_path_and_one_with_dots_by_its_name() -> None:
    issuers = issuers_of(
        [provider(groups="realm_access.roles", attributes={"team": "https://a.example/team"})]
    )
    who = verify(
        token(claims(realm_access={"roles": ["a", "b"]}, **{"https://a.example/team": "x"})), issuers, NOW
    ).principal
    assert who.groups == ("a", "b")
    assert who.attributes == {"team": "x"}


@pytest.mark.parametrize("told", [..., False, "true", 1, None])
def test_an_address_that_its_issuer_has_not_verified_names_nobody(told: Any) -> None:
    issuers = issuers_of([provider(subject="email")])
    assert reason_of(token(claims(email="root@corp.example", email_verified=told)), issuers) == "claims"
    good = token(claims(email="ann@corp.example", email_verified=True))
    assert verify(good, issuers, NOW).principal.text == "corp#ann@corp.example"


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(token()) - 1), st.integers(0, 255))
def test_no_changed_byte_is_believed(at: int, byte: int) -> None:
    good = token()
    bad = good[:at] + bytes([byte]) + good[at + 1 :]
    try:
        verified = verify(bad, ISSUERS, NOW)
    except TokenRejected:
        return
    # The bits of the last character that base64 does not use may be any.
    assert bad == good or (at == len(good) - 1 and bad[:-1] == good[:-1])
    assert verified.principal.name == "ann"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["iss", "sub", "aud", "exp", "nbf", "iat", "groups", "dept"]), _JSON)
def test_whatever_a_claim_is_nothing_but_a_refusal_comes_of_it(name: str, value: Any) -> None:
    try:
        verify(token(claims(**{name: value})), ISSUERS, NOW)
    except TokenRejected:
        return


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_whatever_is_signed_nothing_but_a_refusal_comes_of_it(header: bytes, payload: bytes) -> None:
    with pytest.raises(TokenRejected):
        verify(part(header) + b"." + part(payload) + b".AAAA", ISSUERS, NOW)
    with pytest.raises(TokenRejected):
        verify(token(payload), ISSUERS, NOW)
