"""`bridge-agent seal`: the keys that the node's files are sealed with."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from bridge_agent.cli_options import StateOption
from bridge_agent.config import SealSection, StateDir, load_config, save_config
from bridge_core.command.guard import guarded
from bridge_core.command.seal_options import DataKeyOption, ToOption
from bridge_core.errors import Fatal

group = typer.Typer(help="The keys that this node's files are sealed with at rest.", no_args_is_help=True)


@group.command("status")
def status_command(state_dir: StateOption) -> None:
    """Open the keyring and say what is in it and what opens it. Exits 1 when it does not open."""

    def work() -> None:
        from bridge_core.command.sealing import describe

        state = StateDir(state_dir)
        for line in describe(state.seal_folder(load_config(state).seal)):
            typer.echo(line)

    guarded(work)


@group.command("rotate")
def rotate_command(
    state_dir: StateOption,
    to: ToOption = None,
    data_key: DataKeyOption = False,
) -> None:
    """Seal the keyring with another key; nothing else is written anew."""

    def work() -> None:
        from bridge_core.command.sealing import rotate
        from bridge_core.sealing.key_source import key_source

        state = StateDir(state_dir)
        settings = load_config(state)
        source = key_source(to)
        typer.echo(rotate(state.seal_folder(settings.seal), to=source, data_key=data_key))
        if source is None:
            return
        try:
            save_config(state, msgspec.structs.replace(settings, seal=SealSection(str(source))))
        except OSError as fault:
            raise Fatal(
                f"the keyring is sealed anew, and {state.settings} could not be written: {fault.strerror}",
                hint=f'write "seal": {{"key": "{source}"}} into it',
            ) from fault

    guarded(work)


@group.command("models")
def models_command(
    state_dir: StateOption,
    check: Annotated[bool, typer.Option("--check", help="Only say what it takes.")] = False,
    now: Annotated[
        bool, typer.Option("--now", help="Seal what lies there here and now, not in the agent's background.")
    ] = False,
) -> None:
    """Have this node's models lie sealed on the disk, and open into memory alone."""

    def work() -> None:
        from bridge_agent.seal_models import switch_on  # what brings models is large, and few need it

        state = StateDir(state_dir)
        for line in switch_on(state, load_config(state), check=check, now=now):
            typer.echo(line)

    guarded(work)
