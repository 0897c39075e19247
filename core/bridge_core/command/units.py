"""Printing what becomes of units."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from bridge_core.errors import Fatal
from bridge_core.files import write_atomically
from bridge_core.systemd.units import Unit

_out = Console(highlight=False)


def say(done: Iterable[str]) -> None:
    """Prints what was done, a sentence a line."""
    for sentence in done:
        _out.print(sentence, markup=False, soft_wrap=True)


def show(units: Iterable[Unit], into: Path | None) -> None:
    """Prints units, or writes them to a folder.

    Raises:
        Fatal: it cannot be written.
    """
    for unit in units:
        if into is None:
            _out.print(f"# {unit.name}\n{unit.text}", markup=False, soft_wrap=True)
            continue
        try:
            into.mkdir(parents=True, exist_ok=True)
            write_atomically(into / unit.name, unit.text.encode(), mode=0o644)
        except OSError as fault:
            raise Fatal(f"cannot write {into / unit.name}: {fault.strerror}") from fault
