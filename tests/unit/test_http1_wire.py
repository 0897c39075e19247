"""Heads, headers and chunks: what is written parses back to what was meant."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_core.http1 import BadHeader, Headers
from bridge_core.http1.heads import chunked_body, content_length, lines, request_head, response_head
from bridge_core.http1.rules import CHUNKED, HeadRefusal, check_head

_TOKEN = st.text("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=20).map(
    lambda text: b"x-" + text.encode("ascii")
)
_VALUE = st.binary(max_size=40).map(
    lambda raw: bytes(byte for byte in raw if byte == 9 or 32 <= byte != 127).strip(b" \t")
)
_PAIRS = st.lists(st.tuples(_TOKEN, _VALUE), max_size=10)


class Parsed:
    """What llhttp makes of some bytes: the independent reader."""

    def __init__(self) -> None:
        self.pairs: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.url = b""
        self.complete = 0

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.pairs.append((name, value))

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete += 1


@given(_PAIRS, st.binary(max_size=100), st.integers(200, 599).filter(lambda code: code not in {204, 304}))
def test_response_round_trip(pairs: list[tuple[bytes, bytes]], body: bytes, status: int) -> None:
    parsed = Parsed()
    parser = httptools.HttpResponseParser(parsed)
    parser.feed_data(response_head(status, pairs, content_length(len(body))) + body)
    assert parsed.pairs == [*pairs, (b"content-length", b"%d" % len(body))]
    assert parsed.body == body
    assert parsed.complete == 1
    assert parser.get_status_code() == status


@given(_PAIRS, st.lists(st.binary(max_size=50), max_size=8))
def test_chunked_request_round_trip(pairs: list[tuple[bytes, bytes]], parts: list[bytes]) -> None:
    parsed = Parsed()
    parser = httptools.HttpRequestParser(parsed)
    head = request_head(b"POST", b"/a?b=c", pairs, b"transfer-encoding: chunked\r\n")
    parser.feed_data(head + chunked_body(parts))
    assert parsed.pairs == [*pairs, (b"transfer-encoding", b"chunked")]
    assert parsed.body == b"".join(parts)
    assert parsed.url == b"/a?b=c"
    assert parsed.complete == 1


@given(_TOKEN, st.binary(max_size=20), st.sampled_from([b"\r", b"\n", b"\0", b"\r\nx: y"]))
def test_no_line_break_or_nul_gets_into_a_head(name: bytes, value: bytes, evil: bytes) -> None:
    for pair in ((name, value + evil), (name + evil, value)):
        with pytest.raises(BadHeader):
            lines([(b"a", b"b"), pair])


@pytest.mark.parametrize("target", [b"", b" ", b"/a b", b"/a\r\nb: c", b"/\0", b"/\xff"])
def test_target_that_cannot_be_written(target: bytes) -> None:
    with pytest.raises(BadHeader):
        request_head(b"GET", target, (), b"")


def test_framing_among_the_fields_is_not_written_twice() -> None:
    head = response_head(200, [(b"content-length", b"7"), (b"a", b"b")], content_length(2))
    assert head == b"HTTP/1.1 200 OK\r\na: b\r\ncontent-length: 2\r\n\r\n"
    assert response_head(299, b"", b"").startswith(b"HTTP/1.1 299 \r\n")


def test_headers_find_the_first_and_all() -> None:
    headers = Headers.of([(b"A", b"1"), (b"B", b"2"), (b"a", b"3")])
    assert headers.get(b"a") == b"1"
    assert headers.get(b"c") is None
    assert headers.get(b"c", b"d") == b"d"
    assert headers.get_all(b"a") == [b"1", b"3"]
    assert b"b" in headers
    assert b"B" not in headers
    assert list(headers) == [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]
    assert len(headers) == 3
    assert "1" not in repr(headers)


def test_headers_for_the_next_hop() -> None:
    headers = Headers.of(
        [
            (b"Host", b"x"),
            (b"Connection", b"close, X-Mine"),
            (b"connection", b"x-other"),
            (b"X-Mine", b"1"),
            (b"X-Other", b"1"),
            (b"TE", b"trailers"),
            (b"Content-Length", b"3"),
            (b"Transfer-Encoding", b"chunked"),
            (b"Authorization", b"secret"),
            (b"Accept", b"*/*"),
        ]
    )
    assert headers.end_to_end() == [(b"authorization", b"secret"), (b"accept", b"*/*")]
    assert headers.block() == b"authorization: secret\r\naccept: */*\r\n"
    assert headers.block(frozenset({b"authorization"})) == b"accept: */*\r\n"
    assert headers.block() is headers.block()


HOST = (b"host", b"x")


@pytest.mark.parametrize(
    ("target", "pairs", "expected"),
    [
        (b"/a", [HOST], (b"/a", 0, False)),
        (b"/a", [HOST, (b"content-length", b"0")], (b"/a", 0, False)),
        (b"/a", [HOST, (b"content-length", b"12"), (b"expect", b"100-Continue")], (b"/a", 12, True)),
        (b"/a", [HOST, (b"transfer-encoding", b"Chunked")], (b"/a", CHUNKED, False)),
        (b"*", [HOST], (b"*", 0, False)),
        (b"http://y/b?c", [HOST], (b"/b?c", 0, False)),
    ],
)
def test_good_heads(
    target: bytes, pairs: list[tuple[bytes, bytes]], expected: tuple[bytes, int, bool]
) -> None:
    origin, headers, length, expects = check_head(b"OPTIONS", 1, target, pairs)
    assert (origin, length, expects) == expected
    assert headers.get(b"host") == (b"y" if b"http" in target else b"x")


@pytest.mark.parametrize(
    ("method", "minor", "target", "pairs", "status"),
    [
        (b"GET", 1, b"/", [], 400),
        (b"GET", 1, b"/", [HOST, HOST], 400),
        (b"GET", 1, b"/", [(b"host", b"a@b")], 400),
        (b"GET", 1, b"*", [HOST], 400),
        (b"GET", 1, b"a", [HOST], 400),
        (b"CONNECT", 1, b"a:1", [HOST], 501),
        (b"POST", 1, b"/", [HOST, (b"content-length", b"1"), (b"content-length", b"1")], 400),
        (b"POST", 1, b"/", [HOST, (b"content-length", b"1"), (b"transfer-encoding", b"chunked")], 400),
        (b"POST", 1, b"/", [HOST, (b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"x")], 400),
        (b"POST", 1, b"/", [HOST, (b"transfer-encoding", b"gzip")], 501),
        (b"POST", 0, b"/", [(b"transfer-encoding", b"chunked")], 400),
        (b"POST", 1, b"/", [HOST, (b"content-length", b"9" * 30)], 400),
        (b"POST", 1, b"/", [HOST, (b"content-length", "²".encode())], 400),
        (b"POST", 1, b"/", [HOST, (b"content-length", b"1"), (b"expect", b"x")], 417),
    ],
)
def test_bad_heads(
    method: bytes, minor: int, target: bytes, pairs: list[tuple[bytes, bytes]], status: int
) -> None:
    with pytest.raises(HeadRefusal) as caught:
        check_head(method, minor, target, pairs)
    assert caught.value.status == status
