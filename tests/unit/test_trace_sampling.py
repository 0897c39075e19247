"""Which spans are kept once their requests are over."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.gateway.config import Caller, ListenerKind, Outcome, RequestRecord
from bridge_agent.routing.health_rules import Failure
from bridge_agent.routing.request_rules import FailedAttempt
from bridge_agent.tracing.context_rules import Trace
from bridge_agent.tracing.sampling_rules import Kept, Rates, is_failure, kept_for
from bridge_core.identity.principal import Principal

SLOW_S = 10.0
UNPICKED = Trace(b"a" * 32, b"b" * 16, False)
RECORD = RequestRecord(
    "r1",
    Caller(Principal("client", "alice", "client:alice"), ListenerKind.TLS),
    "POST",
    "/api/chat",
    "m",
    200,
    Outcome.OK,
    100.0,
    100.1,
    100.2,
    500.0,
    None,
    "node2/0",
    (),
    1,
    2,
    trace=UNPICKED,
)


def _kept(**changes: Any) -> Kept | None:
    return kept_for(msgspec.structs.replace(RECORD, **changes), SLOW_S)


@pytest.mark.parametrize(
    ("status", "outcome", "fails"),
    [
        (200, Outcome.OK, False),
        (404, Outcome.REFUSED, False),
        (429, Outcome.REFUSED, False),
        (499, Outcome.CANCELLED, False),
        (499, Outcome.OK, False),
        (500, Outcome.OK, True),
        (503, Outcome.REFUSED, True),
        (502, Outcome.FAILED, True),
        (200, Outcome.FAILED, True),
        (200, Outcome.BROKEN, True),
        (200, Outcome.ENGINE_ERROR, True),
    ],
)
def test_what_failed_on_this_side_is_kept(status: int, outcome: Outcome, fails: bool) -> None:
    assert is_failure(msgspec.structs.replace(RECORD, status=status, outcome=outcome)) == fails
    assert _kept(status=status, outcome=outcome) == (Kept.FAILED if fails else None)


@pytest.mark.parametrize(
    ("head", "ended", "slow"),
    [
        (110.0, 110.5, True),
        (109.99, 500.0, False),  # a stream may go on for as long as its client likes
        (0.0, 110.0, True),  # nothing ever came
        (0.0, 109.99, False),
    ],
)
def test_slow_is_what_began_late(head: float, ended: float, slow: bool) -> None:
    assert _kept(head=head, ended=ended) == (Kept.SLOW if slow else None)


def test_of_others_the_picked_ones_are_kept_and_of_those_without_a_trace_none() -> None:
    assert _kept() is None
    assert _kept(trace=Trace(b"a" * 32, b"b" * 16, True)) == Kept.SAMPLED
    assert _kept(trace=None, status=500, outcome=Outcome.FAILED) is None


def test_a_failure_that_was_slow_and_picked_is_a_failure() -> None:
    picked = Trace(b"a" * 32, b"b" * 16, True)
    assert _kept(trace=picked, head=200.0, outcome=Outcome.BROKEN) == Kept.FAILED
    assert _kept(trace=picked, head=200.0) == Kept.SLOW


def test_one_that_another_node_made_good_is_kept_with_the_node_that_failed() -> None:
    tried = (FailedAttempt("node3/0", 100.05, Failure.CUT, "it died"),)
    assert _kept(failed=tried) == Kept.RETRIED
    assert _kept(failed=tried, head=200.0, trace=Trace(b"a" * 32, b"b" * 16, True)) == Kept.RETRIED
    assert _kept(failed=tried, outcome=Outcome.BROKEN) == Kept.FAILED


def test_each_kind_has_a_rate_of_its_own() -> None:
    rates = Rates(2.0, 0.0)
    assert [rates.take(Kept.SAMPLED, 0.0) for _ in range(6)] == [True] * 4 + [False] * 2
    assert [rates.take(Kept.FAILED, 0.0) for _ in range(6)] == [True] * 4 + [False] * 2
    assert [rates.take(Kept.SAMPLED, 0.5) for _ in range(2)] == [True, False]


def test_a_low_rate_keeps_one_now_and_then_and_none_keeps_none() -> None:
    rare, none = Rates(0.1, 0.0), Rates(0.0, 0.0)
    assert [rare.take(Kept.SLOW, now) for now in (0.0, 9.0, 10.0, 11.0)] == [True, False, True, False]
    assert not none.take(Kept.SLOW, 1e6)


@given(
    st.floats(0.1, 100.0),
    st.lists(st.tuples(st.floats(0.0, 5.0), st.sampled_from(Kept)), max_size=200),
)
def test_no_kind_is_ever_kept_more_often_than_its_rate(per_s: float, steps: list[tuple[float, Kept]]) -> None:
    rates, now = Rates(per_s, 0.0), 0.0
    taken = dict.fromkeys(Kept, 0)
    for pause, kind in steps:
        now += pause
        taken[kind] += rates.take(kind, now)
        assert taken[kind] <= max(1.0, 2 * per_s) + per_s * now + 1e-6
