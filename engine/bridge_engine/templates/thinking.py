"""Parts a model's thinking from its answer, as the text arrives.

Rules:
1. Thinking comes first: only white space may stand before the opening tag. After anything else
   all text is the answer.
2. White space after the opening tag, and after the closing one, is dropped.
3. Text that may yet turn out to be a tag is held back until it is known.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from bridge_engine.templates.nodes import Body, BranchNode, TextNode, fields_of, walk
from bridge_engine.templates.prompt import Template


class Tags(NamedTuple):
    """What stands around thinking in a model's text."""

    opening: str
    closing: str


def infer_tags(template: Template) -> Tags | None:
    """The tags that the template puts around `.Thinking` of earlier messages; None without any."""
    bodies = [template.body, *template.defined.values()]
    for node in walk(template.body):
        if isinstance(node, BranchNode):
            bodies += (node.body, node.otherwise)
    for body in bodies:
        tags = _around(body)
        if tags is not None:
            return tags
    return None


def _around(body: Body) -> Tags | None:
    for before, node, after in zip(body, body[1:], body[2:], strict=False):
        if not isinstance(before, TextNode) or not isinstance(after, TextNode):
            continue
        if isinstance(node, BranchNode) or "Thinking" not in fields_of(node):
            continue
        opening, closing = before.text.split(), after.text.split()
        if opening and closing:
            return Tags(opening[-1], closing[0])
    return None


class ThinkingPart(NamedTuple):
    """Text that was recognised: thinking, and answer."""

    thinking: str
    content: str


class _State(enum.Enum):
    BEFORE = "before the opening tag"
    OPENED = "white space after the opening tag"
    THINKING = "thinking"
    CLOSED = "white space after the closing tag"
    ANSWER = "answer"


class ThinkingParser:
    """Takes a model's text piece by piece.

    However the text is cut into pieces, the joined parts are the same.
    """

    def __init__(self, tags: Tags, *, opened: bool = False) -> None:
        """Starts at the beginning of an answer.

        Args:
            tags: What to look for.
            opened: The prompt itself ended with the opening tag.
        """
        self._tags = tags
        self._state = _State.OPENED if opened else _State.BEFORE
        self._held = ""

    def feed(self, text: str) -> ThinkingPart:
        """The parts that this text completes."""
        self._held += text
        thinking = content = ""
        while self._held:
            state = self._state
            part = self._advance()
            thinking += part.thinking
            content += part.content
            if self._state is state:
                break
        return ThinkingPart(thinking, content)

    def finish(self) -> ThinkingPart:
        """What was held back: the text ended before it became a tag."""
        held, self._held = self._held, ""
        if self._state is _State.THINKING:
            return ThinkingPart(held, "")
        if self._state in {_State.OPENED, _State.CLOSED}:
            return ThinkingPart("", "")
        return ThinkingPart("", held)

    def _advance(self) -> ThinkingPart:
        if self._state is _State.BEFORE:
            return self._before()
        if self._state in {_State.OPENED, _State.CLOSED}:
            self._held = self._held.lstrip()
            if self._held:
                self._state = _State.THINKING if self._state is _State.OPENED else _State.ANSWER
            return ThinkingPart("", "")
        if self._state is _State.THINKING:
            return self._thinking()
        content, self._held = self._held, ""
        return ThinkingPart("", content)

    def _before(self) -> ThinkingPart:
        stripped = self._held.lstrip()
        if stripped.startswith(self._tags.opening):
            self._held = stripped[len(self._tags.opening) :]
            self._state = _State.OPENED
        elif not self._tags.opening.startswith(stripped):
            self._state = _State.ANSWER
        return ThinkingPart("", "")

    def _thinking(self) -> ThinkingPart:
        thought, tag, rest = self._held.partition(self._tags.closing)
        if tag:
            self._held = rest
            self._state = _State.CLOSED
            return ThinkingPart(thought, "")
        kept = overlap(self._held, self._tags.closing)
        thought = self._held[: len(self._held) - kept]
        self._held = self._held[len(thought) :]
        return ThinkingPart(thought, "")


def overlap(text: str, tag: str) -> int:
    """How many characters at the text's end could begin the tag."""
    for length in range(min(len(text), len(tag) - 1), 0, -1):
        if tag.startswith(text[-length:]):
            return length
    return 0
