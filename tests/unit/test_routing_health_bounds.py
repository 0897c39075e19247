"""Passive health at its limits: exactly when something is counted, ejected, opened, forgotten."""

from __future__ import annotations

import pytest

from bridge_agent.routing.health_rules import Failure, HealthBook, Window, retry_allowed
from bridge_core.snapshot import RoutePolicy
from bridge_core.traffic import Breaker, Outlier

NEVER = Breaker(min_requests=1_000)
PLAIN = RoutePolicy(outlier=Outlier(success_rate=False), breaker=NEVER)


def totals(*steps: tuple[float, bool | None]) -> tuple[int, int]:
    """What a window of ten seconds has after counting (time, failed); None: only looked at."""
    window = Window(10.0, 0.0)
    for now, failed in steps:
        if failed is None:
            window.totals(now)
        else:
            window.count(now, failed=failed)
    return window.totals(steps[-1][0])


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        ([(0.0, True), (0.0, False), (4.9, True)], (3, 2)),
        ([(0.0, True), (9.9, None)], (1, 1)),
        ([(0.0, True), (10.0, None)], (0, 0)),
        ([(0.0, True), (5.0, None), (9.9, None)], (1, 1)),
        ([(0.0, True), (5.0, None), (10.0, None)], (0, 0)),
        ([(0.0, True), (4.9, None), (9.9, None)], (1, 1)),
        ([(0.0, True), (5.0, False), (9.9, False)], (3, 1)),
        ([(0.0, True), (5.0, False), (10.0, False)], (2, 0)),
    ],
)
def test_a_window_forgets_by_halves(steps: list[tuple[float, bool | None]], found: tuple[int, int]) -> None:
    assert totals(*steps) == found


def test_a_book_without_failures_says_nothing_of_anybody() -> None:
    book = HealthBook(PLAIN)
    book.succeeded("n", 1.0)
    assert book.quiet
    assert (book.ejected("n", 1.0), book.down("n", 1.0), book.ejections(1.0)) == (0.0, 0.0, {})


def test_a_failure_to_connect_takes_for_dead_and_another_only_ejects() -> None:
    book = HealthBook(PLAIN)
    assert book.failed("n", Failure.CONNECT, 10.0)
    assert (book.ejected("n", 10.25), book.down("n", 10.25)) == (0.75, 0.75)
    assert (book.ejected("n", 11.5), book.down("n", 11.5)) == (0.0, 0.0)
    for at in range(3):
        assert book.failed("m", Failure.CUT, 10.0) is (at == 2)
    assert (book.ejected("m", 10.0), book.down("m", 10.0)) == (1.0, 0.0)
    assert book.ejections(10.5) == {"n": 0.5, "m": 0.5}
    assert book.ejections(11.0) == {}


def test_an_answer_ends_being_taken_for_dead() -> None:
    book = HealthBook(PLAIN)
    book.failed("n", Failure.CONNECT, 10.0)
    book.succeeded("n", 10.5)
    assert book.down("n", 10.5) == 0.0


def test_a_failure_at_the_end_of_an_ejection_ejects_again_for_twice_as_long() -> None:
    book = HealthBook(PLAIN)
    book.failed("n", Failure.CONNECT, 10.0)
    assert not book.failed("n", Failure.CUT, 10.9)
    assert book.failed("n", Failure.CUT, 11.0)
    assert book.ejected("n", 11.0) == 2.0
    assert not book.ejected("n", 13.0)


def test_the_growth_of_an_ejection_has_an_end_of_its_own() -> None:
    policy = RoutePolicy(outlier=Outlier(max_ejection_s=float("inf")), breaker=NEVER)
    book, now, lasted = HealthBook(policy), 0.0, []
    for _ in range(63):
        book.failed("n", Failure.CONNECT, now)
        lasted.append(book.ejected("n", now))
        now = 0.0
        book.spoke("n", now)
    assert lasted[:3] == [1.0, 2.0, 4.0]
    assert lasted[60:] == [2.0**60] * 3


