"""`bridge-agent service`: the enrolled node as a service of systemd."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bridge_agent import systemd
from bridge_agent.cli_options import StateOption
from bridge_agent.config import StateDir, load_config
from bridge_core.command.guard import guarded
from bridge_core.command.units import say, show
from bridge_core.systemd.manager import ServiceManager

group = typer.Typer(help="Run the enrolled node as a service of systemd.", no_args_is_help=True)


@group.command("install")
def install_command(state_dir: StateOption) -> None:
    """Write the node's units, enable and start them; put our commands on PATH."""

    def work() -> None:
        state = StateDir(state_dir)
        say(systemd.install(ServiceManager(), load_config(state), state))

    guarded(work)


@group.command("remove")
def remove_command() -> None:
    """Stop agent and engines and take the units away; the node stays enrolled."""
    guarded(lambda: say(systemd.remove(ServiceManager()) or ["none of our units is installed"]))


@group.command("show")
def show_command(
    state_dir: StateOption,
    into: Annotated[
        Path | None, typer.Option("--into", help="A folder to write them to, instead of printing.")
    ] = None,
) -> None:
    """Print the files that `install` would write; changes nothing."""

    def work() -> None:
        state = StateDir(state_dir)
        show(systemd.agent_service(load_config(state), state), into)

    guarded(work)


@group.command("stop-engines", hidden=True)
def stop_engines_command(state_dir: StateOption) -> None:
    """End the engines that an agent has left running."""

    def work() -> None:
        import asyncio

        ended = asyncio.run(systemd.stop_engines(StateDir(state_dir)))
        say([f"engines ended: {', '.join(map(str, ended)) or 'none'}"])

    guarded(work)
