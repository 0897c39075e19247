"""What the commands have in common: how they answer to no arguments, `-h` and `--version`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def program(says: str) -> typer.Typer:
    """One of the commands, before it has any of its own."""
    app = typer.Typer(
        help=says,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def common(
        *,
        _version: Annotated[
            bool,
            typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version."),
        ] = False,
    ) -> None:
        from bridge_core.command.logs import log_readably

        # Before any command's own: what structlog does unasked writes the values of variables.
        log_readably()

    return app


def as_called(name: str) -> str:
    """How to call the command `name` from where this one was called: for lines that people copy."""
    import shutil

    beside = Path(sys.argv[0]).with_name(name)
    found = shutil.which(name)
    if not beside.exists() or (found is not None and Path(found).resolve() == beside.resolve()):
        return name
    return str(beside)


def _tell_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        from bridge_core.command.guard import guarded
        from bridge_core.form import form

        typer.echo(f"{version('deepseek-ollama-bridge')} ({guarded(form).words})")
        raise typer.Exit
