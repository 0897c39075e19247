"""When a head is taken to a time-stamp authority."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_core.audit.anchor_rules import Anchored, failed, is_due, is_late, seen, stamped


def test_a_log_is_stamped_once_an_hour_and_only_when_it_has_grown() -> None:
    state = seen(Anchored(), 5, 1000.0)
    assert is_due(state, 1000.0)
    state = seen(stamped(state, 5, 1000.0, 0.5), 5, 1001.0)
    assert not is_due(state, 1000.0 + 2 * 3600.0 - 1)  # nothing new
    state = seen(state, 6, 1500.0)
    assert not is_due(state, 1000.0 + 3600.0 - 1)
    assert is_due(state, 1000.0 + 3600.0)


@pytest.mark.parametrize(
    ("failures", "wait"), [(0, 30.0), (1, 60.0), (2, 120.0), (6, 1920.0), (7, 3600.0), (99, 3600.0)]
)
def test_what_fails_is_tried_again_ever_later_up_to_an_hour(failures: int, wait: float) -> None:
    state = Anchored(failures=failures, waiting_since=1.0)
    assert failed(state, "away", 100.0, 1.0).due == 100.0 + wait
    again = failed(state, "away", 100.0, 0.0)
    assert (again.due, again.failures, again.reason) == (100.0 + wait / 2, failures + 1, "away")
    assert not is_due(again, again.due - 0.5)
    assert is_due(again, again.due)


def test_a_good_stamp_forgets_failures() -> None:
    state = stamped(failed(seen(Anchored(), 3, 10.0), "away", 10.0, 0.5), 3, 20.0, 0.0)
    assert (state.size, state.at, state.failures, state.reason) == (3, 20.0, 0, "")
    assert state.due == 20.0 + 0.95 * 3600.0


def test_what_nobody_stamped_for_three_hours_is_late() -> None:
    state = seen(stamped(Anchored(), 3, 1000.0, 0.5), 4, 2000.0)
    assert not is_late(state, 2000.0 + 3 * 3600.0)
    assert is_late(state, 2001.0 + 3 * 3600.0)
    assert not is_late(seen(state, 3, 9e9), 9e9)  # nothing waits


def test_a_log_that_was_begun_anew_is_stamped_anew() -> None:
    state = seen(stamped(Anchored(), 500, 1000.0, 0.5), 2, 1100.0)
    assert (state.size, is_due(state, 1100.0)) == (0, True)


@given(now=st.floats(1e9, 2e9), back=st.floats(2.2 * 3600.0, 1e9), jitter=st.floats(0, 1))
def test_a_clock_that_was_set_back_holds_up_nothing(now: float, back: float, jitter: float) -> None:
    state = seen(stamped(Anchored(), 5, now, jitter), 6, now)
    assert is_due(state, now - back)
