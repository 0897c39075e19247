"""Who is answered by an admin listener, by the headers it sends."""

from __future__ import annotations

import pytest

from bridge_core.admin_access import refusal


@pytest.mark.parametrize(
    "host",
    [
        None,  # HTTP/1.0
        *(b"127.0.0.1:11446", b"localhost:11446", b"LOCALHOST.", b"[::1]:11446", b"10.0.0.7:11446"),
        *(b"gpu-01:11446", b"GPU-01.example.com:11446", b"agent.internal"),
    ],
)
def test_who_names_this_machine_is_answered(host: bytes | None) -> None:
    assert refusal(host, None, "gpu-01") == ""


@pytest.mark.parametrize(
    "host", [b"evil.example:11446", b"127.0.0.1.evil.example", b"gpu-01x.example", b"8.8.8.8", b"\xff"]
)
def test_a_foreign_host_is_refused(host: bytes) -> None:
    assert "names another machine" in refusal(host, None, "gpu-01")


@pytest.mark.parametrize("origin", [b"http://evil.example", b"http://localhost", b"null", b"", b"app://x"])
def test_a_page_of_any_origin_is_refused(origin: bytes) -> None:
    assert "Origin" in refusal(b"127.0.0.1", origin, "gpu-01")
