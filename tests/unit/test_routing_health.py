"""Passive health, as a pure machine."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.routing.health_rules import Failure, HealthBook, Window, retry_allowed
from bridge_core.snapshot import RoutePolicy
from bridge_core.traffic import Breaker, Outlier


def test_a_failure_to_connect_ejects_at_once_and_for_longer_each_time() -> None:
    book = HealthBook(RoutePolicy(outlier=Outlier(base_ejection_s=1.0, max_ejection_s=6.0)))
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
    for served_at, ejects in ((1.5, True), (2.0, False)):
        book = HealthBook()
        book.failed("n", Failure.CONNECT, 0.0)
        book.succeeded("n", served_at)
        assert book.failed("n", Failure.CUT, served_at + 1) is ejects


def test_a_book_is_quiet_again_when_nothing_says_anything_any_more() -> None:
    book = HealthBook(RoutePolicy(breaker=Breaker(window_s=10.0)))
    book.failed("n", Failure.CONNECT, 0.0)
    book.succeeded("m", 1.0)
    book.tidy(3.0)
    assert not book.quiet
    book.tidy(20.0)
    assert book.quiet


def test_a_circuit_opens_at_its_share_and_lets_one_through_when_half_open() -> None:
    book = HealthBook(
        RoutePolicy(
            outlier=Outlier(consecutive_failures=1_000, success_rate=False),
            breaker=Breaker(failure_share=0.5, min_requests=4, window_s=10.0, open_s=5.0),
        )
    )
    for at in range(3):
        book.failed("n", Failure.SERVER_ERROR, float(at))
    assert not book.ejected("n", 2.0)
    book.succeeded("n", 2.0)
    book.failed("n", Failure.SERVER_ERROR, 2.0)
    assert book.ejected("n", 2.0) == 5.0
    assert not book.ejected("n", 7.0)
    book.began("n", 7.0)  # the probe
    assert book.ejected("n", 7.1) > 0
    book.failed("n", Failure.SERVER_ERROR, 8.0)
    assert book.ejected("n", 8.0) == 5.0
    book.began("n", 13.0)
    book.succeeded("n", 13.1)
    assert not book.ejected("n", 13.1)


def _breaker(**spec: float) -> RoutePolicy:
    calm = Outlier(consecutive_failures=1_000, success_rate=False)
    return RoutePolicy(outlier=calm, breaker=Breaker(**spec))  # type: ignore[arg-type]


def test_each_routes_breaker_counts_in_a_window_of_its_own_and_stays_open_for_its_own_time() -> None:
    short = _breaker(min_requests=4, window_s=2.0, open_s=1.0)
    long = _breaker(min_requests=4, window_s=60.0, open_s=9.0)
    # One failure every three seconds: never four in two seconds, four in a minute.
    for policy, opens in ((short, None), (long, 9.0)):
        book = HealthBook()
        for at in range(0, 12, 3):
            book.failed("n", Failure.SERVER_ERROR, float(at), policy)
        assert book.ejected("n", 9.0) == (opens or 0.0)
    book = HealthBook()
    for at in range(0, 12, 3):  # requests of both routes go there
        assert not book.ejected("n", float(at))
        book.failed("n", Failure.SERVER_ERROR, float(at), long)
        book.succeeded("n", float(at))
    assert book.ejected("n", 9.0) == 0.0, "closed by the success"
    for _ in range(3):
        book.failed("n", Failure.SERVER_ERROR, 10.0, short)
    assert book.ejected("n", 10.0) == 0.0
    book.failed("n", Failure.SERVER_ERROR, 10.0, long)
    book.failed("n", Failure.SERVER_ERROR, 10.0, short)
    assert book.ejected("n", 10.0) == 9.0, "another route's shorter time does not cut it short"


def test_a_half_open_circuit_is_held_for_as_long_as_the_route_that_opened_it_says() -> None:
    policy = _breaker(min_requests=1, open_s=9.0)
    book = HealthBook()
    book.failed("n", Failure.SERVER_ERROR, 0.0, policy)
    assert book.ejected("n", 8.9)
    book.began("n", 9.0)  # the one request that is let through
    assert book.ejected("n", 9.0) == 9.0
    book.succeeded("n", 9.1)
    assert not book.ejected("n", 9.1)


def test_who_succeeds_far_less_often_than_the_others_is_ejected() -> None:
    policy = RoutePolicy(
        outlier=Outlier(consecutive_failures=1_000),
        breaker=Breaker(failure_share=1.0, min_requests=20, window_s=1_000.0),
    )
    book = HealthBook(policy)
    book.failed("bad", Failure.SERVER_ERROR, 0.0)
    ejected = []
    for at in range(200):
        for name in ("a", "b", "c"):
            book.succeeded(name, float(at))
        if at % 3:
            book.succeeded("bad", float(at))
        elif book.failed("bad", Failure.SERVER_ERROR, float(at)):
            ejected.append(at)
    assert ejected
    assert ejected[0] <= 21
    alone = HealthBook(policy)
    for at in range(200):
        assert not alone.failed("bad", Failure.SERVER_ERROR, float(at) * 10)


def test_with_one_other_instance_there_is_nobody_to_be_worse_than() -> None:
    policy = RoutePolicy(
        outlier=Outlier(consecutive_failures=1_000),
        breaker=Breaker(failure_share=1.0, min_requests=20, window_s=1_000.0),
    )
    book = HealthBook(policy)
    for at in range(200):
        # As the gateway notes it: an answer is its instance's and its node's, a failure the instance's.
        for instance in ("a/0", "b/0"):
            failed = instance == "a/0" and at % 3 == 0
            if failed:
                assert not book.failed(instance, Failure.SERVER_ERROR, float(at))
            else:
                book.succeeded(instance, float(at))
                book.succeeded(instance[:1], float(at))


def test_a_silent_node_is_down_until_it_speaks() -> None:
    book = HealthBook()
    book.silent("n")
    assert book.down("n", 5.0)
    assert not book.quiet
    book.failed("n", Failure.CONNECT, 5.0)
    book.spoke("n", 5.1)
    assert not book.down("n", 5.1)
    assert not book.ejected("n", 5.1)


def test_patience_is_given_to_who_asked_for_it_within_reason() -> None:
    book = HealthBook()
    book.asked_for_patience("n", 2.0, 10.0)
    assert book.ejected("n", 11.0) == 1.0
    book.asked_for_patience("n", 86_400.0, 10.0)
    assert book.ejected("n", 10.0) == 30.0


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=60))
def test_a_window_never_counts_more_than_happened_in_it(steps: list[tuple[float, bool]]) -> None:
    window, now, seen = Window(10.0, 0.0), 0.0, []
    for pause, failed in steps:
        now += pause
        window.count(now, failed=failed)
        seen.append((now, failed))
        total, bad = window.totals(now)
        assert bad <= total
        assert total <= sum(at >= now - 15.0 for at, _ in seen)
        assert total >= sum(at > now - 5.0 for at, _ in seen)


def test_the_retry_budget_is_a_share_with_a_floor() -> None:
    assert retry_allowed(0, 2, 0.2, 3)
    assert not retry_allowed(0, 3, 0.2, 3)
    assert retry_allowed(100, 19, 0.2, 3)
    assert not retry_allowed(100, 20, 0.2, 3)


def test_subjects_that_are_gone_are_forgotten() -> None:
    book = HealthBook()
    book.failed("n", Failure.CONNECT, 0.0)
    book.forget(["m"])
    assert book.quiet
