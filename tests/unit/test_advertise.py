"""Which host a node may advertise, and what its certificate then asks for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.membership.advertise import advertised_host, reachable_host, subject_names
from bridge_core.addresses import join_address, parse_address
from bridge_core.errors import Fatal


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("[2001:DB8:0::7]", "2001:db8::7"),
        ("[::1]", "::1"),
        ("127.0.0.1", "127.0.0.1"),
        ("Node1.Example", "node1.example"),
        ("n-1", "n-1"),
    ],
)
def test_hosts_that_others_can_dial(text: str, host: str) -> None:
    assert advertised_host(text) == host
    assert parse_address(join_address(host, 11445)) == (host, 11445)


@pytest.mark.parametrize("text", ["0.0.0.0", "::", "[::]", "0::0", "::ffff:0.0.0.0"])
def test_all_addresses_are_none(text: str) -> None:
    with pytest.raises(Fatal, match="is all addresses and none: other agents cannot dial it") as caught:
        advertised_host(text)
    assert "name the address" in caught.value.hint


@pytest.mark.parametrize("text", ["224.0.0.1", "ff02::1", "fe80::1%eth0"])
def test_addresses_of_no_one_machine_are_refused(text: str) -> None:
    with pytest.raises(Fatal, match="other agents cannot dial it"):
        advertised_host(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[",
        "]::1[",
        "[node1]",
        "[::1",
        "::1]",
        "host:11445",
        "[::1]:11445",
        "http://h",
        "a b",
        "a..b",
    ],
)
def test_what_is_no_host_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(Fatal, match="--advertise") as caught:
        advertised_host(text)
    assert "without a port" in caught.value.hint


@pytest.mark.parametrize(
    "text", ["-h", "h-", "*.example", "h_1", "x" * 254, "0", "1.2", "4711", "10.0.0.256", "ü.example"]
)
def test_what_only_looks_like_a_host_is_refused(text: str) -> None:
    with pytest.raises(Fatal, match="--advertise"):
        advertised_host(text)


@given(st.text(max_size=40))
def test_whatever_is_accepted_can_be_dialled_and_read_back(text: str) -> None:
    try:
        host = advertised_host(text)
    except Fatal:
        return
    assert parse_address(join_address(host, 1)) == (host, 1)
    assert advertised_host(host) == host


@pytest.mark.parametrize(
    "text", ["::1:80", "[::1:80", "::1]:80", "[::1]80", "[h]:80", "[[::1]]:80", "h:", "h:٣", "h:123456", "80"]
)
def test_addresses_that_could_be_read_in_two_ways_are_none(text: str) -> None:
    assert parse_address(text) is None


def test_the_listeners_own_host_is_advertised_where_it_has_one() -> None:
    assert reachable_host("127.0.0.1:11445", "127.0.0.1:1") == "127.0.0.1"
    assert reachable_host("[::1]:11445", "127.0.0.1:1") == "::1"
    assert reachable_host("0.0.0.0:11445", "127.0.0.1:1") == "127.0.0.1"


def test_a_registry_whose_name_is_unknown_is_said() -> None:
    with pytest.raises(Fatal, match=r"address towards registry\.invalid:1 cannot be told"):
        reachable_host(":11445", "registry.invalid:1")


def test_a_certificate_asks_for_what_the_node_is_now() -> None:
    found = subject_names("2001:db8::7")
    assert found.addresses == ("127.0.0.1", "::1", "2001:db8::7")
    assert "localhost" in found.dns_names
    assert "n.example" in subject_names("n.example").dns_names