def test_growth_is_kept_until_it_served_as_long_as_its_last_ejection() -> None:
    for served_at, then in ((13.99, 4.0), (14.0, 1.0)):
        book = HealthBook(PLAIN)
        book.failed("n", Failure.CONNECT, 7.0)
        book.failed("n", Failure.CONNECT, 10.0)  # until 12
        book.succeeded("n", served_at)
        assert book.failed("n", Failure.CONNECT, 20.0)
        assert book.ejected("n", 20.0) == then


@pytest.mark.parametrize("failure", [Failure.REFUSED, Failure.ANSWERED_500])
def test_what_is_no_fault_of_health_counts_for_nothing(failure: Failure) -> None:
    book = HealthBook(RoutePolicy(breaker=Breaker(min_requests=1), outlier=Outlier(consecutive_failures=1)))
    assert not book.failed("n", failure, 1.0)
    assert book.quiet


def test_a_silent_node_is_down_until_it_speaks_and_then_the_book_is_quiet() -> None:
    book = HealthBook(PLAIN)
    book.silent("n")
    assert not book.quiet
    assert (book.down("n", 5.0), book.ejected("n", 5.0)) == (1.0, 0.0)
    assert book.ejections(5.0) == {"n": 1.0}
    book.spoke("n", 6.0)
    assert book.quiet
    assert book.down("n", 6.0) == 0.0


def test_who_speaks_is_neither_dead_nor_ejected_any_more() -> None:
    book = HealthBook(PLAIN)
    book.failed("n", Failure.CONNECT, 10.0)
    book.spoke("n", 10.5)
    assert (book.down("n", 10.5), book.ejected("n", 10.5)) == (0.0, 0.0)
    assert not book.quiet, "how often it failed is not forgotten"
    book.spoke("n", 20.0)
    assert book.ejected("n", 10.4) == pytest.approx(0.1), "an end that is past is not moved"


@pytest.mark.parametrize(("seconds", "left"), [(2.0, 2.0), (29.9, 29.9), (30.0, 30.0), (31.0, 30.0)])
def test_patience_is_given_for_half_a_minute_at_most(seconds: float, left: float) -> None:
    book = HealthBook(PLAIN)
    book.asked_for_patience("n", seconds, 100.0)
    assert book.ejected("n", 100.0) == pytest.approx(left)
    book.asked_for_patience("n", 1.0, 100.0)
    assert book.ejected("n", 100.0) == pytest.approx(left), "a shorter wish does not shorten it"
    assert book.down("n", 100.0) == 0.0


def circuit(good: int, bad: int, *, share: float = 0.5, least: int = 4) -> float:
    """How long a circuit is open after so many requests."""
    breaker = Breaker(failure_share=share, min_requests=least, window_s=10.0, open_s=5.0)
    outlier = Outlier(consecutive_failures=99, success_rate=False)
    book = HealthBook(RoutePolicy(breaker=breaker, outlier=outlier))
    book.asked_for_patience("n", 0.0, 0.0)  # somebody is noted, so that answers count
    for _ in range(good):
        book.succeeded("n", 0.0)
    for _ in range(bad):
        book.failed("n", Failure.CUT, 0.0)
    return book.ejected("n", 0.0)


@pytest.mark.parametrize(
    ("good", "bad", "open_s"),
    [(2, 2, 5.0), (2, 1, 0.0), (0, 3, 0.0), (0, 4, 5.0), (3, 2, 0.0), (3, 3, 5.0), (4, 3, 0.0)],
)
def test_a_circuit_opens_at_its_share_of_enough_requests(good: int, bad: int, open_s: float) -> None:
    assert circuit(good, bad) == open_s


