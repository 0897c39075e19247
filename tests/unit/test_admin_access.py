"""Who is answered by an admin listener, by the headers it sends."""

from __future__ import annotations

import pytest

from bridge_core.admin_access import refusal as refusal_of
from bridge_core.http1 import Headers, Request


def refusal(host: bytes | None, origin: bytes | None = None, **fetch: bytes) -> str:
    pairs = [(b"host", host), (b"origin", origin)]
    pairs += [(b"sec-fetch-" + name.encode(), value) for name, value in fetch.items()]
    fields = Headers([(name, value) for name, value in pairs if value is not None])
    return refusal_of(Request("GET", b"/status", fields), "gpu-01")


@pytest.mark.parametrize(
    "host",
    [
        None,  # HTTP/1.0
        *(b"127.0.0.1:11446", b"localhost:11446", b"LOCALHOST.", b"[::1]:11446", b"10.0.0.7:11446"),
        *(b"gpu-01:11446", b"GPU-01.local:11446", b"gpu-01.internal"),
    ],
)
def test_who_names_this_machine_is_answered(host: bytes | None) -> None:
    assert refusal(host) == ""


@pytest.mark.parametrize(
    "host",
    [
        *(b"evil.example:11446", b"127.0.0.1.evil.example", b"gpu-01x.example", b"8.8.8.8", b"\xff"),
        *(b"gpu-01.evil.example", b"agent.internal", b"evil.local"),
    ],
)
def test_a_name_that_others_answer_for_is_refused(host: bytes) -> None:
    assert "names another machine" in refusal(host)


@pytest.mark.parametrize("origin", [b"http://evil.example", b"http://localhost", b"null", b"", b"app://x"])
def test_a_page_of_another_origin_is_refused(origin: bytes) -> None:
    assert "Origin" in refusal(b"127.0.0.1", origin)


def test_the_listeners_own_page_may_load_its_files() -> None:
    assert refusal(b"127.0.0.1:11401", b"http://127.0.0.1:11401") == ""
    assert "Origin" in refusal(None, b"http://127.0.0.1:11401")
    assert "Origin" in refusal(b"127.0.0.1:11401", b"http://127.0.0.1:11402")
    assert "names another machine" in refusal(b"evil.example", b"http://evil.example")


def test_what_a_page_of_another_site_embeds_is_refused_and_a_link_is_not() -> None:
    assert "other sites" in refusal(b"127.0.0.1", site=b"cross-site", mode=b"no-cors", dest=b"script")
    assert refusal(b"127.0.0.1", site=b"cross-site", mode=b"navigate", dest=b"document") == ""
    assert refusal(b"127.0.0.1", site=b"same-origin", mode=b"cors", dest=b"empty") == ""
