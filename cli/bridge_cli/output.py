"""Printing for people and for programs. Rich is loaded only where a table is drawn."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
import typer

from bridge_core.command.plain_text import one_line

_LONGEST: Final = 10_000  # characters of a line
_LONGEST_CELL: Final = 100_000  # the names of a thousand nodes are not cut

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def say(text: str) -> None:
    """Prints a line."""
    sys.stdout.write(text + "\n")


def say_aside(text: str) -> None:
    """Prints a line that is not the command's result."""
    sys.stdout.flush()
    sys.stderr.write(text + "\n")


def say_line(text: str) -> None:
    """Prints a line that has words of nodes and clients in it, which cannot steer the terminal."""
    say(one_line(text, _LONGEST))


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, each column as wide as its widest cell. Text from outside cannot steer the terminal."""
    cells = [[one_line(cell, _LONGEST_CELL) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]


def when(unix: int) -> str:
    """A moment, in this machine's time."""
    return dt.datetime.fromtimestamp(unix, dt.UTC).astimezone().isoformat(" ", "minutes")


def print_json(value: object) -> None:
    """Prints a value as JSON."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")
    sys.stdout.flush()


def plain(message: Any) -> dict[str, Any]:
    """A protobuf message as what JSON can say: every field that it could have, numbers as numbers."""
    return {
        field.json_name: _plain(getattr(message, field.name), field)
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def _plain(value: Any, field: Any) -> Any:
    if field.message_type is None:
        return list(value) if field.is_repeated else value
    if field.message_type.GetOptions().map_entry:
        return dict(value)
    return [plain(one) for one in value] if field.is_repeated else plain(value)
