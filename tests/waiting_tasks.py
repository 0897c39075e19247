"""Where the tasks of a test wait whose time is up: its traceback ends in the loop, and says nothing of it."""

from __future__ import annotations

import asyncio
import gc
from typing import Any


def where_tasks_wait() -> str:
    """A line for each task that is not done: the places that it waits in, innermost last."""
    tasks = [one for one in gc.get_objects() if isinstance(one, asyncio.Task) and not one.done()]
    return "\n".join(f"{task.get_name()}: {' > '.join(_places(task.get_coro()))}" for task in tasks)


def _places(awaited: Any) -> list[str]:
    places = []
    while awaited is not None:
        frame = _first(awaited, "cr_frame", "gi_frame", "ag_frame")
        if frame is not None:
            places.append(f"{frame.f_code.co_name} ({frame.f_code.co_filename}:{frame.f_lineno})")
        awaited = _first(awaited, "cr_await", "gi_yieldfrom", "ag_await")
    return places


def _first(awaited: Any, *names: str) -> Any:
    """The one of these attributes that it has."""
    return next((getattr(awaited, name) for name in names if hasattr(awaited, name)), None)
