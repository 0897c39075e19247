"""What a collector's answer means: taken, later, never; and how long one batch is tried."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.tracing import delivery_rules
from bridge_agent.tracing.delivery_rules import KEEP_S, RETRIED, Answer, Drop, Verdict, judged, unheard


def _judged(status: int, *, after: bytes = b"", body: bytes = b"", waited_s: float = 0.0) -> Verdict:
    return judged(Answer(status, after, body), 10, pause_s=2.0, waited_s=waited_s)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"partialSuccess":{}}',
        b'{"partialSuccess":{"rejectedSpans":"0","errorMessage":"a warning"}}',
        b'{"partialSuccess":{"rejectedSpans":-3}}',
        b'{"partialSuccess":{"rejectedSpans":"many"}}',
        b'{"partialSuccess":7}',
        b"<html>",
        b"\xff\xfe",
        b"[" * 10_000,
    ],
)
@pytest.mark.parametrize("status", [200, 202, 299])
def test_what_is_taken_is_over(status: int, body: bytes) -> None:
    assert _judged(status, body=body) == Verdict()


@pytest.mark.parametrize(
    ("said", "dropped"), [(b"1", 1), (b"3", 3), (b'"3"', 3), (b"11", 10), (b'"99999999999"', 10)]
)
def test_single_spans_that_are_not_taken_are_not_sent_again(said: bytes, dropped: int) -> None:
    body = b'{"partialSuccess":{"rejectedSpans":%b,"errorMessage":"too\\u001b old"}}' % said
    found = _judged(200, body=body)
    assert not found.again
    assert (found.dropped, found.why) == (dropped, Drop.REJECTED)
    assert "too\x1b old" in found.says  # cleaned where it is told


@pytest.mark.parametrize("status", sorted(RETRIED))
def test_later_is_when_the_collector_says_or_after_the_pause(status: int) -> None:
    assert _judged(status) == Verdict(again=True, pause_s=2.0, says=f"it answered {status}")
    assert _judged(status, after=b" 7 ").pause_s == 7.0
    assert _judged(status, after=b"0").pause_s == 0.0
    assert _judged(status, after=b"00007").pause_s == 7.0
    for unread in (b"Fri, 31 Dec 1999 23:59:59 GMT", b"-1", b"1.5", b"1e3", b"000007", "७".encode()):
        assert _judged(status, after=unread).pause_s == 2.0


@pytest.mark.parametrize("status", [100, 199, 300, 301, 307, 400, 401, 403, 404, 405, 413, 500, 501, 505])
def test_every_other_answer_is_final(status: int) -> None:
    found = _judged(status, body=b"no such path", after=b"5")
    assert not found.again
    assert (found.dropped, found.why, found.pause_s) == (10, Drop.REFUSED, 0.0)
    assert found.says == f"it answered {status}, which is final: no such path"
    assert _judged(status, body=b"x" * 5000).says.count("x") == 1000


def test_how_long_one_that_is_away_is_asked_is_what_the_page_says() -> None:
    rules = delivery_rules
    assert (rules.FIRST_PAUSE_S, rules.LAST_PAUSE_S, rules.KEEP_S) == (1.0, 60.0, 300.0)


def test_a_batch_is_given_up_when_it_would_be_tried_for_too_long() -> None:
    assert unheard("away", 10, pause_s=2.0, waited_s=KEEP_S - 2.0).again
    given_up = unheard("away", 10, pause_s=2.0, waited_s=KEEP_S - 1.9)
    assert given_up == Verdict(pause_s=2.0, dropped=10, why=Drop.GIVEN_UP, says="away")


def test_a_collector_that_asks_for_an_hour_is_left_alone_for_as_long_as_batches_live() -> None:
    found = _judged(429, after=b"3600")
    assert not found.again
    assert (found.dropped, found.why, found.pause_s) == (10, Drop.GIVEN_UP, KEEP_S)


@given(
    st.integers(0, 999),
    st.binary(max_size=12),
    st.binary(max_size=60),
    st.floats(0.0, 60.0),
    st.floats(0.0, 1000.0),
    st.integers(1, 512),
)
def test_every_batch_ends(
    status: int, after: bytes, body: bytes, pause_s: float, waited_s: float, spans: int
) -> None:
    found = judged(Answer(status, after, body), spans, pause_s=pause_s, waited_s=waited_s)
    assert 0 <= found.dropped <= spans
    assert 0.0 <= found.pause_s <= KEEP_S
    if found.again:
        assert waited_s + found.pause_s <= KEEP_S
        assert not found.dropped
    assert bool(found.says) == (found.again or bool(found.dropped))
