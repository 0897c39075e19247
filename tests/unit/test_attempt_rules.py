"""How often an address may fail to say who it is."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_agent.authentication.attempt_rules import (
    Attempts,
    group_of,
)

A, B = "192.0.2.1", "192.0.2.2"


def after(failures: int, address: str = A) -> Attempts:
    attempts = Attempts()
    for _ in range(failures):
        attempts.failed(address, 0.0)
    return attempts


def test_some_failures_are_free_and_then_the_wait_doubles_up_to_a_bound() -> None:
    waits = [after(count).wait(A, 0.0) for count in range(10 + 10)]
    assert waits[: 10 + 1] == [0.0] * (10 + 1)
    assert waits[10 + 1 :] == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_an_address_pays_for_its_own_failures_alone() -> None:
    attempts = after(10 + 3)
    assert attempts.wait(A, 0.0) == 4
    assert attempts.wait(B, 0.0) == 0


def test_a_wait_ends_and_what_comes_meanwhile_lengthens_nothing() -> None:
    attempts = after(10 + 3)
    assert [attempts.wait(A, now) for now in (0.0, 1.0, 3.9, 4.0, 5.0)] == [4, 3, 4 - 3.9, 0, 0]


def test_failures_are_forgotten_one_after_the_other() -> None:
    attempts = after(10 + 3)
    attempts.failed(A, 4 * 30.0)  # four are forgotten, one is new
    assert attempts.wait(A, 4 * 30.0) == 0
    attempts.failed(A, 4 * 30.0)
    assert attempts.wait(A, 4 * 30.0) == 1


def test_who_was_right_lately_is_looked_at_whoever_else_fails() -> None:
    attempts = after(10 + 3)
    attempts.passed(7, 0.0)
    assert attempts.is_known(7, 1.0)
    assert not attempts.is_known(8, 1.0)
    assert not attempts.is_known(7, 86_400.0)


def test_a_right_credential_forgives_no_failures() -> None:
    attempts = after(10 + 3)
    attempts.passed(7, 0.0)
    assert attempts.wait(A, 0.0) == 4


def test_what_is_remembered_is_bounded_and_the_oldest_goes_first() -> None:
    attempts = Attempts()
    for number in range(16_384 + 5):
        attempts.failed(f"2001:db8:{number >> 8:x}:{number & 0xFF:x}::1", float(number))
    for number in range(16_384 + 5):
        attempts.passed(number, 0.0)
    assert attempts.addresses == 16_384
    assert not attempts.is_known(4, 0.0)
    assert attempts.is_known(5, 0.0)


def test_addresses_of_one_customer_count_together() -> None:
    assert group_of("2001:db8:1:2:3:4:5:6") == group_of("2001:db8:1:2:ffff::") == "2001:db8:1:2::/64"
    assert group_of("2001:db8:1:3::1") != group_of("2001:db8:1:2::1")
    assert group_of("fe80::1%eth0") == "fe80::/64"
    assert group_of("::ffff:192.0.2.1") == group_of("192.0.2.1") == "192.0.2.1"
    assert group_of("127.0.0.1") == "127.0.0.1"


@given(st.text())
def test_whatever_an_address_is_it_counts(address: str) -> None:
    assert after(10 + 1, address).wait(address, 0.0) == 1


@settings(max_examples=200)
@given(st.lists(st.floats(0, 300), max_size=200))
def test_no_guesser_is_looked_at_much_oftener_than_failures_are_forgotten(pauses: list[float]) -> None:
    attempts, now, looked_at = Attempts(), 0.0, 0
    for pause in pauses:
        now += pause
        wait = attempts.wait(A, now)
        assert wait <= 60.0
        if not wait:
            attempts.failed(A, now)
            looked_at += 1
    # The free ones, those of the waits that double, and one each time that one is forgotten.
    assert looked_at <= 10 + 8 + 2 * (now / 30.0 + 1)
