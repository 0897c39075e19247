"""Bars of pulls at several nodes: on a terminal bars, elsewhere a line for each step of each node."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from bridge_cli.models_remote import Show
from bridge_cli.output import say_aside
from bridge_core.command.plain_text import one_line


@contextlib.contextmanager
def shown(*, quiet: bool) -> Iterator[Show]:
    """What shows records as they come; on standard error, which is not the command's result."""
    if quiet:
        yield lambda _node, _record: None
    elif sys.stderr.isatty():
        with _bars() as show:
            yield show
    else:
        yield _lines()


@contextlib.contextmanager
def _bars() -> Iterator[Show]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, Any] = {}

        def show(node: str, record: dict[str, Any]) -> None:
            # What nodes write reaches a terminal: no control characters, no markup.
            said = one_line(str(record.get("status", "")), 60)
            if node not in tasks:
                tasks[node] = progress.add_task(node, total=None)
            total, completed = record.get("total"), record.get("completed")
            progress.update(tasks[node], description=escape(f"{node}: {said}"))
            if isinstance(total, int) and isinstance(completed, int):
                progress.update(tasks[node], total=total, completed=completed)

        yield show


def _lines() -> Show:
    last: dict[str, str] = {}

    def show(node: str, record: dict[str, Any]) -> None:
        said = one_line(str(record.get("status", "")), 200)
        if said and last.get(node) != said:
            last[node] = said
            say_aside(f"{node}: {said}")

    return show
