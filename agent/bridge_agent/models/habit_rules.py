"""What models are asked for at which time of day, by what they were asked for on earlier days. Pure.

Rules:
1. A day has `SLOTS` slots (of UTC). A request counts in that of its moment; every day that passes halves all
   counts of its model, so that what stopped is forgotten within days and what comes daily stays.
2. What is expected now is what the slot of now and the next one count: models are wanted before the hour at
   which they are asked for, not in it. Today's own requests are no habit yet, and count tomorrow.
3. A clock that goes backwards makes no count larger: days that did not pass halve nothing.
4. What is remembered is bounded: of `MOST_MODELS` models, those asked for last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec

from bridge_core.bounds import Count, Name

SLOTS: Final = 48
DAY_S: Final = 86_400
SLOT_S: Final = DAY_S // SLOTS
MOST_MODELS: Final = 256
MOST_COUNT: Final = 1e9
LEAST: Final = 1 / 64  # of what a count is worth now: less is past

_Count = Annotated[float, msgspec.Meta(ge=0.0, le=MOST_COUNT)]
_Counts = Annotated[tuple[_Count, ...], msgspec.Meta(min_length=SLOTS, max_length=SLOTS)]
_NONE: Final = (0.0,) * SLOTS


class Habit(msgspec.Struct, frozen=True):
    """When one model was asked for.

    Attributes:
        day: Of the last request, since 1970.
        earlier: Requests by slot on days before that one, as much as they were worth on it.
        today: Those of that day.
    """

    day: Count
    earlier: _Counts = _NONE
    today: _Counts = _NONE

    def on(self, day: int) -> Habit:
        """The same, looked at on a day."""
        passed = day - self.day
        if passed <= 0:
            return self
        worth = math.exp2(-passed)
        both = zip(self.earlier, self.today, strict=True)
        earlier = tuple(min(MOST_COUNT, (old + new) * worth) for old, new in both)
        return Habit(day, earlier, _NONE)


Habits = Annotated[dict[Name, Habit], msgspec.Meta(max_length=MOST_MODELS)]


class DayHistory:
    """The habits of all models.

    Args:
        habits: What was remembered before, by canonical name, those asked for last at the end.

    Attributes:
        habits: What is remembered now, likewise.
    """

    def __init__(self, habits: Mapping[str, Habit] | None = None) -> None:
        self.habits: dict[str, Habit] = dict(habits or {})

    def asked(self, model: str, now_unix: float) -> None:
        """A request for the model of this canonical name."""
        day, slot = _moment(now_unix)
        known = self._taken(model, day)
        counted = min(MOST_COUNT, known.today[slot] + 1.0)
        today = (*known.today[:slot], counted, *known.today[slot + 1 :])
        self.habits[model] = Habit(known.day, known.earlier, today)

    def add(self, later: DayHistory) -> None:
        """Counts what another one counted on its models' last days, too: it began after this one ended."""
        for model, habit in later.habits.items():
            known = self._taken(model, habit.day)
            both = zip(known.today, habit.today, strict=True)
            today = tuple(min(MOST_COUNT, old + new) for old, new in both)
            self.habits[model] = Habit(known.day, known.earlier, today)

    def _taken(self, model: str, day: int) -> Habit:
        """Takes a model's habit out, as it is on a day, and makes room for it at the end."""
        known = self.habits.pop(model, Habit(day)).on(day)
        if len(self.habits) >= MOST_MODELS:
            del self.habits[next(iter(self.habits))]
        return known

    def expected(self, model: str, now_unix: float) -> float:
        """How many requests are to be expected from now on, by earlier days (rule 2); 0: none."""
        known = self.habits.get(model)
        if known is None:
            return 0.0
        day, slot = _moment(now_unix)
        # Just before midnight the next slot is tomorrow's, when today is an earlier day.
        tomorrow = slot == SLOTS - 1
        then = known.on(day + tomorrow).earlier[(slot + 1) % SLOTS]
        found = max(known.on(day).earlier[slot], then)
        return found if found >= LEAST else 0.0


def _moment(now_unix: float) -> tuple[int, int]:
    """The day of a moment and the slot in it."""
    day, seconds = divmod(max(0, int(now_unix)), DAY_S)
    return day, seconds // SLOT_S
