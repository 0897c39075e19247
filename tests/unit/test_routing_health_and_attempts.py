"""Passive health and the attempts of one request, as pure machines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.routing.attempts import Attempts, GiveUp, Try
from bridge_agent.routing.health_rules import Failure, HealthBook, HealthPolicy
from bridge_agent.routing.view import Target

TARGETS = tuple(Target(f"{name}/0", name, False, f"{name}:1", True) for name in "abcd")


def test_a_failure_to_connect_ejects_at_once_and_for_longer_each_time() -> None:
    book = HealthBook(HealthPolicy(base_s=1.0, longest_s=6.0))
    now, lasted = 100.0, []
    for _ in range(5):
        assert book.failed("n", Failure.CONNECT, now)
        (left,) = book.ejections(now).values()
        lasted.append(left)
        assert book.ejected("n", now + left - 0.01)
        assert not book.ejected("n", now + left)
        now += left
    assert lasted == [1.0, 2.0, 4.0, 6.0, 6.0]


def test_other_failures_eject_at_the_third_in_a_row() -> None:
    book = HealthBook()
    assert not book.failed("n", Failure.CUT, 1.0)
    assert not book.failed("n", Failure.SERVER_ERROR, 1.0)
    book.succeeded("n", 1.0)
    assert not book.failed("n", Failure.CUT, 1.0)
    assert not book.failed("n", Failure.TIMEOUT, 1.0)
    assert book.failed("n", Failure.CUT, 1.0)


def test_failures_of_requests_sent_before_an_ejection_do_not_lengthen_it() -> None:
    book = HealthBook()
    assert book.failed("n", Failure.CONNECT, 1.0)
    assert not book.failed("n", Failure.CONNECT, 1.5)
    assert not book.ejected("n", 2.0)


def test_a_refusal_is_no_fault_of_health() -> None:
    book = HealthBook()
    for _ in range(9):
        assert not book.failed("n", Failure.REFUSED, 1.0)
    assert book.quiet


def test_growth_is_forgotten_after_serving_as_long_as_the_last_ejection() -> None:
    book = HealthBook()
    book.failed("n", Failure.CONNECT, 0.0)
    book.succeeded("n", 1.5)
    assert not book.quiet
    book.succeeded("n", 2.0)
    assert book.quiet


def test_subjects_that_are_gone_are_forgotten() -> None:
    book = HealthBook()
    book.failed("n", Failure.CONNECT, 0.0)
    book.forget(["m"])
    assert book.quiet


# -- attempts


def test_connect_failures_go_through_all_candidates() -> None:
    attempts = Attempts(TARGETS)
    assert attempts.start(0.0) == Try(TARGETS[0])
    for target in TARGETS[1:]:
        assert attempts.after(Failure.CONNECT, "down", 1.0) == Try(target)
    assert attempts.after(Failure.CONNECT, "down", 1.0) == GiveUp(502, "down")
    assert [one.instance for one in attempts.failed] == [target.id for target in TARGETS]


@pytest.mark.parametrize("failure", [Failure.CUT, Failure.REFUSED, Failure.SERVER_ERROR])
def test_other_failures_are_tried_once_more(failure: Failure) -> None:
    attempts = Attempts(TARGETS)
    attempts.start(0.0)
    assert attempts.may_retry
    assert attempts.after(failure, "no", 1.0) == Try(TARGETS[1])
    assert not attempts.may_retry
    assert isinstance(attempts.after(failure, "no", 1.0), GiveUp)


@given(st.sampled_from(Failure))
def test_nothing_is_tried_again_after_a_byte(failure: Failure) -> None:
    attempts = Attempts(TARGETS)
    attempts.start(0.0)
    attempts.delivered()
    assert not attempts.may_retry
    step = attempts.after(failure, "died", 1.0)
    assert isinstance(step, GiveUp)
    assert step.in_stream


def test_nothing_is_tried_after_the_deadline() -> None:
    assert Attempts(TARGETS, 5.0).start(5.0) == GiveUp(504, "deadline exceeded")
    attempts = Attempts(TARGETS, 5.0)
    attempts.start(0.0)
    assert attempts.after(Failure.CONNECT, "down", 5.0) == GiveUp(504, "deadline exceeded")


def test_without_candidates_it_is_unavailable() -> None:
    step = Attempts(()).start(0.0)
    assert isinstance(step, GiveUp)
    assert step.status == 503


@given(st.lists(st.sampled_from(Failure), max_size=12))
def test_every_run_ends_and_no_instance_is_tried_twice(failures: list[Failure]) -> None:
    attempts = Attempts(TARGETS)
    step = attempts.start(0.0)
    tried = []
    for failure in [*failures, *[Failure.CUT] * 5]:
        if isinstance(step, GiveUp):
            break
        tried.append(step.target.id)
        step = attempts.after(failure, "x", 1.0)
    assert isinstance(step, GiveUp)
    assert len(tried) == len(set(tried)) == attempts.count
