"""Ollama's Host and CORS rules, which the agent's local listener and the engine share."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_core.http_access import Origins, by_foreign_page, host_allowed, same_origin

OWN_NAME = "Me"
LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
PORT = st.one_of(st.just(""), st.integers(0, 65535).map(lambda port: f":{port}"))


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost:11434", True), ("127.0.0.1:1", True), ("[::1]:1", True), ("[::1]", True), ("::1", True),
        ("10.1.2.3", True), ("", True), ("me", True), ("me.internal", True), ("me.local:80", True),
        ("0.0.0.0:1", True), ("localhost.", True), ("localhost.:80", True), ("ME.", True),
        ("ME.local.", True), ("host.docker.internal:11434", True), ("x.localhost", True),
        ("x.internal", False), ("x.local:80", False), ("docker.internal", False), ("x.me.local", False),
        ("me.evil.com", False), ("me.local.evil.com", False),
        ("host.docker.internal.evil.com", False),
        ("ollama.example.com", False), ("8.8.8.8", False), ("[2001:4860::1]:1", False), ("local", False),
        ("localhost.evil.com", False), ("evil.com:11434", False), ("localhost..", False),
        ("evil.com.local.evil.com", False), ("127.0.0.1.evil.com", False), ("[::1].evil.com:1", False),
    ],
)  # fmt: skip
def test_a_host_is_allowed_that_only_this_machine_can_be(host: str, allowed: bool) -> None:
    assert host_allowed(host, OWN_NAME) is allowed


def test_an_admin_names_more_hosts() -> None:
    assert host_allowed("Ollama.Internal:11434", OWN_NAME, ("ollama.internal",))
    assert not host_allowed("x.ollama.internal", OWN_NAME, ("ollama.internal",))


@pytest.mark.parametrize(
    ("method", "site", "mode", "dest", "foreign"),
    [
        ("GET", None, None, None, False),
        ("GET", b"none", b"navigate", b"document", False),
        ("GET", b"same-origin", b"cors", b"empty", False),
        ("GET", b"same-site", b"cors", b"empty", False),
        ("GET", b"cross-site", b"navigate", b"document", False),
        ("GET", b"cross-site", b"navigate", b"iframe", True),
        ("POST", b"cross-site", b"navigate", b"document", True),
        ("GET", b"cross-site", b"no-cors", b"image", True),
        ("GET", b"Cross-Site", b"no-cors", b"script", True),
        ("HEAD", b"cross-site", None, None, True),
    ],
)
def test_what_a_page_of_another_site_asks_for_is_known(
    method: str, site: bytes | None, mode: bytes | None, dest: bytes | None, foreign: bool
) -> None:
    assert by_foreign_page(method, site, mode, dest) is foreign


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:3000", True), ("https://127.0.0.1", True), ("http://[::1]:3000", True),
        ("http://LOCALHOST", True), ("http://localhost.:3000", True), ("app://x", True), ("file://", True),
        ("http://evil.example", False), ("http://localhost.evil.com", False), ("null", False),
        ("ftp://localhost", False), ("http://localhost/", False), ("http://localhost@evil.example", False),
        ("http://evil.example@localhost", False), ("http://localhost:1:2", False), ("http://[::1", False),
        ("http://localhost:x", False), ("http://localhost\n", False), ("", False), ("http://8.8.8.8", False),
    ],
)  # fmt: skip
def test_pages_of_this_machine_and_applications_may_call(origin: str, allowed: bool) -> None:
    assert Origins().allows(origin) is allowed


@pytest.mark.parametrize(
    ("pattern", "origin", "allowed"),
    [
        ("https://chat.example", "https://chat.example", True),
        ("https://chat.example", "https://chat.example.evil", False),
        ("https://*.example", "https://chat.example", True),
        ("https://*.example", "https://chat.example.evil", False),
        ("https://aa*aa", "https://aa", False), ("http://x:*", "http://x:80", True), ("*", "null", True),
    ],
)  # fmt: skip
def test_an_admin_allows_more(pattern: str, origin: str, allowed: bool) -> None:
    assert Origins((pattern,)).allows(origin) is allowed


def test_a_page_of_the_host_it_calls_is_of_no_other_origin() -> None:
    assert same_origin(b"https://chat.example:1", b"chat.example:1")
    assert not same_origin(b"https://chat.example", b"chat.example:1")


@given(st.lists(LABEL, min_size=2, max_size=4).map(".".join), PORT)
def test_no_name_that_a_foreign_name_server_answers_for_is_allowed(name: str, port: str) -> None:
    own = name.endswith(".localhost") or name in {"me.local", "me.internal"}
    try:
        ipaddress.ip_address(name)
    except ValueError:
        assert host_allowed(name + port, OWN_NAME) is own
        assert not Origins().allows(f"http://{name}{port}")


@given(st.ip_addresses(), PORT)
def test_an_address_is_allowed_however_it_is_written(address: ipaddress.IPv4Address, port: str) -> None:
    text = f"[{address}]" if address.version == 6 else str(address)
    wanted = address.is_loopback or address.is_private or address.is_unspecified
    assert host_allowed(text + port, OWN_NAME) is wanted


@given(st.sampled_from(["localhost", "127.0.0.1", "0.0.0.0", "[::1]"]), PORT, st.sampled_from(["", "."]))
def test_a_page_that_is_allowed_names_a_host_that_is(name: str, port: str, dot: str) -> None:
    """What differed once: a spelling that one rule took and the other refused."""
    spelled = name + (dot if name == "localhost" else "") + port
    assert Origins().allows(f"http://{spelled}")
    assert host_allowed(spelled, OWN_NAME)


@given(st.text(), st.text(), st.tuples(st.text(), st.text()))
def test_nothing_that_a_client_writes_raises(host: str, origin: str, extra: tuple[str, str]) -> None:
    assert host_allowed(host, OWN_NAME) in (True, False)
    assert Origins(extra).allows(origin) in (True, False)
