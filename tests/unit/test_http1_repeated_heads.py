"""A head that comes again is taken for what the parser would take it for, or not recognised."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_core.http1 import Headers
from bridge_core.http1.repeated import RepeatedHead

HEAD = b"POST /api/chat HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\nAccept: */*\r\n\r\n"
FIELDS = [(b"host", b"here"), (b"content-length", b"5"), (b"accept", b"*/*")]


def known() -> RepeatedHead:
    return RepeatedHead(HEAD, Headers(list(FIELDS)))


class Parsed:
    """What llhttp makes of one read."""

    def __init__(self, data: bytes) -> None:
        self.bodies: list[bytes] = []
        self.pairs: list[tuple[bytes, bytes]] = []
        self.whole = 0
        self.left = b""
        try:
            httptools.HttpRequestParser(self).feed_data(data)
        except httptools.HttpParserError:
            self.whole = -1

    def on_header(self, name: bytes, value: bytes) -> None:
        self.pairs.append((name.lower(), value))

    def on_body(self, data: bytes) -> None:
        self.bodies.append(data)

    def on_message_begin(self) -> None:
        self.left += b"."

    def on_message_complete(self) -> None:
        self.whole += 1


def test_the_same_head_with_a_body_of_another_length_is_recognised() -> None:
    data = HEAD.replace(b"Length: 5", b"Length: 12") + b"twelve bytes"
    assert known().body_of(data) == b"twelve bytes"
    assert known().body_of(HEAD + b"again") == b"again"
    assert known().body_of(HEAD.replace(b"Length: 5", b"Length: 0")) == b""


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"shor",
        HEAD + b"again, and more",
        HEAD.replace(b"Length: 5", b"Length: 50") + b"again",
        HEAD.replace(b"Length: 5", b"Length: ") + b"again",
        HEAD.replace(b"Length: 5", b"Length: +5") + b"again",
        HEAD.replace(b"Length: 5", b"Length: 5, 5") + b"again",
        HEAD.replace(b"Length: 5", b"Length: 5\r\nContent-Length: 6") + b"again",
        HEAD.replace(b"Length: 5", b"Length: 5\r\nTransfer-Encoding: chunked") + b"0\r\n\r\n",
        HEAD.replace(b"here", b"hers") + b"again",
        HEAD.replace(b"Length: 5", b"Length: " + b"0" * 20 + b"5") + b"again",
    ],
)
def test_all_else_is_for_the_parser(data: bytes) -> None:
    assert known().body_of(data) is None


def test_a_head_without_a_body_is_only_recognised_as_it_was() -> None:
    head = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
    one = RepeatedHead(head, Headers([(b"host", b"here")]))
    assert one.body_of(head) == b""
    assert one.body_of(head + head) is None
    assert one.body_of(b"GET /a HTTP/1.1\r\nHost: here\r\n\r\n") is None


def test_fields_differ_in_the_length_alone_and_share_what_was_made_of_the_others() -> None:
    one = known()
    block = one.headers(5).block()
    other = one.headers(12)
    assert other.pairs == [(b"host", b"here"), (b"content-length", b"12"), (b"accept", b"*/*")]
    assert other.get(b"content-length") == b"12"
    assert one.headers(5).get(b"content-length") == b"5"
    assert other.block() is block


@given(
    st.sampled_from([b"5", b"05", b"12", b"0", b"", b" 5", b"5 ", b"5\t", b"-5", b"0x5", b"\xb2", b"1" * 19]),
    st.binary(max_size=14),
)
def test_what_is_recognised_is_what_the_parser_sees(digits: bytes, body: bytes) -> None:
    data = HEAD.replace(b"Length: 5", b"Length: " + digits) + body
    taken = known().body_of(data)
    if taken is not None:
        parsed = Parsed(data)
        assert parsed.whole == 1
        assert parsed.left == b"."
        assert b"".join(parsed.bodies) == taken == body
