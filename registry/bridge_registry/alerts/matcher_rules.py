"""Which alerts a silence is about: matchers of labels, as Alertmanager writes them. Pure.

Rules:
1. A matcher is `NAME=VALUE`, `NAME!=VALUE`, `NAME=~PATTERN` or `NAME!~PATTERN`; the value may stand in double
   quotes. A word alone is an alert's name (`alertname`), as with amtool.
2. A pattern is about the whole value. It is what is the same in every language of regular expressions: text,
   `.`, `.*`, `|` and a backslash before what is meant as it is. Anything else is refused by name: a pattern
   takes the same short time whatever it is compared with.
3. A label that an alert has not is an empty one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Final, Literal

import msgspec

from bridge_core.bounds import Text, Word

MOST_MATCHERS: Final = 8
MOST_VALUE: Final = 256
MOST_NAME: Final = 64
MOST_READ: Final = 512  # patterns that are kept as they were read: all that there may be
_MATCHER: Final = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*(=~|!~|!=|=)(.*)", re.DOTALL)
_ALONE: Final = re.compile(r"[A-Za-z0-9_:.-]+")
_SPECIAL: Final = frozenset("*+?()[]{}^$")


class Matcher(msgspec.Struct, frozen=True, array_like=True):
    """What one label has to be."""

    name: Word
    op: Literal["=", "!=", "=~", "!~"]
    value: Text

    def __str__(self) -> str:
        value = self.value.replace("\\", "\\\\").replace('"', '\\"')
        return f'{self.name}{self.op}"{value}"'


Matchers = Annotated[tuple[Matcher, ...], msgspec.Meta(min_length=1, max_length=MOST_MATCHERS)]


def matcher_of(text: str) -> Matcher:
    """The matcher that somebody wrote.

    Raises:
        ValueError: it is none; says why.
    """
    if _ALONE.fullmatch(text.strip()):
        text = f"alertname={text.strip()}"
    found = _MATCHER.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:80]!r} is no matcher: one is NAME=VALUE, NAME!=VALUE, NAME=~PATTERN …")
    name, op, value = found[1], found[2], _unquoted(found[3].strip())
    if len(name) > MOST_NAME or len(value) > MOST_VALUE:
        raise ValueError(
            f"the matcher of {name[:40]} is too long: a name has {MOST_NAME} characters at most, "
            f"a value {MOST_VALUE}"
        )
    if op in ("=~", "!~"):
        _alternatives(value)
    return Matcher(name, op, value)  # type: ignore[arg-type]  # the expression lets these through alone


def fits(matchers: Sequence[Matcher], labels: Mapping[str, str]) -> bool:
    """Whether an alert with these labels is meant by all of them."""
    return all(fits_one(one, labels.get(one.name, "")) for one in matchers)


def fits_one(matcher: Matcher, value: str) -> bool:
    """Whether a label that is `value` is meant."""
    if matcher.op in ("=", "!="):
        return (matcher.value == value) is (matcher.op == "=")
    try:
        same = any(_is(parts, value) for parts in _alternatives(matcher.value))
    except ValueError:  # stored by a version that knew more: it silences nothing
        return False
    return same is (matcher.op == "=~")


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    if not re.fullmatch(r'"(?:[^"\\]|\\.)*"', value, re.DOTALL):
        raise ValueError(f"{value[:80]} begins with a quote and does not end with one")
    return re.sub(r'\\([\\"])', r"\1", value[1:-1])


_Part = tuple[str | None, ...]
"""Characters one after the other; None: any."""


@lru_cache(maxsize=MOST_READ)
def _alternatives(pattern: str) -> tuple[tuple[_Part, ...], ...]:
    """Of each alternative the parts between its `.*`.

    Raises:
        ValueError: rule 2 does not know it.
    """
    found: list[list[list[str | None]]] = [[[]]]
    at = 0
    while at < len(pattern):
        one, two = pattern[at], pattern[at : at + 2]
        at += 2 if two == ".*" or one == "\\" else 1
        if two == ".*":
            found[-1].append([])
        elif one == "|":
            found.append([[]])
        elif one == "\\" and (len(two) == 1 or two[1].isalnum()):
            raise ValueError(f"the pattern {pattern[:80]!r} has {two!r}: a backslash only makes a sign plain")
        elif one in _SPECIAL:
            raise ValueError(
                f"the pattern {pattern[:80]!r} has {one!r}: patterns are text with '.', '.*' and '|', "
                "and a backslash before any other sign that is meant as it is"
            )
        else:
            found[-1][-1].append(two[1] if one == "\\" else None if one == "." else one)
    return tuple(tuple(tuple(part) for part in each) for each in found)


def _is(parts: Sequence[_Part], value: str) -> bool:
    """Whether `value` is these parts with anything between them: the first that fits each is the best."""
    first, *others = parts
    if not others:
        return len(value) == len(first) and _at(first, value, 0)
    *middle, last = others
    if not _at(first, value, 0):
        return False
    at, end = len(first), len(value) - len(last)
    for part in middle:
        while not _at(part, value, at):
            at += 1
            if at > end:
                return False
        at += len(part)
    return at <= end and _at(last, value, end)


def _at(part: _Part, value: str, at: int) -> bool:
    return at + len(part) <= len(value) and all(
        one is None or one == value[at + index] for index, one in enumerate(part)
    )