def test_a_half_open_circuit_lets_one_through_and_its_outcome_decides() -> None:
    breaker = Breaker(failure_share=0.5, min_requests=2, window_s=10.0, open_s=5.0)
    policy = RoutePolicy(breaker=breaker, outlier=Outlier(consecutive_failures=99, success_rate=False))
    book = HealthBook(policy)
    book.began("n", 0.0)
    book.failed("n", Failure.CUT, 0.0)
    book.began("n", 0.0)
    assert book.ejected("n", 0.0) == 0.0, "a closed circuit lets all through"
    book.failed("n", Failure.CUT, 1.0)
    assert book.ejected("n", 1.0) == 5.0
    assert book.ejected("n", 6.0) == 0.0
    book.began("n", 6.0)
    assert book.ejected("n", 6.0) == 5.0
    book.failed("n", Failure.CUT, 7.0)
    assert book.ejected("n", 7.0) == 5.0
    book.began("n", 12.0)
    book.succeeded("n", 12.5)
    assert book.ejected("n", 12.5) == 0.0
    book.failed("n", Failure.CUT, 13.0)
    assert book.ejected("n", 13.0) == 0.0, "what was before it closed counts no more"
    book.began("n", 13.0)
    assert book.ejected("n", 13.0) == 0.0


def test_a_route_that_is_open_for_less_does_not_close_another_earlier() -> None:
    def policy(open_s: float) -> RoutePolicy:
        return RoutePolicy(
            breaker=Breaker(min_requests=1, open_s=open_s),
            outlier=Outlier(consecutive_failures=99, success_rate=False),
        )

    book = HealthBook(policy(9.0))
    book.failed("n", Failure.CUT, 0.0, policy(9.0))
    book.failed("n", Failure.CUT, 1.0, policy(2.0))
    assert book.ejected("n", 1.0) == 8.0


def rated(
    own: float, others: list[float], *, requests: int = 100, least: int = 20, rate: bool = True
) -> bool:
    """Whether an instance of this success rate is ejected."""
    policy = RoutePolicy(
        outlier=Outlier(consecutive_failures=10_000, success_rate=rate),
        breaker=Breaker(failure_share=1.1, min_requests=least),
    )
    book = HealthBook(policy)
    for at, share in enumerate(others):
        good = round(share * requests)
        for number in range(requests):
            if number < requests - good:
                book.failed(f"o{at}/0", Failure.CUT, 0.0)
            else:
                book.asked_for_patience(f"o{at}/0", 0.0, 0.0)
                book.succeeded(f"o{at}/0", 0.0)
    good = round(own * requests)
    book.asked_for_patience("n/0", 0.0, 0.0)
    for _ in range(good):
        book.succeeded("n/0", 0.0)
    ejections = [book.failed("n/0", Failure.CUT, 0.0) for _ in range(requests - good)]
    return any(ejections)


@pytest.mark.parametrize(
    ("own", "others", "ejects"),
    [
        (0.84, [1.0, 1.0], True),
        (0.86, [1.0, 1.0], False),  # no more than 15 points below
        (0.5, [1.0], False),  # with one other there is nobody to be worse than
        (0.5, [1.0, 1.0], True),
        (0.72, [0.8, 1.0], False),  # 0.9 less 1.9 times 0.1 is 0.71
        (0.70, [0.8, 1.0], True),
        (0.60, [0.9, 0.8, 0.7], True),  # 0.8 less 1.9 times 0.0816 is 0.645
        (0.65, [0.9, 0.8, 0.7], False),
    ],
)
def test_far_below_is_nearly_two_deviations_and_15_points_at_least(
    own: float, others: list[float], ejects: bool
) -> None:
    assert rated(own, others) is ejects


def test_15_points_below_is_not_yet_far() -> None:
    assert not rated(0.85, [1.0, 1.0], requests=20)
    assert rated(0.80, [1.0, 1.0], requests=20)


def test_nothing_that_is_over_counts_in_the_first_second_of_a_clock() -> None:
    book = HealthBook(PLAIN)
    book.asked_for_patience("n", 0.25, 0.0)
    assert (book.down("n", 0.0), book.ejected("n", 0.25)) == (0.0, 0.0)
    book.tidy(0.25)
    assert book.quiet
    for event in ("succeeded", "spoke"):
        book = HealthBook(RoutePolicy(outlier=Outlier(base_ejection_s=0.5), breaker=NEVER))
        book.failed("n", Failure.CONNECT, 0.0)
        getattr(book, event)("n", 0.25)
        assert book.down("n", 0.25) == 0.0
    tripped = RoutePolicy(outlier=Outlier(consecutive_failures=99), breaker=Breaker(0.5, 1, 1.0, 0.25))
    book = HealthBook(tripped)
    book.failed("n", Failure.CUT, 0.0)
    book.succeeded("n", 0.25)
    assert book.ejected("n", 0.25) == 0.0


