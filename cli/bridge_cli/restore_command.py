"""`bridgectl restore`: what to do with a store that is not the one the mesh lived in, and with a backup."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from bridge_cli.backup_commands import BackupKey, restore_file
from bridge_cli.output import JsonOption, plain, print_json, say
from bridge_cli.where import Where, asks_registry
from bridge_core.command.guard import guarded
from bridge_core.errors import Fatal

_TIMEOUT_S: Final = 120.0


def register(app: typer.Typer) -> None:
    """Adds the command to the command `bridgectl`."""
    app.command("restore")(restore_command)


@asks_registry
def restore_command(
    *,
    file: Annotated[
        Path | None,
        typer.Argument(
            help="What `bridgectl backup` wrote; run on the registry's machine, while it is stopped."
        ),
    ] = None,
    from_snapshot: Annotated[
        bool,
        typer.Option("--from-snapshot", help="Put back into the store everything that the registry knows."),
    ] = False,
    accept_store: Annotated[
        bool,
        typer.Option(
            "--accept-store", help="The store is right as it is, say after its own restore. Agents follow it."
        ),
    ] = False,
    backup_key: BackupKey = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="With FILE: move the registry's state that is there aside."),
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="With FILE: only say whether it opens, and what is in it.")
    ] = False,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Go on with a store that came back empty or older, or that is another one; or bring back a backup.

    Until then every agent serves on by the last snapshot, and nothing is written. Put back by
    --from-snapshot are not the history of applied revisions and rollouts' measurements; a backup has them.
    """
    if file is not None and not (from_snapshot or accept_store):
        kept = file  # for the lambda: mypy
        raise SystemExit(
            guarded(
                lambda: restore_file(kept, backup_key, where.flags.state_dir, replace=replace, check=check)
            )
        )
    if file is not None or from_snapshot == accept_store:
        raise SystemExit(
            f"bridgectl: {Fatal('say which', hint='FILE, --from-snapshot or --accept-store: see --help')}"
        )

    async def work(stub: Any) -> Any:
        from bridge_wire.v1 import registry_pb2 as wire

        return await stub.Restore(wire.RestoreRequest(accept_store=accept_store), timeout=_TIMEOUT_S)

    done = where.call(work)
    if as_json:
        print_json(plain(done))
        return
    say(f"What was the matter: {done.reason}.")
    if accept_store:
        say("The store is the mesh's as it is.")
        return
    put = (
        (done.nodes, "node"),
        (done.documents, "document of mesh_config"),
        (done.revocations, "revocation"),
        (done.tokens, "join token"),
    )
    say(f"Put back: {', '.join(_count(*one) for one in put)}.")
    if done.removed:
        say(f"Removed: {_count(done.removed, 'record')} that the mesh no longer had.")


def _count(count: int, what: str) -> str:
    plural = what.replace("document ", "documents ") if " of " in what else f"{what}s"
    return f"{count} {what if count == 1 else plural}"
