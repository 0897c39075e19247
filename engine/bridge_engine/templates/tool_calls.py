"""Finds calls of tools in a model's text, as it arrives.

Rules:
1. Calls begin at the template's prefix for them, such as `<tool_call>`. Where the prefix is a mere
   `{` or `[`, it must be the first thing in the text; otherwise the text holds no calls.
2. After the prefix come JSON values: objects `{"name": …, "arguments": {…}}` (or `parameters`), lists
   of them, or a tool's name followed by an object of its arguments. Tags and white space between
   them are dropped.
3. What does not become a call of a tool on offer is given back as text, at the end, unchanged.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from bridge_engine.templates.nodes import Body, BranchNode, TextNode, fields_of, walk
from bridge_engine.templates.prompt import Template
from bridge_engine.templates.thinking import overlap

_BARE = frozenset({"{", "["})
_DECODER = json.JSONDecoder()


class ToolCall(NamedTuple):
    """One call."""

    name: str
    arguments: dict[str, Any]


class Found(NamedTuple):
    """Calls that were completed, and text that is none."""

    calls: tuple[ToolCall, ...]
    content: str


def infer_prefix(template: Template) -> str:
    """What the template writes before tool calls; `{` when it writes nothing of its own."""
    bodies: tuple[Body, ...] = (template.body, *template.defined.values())
    for body in bodies:
        for node in walk(body):
            if not isinstance(node, BranchNode) or "ToolCalls" not in fields_of(node):
                continue
            for inner in walk(node.body):
                if isinstance(inner, TextNode):
                    prefix = inner.text.partition("{")[0].strip()
                    return prefix or "{"
    return "{"


class _State(enum.Enum):
    LOOKING = "no prefix yet"
    CALLING = "after the prefix"
    DONE = "no calls to expect"


class ToolCallParser:
    """Takes a model's text piece by piece.

    However the text is cut into pieces, the joined results are the same.
    """

    def __init__(self, prefix: str, tools: Iterable[str]) -> None:
        """Starts at the beginning of an answer.

        Args:
            prefix: See `infer_prefix`.
            tools: Names of the tools on offer.
        """
        self._prefix = prefix
        self._tools = frozenset(tools)
        self._state = _State.LOOKING
        self._held = ""
        self._raw = ""  # what was read since the prefix and has not become a call
        self._value = _ValueEnd()

    def feed(self, text: str) -> Found:
        """What this text completes."""
        self._held += text
        content = self._look() if self._state is _State.LOOKING else ""
        if self._state is _State.DONE:
            content, self._held = content + self._held, ""
            return Found((), content)
        if self._state is _State.LOOKING:
            return Found((), content)
        return Found(tuple(self._calls()), content)

    def finish(self) -> Found:
        """What was held back: the text ended before it became a prefix or a call."""
        rest = self._raw + self._held
        if self._state is _State.CALLING and not self._meaningful(rest):
            rest = ""
        self._held = self._raw = ""
        return Found((), rest)

    def _look(self) -> str:
        if self._prefix in _BARE:
            return self._look_bare()
        content, prefix, rest = self._held.partition(self._prefix)
        if prefix:
            self._state, self._raw, self._held = _State.CALLING, prefix, rest
            return content
        kept = overlap(self._held, self._prefix)
        content = self._held[: len(self._held) - kept]
        self._held = self._held[len(content) :]
        return content

    def _look_bare(self) -> str:
        stripped = self._held.lstrip()
        if stripped:
            self._state = _State.CALLING if stripped[0] in _BARE else _State.DONE
        return ""

    def _calls(self) -> Iterator[ToolCall]:
        while (end := self._value.find(self._held)) is not None:
            start, stop = end
            before, value = self._held[:start], self._held[start:stop]
            self._held = self._held[stop:]
            self._value = _ValueEnd()
            calls = list(self._read(before, value))
            if calls:
                self._raw = ""
                yield from calls
            else:
                self._raw += before + value

    def _read(self, before: str, text: str) -> Iterator[ToolCall]:
        try:
            value = _DECODER.decode(text)
        except (ValueError, RecursionError):  # also of a number with too many digits
            return
        for one in value if isinstance(value, list) else [value]:
            if not isinstance(one, Mapping):
                continue
            call = self._call(one) or self._named(before, one)
            if call is not None:
                yield call

    def _call(self, value: Mapping[str, Any]) -> ToolCall | None:
        inner = value.get("function")
        if isinstance(inner, Mapping):
            value = inner
        name = value.get("name")
        if not isinstance(name, str) or name not in self._tools:
            return None
        arguments = value.get("arguments", value.get("parameters", {}))
        if isinstance(arguments, str):
            try:
                arguments = _DECODER.decode(arguments)
            except (ValueError, RecursionError):
                return None
        return ToolCall(name, dict(arguments)) if isinstance(arguments, Mapping) else None

    def _named(self, before: str, arguments: Mapping[str, Any]) -> ToolCall | None:
        """A call that gives the name outside of the JSON; the longest name that ends there wins."""
        written = (self._raw + before).rstrip(" \t\r\n(:>")
        names = [name for name in self._tools if written.endswith(name)]
        return ToolCall(max(names, key=len), dict(arguments)) if names else None

    def _meaningful(self, rest: str) -> bool:
        """Whether anything but the marks around calls is left."""
        rest = rest.replace(self._prefix, "") if self._prefix not in _BARE else rest
        while rest := rest.strip(" \t\r\n,;"):
            if rest.startswith("</") and ">" in rest:
                rest = rest.partition(">")[2]
            else:
                return rest not in _BARE | {"]"}
        return False


class _ValueEnd:
    """Finds where the first JSON object or list ends, without reading any character twice."""

    def __init__(self) -> None:
        self._place = 0
        self._start: int | None = None
        self._depth = 0
        self._quoted = False
        self._escaped = False

    def find(self, text: str) -> tuple[int, int] | None:
        """Where the value starts and ends in the text, which may only have grown since."""
        while self._place < len(text):
            character = text[self._place]
            self._place += 1
            if self._start is None:
                if character in "{[":
                    self._start, self._depth = self._place - 1, 1
            elif self._step(character):
                return self._start, self._place
        return None

    def _step(self, character: str) -> bool:
        if self._quoted:
            self._quoted = self._escaped or character != '"'
            self._escaped = character == "\\" and not self._escaped
        elif character == '"':
            self._quoted = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
        return self._depth == 0
