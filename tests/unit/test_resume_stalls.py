"""How long a stream may be silent: the floor, what is learnt, what does not count."""

from __future__ import annotations

import random

from bridge_agent.routing.resume.pace import Pace, Stalls


def silent_ticks(stalls: Stalls, stream: str, fed: int, *, most: int = 1000) -> int:
    """Ticks of silence until the stream counts as dead."""
    for tick in range(1, most):
        if stalls.tick(stream, "m", fed, waits=False):
            return tick
    raise AssertionError("never")


def test_a_silent_stream_is_dead_at_the_floor() -> None:
    stalls = Stalls(10, 120)
    stalls.open("s")
    assert not stalls.tick("s", "m", 3, waits=False)
    assert silent_ticks(stalls, "s", 3) == 10
    stalls.close("s")
    assert not stalls.tick("s", "m", 3, waits=False)
    assert len(stalls) == 0


def test_the_time_before_the_first_record_has_no_pace() -> None:
    stalls = Stalls(3, 120)
    stalls.open("s")
    assert not any(stalls.tick("s", "m", 0, waits=False) for _ in range(500))


def test_a_client_that_reads_slowly_is_no_stall() -> None:
    stalls = Stalls(3, 120)
    stalls.open("s")
    stalls.tick("s", "m", 1, waits=False)
    assert not any(stalls.tick("s", "m", 1, waits=True) for _ in range(100))
    assert silent_ticks(stalls, "s", 1) == 3


def test_a_slow_model_gets_more_time_and_no_more_than_the_ceiling() -> None:
    for pause, expected in ((0, 10), (1, 10), (5, 24), (50, 120)):
        pace = Pace()
        for _ in range(100):
            pace.moved(1, pause)
        assert pace.limit(floor=10, ceiling=120) == expected


def test_a_rare_pause_teaches_nothing() -> None:
    pace = Pace()
    for number in range(1000):
        pace.moved(10, 30 if number % 200 == 0 else 0)
    assert pace.limit(floor=10, ceiling=120) == 10


def test_a_model_that_became_faster_is_soon_held_to_it() -> None:
    pace = Pace()
    for _ in range(500):
        pace.moved(1, 8)
    assert pace.limit(floor=10, ceiling=120) == 36
    for _ in range(200):
        pace.moved(1000, 0)
    assert pace.limit(floor=10, ceiling=120) == 10


def test_a_learnt_limit_agrees_with_the_plain_percentile() -> None:
    chance = random.Random(4)
    for _ in range(50):
        pauses = [chance.choice((0, 0, 0, 1, 2, 7)) for _ in range(chance.randrange(1, 400))]
        pace = Pace()
        for pause in pauses:
            pace.moved(1, pause)
        usual = next((p for p in sorted(set(pauses)) if sum(x > p for x in pauses) <= len(pauses) * 0.01), 0)
        assert pace.limit(floor=1, ceiling=10**6) == (max(1, 4 * (usual + 1)) if usual else 1)
