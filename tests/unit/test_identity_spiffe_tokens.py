"""SPIFFE ids, join tokens and the rotation rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_core.identity import (
    CertificateState,
    IdentityFault,
    JoinToken,
    SpiffeId,
    TokenFault,
    certificate_state,
    check_node_name,
    renew_at,
)

PIN = "ab" * 32
TOKEN = JoinToken.mint(PIN, bytes(range(40)))


def test_an_id_reads_as_it_is_written() -> None:
    uri = "spiffe://bridge.local/node/gpu-01.rack3"
    assert str(SpiffeId.parse(uri)) == uri
    assert SpiffeId.parse(uri) == SpiffeId("bridge.local", "node", "gpu-01.rack3")
    assert SpiffeId.parse(uri).common_name == "node/gpu-01.rack3"


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "https://bridge.local/node/a",
        "spiffe://bridge.local/node",
        "spiffe://bridge.local/node/a/b",
        "spiffe://bridge.local/nodes/a",
        "spiffe:///node/a",
        "spiffe://Bridge.local/node/a",
        "spiffe://bridge.local/node/",
        "spiffe://bridge.local/node/..",
        "spiffe://bridge.local/node/A",
        "spiffe://bridge.local/node/a?x",
        "spiffe://user@bridge.local/node/a",
    ],
)
def test_what_is_no_id_is_refused(uri: str) -> None:
    with pytest.raises(IdentityFault):
        SpiffeId.parse(uri)


@pytest.mark.parametrize("name", ["a", "node1", "gpu-01", "a.b.c", "0", "x" * 57])
def test_good_node_names(name: str) -> None:
    assert check_node_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", "a..b", "A", "a/b", "a b", "ä", "x" * 58, ".", "a\n", "a_b"]
)
def test_bad_node_names(name: str) -> None:
    with pytest.raises(IdentityFault):
        check_node_name(name)


def test_a_token_is_frozen_and_round_trips() -> None:
    text = (
        "brj1.0001020304050607."
        "08090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f2021222324252627."
        "abababababababababababababababababababababababababababababababab"
    )
    assert str(TOKEN) == text
    assert JoinToken.parse(f"  {text}\n") == TOKEN
    assert TOKEN.secret_hash == "3ab0a4091d2c4eb63042ffca5a2ae450932bfa8a3820ba0bef3013585ee84fd0"


def test_a_token_proves_only_its_own_hash() -> None:
    assert TOKEN.proves(TOKEN.secret_hash)
    assert not TOKEN.proves(JoinToken.mint(PIN, bytes(40)).secret_hash)


def test_a_token_does_not_show_its_secret() -> None:
    assert TOKEN.secret not in repr(TOKEN)


@given(st.integers(min_value=0, max_value=len(str(TOKEN)) - 1))
def test_every_truncation_is_refused_without_repeating_the_secret(length: int) -> None:
    with pytest.raises(TokenFault) as caught:
        JoinToken.parse(str(TOKEN)[:length])
    assert TOKEN.secret not in str(caught.value)
    if length >= 5:
        assert "truncated" in caught.value.message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a join token"),
        ("hello", "not a join token"),
        (f"brj2{str(TOKEN)[4:]}", "not a join token"),
        (f"{TOKEN}.x", "too long"),
        (str(TOKEN).replace("0", "g", 1), "damaged: its id"),
        (str(TOKEN)[:-1] + "Z", "damaged: its CA hash"),
        (str(TOKEN) + "00", "damaged: its CA hash"),
    ],
)
def test_a_bad_token_says_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(TokenFault, match=says):
        JoinToken.parse(text)


def test_renewal_is_at_seventy_percent_of_life_give_or_take_the_jitter() -> None:
    assert renew_at(0, 1000, 0.5) == pytest.approx(700)
    assert renew_at(0, 1000, 0.0) == pytest.approx(650)
    assert renew_at(0, 1000, 1.0) == pytest.approx(750)


@pytest.mark.parametrize(
    ("now", "state"),
    [
        (979, CertificateState.NOT_YET_VALID),
        (980, CertificateState.FRESH),
        (1699, CertificateState.FRESH),
        (1700, CertificateState.DUE),
        (2020, CertificateState.DUE),
        (2021, CertificateState.EXPIRED),
    ],
)
def test_a_certificates_state(now: float, state: CertificateState) -> None:
    assert certificate_state(1000, 2000, now, 0.5) is state


@given(st.floats(0, 1e9), st.floats(1, 1e8), st.floats(0, 1, exclude_max=True))
def test_renewal_always_falls_well_inside_the_life(start: float, life: float, jitter: float) -> None:
    at = renew_at(start, start + life, jitter)
    assert start + 0.6 * life < at < start + 0.8 * life
