"""A head that comes again is taken for what the parser would take it for, or not recognised."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_core.http1 import Headers
from bridge_core.http1.repeated import RepeatedHead

_LINES = (b"Host: here", b"X-Id: one", b"Content-Length: 5", b"X-Load:  3", b"Accept: */*", b"", b"")
HEAD = b"\r\n".join((b"POST /api/chat HTTP/1.1", *_LINES))
FIELDS = [
    (b"host", b"here"),
    (b"x-id", b"one"),
    (b"content-length", b"5"),
    (b"x-load", b"3"),
    (b"accept", b"*/*"),
]
VARYING = frozenset({b"x-id", b"x-load"})


def known(varying: frozenset[bytes] = VARYING) -> RepeatedHead:
    return RepeatedHead(HEAD, Headers(list(FIELDS)), varying)


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
        self.pairs.append((name.lower(), value.rstrip(b" \t")))

    def on_body(self, data: bytes) -> None:
        self.bodies.append(data)

    def on_message_begin(self) -> None:
        self.left += b"."

    def on_message_complete(self) -> None:
        self.whole += 1


def body_of(one: RepeatedHead, data: bytes) -> bytes | None:
    read = one.read(data)
    return None if read is None else read[1]


def test_the_same_head_with_a_body_of_another_length_is_recognised() -> None:
    data = HEAD.replace(b"Length: 5", b"Length: 12") + b"twelve bytes"
    for varying in (VARYING, frozenset()):
        assert body_of(known(varying), data) == b"twelve bytes"
        assert body_of(known(varying), HEAD + b"again") == b"again"
        assert body_of(known(varying), HEAD.replace(b"Length: 5", b"Length: 0")) == b""


def test_a_head_with_other_values_is_recognised_where_they_may_vary() -> None:
    data = HEAD.replace(b"one", b"another").replace(b" 3", b" 4711") + b"again"
    read = known().read(data)
    assert read is not None
    headers, body = read
    assert body == b"again"
    assert (headers.get(b"x-id"), headers.get(b"x-load")) == (b"another", b"4711")
    assert body_of(known(frozenset({b"x-id"})), data) is None
    assert body_of(known(frozenset()), data) is None


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
        HEAD.replace(b"one", b"") + b"again",
        HEAD.replace(b"one", b"o\x00e") + b"again",
        HEAD.replace(b"one", b"o\ne") + b"again",
        HEAD.replace(b"one", b"o\r\nHost: there") + b"again",
        HEAD.replace(b"one", b"o" * 300) + b"again",
    ],
)
def test_all_else_is_for_the_parser(data: bytes) -> None:
    assert known().read(data) is None


def test_a_head_without_a_body_is_only_recognised_as_it_was() -> None:
    head = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
    one = RepeatedHead(head, Headers([(b"host", b"here")]))
    assert body_of(one, head) == b""
    assert one.read(head + head) is None
    assert one.read(b"GET /a HTTP/1.1\r\nHost: here\r\n\r\n") is None


@pytest.mark.parametrize(
    "head",
    [
        HEAD.replace(b"X-Load:  3", b"X-Id: two"),
        HEAD.replace(b"X-Load:  3", b"X-Fold: a\r\n b"),
    ],
)
def test_a_field_that_comes_twice_or_is_folded_may_not_vary(head: bytes) -> None:
    pairs = [(b"x-id", b"two") if name == b"x-load" and b"two" in head else (name, v) for name, v in FIELDS]
    one = RepeatedHead(head, Headers(pairs), VARYING)
    assert body_of(one, head + b"again") == b"again"
    assert one.read(head.replace(b"one", b"three") + b"again") is None


def test_fields_differ_where_they_changed_and_share_what_was_made_of_the_others() -> None:
    one = known()
    first = one.read(HEAD + b"again")
    other = one.read(HEAD.replace(b"Length: 5", b"Length: 12").replace(b": one", b": two") + b"twelve bytes")
    assert first is not None
    assert other is not None
    block = first[0].block(VARYING)
    assert first[0].pairs == FIELDS
    assert first[0].get(b"content-length") == b"5"
    assert other[0].get(b"content-length") == b"12"
    assert other[0].pairs == [
        (b"host", b"here"),
        (b"x-id", b"two"),
        (b"content-length", b"12"),
        (b"x-load", b"3"),
        (b"accept", b"*/*"),
    ]
    assert other[0].block(VARYING) is block
    assert b"x-id: one\r\n" in first[0].block()
    assert b"x-id: two\r\n" in other[0].block()


_NASTY = [
    b"5",
    b"05",
    b"12",
    b"0",
    b"",
    b" 5",
    b"5 ",
    b"5\t",
    b"-5",
    b"0x5",
    b"\xb2",
    b"1" * 19,
    b"a\x01",
    b"\x7f",
]


@given(
    digits=st.sampled_from(_NASTY),
    value=st.one_of(st.sampled_from(_NASTY), st.binary(max_size=6)),
    load=st.sampled_from(_NASTY),
    body=st.sampled_from([b"", b"five.", b"twelve bytes", b"13 bytes here"]),
)
def test_what_is_recognised_is_what_the_parser_sees(
    digits: bytes, value: bytes, load: bytes, body: bytes
) -> None:
    data = HEAD.replace(b"Length: 5", b"Length: " + digits)
    data = data.replace(b"Id: one", b"Id: " + value).replace(b"Load:  3", b"Load:  " + load) + body
    read = known().read(data)
    if read is not None:
        headers, taken = read
        parsed = Parsed(data)
        assert parsed.whole == 1
        assert parsed.left == b"."
        assert b"".join(parsed.bodies) == taken == body
        assert parsed.pairs == headers.pairs
        assert dict(headers.pairs) == {name: headers.get(name) for name, _ in headers.pairs}
