"""What reaches the client of an answer's bytes, and that nothing is held without bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.gateway.routes import Framing
from bridge_agent.gateway.stream_filter import ERROR_MOST, LINE_MOST, EndlessLine, Renaming, StreamFilter
from bridge_agent.gateway.watch import StreamVerdict
from bridge_agent.routing.resume import tracker_for

TOKEN = b'{"model":"m","response":"x","done":false}\n'
LAST = b'{"model":"m","response":"","done":true}\n'
OLD, NEW = b'"model":"engine"', b'"model":"mine"'


def cut(body: bytes, at: list[int]) -> list[bytes]:
    ends = sorted({min(one, len(body)) for one in at})
    return [body[start:end] for start, end in zip([0, *ends], [*ends, len(body)], strict=True)]


def passed(stream: StreamFilter, pieces: list[bytes]) -> bytes:
    return b"".join(stream.take(piece) for piece in pieces)


@given(st.lists(st.integers(0, 200)))
def test_only_whole_lines_pass_and_their_rest_is_not_lost(at: list[int]) -> None:
    stream = StreamFilter(Framing.NDJSON, None, None)
    body = TOKEN * 3 + LAST[:-1]
    out = passed(stream, cut(body, at))
    assert out == TOKEN * 3
    assert stream.ended() is StreamVerdict.COMPLETE
    assert out + stream.rest() == body
    assert stream.held == 0


def test_half_a_record_is_no_end_and_is_dropped() -> None:
    stream = StreamFilter(Framing.NDJSON, None, None)
    assert stream.take(TOKEN + LAST[:-3]) == TOKEN
    assert stream.ended() is StreamVerdict.TRUNCATED
    stream.drop_torn()
    assert stream.take(LAST) == LAST
    assert stream.ended() is StreamVerdict.COMPLETE


def test_the_number_of_the_next_event_is_known_behind_half_a_record() -> None:
    stream = StreamFilter(Framing.RESPONSES_SSE, None, None)
    stream.take(b'data: {"type":"x","sequence_number":6}\n\ndata: {"ty')
    assert stream.ended() is StreamVerdict.TRUNCATED
    assert stream.next_sequence == 7


@pytest.mark.parametrize("piece", [1 << 20, 65_537, LINE_MOST + 1])
def test_an_endless_line_fails_and_is_not_held(piece: int) -> None:
    stream = StreamFilter(Framing.NDJSON, None, None)
    stream.take(TOKEN)
    while stream.held + piece <= LINE_MOST:
        assert stream.take(b"x" * piece) == b""
    with pytest.raises(EndlessLine, match="longer than 16 MiB"):
        stream.take(b"x" * piece)
    assert stream.held == 0


def test_a_long_record_passes() -> None:
    stream = StreamFilter(Framing.NDJSON, None, None)
    long = b'{"context":"%b","done":true}\n' % (b"1" * (LINE_MOST - 100))
    assert passed(stream, cut(TOKEN + long + TOKEN, [10, 300, 7 << 20])) == TOKEN + long + TOKEN
    assert stream.held == 0


def test_an_engines_error_is_held_within_bounds_where_the_stream_may_go_on() -> None:
    stream = StreamFilter(Framing.NDJSON, None, tracker_for("/api/generate"))
    error = b'{"error":"boom"}\n'
    assert stream.take(TOKEN + error) == TOKEN
    assert stream.told_error
    assert stream.ended() is StreamVerdict.ENGINE_ERROR
    for _ in range(40):
        assert stream.take(b"y" * 65_535 + b"\n") == b""
    assert stream.held <= ERROR_MOST + 65_536
    assert stream.rest().startswith(error)


def test_an_error_that_a_terminal_record_followed_is_told_too() -> None:
    stream = StreamFilter(Framing.NDJSON, None, tracker_for("/api/generate"))
    error = b'{"error":"boom"}\n'
    assert stream.take(TOKEN + error + LAST) == TOKEN
    assert stream.ended() is StreamVerdict.COMPLETE
    assert stream.rest() == error + LAST


@given(st.lists(st.integers(0, 120)))
def test_a_name_is_exchanged_wherever_the_reads_end_and_only_half_a_name_is_held(at: list[int]) -> None:
    renaming = Renaming(OLD, NEW)
    body = b'{"model":"engine","a":"\\"model\\":\\"engine\\"","more":[{"model":"engine"}],"model":"engin'
    out = b""
    for piece in cut(body, at):
        out += renaming.take(piece)
        assert len(renaming._held) < len(OLD)
    assert out + renaming.rest() == body.replace(OLD, NEW)


@given(st.lists(st.integers(0, 200)))
def test_a_stream_is_renamed_in_whole_lines(at: list[int]) -> None:
    stream = StreamFilter(Framing.NDJSON, Renaming(b'"model":"m"', NEW), None)
    out = passed(stream, cut(TOKEN + LAST[:-1], at))
    assert stream.ended() is StreamVerdict.COMPLETE
    assert out + stream.rest() == (TOKEN + LAST[:-1]).replace(b'"model":"m"', NEW)
