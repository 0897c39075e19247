"""Unit files from the templates beside this module. Pure but for reading them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.resources import files

import msgspec

_PLACE = re.compile(r"@([A-Z_]+)@")


class Unit(msgspec.Struct, frozen=True):
    """A unit file. `enabled`: to be started at boot; the others are pulled in by those."""

    name: str
    text: str
    enabled: bool = True


def render(
    template: str, values: Mapping[str, str], *, name: str | None = None, enabled: bool = True
) -> Unit:
    """The unit of a template, its @PLACES@ filled in.

    Args:
        template: File name under `templates/`.
        values: What stands in the places, as `quoted` made it where it is a word of ours.
        name: The unit's, if not the template's.
        enabled: See `Unit`.

    Raises:
        KeyError: a place without a value.
    """
    text = (files(__package__) / "templates" / template).read_text("utf-8")
    return Unit(name or template, _PLACE.sub(lambda place: values[place[1]], text), enabled)


def quoted(words: Iterable[str]) -> str:
    """Words as systemd reads them on one line: spaces, quotes, specifiers and variables mean themselves."""
    return " ".join(_quoted(word) for word in words)


def _quoted(word: str) -> str:
    word = word.replace("%", "%%").replace("$", "$$")
    if re.fullmatch(r"[A-Za-z0-9_@%+=:,./$-]+", word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


def quoted_path(path: str) -> str:
    """A path for a setting that takes one or several; those know no variables, and $ is itself."""
    return _quoted(path).replace("$$", "$")