def test_only_who_had_enough_requests_is_compared() -> None:
    assert rated(0.5, [1.0, 1.0], requests=20)
    assert not rated(0.5, [1.0, 1.0], requests=19)
    assert not rated(0.5, [1.0, 1.0], rate=False)


def test_nodes_are_compared_with_nodes_and_instances_with_instances() -> None:
    policy = RoutePolicy(outlier=Outlier(consecutive_failures=99), breaker=Breaker(1.1, 2))
    book = HealthBook(policy)
    for name in ("a", "b", "c/0"):
        book.asked_for_patience(name, 0.0, 0.0)
        for _ in range(2):
            book.succeeded(name, 0.0)
    assert not any(book.failed("n/0", Failure.CUT, 0.0) for _ in range(5))
    assert not book.failed("n", Failure.CUT, 0.0), "too few requests"
    assert book.failed("n", Failure.CUT, 0.0)


@pytest.mark.parametrize("consecutive", [1, 3])
def test_so_many_in_a_row_eject(consecutive: int) -> None:
    policy = RoutePolicy(outlier=Outlier(consecutive_failures=consecutive, success_rate=False), breaker=NEVER)
    book = HealthBook(policy)
    found = [book.failed("n", Failure.TIMEOUT, 1.0) for _ in range(consecutive)]
    assert found == [False] * (consecutive - 1) + [True]


def test_a_book_is_tidied_once_nothing_says_anything() -> None:
    def quiet_at(book: HealthBook, now: float) -> bool:
        book.tidy(now)
        return book.quiet

    for now, quiet in ((9.9, False), (10.0, True)):
        book = HealthBook(PLAIN)
        book.failed("n", Failure.CONNECT, 0.0)
        assert quiet_at(book, now) is quiet, "a failure in the window counts"
    short = RoutePolicy(outlier=Outlier(), breaker=Breaker(min_requests=99, window_s=1.0))
    book = HealthBook(short)
    book.failed("n", Failure.CONNECT, 0.0)
    assert not quiet_at(book, 1.9)
    assert quiet_at(book, 2.0)
    book.asked_for_patience("n", 20.0, 0.0)
    assert not quiet_at(book, 19.9)
    assert quiet_at(book, 20.0)
    tripped = RoutePolicy(outlier=Outlier(consecutive_failures=99), breaker=Breaker(0.5, 1, 1.0, 3.0))
    book = HealthBook(tripped)
    book.failed("n", Failure.CUT, 0.0)
    assert not quiet_at(book, 50.0), "half open it is until a request tells"
    book.succeeded("n", 50.0)
    assert quiet_at(book, 50.0)
    book.silent("n")
    assert not quiet_at(book, 99.0)


def test_those_that_are_gone_are_forgotten_silent_ones_too() -> None:
    book = HealthBook(PLAIN)
    book.failed("n", Failure.CONNECT, 0.0)
    book.silent("m")
    book.forget(["m"])
    assert (book.ejected("n", 0.0), book.down("m", 0.0), book.quiet) == (0.0, 1.0, False)
    book.forget([])
    assert (book.down("m", 0.0), book.quiet) == (0.0, True)


@pytest.mark.parametrize(
    ("requests", "retries", "allowed"),
    [
        (0, 2, True),
        (0, 3, False),
        (15, 3, False),
        (20, 3, True),
        (20, 4, False),
        (24, 4, False),
        (25, 4, True),
    ],
)
def test_retries_are_a_fifth_of_the_requests_and_three_at_least(
    requests: int, retries: int, allowed: bool
) -> None:
    assert retry_allowed(requests, retries, 0.2, 3) is allowed
