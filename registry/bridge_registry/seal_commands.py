"""`bridge-registry seal`: the keys that the registry's secrets are sealed with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bridge_core.command.guard import guarded
from bridge_core.command.seal_options import DataKeyOption, ToOption
from bridge_core.hardening import keep_memory_private
from bridge_core.sealing.key_source import key_source
from bridge_core.sealing.sealer import SealFolder
from bridge_registry.systemd import STATE

group = typer.Typer(
    help="The keys that the registry's secrets are sealed with at rest.", no_args_is_help=True
)
StateDir = Annotated[Path, typer.Option("--state-dir", help="Where keys and the last snapshot are kept.")]
SealKey = Annotated[
    str | None,
    typer.Option(
        "--seal-key",
        envvar="BRIDGE_REGISTRY_SEAL_KEY",
        help="Where the key comes from that opens the keyring now.",
    ),
]


@group.command("status")
def status_command(*, state_dir: StateDir = STATE, seal_key: SealKey = None) -> None:
    """Open the keyring and say what is in it and what opens it. Exits 1 when it does not open."""
    keep_memory_private()

    def work() -> None:
        from bridge_core.command.sealing import describe

        for line in describe(SealFolder(state_dir / "pki", key_source(seal_key))):
            typer.echo(line)

    guarded(work)


@group.command("rotate")
def rotate_command(
    *,
    state_dir: StateDir = STATE,
    seal_key: SealKey = None,
    to: ToOption = None,
    data_key: DataKeyOption = False,
) -> None:
    """Seal the keyring with another key; nothing else is written anew.

    Registries of one mesh share a keyring: copy it, and `kek` where there is one, to the others.
    """
    keep_memory_private()

    def work() -> None:
        from bridge_core.command.sealing import rotate

        source = key_source(to)
        where = SealFolder(state_dir / "pki", key_source(seal_key))
        typer.echo(rotate(where, to=source, data_key=data_key))
        if source is not None:
            typer.echo(f"Start the registry from now on with --seal-key {str(source)!r}.")

    guarded(work)
