"""Printing what becomes of units."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from bridge_core.errors import Fatal
from bridge_core.files import write_atomically
from bridge_core.systemd.manager import ServiceManager
from bridge_core.systemd.units import Service


def say(done: Iterable[str]) -> None:
    """Prints what was done, a sentence a line."""
    for sentence in done:
        sys.stdout.write(sentence + "\n")


def show(service: Service, into: Path | None) -> None:
    """Prints what an install would write, or writes it to a folder.

    Raises:
        Fatal: it cannot be written.
    """
    if into is None:
        for path, text in ServiceManager().files(service).items():
            sys.stdout.write(f"# {path}\n{text}\n")
        return
    for path, text in ServiceManager(into, variables=into).files(service).items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text.encode(), mode=0o644)
        except OSError as fault:
            raise Fatal(f"cannot write {path}: {fault.strerror}") from fault
