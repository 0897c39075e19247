"""Tokens that were looked at: what is remembered, for how long, and what a node can make of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_agent.authentication.principals import UnknownPrincipal
from bridge_agent.authentication.refusal import Refused
from bridge_agent.authentication.token_book import HOP_GRACE_S, TokenBook
from bridge_core.providers import IdentityProvider
from bridge_core.snapshot import Snapshot, Version, encode_entry
from tests.unit.token_support import NOW, claims, key_set, provider, rsa, token


def snapshot(*providers: IdentityProvider, revision: int = 1) -> Snapshot:
    entries = {f"provider/{one.name}": encode_entry(one) for one in providers}
    return Snapshot(Version(1, revision), entries)


MESH = snapshot(provider())


def test_a_token_counts_until_it_ends() -> None:
    book = TokenBook()
    proven = book.verify(token(), MESH, NOW)
    assert proven is not None
    assert proven.principal.text == "corp#ann"
    assert proven.until == NOW + 620
    with pytest.raises(Refused) as caught:
        book.verify(token(), MESH, NOW + 621)
    assert (caught.value.status, caught.value.reason) == (401, "token_expired")


def test_what_is_no_token_of_the_mesh_is_nobody_and_no_fault() -> None:
    book = TokenBook()
    for text in (token(claims(iss="https://other.example")), b"eyJ.x.y", b"eyJhIjox.eyJh.AA", b"a.b.c"):
        assert book.verify(text, MESH, NOW) is None
    assert book.verify(token(), snapshot(), NOW) is None


def test_a_token_of_the_mesh_that_is_wrong_is_refused() -> None:
    with pytest.raises(Refused) as caught:
        TokenBook().verify(token(claims(aud="other")), MESH, NOW)
    assert (caught.value.status, caught.value.reason) == (401, "token_audience")


def test_a_provider_that_goes_takes_its_tokens_along() -> None:
    book = TokenBook()
    assert book.verify(token(), MESH, NOW) is not None
    assert book.verify(token(), snapshot(revision=2), NOW) is None


def test_a_key_that_is_taken_out_of_the_set_takes_its_tokens_along() -> None:
    book = TokenBook()
    assert book.verify(token(), MESH, NOW) is not None
    without = snapshot(provider(keys=key_set(rsa("r2"))), revision=2)
    with pytest.raises(Refused):
        book.verify(token(), without, NOW)


def test_a_refusal_does_not_outlive_what_it_was_for() -> None:
    book = TokenBook()
    with pytest.raises(Refused):
        book.verify(token(), snapshot(provider(audiences=("other",))), NOW)
    assert book.verify(token(), snapshot(provider(), revision=2), NOW) is not None
    early = token(claims(nbf=NOW + 100))
    with pytest.raises(Refused):
        book.verify(early, snapshot(provider(), revision=3), NOW)
    assert book.verify(early, snapshot(provider(), revision=3), NOW + 100) is not None


def test_a_user_over_a_hop_is_proven_by_the_token_alone() -> None:
    book = TokenBook()
    assert book.proven("corp#ann", token(), MESH, NOW).groups == ("finance-analysts",)


@pytest.mark.parametrize(
    ("text", "proof"),
    [
        ("corp#ann", b""),
        ("corp#root", token()),
        ("other#ann", token()),
        ("corp#ann", token(claims(sub="bob"))),
        ("corp#ann", token()[:-8]),
        ("corp#ann", b"\xff" * 100),
        ("corp#ann", token(claims(exp=NOW - HOP_GRACE_S - 21))),
        ("#", token()),
    ],
)
def test_a_node_cannot_invent_a_user(text: str, proof: bytes) -> None:
    with pytest.raises(UnknownPrincipal):
        TokenBook().proven(text, proof, MESH, NOW)


def test_a_token_may_end_while_its_request_waits_at_the_entry() -> None:
    for book in (TokenBook(), TokenBook()):
        late = NOW + 620 + HOP_GRACE_S
        assert book.proven("corp#ann", token(), MESH, late).name == "ann"
        with pytest.raises(UnknownPrincipal):
            book.proven("corp#ann", token(), MESH, late + 1)
        with pytest.raises(Refused):
            book.verify(token(), MESH, late)
        assert book.proven("corp#ann", token(), MESH, late).name == "ann"


def test_a_provider_without_keys_is_named() -> None:
    assert TokenBook().concerns(snapshot(provider(keys=""), provider(name="b", issuer="https://b"))) == [
        "no token of the identity provider corp counts here: its key set was not fetched yet"
    ]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300) | st.sampled_from([token(), token(claims(sub="bob"))]), st.text(max_size=20))
def test_whatever_a_node_says_nothing_but_a_refusal_comes_of_it(proof: bytes, subject: str) -> None:
    try:
        who: Any = TokenBook().proven(f"corp#{subject}", proof, MESH, NOW)
    except UnknownPrincipal:
        return
    assert who.name == subject
