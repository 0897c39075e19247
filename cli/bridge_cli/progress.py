"""Showing what goes on: a spinner on a terminal, plain lines elsewhere; each step with its time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape


class Progress:
    """Prints steps as they go. Silent when `quiet`, as for --json."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(highlight=False)
        self._quiet = quiet
        self._began = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first step could begin."""
        return time.monotonic() - self._began

    def say(self, text: str) -> None:
        """Prints a line."""
        if not self._quiet:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Shows `what` while it is being done, and how long it took."""
        if self._quiet:
            yield
            return
        began = time.monotonic()
        if self._console.is_terminal:
            with self._console.status(escape(what)):
                yield
        else:
            yield
        self._console.print(f"  {what:<58} {time.monotonic() - began:5.1f} s", markup=False, highlight=False)
