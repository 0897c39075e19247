"""Calls of tools between fixed marks, as several families of models write them.

Rules:
1. A call stands between its style's opening and closing mark. White space around it, and marks that
   only group calls, are dropped.
2. What does not become a call of a tool on offer is given back as text, unchanged.
3. A call whose closing mark is missing when the text ends still counts, if it can be read.
4. Values written without quotes take the type that the tool's schema gives them, as far as they can.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from bridge_core.dialects.values import as_list, as_map
from bridge_engine.templates.thinking import overlap
from bridge_engine.templates.tool_calls import Found, ToolCall

Types = Mapping[str, frozenset[str]]
_ANY: Final = frozenset[str]()
_DEEPEST: Final = 50


class CallStyle(NamedTuple):
    """How a family writes calls.

    Attributes:
        opening: Stands before a call.
        closing: Stands after it.
        dropped: Marks that only group calls.
        read: Name and arguments of what stood between; the types are those of the named tool. None
            where it is no call.
    """

    opening: str
    closing: str
    dropped: tuple[str, ...]
    read: Callable[[str, Callable[[str], Types]], tuple[str, dict[str, Any]] | None]

    @property
    def marks(self) -> tuple[str, ...]:
        """Every mark that must be visible in the text."""
        return (self.opening, self.closing, *self.dropped)


class FramedCallParser:
    """Takes a model's text piece by piece.

    However the text is cut into pieces, the joined results are the same.
    """

    def __init__(self, style: CallStyle, tools: Iterable[Mapping[str, Any]]) -> None:
        """Starts at the beginning of an answer.

        Args:
            style: What to look for.
            tools: The tools on offer, as in `/api/chat`.
        """
        self._style = style
        self._tools = {str(as_map(tool.get("function")).get("name") or ""): _types(tool) for tool in tools}
        self._inside = False
        self._held = ""
        self._searched = 0  # characters of what is held in which the closing mark does not begin
        self._after_call = False

    def feed(self, text: str) -> Found:
        """What this text completes."""
        self._held += text
        calls: list[ToolCall] = []
        content = ""
        while True:
            if self._inside:
                end = self._held.find(self._style.closing, self._searched)
                if end < 0:
                    self._searched = max(0, len(self._held) - len(self._style.closing))
                    return Found(tuple(calls), content)
                raw, self._held = self._held[:end], self._held[end + len(self._style.closing) :]
                content += self._finished(raw, self._style.closing, calls)
            else:
                found, more = self._outside()
                content += found
                if not more:
                    return Found(tuple(calls), content)

    def finish(self) -> Found:
        """What was held back when the text ended."""
        calls: list[ToolCall] = []
        held, self._held = self._held, ""
        if self._inside:
            content = self._finished(held, "", calls)
            return Found(tuple(calls), content)
        return Found((), "" if self._after_call and not held.strip() else held)

    def _finished(self, raw: str, closing: str, calls: list[ToolCall]) -> str:
        self._inside, self._searched = False, 0
        read = self._style.read(raw.strip(), lambda name: self._tools.get(name, {}))
        if read is None or read[0] not in self._tools:
            return self._style.opening + raw + closing
        self._after_call = True
        calls.append(ToolCall(*read))
        return ""

    def _outside(self) -> tuple[str, bool]:
        """Text that is no part of a call, and whether a mark was passed."""
        if self._after_call:
            self._held = self._held.lstrip()
        marks = (self._style.opening, *self._style.dropped)
        place, mark = min(
            ((self._held.find(mark), mark) for mark in marks if mark in self._held), default=(-1, "")
        )
        if place >= 0:
            before, self._held = self._held[:place].rstrip(), self._held[place + len(mark) :]
            self._inside = mark == self._style.opening
            self._after_call = self._after_call or not self._inside
            return before, True
        kept = max(overlap(self._held, mark) for mark in marks)
        before = self._held[: len(self._held) - kept].rstrip()
        self._held = self._held[len(before) :]
        self._after_call = self._after_call and not before
        return before, False


def _types(tool: Mapping[str, Any]) -> Types:
    parameters = as_map(as_map(tool.get("function")).get("parameters"))
    found = {}
    for name, schema in as_map(parameters.get("properties")).items():
        alternatives = [as_map(one) for one in as_list(as_map(schema).get("anyOf"))] or [as_map(schema)]
        kinds = [one.get("type") for one in alternatives]
        flat = [kind for one in kinds for kind in (one if isinstance(one, list) else [one])]
        found[name] = frozenset(kind for kind in flat if isinstance(kind, str))
    return found


def typed(text: str, kinds: frozenset[str]) -> Any:
    """A value written without quotes, as the narrowest of the types that it can be."""
    lowered = text.strip().lower()
    if lowered == "null":
        return None
    if "boolean" in kinds and lowered in {"true", "false"}:
        return lowered == "true"
    if kinds & {"integer", "number", "array", "object"}:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return text
        if isinstance(value, bool | None | str):
            return text
        if isinstance(value, float) and value.is_integer() and "number" in kinds:
            value = int(value)
        wanted = {int: {"integer", "number"}, float: {"number"}, list: {"array"}, dict: {"object"}}
        return value if kinds & wanted[type(value)] else text
    return text


_FUNCTION: Final = re.compile(r"<function=([^>\n]+)>(.*?)(?:</function>|\Z)", re.DOTALL)
_PARAMETER: Final = re.compile(
    r"<parameter=([^>\n]+)>\n?(.*?)\n?(?:</parameter>|(?=<parameter=)|\Z)", re.DOTALL
)
_PAIR: Final = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)


def _read_functions(raw: str, types: Callable[[str], Types]) -> tuple[str, dict[str, Any]] | None:
    found = _FUNCTION.search(raw)
    if found is None:
        return None
    name = found[1].strip()
    known = types(name)
    pairs = [(key.strip(), value) for key, value in _PARAMETER.findall(found[2])]
    return name, {key: typed(value, known.get(key, _ANY)) for key, value in pairs}


def _read_pairs(raw: str, types: Callable[[str], Types]) -> tuple[str, dict[str, Any]] | None:
    name = raw.partition("<arg_key>")[0].strip()
    known = types(name)
    pairs = [(key.strip(), value.strip("\n")) for key, value in _PAIR.findall(raw)]
    return name, {key: typed(value, known.get(key, _ANY)) for key, value in pairs}


def _read_separated(raw: str, _: Callable[[str], Types]) -> tuple[str, dict[str, Any]] | None:
    name, mark, text = raw.partition("<｜tool▁sep｜>")
    if name.strip() == "function":  # the older form: the name after the mark, the arguments fenced
        name, __, text = text.partition("\n")
        text = text.strip().removeprefix("```json").removesuffix("```")
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return (name.strip(), arguments) if mark and isinstance(arguments, dict) else None


def _read_gemma(raw: str, _: Callable[[str], Types]) -> tuple[str, dict[str, Any]] | None:
    name, brace, rest = raw.removeprefix("call:").partition("{")
    if not raw.startswith("call:") or not brace:
        return None
    try:
        value = _Gemma(brace + rest).value(0)
    except (ValueError, IndexError):
        return None
    return (name.strip(), value) if isinstance(value, dict) else None


class _Gemma:
    """Gemma's own notation of objects: bare keys, and strings between `<|"|>`."""

    _QUOTE = '<|"|>'
    _BARE = re.compile(r"[^,:{}\[\]]*")

    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0

    def value(self, depth: int) -> Any:
        if depth > _DEEPEST:
            raise ValueError("nested too deeply")
        self._blank()
        character = self._text[self._place]
        if character == "{":
            return dict(self._items("}", depth))
        if character == "[":
            return [value for _, value in self._items("]", depth)]
        if self._text.startswith(self._QUOTE, self._place):
            return self._string()
        word = self._word()
        try:
            return json.loads(word)
        except ValueError:
            return word

    def _items(self, closing: str, depth: int) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = []
        self._place += 1
        while True:
            self._blank()
            if self._text[self._place] == closing:
                self._place += 1
                return found
            key = ""
            if closing == "}":
                key = self._string() if self._text.startswith(self._QUOTE, self._place) else self._word()
                self._expect(":")
            found.append((key.strip('"'), self.value(depth + 1)))
            self._blank()
            if self._text[self._place] == ",":
                self._place += 1

    def _string(self) -> str:
        start = self._place + len(self._QUOTE)
        end = self._text.index(self._QUOTE, start)
        self._place = end + len(self._QUOTE)
        return self._text[start:end]

    def _word(self) -> str:
        found = self._BARE.match(self._text, self._place)
        if found is None or not found[0].strip():
            raise ValueError("a value is missing")
        self._place = found.end()
        return found[0].strip()

    def _expect(self, mark: str) -> None:
        self._blank()
        if self._text[self._place] != mark:
            raise ValueError(f"no {mark}")
        self._place += 1

    def _blank(self) -> None:
        while self._text[self._place].isspace():
            self._place += 1


FUNCTIONS: Final = CallStyle("<tool_call>", "</tool_call>", (), _read_functions)
"""`<function=name><parameter=key>value</parameter></function>`: Qwen's newer models."""
PAIRS: Final = CallStyle("<tool_call>", "</tool_call>", (), _read_pairs)
"""A name, then `<arg_key>` and `<arg_value>` in turns: GLM."""
SEPARATED: Final = CallStyle(
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    _read_separated,
)
"""A name, a mark, and JSON: DeepSeek."""
GEMMA: Final = CallStyle("<|tool_call>", "<tool_call|>", ("<|tool_response>",), _read_gemma)
"""`call:name{key:value}` in a notation of its own: Gemma."""
