#!/usr/bin/env python3
"""Writes a man page for each of the four commands, from what their `--help` says: `man_pages.py FOLDER`."""

from __future__ import annotations

import gzip
import importlib
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Final

import typer.main
from typer.core import TyperCommand, TyperGroup

APPS: Final = {
    "bridgectl": "bridge_cli.main",
    "bridge-agent": "bridge_agent.cli",
    "bridge-registry": "bridge_registry.cli",
    "bridge-engine": "bridge_engine.cli",
}

Command = TyperCommand | TyperGroup


def roff(text: str) -> str:
    """Text that means itself, whatever its lines begin with and its words contain (man(7)): pure."""
    plain = text.replace("\\", "\\e").replace("-", "\\-").replace("\b", "")
    return "\n".join(f"\\&{line}" if line[:1] in {".", "'"} else line for line in plain.split("\n"))


def page(name: str, command: Command, of: str) -> str:
    """The page of a command, with a section for each that it has below it."""
    context = typer.Context(command, info_name=name, **command.context_settings)
    first = (command.help or "").strip().partition("\n")[0].rstrip(".")
    lines = [
        f'.TH {name.upper()} 1 "" "DeepSeek\\-Ollama Bridge {roff(of)}"',
        ".SH NAME",
        f"{roff(name)} \\- {roff(first)}",
        ".SH SYNOPSIS",
        f".B {roff(name)}",
        roff(" ".join(command.collect_usage_pieces(context))),
        ".SH OPTIONS",
        *_options(command, context),
        ".SH COMMANDS",
        *_below(command, context),
        ".SH SEE ALSO",
        ", ".join(f"{roff(other)}(1)" for other in APPS if other != name),
    ]
    return "\n".join(lines) + "\n"


def _below(command: Command, context: typer.Context) -> Iterator[str]:
    if not isinstance(command, TyperGroup):
        return
    for name in command.list_commands(context):
        one = command.get_command(context, name)
        if not isinstance(one, TyperCommand | TyperGroup) or one.hidden:
            continue
        inner = typer.Context(one, info_name=name, parent=context, **one.context_settings)
        if isinstance(one, TyperGroup):
            yield from _below(one, inner)
            continue
        usage = " ".join(one.collect_usage_pieces(inner))
        yield f".SS {roff(inner.command_path)} {roff(usage)}"
        for at, paragraph in enumerate((one.help or "").strip().split("\n\n")):
            if at:
                yield ".PP"
            yield roff(paragraph)
        yield from _options(one, inner)


def _options(command: Command, context: typer.Context) -> Iterator[str]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            yield ".TP"
            yield f".B {roff(record[0])}"
            yield roff(record[1] or "\u00a0")


def main() -> None:
    """Writes the pages into the folder that is named."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, module in APPS.items():
        group = typer.main.get_group(importlib.import_module(module).app)
        text = page(name, group, version("deepseek-ollama-bridge"))
        (folder / f"{name}.1.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()
