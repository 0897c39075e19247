"""Inside what is measured: how long its loop stood still.

The loop ticks every millisecond. Between two ticks it looks at two clocks: the time that passed, which other
programs on a busy machine make longer, and the processor time of the loop's own thread, which they do not.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path

WATCH = "BRIDGE_BENCH_WATCH"
"""Names the beginning of the file that a process writes; its pid is the end."""
_TICK_S = 0.001


class LoopWatch:
    """Inside what is measured: the longest stops since it was last asked (SIGUSR1), into a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._longest = [0.0, 0.0]
        self._last = time.monotonic(), time.thread_time()
        self._loop.add_signal_handler(signal.SIGUSR1, self._told)
        self._tick()

    def _tick(self) -> None:
        now = time.monotonic(), time.thread_time()
        gaps = [now[0] - self._last[0] - _TICK_S, now[1] - self._last[1]]
        self._longest = list(map(max, self._longest, gaps))
        self._last = now
        self._loop.call_later(_TICK_S, self._tick)

    def _told(self) -> None:
        longest, self._longest = self._longest, [0.0, 0.0]
        made = self._path.with_suffix(".new")
        made.write_text(json.dumps(longest))
        made.rename(self._path)


def watch() -> None:
    """Begins to watch this process's loop, where that was asked for."""
    path = os.environ.get(WATCH)
    if path:
        LoopWatch(Path(f"{path}-{os.getpid()}"))
