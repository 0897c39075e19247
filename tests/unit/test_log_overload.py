"""What a log leaves out under overload: by class, counted, and no error for a flood of something else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge_core.logs.overload_rules import CLASSES, Room, Throttle
from bridge_core.token_bucket import TokenBucket

SHARES = dict.fromkeys(CLASSES, 100)


@given(st.lists(st.tuples(st.sampled_from(CLASSES), st.integers(1, 60), st.booleans())))
def test_no_class_holds_more_than_its_share_nor_takes_anothers(steps: list[tuple[str, int, bool]]) -> None:
    room = Room(SHARES)
    waiting: dict[str, list[int]] = {kind: [] for kind in CLASSES}
    for kind, size, write in steps:
        if write and waiting[kind]:
            room.give(kind, waiting[kind].pop(0))
        fits = sum(waiting[kind]) + size <= SHARES[kind]
        assert room.take(kind, size) is fits
        if fits:
            waiting[kind].append(size)
        assert room.held == {one: sum(sizes) for one, sizes in waiting.items()}


@given(st.lists(st.integers(0, 40), min_size=1, max_size=200))
def test_a_bucket_gives_its_burst_and_its_rate_and_no_more(pauses: list[int]) -> None:
    bucket, now, given_out = TokenBucket(5.0, 2.0, 0.0), 0.0, 0
    for tenths in pauses:
        now += tenths / 8
        given_out += bucket.take(now)
        assert given_out <= 5 + 2 * now
    # Whoever comes no faster than the rate is never refused.
    steady = TokenBucket(1.0, 2.0, 0.0)
    assert all(steady.take(at / 2) for at in range(20))


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(1.0, 1.0, 100.0)
    assert bucket.take(100.0)
    assert not bucket.take(50.0)


def test_one_event_told_without_end_leaves_the_others_alone() -> None:
    throttle = Throttle(burst=3, rate=1)
    assert [throttle.admits("storm", 0.0) for _ in range(5)] == [True, True, True, False, False]
    assert throttle.admits("calm", 0.0)
    assert throttle.admits("storm", 1.0)
    assert not throttle.admits("storm", 1.5)


def test_names_without_end_share_one_allowance() -> None:
    throttle = Throttle(burst=2, rate=1)
    told = sum(throttle.admits(f"name{number}", 0.0) for number in range(5000))
    assert told == 512 + 2
