"""Cuts a Go template into text and the tokens of its actions."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from bridge_engine.templates.fault import TemplateFault


@dataclasses.dataclass(frozen=True, slots=True)
class Token:
    """One token inside an action.

    Attributes:
        kind: `field` (`.A`, `.`), `variable` (`$x`), `word`, `string`, `number`, or the token's own
            text for punctuation.
        text: A string's value, a field's or variable's name without its sigil.
        spaced: Whether white space stood before it, which parts `.A .B` from `.A.B`.
        line: Where it starts.
    """

    kind: str
    text: str
    spaced: bool
    line: int


@dataclasses.dataclass(frozen=True, slots=True)
class Text:
    """Literal text between actions, trimmed as its neighbours ask."""

    value: str
    line: int


@dataclasses.dataclass(frozen=True, slots=True)
class Action:
    """What stands between `{{` and `}}`."""

    tokens: tuple[Token, ...]
    line: int


_SPACE = " \t\r\n"
_TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
      | (?P<char>'(?:[^'\\\n]|\\.)+')
      | (?P<number>[+-]?(?:0[xX][0-9a-fA-F_]+|[0-9][0-9_]*(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?))
      | (?P<field>\.[^\W\d]\w*|\.(?!\w))
      | (?P<variable>\$\w*)
      | (?P<word>[^\W\d]\w*)
      | (?P<punctuation>:=|=|\||\(|\)|,)""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))", re.DOTALL)
_SIMPLE_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


def split(source: str) -> Iterator[Text | Action]:
    """Text and actions in order; comments are gone, trim markers applied.

    Raises:
        TemplateFault: An action or comment is not closed, or holds a character no token starts with.
    """
    position, line, trim_next = 0, 1, False
    while position < len(source):
        opening = source.find("{{", position)
        text = source[position:] if opening < 0 else source[position:opening]
        if opening < 0:
            yield from _text(text, line, left=trim_next, right=False)
            return
        trims_before = source.startswith("-", opening + 2) and source[opening + 3 : opening + 4] in (*_SPACE,)
        yield from _text(text, line, left=trim_next, right=trims_before)
        line += text.count("\n")
        start = opening + (4 if trims_before else 2)
        inside, end, trim_next = _inside(source, start, line)
        if inside is not None:
            yield Action(tuple(_tokens(inside, line)), line)
        line += source.count("\n", opening, end)
        position = end


def _text(value: str, line: int, *, left: bool, right: bool) -> Iterator[Text]:
    if left:
        value = value.lstrip(_SPACE)
    if right:
        value = value.rstrip(_SPACE)
    if value:
        yield Text(value, line)


def _inside(source: str, start: int, line: int) -> tuple[str | None, int, bool]:
    """An action's inside (None for a comment), where it ends, and whether it trims what follows."""
    if source.startswith("/*", start):
        closing = source.find("*/", start + 2)
        if closing < 0:
            raise TemplateFault("unclosed comment", line)
        for marker, trims in (("}}", False), (" -}}", True)):
            if source.startswith(marker, closing + 2):
                return None, closing + 2 + len(marker), trims
        raise TemplateFault("comment ends before closing delimiter", line)
    position = start
    while position < len(source):
        if source.startswith("}}", position):
            trims = (
                source[position - 1] == "-" and source[position - 2] in _SPACE and position - 2 >= start - 1
            )
            return source[start : position - 1 if trims else position], position + 2, trims
        if source[position] in "\"`'":
            quoted = _TOKEN.match(source, position)
            if quoted is None:  # looking for its end from every further quote would take for ever
                raise TemplateFault("unterminated quoted string", line)
            position = quoted.end()
        else:
            position += 1
    raise TemplateFault("unclosed action", line)


def _tokens(inside: str, line: int) -> Iterator[Token]:
    position, spaced = 0, True
    while position < len(inside):
        character = inside[position]
        if character in _SPACE:
            line += character == "\n"
            position, spaced = position + 1, True
            continue
        match = _TOKEN.match(inside, position)
        if match is None or match.lastgroup is None:
            raise TemplateFault(f"unexpected {character!r} in action", line)
        raw, kind = match.group(), match.lastgroup
        yield _token(kind, raw, spaced, line)
        line += raw.count("\n")
        position, spaced = match.end(), False


def _token(kind: str, raw: str, spaced: bool, line: int) -> Token:
    if kind == "string":
        return Token("string", raw[1:-1] if raw[0] == "`" else _unescape(raw[1:-1]), spaced, line)
    if kind == "char":
        value = _unescape(raw[1:-1])
        if len(value) != 1:
            raise TemplateFault(f"malformed character constant: {raw}", line)
        return Token("number", str(ord(value)), spaced, line)
    if kind == "punctuation":
        return Token(raw, raw, spaced, line)
    return Token(kind, raw[1:] if kind in {"field", "variable"} else raw, spaced, line)


def _unescape(text: str) -> str:
    def replace(match: re.Match[str]) -> str:
        byte, short, long, octal, simple = match.groups()
        if octal:
            return character(int(octal, 8))
        code = byte or short or long
        return character(int(code, 16)) if code else _SIMPLE_ESCAPES.get(simple, simple)

    return _ESCAPE.sub(replace, text)


def character(code: int) -> str:
    """The character of a code point, U+FFFD where it has none that UTF-8 can carry."""
    valid = 0 <= code <= 0x10FFFF and not 0xD800 <= code < 0xE000
    return chr(code) if valid else "\ufffd"
