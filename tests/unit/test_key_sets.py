"""Key sets of issuers: what is kept, what is passed over, and what is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OctKey

from bridge_core.identity.key_sets import MAX_KEYS, BadKeySet, read_key_set, write_key_set
from tests.unit.token_support import ec, ed, key_set, rsa


def refused(text: str) -> str:
    with pytest.raises(BadKeySet) as caught:
        read_key_set(text)
    return caught.value.message


def with_keys(*keys: dict[str, Any]) -> str:
    return json.dumps({"keys": list(keys)})


def public(key: Any, **changes: Any) -> dict[str, Any]:
    return {**key.as_dict(private=False), **changes}


def test_a_set_is_kept_with_what_a_check_needs_and_nothing_else() -> None:
    text = with_keys(public(rsa(), x5c=["MIIC"], x5t="abc", issuer="https://x"), public(ec()), public(ed()))
    keys = read_key_set(text)
    assert [(key.kty, key.kid, key.crv) for key in keys] == [
        ("RSA", "r1", ""),
        ("EC", "e1", "P-256"),
        ("OKP", "d1", "Ed25519"),
    ]
    kept = write_key_set(keys)
    assert "x5c" not in kept
    assert "issuer" not in kept
    assert read_key_set(kept) == keys


@pytest.mark.parametrize(
    ("key", "what"),
    [(rsa(), "private"), (ec(), "private"), (ed(), "private"), (OctKey.generate_key(256), "symmetric")],
    ids=["RSA", "EC", "OKP", "oct"],
)
def test_a_set_with_a_secret_in_it_is_refused_and_the_key_is_named(key: Any, what: str) -> None:
    message = refused(with_keys(public(rsa("other")), {**key.as_dict(private=True), "kid": "the-key"}))
    assert "'the-key'" in message
    assert f"a {what} key" in message
    assert str(key.as_dict(private=True).get("d", key.as_dict(private=True).get("k"))) not in message


def test_keys_that_check_no_signatures_here_are_passed_over() -> None:
    others = [
        public(rsa("enc"), use="enc"),
        public(rsa("wrap"), key_ops=["wrapKey"]) | {"use": "sig"},
        public(rsa("small"), n=public(rsa())["n"][:171]),
        public(ECKey.generate_key("P-521")),
        {"kty": "AKP", "alg": "ML-DSA-65", "pub": "AAAA"},
        public(rsa("even"), e="AAA"),
        public(rsa("huge"), n="_" * 4000),
        {"kty": "EC", "crv": ["P-256"]},
        {"kty": ["RSA"]},
        {},
    ]
    assert [key.kid for key in read_key_set(with_keys(*others, public(rsa())))] == ["r1"]
    assert "no key that signatures can be checked with" in refused(with_keys(*others))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"keys":{}}',
        '{"keys":["a"]}',
        '{"keys":[]}',
        "\ud800",
        "[" * 100_000,
        '{"keys":[' + "{}," * MAX_KEYS + "{}]}",
        " " * 262_145,
    ],
)
def test_what_is_no_set_is_refused(text: str) -> None:
    assert refused(text)


def test_two_keys_of_one_id_are_refused() -> None:
    assert "'e1'" in refused(with_keys(public(ec()), public(rsa("x"), kid="e1")))


def test_a_point_that_is_not_on_its_curve_is_refused() -> None:
    assert "'e1'" in refused(with_keys(public(ec(), y=public(ec())["x"])))


@pytest.mark.parametrize("field", ["x", "y"])
@pytest.mark.parametrize("value", ["", "é", "====", 5, None, "A" * 100_000])
def test_a_key_that_does_not_read_is_refused(field: str, value: Any) -> None:
    assert refused(with_keys(public(ec(), **{field: value})))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["kty", "kid", "use", "alg", "crv", "n", "e", "x", "y", "key_ops", "d"]),
            st.sampled_from(["RSA", "EC", "OKP", "P-256", "Ed25519", "AQAB", "sig", None, 1, [], ["verify"]])
            | st.text(max_size=50),
        ),
        max_size=4,
    )
)
def test_whatever_a_set_holds_nothing_but_a_refusal_comes_of_it(keys: list[dict[str, Any]]) -> None:
    try:
        read_key_set(json.dumps({"keys": keys}))
    except BadKeySet:
        return


def test_a_set_is_public() -> None:
    assert '"d"' not in key_set(rsa())
