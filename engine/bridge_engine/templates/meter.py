"""What rendering one prompt may cost.

A template may come with a request, so time and memory are bounded by counting what is done, not by what
the template looks like.

Rules:
1. Every node, operand, name of a path and turn of a loop is a step.
2. Every character that is printed, or that a function reads or makes, is work. So the texts that variables
   hold are counted too: none is made that was not paid for.
3. All turns of one prompt share one meter.
"""

from __future__ import annotations

from typing import Final

from bridge_engine.templates.fault import TemplateLimit

MOST_STEPS: Final = 200_000
"""Steps of one prompt: a few tenths of a second."""
MOST_WORK: Final = 32 << 20
"""Characters of one prompt: more than the longest context that any model has."""
MOST_DEPTH: Final = 100
"""Blocks and called templates within each other, while rendering."""


class Meter:
    """Counts what is done for one prompt."""

    def __init__(self) -> None:
        """Starts at nothing."""
        self._steps = 0
        self._work = 0
        self.depth = 0

    def step(self, line: int, count: int = 1) -> None:
        """Counts steps.

        Raises:
            TemplateLimit: There were too many.
        """
        self._steps += count
        if self._steps > MOST_STEPS:
            raise TemplateLimit("takes too many steps", line)

    def work(self, size: int, line: int) -> None:
        """Counts characters.

        Raises:
            TemplateLimit: There were too many.
        """
        self._work += size
        if self._work > MOST_WORK:
            raise TemplateLimit("handles too much text", line)

    def enter(self, line: int) -> None:
        """Counts a block that is entered; `depth` goes down when it is left.

        Raises:
            TemplateLimit: It lies too deep.
        """
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise TemplateLimit("blocks and templates lie too deeply within each other", line)
