"""What is wrong with a template, and where."""

from __future__ import annotations

from bridge_core.errors import BridgeError


class TemplateFault(BridgeError):
    """A template cannot be parsed or executed.

    Attributes:
        line: The template's line, from 1, or 0 where no line is to blame.
    """

    def __init__(self, problem: str, line: int = 0) -> None:
        super().__init__(f"template: line {line}: {problem}" if line else f"template: {problem}")
        self.line = line


class TemplateLimit(TemplateFault):
    """A template asks for more steps, text or depth than one may have."""
