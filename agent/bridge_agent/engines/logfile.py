"""An engine's standard output and error in a file that does not grow without end.

The engine writes to the file itself, not through a pipe to the agent: an engine outlives its
agent, and would die of the broken pipe, or block on the full one.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

TAIL_BYTES = 64 * 1024


class LogFile:
    """The log of one engine instance."""

    def __init__(self, path: Path, *, limit: int = 16 * 1024 * 1024) -> None:
        self.path = path
        self._limit = limit
        self._previous = path.with_name(path.name + ".1")

    def open(self) -> int:
        """A file descriptor to append to, for the engine; the caller closes it.

        Raises:
            OSError: the file cannot be opened.
        """
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def rotate(self) -> None:
        """Moves the content aside once it is over the limit; keeps one such file.

        The file is copied and cut, not renamed, because a running engine holds it open; what it
        writes between the two is lost.

        Raises:
            OSError: the disk is full, or the folder gone.
        """
        try:
            if self.path.stat().st_size <= self._limit:
                return
        except FileNotFoundError:
            return
        try:
            shutil.copyfile(self.path, self._previous)
            self._previous.chmod(0o600)
        finally:
            # Also when the copy fails: a log that fills the disk is worse than one cut short.
            os.truncate(self.path, 0)

    def tail(self, lines: int = 50) -> list[str]:
        """The last lines, oldest first; empty if there is no log."""
        try:
            with self.path.open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(0, end - TAIL_BYTES))
                return file.read().decode(errors="replace").splitlines()[-lines:]
        except OSError:
            return []
