"""Stop sequences that begin before a cut and end after it."""

from __future__ import annotations

from collections.abc import Iterable


class StopGuard:
    """Watches for the rest of a stop sequence whose beginning the client already has.

    Engines hold back what may become a stop sequence, but one that does not must not end in a text
    that goes on past it. The new engine cannot see the beginning: to it that is prompt.

    Args:
        before: The text delivered.
        stops: The stop sequences.

    Attributes:
        stopped: A stop sequence was completed; what follows is not for the client.
    """

    def __init__(self, before: str, stops: Iterable[str]) -> None:
        self._rests = {
            stop[size:] for stop in stops for size in range(1, len(stop)) if before.endswith(stop[:size])
        }
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """What of the text so far can go to the client."""
        if self.stopped:
            return ""
        if not self._rests:
            return text
        self._held += text
        if any(self._held.startswith(rest) for rest in self._rests):
            self.stopped = True
            return ""
        self._rests = {rest for rest in self._rests if rest.startswith(self._held)}
        return "" if self._rests else self.finish()

    def finish(self) -> str:
        """What was held back and turned out not to be a stop sequence."""
        held, self._held = self._held, ""
        return "" if self.stopped else held
