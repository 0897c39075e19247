"""`bridgectl models`: what models the mesh has, and where; bringing, warming, removing and checking them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from bridge_cli.models_command import models_command, snapshot_of
from bridge_cli.output import JsonOption, columns, print_json, say, say_aside
from bridge_cli.shared_commands import publish_command, shared_command, unpublish_command
from bridge_cli.where import Where, asks_registry
from bridge_core.command.guard import guarded
from bridge_core.command.plain_text import one_line
from bridge_core.errors import Fatal

if TYPE_CHECKING:
    from bridge_cli.models_remote import Outcome
    from bridge_core.model_answers import ModelAsked


class _Models(TyperGroup):
    """Lists where no command of the group is named: `bridgectl models`, `bridgectl models NAME`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See click."""
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["ls", *args]
        return super().parse_args(ctx, args)


models = typer.Typer(
    cls=_Models,
    help="The models of the mesh: list, bring, warm, remove and check them. `bridgectl models` alone lists.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

ModelName = Annotated[str, typer.Argument(metavar="NAME", help="Such as smollm2:135m.")]
NodesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--nodes", metavar="LABEL", help="Nodes with this label (KEY=VALUE), or of this name; may repeat."
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the commands to the command `bridgectl`."""
    app.add_typer(models, name="models")


models.command("ls")(models_command)
models.command("publish")(publish_command)
models.command("shared")(shared_command)
models.command("unpublish")(unpublish_command)


@models.command("where")
@asks_registry
def where_command(*, name: ModelName, as_json: JsonOption = False, where: Where) -> None:
    """Name each node that has a model: digest, size, if in memory, warm (its file is), sealed, signed."""

    def work() -> None:
        import asyncio

        from bridge_cli.models_remote import copies_of
        from bridge_cli.shared_commands import shared_at, who_shares

        to = where.access()
        snapshot = asyncio.run(snapshot_of(to))
        found = copies_of(snapshot, name)
        if not found:
            if nodes := who_shares(asyncio.run(shared_at(to, snapshot, [])), name):
                raise Fatal(
                    f"nobody has {name}, and it lies in the shared storage of {', '.join(nodes)}",
                    hint=f"`bridgectl models pull {name} --nodes {nodes[0]}` copies it from there",
                )
            raise Fatal(
                f"nobody has {name}",
                hint="`bridgectl models` lists what nodes have, and `… shared` what shared storage has",
            )
        if as_json:
            print_json(found)
            return
        rows = [("INSTANCE", "DIGEST", "BYTES", "MEANT", "IN MEMORY", "WARM", "SEALED", "SIGNED")]
        rows += [
            (
                one.instance,
                one.digest[:12] or "not known",
                str(one.size),
                "yes" if one.meant else "no",
                "yes" if one.loaded else "no",
                "yes" if one.warm else "no",
                "yes" if one.sealed else "no",
                "not served" if one.withheld else one_line(", ".join(one.signed)) or "not asked for",
            )
            for one in found
        ]
        for line in columns(rows):
            say(line)
        for one in found:
            if one.withheld:
                say_aside(one_line(f"{one.instance} does not serve it: {one.withheld}"))

    guarded(work)


@models.command("pull")
@asks_registry
def pull_command(
    *,
    name: ModelName,
    nodes: NodesOption = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Its registry may be asked without TLS.")
    ] = False,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Bring a model to nodes (all of them without --nodes): from outside once, to the others from nodes."""
    from bridge_core import model_answers
    from bridge_core.model_answers import ModelAsked

    _at_nodes(where, model_answers.PULL, ModelAsked(name, insecure), nodes, as_json=as_json)


@models.command("warm")
@asks_registry
def warm_command(
    *, name: ModelName, nodes: NodesOption = None, as_json: JsonOption = False, where: Where
) -> None:
    """Bring a model's files into nodes' memory (of all that have it without --nodes) before it is asked for.

    It is kept there for twelve hours, as far as the node's memory goes.
    """
    from bridge_core import model_answers
    from bridge_core.model_answers import ModelAsked

    _at_nodes(where, model_answers.WARM, ModelAsked(name), nodes, as_json=as_json, having=True)


@models.command("rm")
@asks_registry
def rm_command(
    *,
    name: ModelName,
    nodes: NodesOption = None,
    last_copy: Annotated[
        bool, typer.Option("--last-copy", help="Also where no other node has these weights.")
    ] = False,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Remove a model from nodes (all of them without --nodes), one after the other.

    The mesh's last copy stays, and so does a model that is in memory or at work.
    """
    from bridge_core import model_answers
    from bridge_core.model_answers import ModelAsked

    asked = ModelAsked(name, last_copy=last_copy)
    _at_nodes(where, model_answers.RM, asked, nodes, as_json=as_json, in_turn=True)


@models.command("verify")
@asks_registry
def verify_command(
    *,
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Only this model.")] = "",
    nodes: NodesOption = None,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Read every blob at nodes (all of them without --nodes) and say which is not what its digest says.

    Where a ModelSignaturePolicy is about a model, its signatures are checked, too, and named.
    """
    from bridge_core import model_answers
    from bridge_core.model_answers import ModelAsked

    _at_nodes(where, model_answers.VERIFY, ModelAsked(name), nodes, as_json=as_json)


def _at_nodes(
    where: Where,
    path: str,
    asked: ModelAsked,
    nodes: list[str] | None,
    *,
    as_json: bool,
    in_turn: bool = False,
    having: bool = False,
) -> None:
    """Asks nodes, shows how it goes, and exits 1 where one failed; `having`: those that have it, of all."""

    def work() -> list[Outcome]:
        import asyncio

        from bridge_cli.models_remote import ask_nodes, nodes_having
        from bridge_cli.models_show import shown

        async def ask() -> list[Outcome]:
            to = where.access()
            snapshot = await snapshot_of(to)
            wanted = nodes or []
            if having and not wanted:
                wanted = nodes_having(snapshot, asked.model)
            with shown(quiet=as_json) as show:
                return await ask_nodes(
                    to, snapshot, wanted, path=path, asked=asked, show=show, in_turn=in_turn
                )

        return asyncio.run(ask())

    outcomes = guarded(work)
    if as_json:
        print_json(outcomes)
    else:
        _print_outcomes(outcomes)
    failed = sum(bool(one.fault or one.faults) for one in outcomes)
    if failed:
        say_aside(f"{failed} of {len(outcomes)} nodes failed.")
        raise typer.Exit(1)


def _print_outcomes(outcomes: list[Outcome]) -> None:
    for one in outcomes:
        said = one.done or f"failed: {one.fault}"
        say(one_line(f"{one.node}: {said}"))
        for fault in one.faults:
            say(f"  {one_line(fault)}")
