"""What models are asked for at which time of day, kept over restarts. Blocks: run it in threads."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import msgspec
import structlog

from bridge_agent.models.habit_rules import DayHistory, Habit, Habits
from bridge_core.decoding import Undecodable, decode_json
from bridge_core.errors import BridgeError
from bridge_core.files import write_atomically
from bridge_core.model_store.layout import read_bounded

log = structlog.get_logger()

_MOST_BYTES: Final = 1 << 20


class HabitsUnsaved(BridgeError):
    """The disk refuses the file."""


class _Kept(msgspec.Struct, frozen=True):
    habits: Habits
    version: Literal[1] = 1


def read_habits(path: Path) -> DayHistory:
    """What the file says; nothing where there is none, or none that can be used, which is told."""
    try:
        return DayHistory(decode_json(read_bounded(path, _MOST_BYTES), _Kept, most=_MOST_BYTES).habits)
    except FileNotFoundError:
        return DayHistory()
    except (OSError, ValueError, Undecodable) as fault:
        log.warning("habits_not_read", path=str(path), reason=str(fault))
        return DayHistory()


def write_habits(path: Path, habits: dict[str, Habit]) -> None:
    """Replaces the file.

    Raises:
        HabitsUnsaved: the disk refuses; the old one stays.
    """
    try:
        write_atomically(path, msgspec.json.encode(_Kept(habits)))
    except OSError as fault:
        raise HabitsUnsaved(f"{path} cannot be written: {fault.strerror}") from fault
