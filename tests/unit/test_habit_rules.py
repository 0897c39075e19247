"""What models are expected to be asked for, by what they were asked for at this time on earlier days."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.models.habit_file import HabitsUnsaved, read_habits, write_habits
from bridge_agent.models.habit_rules import (
    DAY_S,
    LEAST,
    MOST_COUNT,
    MOST_MODELS,
    SLOT_S,
    SLOTS,
    DayHistory,
    Habit,
)

NINE = 9 * 3600.0
DAY = float(DAY_S)


def asked_daily(days: int, at: float = NINE, model: str = "m") -> DayHistory:
    history = DayHistory()
    for day in range(days):
        history.asked(model, day * DAY + at)
    return history


def test_a_habit_is_expected_before_its_hour_and_not_after_it() -> None:
    history = asked_daily(3)
    worth = 1 / 2 + 1 / 4 + 1 / 8
    today = 3 * DAY + NINE
    assert history.expected("m", today) == worth
    assert history.expected("m", today + SLOT_S - 1) == worth
    assert history.expected("m", today - 1) == worth  # the slot before: it is wanted by then
    assert history.expected("m", today - SLOT_S) == worth
    assert history.expected("m", today - SLOT_S - 1) == 0.0
    assert history.expected("m", today + SLOT_S) == 0.0
    assert history.expected("other", today) == 0.0


def test_what_was_asked_today_is_no_habit_yet() -> None:
    history = asked_daily(1)
    assert history.expected("m", NINE) == 0.0
    assert history.expected("m", NINE + DAY) == 0.5
    history.asked("m", NINE + DAY)
    assert history.expected("m", NINE + DAY) == 0.5
    assert history.expected("m", NINE + 2 * DAY) == 0.75


def test_the_first_slot_of_tomorrow_is_expected_at_the_end_of_today() -> None:
    history = asked_daily(1, at=0.0)
    assert history.expected("m", DAY - 1) == 0.5
    assert history.expected("m", DAY - SLOT_S) == 0.5
    assert history.expected("m", DAY - SLOT_S - 1) == 0.0


def test_what_stopped_is_forgotten_within_days() -> None:
    history = asked_daily(1)
    assert history.expected("m", NINE + 6 * DAY) == 1 / 64 == LEAST
    assert history.expected("m", NINE + 7 * DAY) == 0.0
    assert history.expected("m", NINE + 10_000 * DAY) == 0.0


def test_a_clock_that_goes_back_makes_nothing_larger() -> None:
    history = asked_daily(3)
    expected = history.expected("m", 3 * DAY + NINE)
    assert history.expected("m", NINE) <= expected
    history.asked("m", NINE)  # two days ago, it says
    assert history.habits["m"].day == 2
    assert history.expected("m", -5.0) == 0.0
    early = DayHistory()
    early.asked("m", -DAY)
    assert early.habits["m"].day == 0
    assert early.expected("m", DAY) == 0.5


def test_only_the_models_asked_for_last_are_remembered() -> None:
    history = DayHistory()
    for at in range(MOST_MODELS + 2):
        history.asked(f"m{at}", NINE)
        history.asked("m0", NINE)
    assert len(history.habits) == MOST_MODELS
    assert "m0" in history.habits
    assert not {"m1", "m2"} & history.habits.keys()
    assert list(history.habits)[-1] == "m0"


def test_counts_are_bounded() -> None:
    full = (MOST_COUNT,) * SLOTS
    history = DayHistory({"m": Habit(0, full, full)})
    history.asked("m", 0.0)
    assert history.habits["m"].today == full
    assert history.habits["m"].on(1).earlier == full


_MOMENTS = st.lists(st.floats(0, 20 * DAY), max_size=12).map(sorted)


@given(_MOMENTS, st.floats(0, 25 * DAY))
def test_it_is_what_a_sum_over_all_requests_says(moments: list[float], now: float) -> None:
    history = DayHistory()
    for at in moments:
        history.asked("m", at)
    now = max([now, *moments])

    def worth(slot: int, day: int) -> float:
        days = (divmod(int(at), DAY_S) for at in moments)
        return sum(0.5 ** (day - asked) for asked, rest in days if asked < day and rest // SLOT_S == slot)

    day, rest = divmod(int(now), DAY_S)
    slot = rest // SLOT_S
    found = max(worth(slot, day), worth((slot + 1) % SLOTS, day + (slot == SLOTS - 1)))
    assert history.expected("m", now) == pytest.approx(found if found >= LEAST else 0.0, abs=1e-9)


@given(_MOMENTS, _MOMENTS, st.floats(0, 30 * DAY))
def test_a_restart_between_days_changes_nothing(first: list[float], second: list[float], now: float) -> None:
    """What is counted before the file was read is added to what was in it."""
    start = (max([0.0, *first]) // DAY + 1) * DAY
    later = [start + at % DAY for at in second]
    whole, before, after = DayHistory(), DayHistory(), DayHistory()
    for at in first:
        whole.asked("m", at)
        before.asked("m", at)
    for at in later:
        whole.asked("m", at)
        after.asked("m", at)
    before.add(after)
    assert before.habits == whole.habits
    assert before.expected("m", now) == whole.expected("m", now)


def test_the_file_comes_back_as_it_was(tmp_path: Path) -> None:
    history = asked_daily(3)
    history.asked("another", NINE)
    path = tmp_path / "habits.json"
    write_habits(path, history.habits)
    assert read_habits(path).habits == history.habits
    assert list(read_habits(path).habits) == ["m", "another"]
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(HabitsUnsaved, match="cannot be written"):
        write_habits(tmp_path / "gone" / "habits.json", history.habits)


def test_the_file_of_this_version_is_read_by_later_ones(tmp_path: Path) -> None:
    zeros = ",".join(["0.0"] * (SLOTS - 1))
    path = tmp_path / "habits.json"
    habit = f'{{"day":20000,"earlier":[2.5,{zeros}],"today":[1.0,{zeros}]}}'
    path.write_text(f'{{"habits":{{"registry.ollama.ai/library/m:latest":{habit}}},"version":1}}')
    (found,) = read_habits(path).habits.values()
    assert (SLOTS, MOST_MODELS, MOST_COUNT) == (48, 256, 1e9)  # as files of this version have it
    assert (found.day, found.earlier[0], found.today[0]) == (20000, 2.5, 1.0)
    again = tmp_path / "again.json"
    write_habits(again, read_habits(path).habits)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[" * 100_000,
        b'{"habits":{},"version":2}',
        b'{"habits":{"m":{"day":-1}},"version":1}',
        b'{"habits":{"m":{"day":1,"today":[1.0]}},"version":1}',
        b'{"habits":{"m":{"day":1,"today":[' + b",".join([b"-1.0"] * SLOTS) + b"]}}}",
        b'{"habits":{"m":{"day":1,"today":[' + b",".join([b"1e300"] * SLOTS) + b"]}}}",
        b'{"habits":{' + b",".join(b'"m%d":{"day":1}' % at for at in range(MOST_MODELS + 1)) + b"}}",
        b" " * (2 << 20),
    ],
)
def test_a_file_that_cannot_be_used_is_as_none(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "habits.json"
    assert read_habits(path).habits == {}
    path.write_bytes(data)
    assert read_habits(path).habits == {}
