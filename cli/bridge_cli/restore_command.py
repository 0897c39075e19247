"""`bridgectl restore`: what to do with a store that is not the one the mesh lived in."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer
from rich.console import Console

from bridge_cli.where import Where, asks_registry
from bridge_core.errors import Fatal
from bridge_wire.v1 import registry_pb2 as wire

_TIMEOUT_S: Final = 120.0
_out = Console(highlight=False, soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Adds the command to the command `bridgectl`."""
    app.command("restore")(restore_command)


@asks_registry
def restore_command(
    *,
    from_snapshot: Annotated[
        bool,
        typer.Option("--from-snapshot", help="Put back into the store everything that the registry knows."),
    ] = False,
    accept_store: Annotated[
        bool, typer.Option("--accept-store", help="The store is right as it is, say after its own restore.")
    ] = False,
    where: Where,
) -> None:
    """Go on with a store that came back empty or older, or that is another one.

    Until then every agent serves on by the last snapshot, and nothing is written. Not put back are the
    history of applied revisions and rollouts' measurements.
    """
    if from_snapshot == accept_store:
        raise SystemExit(
            f"bridgectl: {Fatal('say which', hint='--from-snapshot or --accept-store: see --help')}"
        )

    async def work(stub: Any) -> Any:
        return await stub.Restore(wire.RestoreRequest(accept_store=accept_store), timeout=_TIMEOUT_S)

    done = where.call(work)
    _out.print(f"What was the matter: {done.reason}.", markup=False)
    if accept_store:
        _out.print("The store is the mesh's as it is.")
        return
    put = (
        (done.nodes, "node"),
        (done.documents, "document of mesh_config"),
        (done.revocations, "revocation"),
        (done.tokens, "join token"),
    )
    _out.print(f"Put back: {', '.join(_count(*one) for one in put)}.", markup=False)
    if done.removed:
        _out.print(f"Removed: {_count(done.removed, 'record')} that the mesh no longer had.", markup=False)


def _count(count: int, what: str) -> str:
    plural = what.replace("document ", "documents ") if " of " in what else f"{what}s"
    return f"{count} {what if count == 1 else plural}"
