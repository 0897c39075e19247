"""`bridgectl models shared` and `publish`: how nodes' shared storage stands, and writing models into it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge_cli.models_command import snapshot_of
from bridge_cli.output import JsonOption, columns, print_json, say, say_aside
from bridge_cli.where import Where, asks_registry
from bridge_core.command.guard import guarded
from bridge_core.command.plain_text import one_line
from bridge_core.errors import Fatal
from bridge_core.names import canonical_or_same

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from bridge_cli.access import Access
    from bridge_cli.models_remote import Outcome, Show
    from bridge_core.snapshot import Snapshot


@asks_registry
def shared_command(
    *,
    nodes: Annotated[
        list[str] | None,
        typer.Option("--nodes", metavar="LABEL", help="Nodes with this label, or of this name; may repeat."),
    ] = None,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Say how the shared storage of nodes stands, what they had of it, and which models lie there."""

    async def ask() -> list[Outcome]:
        to = where.access()
        return await shared_at(to, await snapshot_of(to), nodes or [])

    outcomes = _outcomes(ask)
    if as_json:
        print_json(outcomes)
    else:
        for line in shared_lines(outcomes):
            say(line)
    if any(one.fault or (one.shared is not None and one.shared.fault) for one in outcomes):
        raise typer.Exit(1)


def shared_lines(outcomes: list[Outcome]) -> list[str]:
    """A line a node, why storage is away, and the models that lie there."""
    rows = [("NODE", "PATH", "STATE", "WRITES", "BLOBS HAD", "BYTES READ", "FAULTS", "WRONG")]
    asides, seen = [], dict[str, list[str]]()
    for one in outcomes:
        said = one.shared
        if said is None:
            rows.append((one.node, "", "not known", "", "", "", "", ""))
            asides.append(f"{one.node}: {one.fault}")
            continue
        if not said.path:
            rows.append((one.node, "none", "", "", "", "", "", ""))
            continue
        counts, writes = said.counts, "yes" if said.publishes else "no"
        had, wrong = (str(counts.blobs), str(counts.bytes)), (str(counts.faults), str(counts.known_wrong))
        rows.append((one.node, said.path, "away" if said.fault else "ok", writes, *had, *wrong))
        if said.fault:
            hanging = f"; {said.hanging} reads hang" if said.hanging else ""
            asides.append(f"{one.node}: {said.fault}{hanging}")
        for model in said.models:
            seen.setdefault(model, []).append(one.node)
    lines = [one_line(line) for line in (*columns(rows), *asides)]
    if seen:
        lines += ["", *map(one_line, columns([("MODEL", "SEEN BY"), *_seen(seen)]))]
    return lines


def _seen(seen: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(model, ", ".join(nodes)) for model, nodes in sorted(seen.items())]


@asks_registry
def publish_command(
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as smollm2:135m.")],
    node: Annotated[
        str, typer.Option("--node", help="Which node writes it; without, one that has it and may write.")
    ] = "",
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Write a model into shared storage, from a node that has it and may write there.

    One writer a model at a time: a second one is refused, and told which node the first is.
    """

    async def ask() -> list[Outcome]:
        from bridge_cli.models_remote import ask_nodes
        from bridge_cli.models_show import shown
        from bridge_core import model_answers
        from bridge_core.model_answers import ModelAsked

        to = where.access()
        snapshot = await snapshot_of(to)
        writer = node or await _writer_of(to, snapshot, name)
        with shown(quiet=as_json) as show:
            return await ask_nodes(
                to, snapshot, [writer], path=model_answers.PUBLISH, asked=ModelAsked(name), show=show
            )

    (outcome,) = _outcomes(ask)
    if as_json:
        print_json(outcome)
    else:
        say(one_line(f"{outcome.node}: {outcome.done or f'failed: {outcome.fault}'}"))
    if outcome.fault:
        say_aside("It is not published.")
        raise typer.Exit(1)


@asks_registry
def unpublish_command(
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as smollm2:135m.")],
    node: Annotated[
        str,
        typer.Option("--node", help="Which node removes it; without, one that sees it and may."),
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Remove a model from shared storage: its manifest, and the blobs that no other model there uses.

    What nodes have of it on their own disks stays. Nobody publishes into that storage meanwhile.
    """

    async def ask() -> list[Outcome]:
        from bridge_cli.models_remote import ask_nodes
        from bridge_core import model_answers
        from bridge_core.model_answers import ModelAsked

        to = where.access()
        snapshot = await snapshot_of(to)
        remover = node or remover_of(await shared_at(to, snapshot, []), name)
        asked = ModelAsked(name, dry_run=dry_run)
        return await ask_nodes(
            to, snapshot, [remover], path=model_answers.UNPUBLISH, asked=asked, show=_told(quiet=as_json)
        )

    (outcome,) = _outcomes(ask)
    if as_json:
        print_json(outcome)
    else:
        done = "nothing was removed (--dry-run)" if dry_run else outcome.done
        say(one_line(f"{outcome.node}: {f'failed: {outcome.fault}' if outcome.fault else done}"))
    if outcome.fault:
        raise typer.Exit(1)


def _outcomes(ask: Callable[[], Coroutine[Any, Any, list[Outcome]]]) -> list[Outcome]:
    import asyncio

    return guarded(lambda: asyncio.run(ask()))


def _told(*, quiet: bool) -> Show:
    def show(_node: str, record: dict[str, Any]) -> None:
        status = str(record.get("status", ""))
        if not quiet and status != "success":
            size = record.get("bytes")
            say(one_line(f"{status}, {size} bytes" if isinstance(size, int) else status))

    return show


def remover_of(outcomes: list[Outcome], name: str) -> str:
    """A node that sees a model in its shared storage and may write there.

    Raises:
        Fatal: none does.
    """
    seeing = who_shares(outcomes, name)
    able = [
        one.node for one in outcomes if one.node in seeing and one.shared is not None and one.shared.publishes
    ]
    if able:
        return min(able)
    if seeing:
        raise Fatal(
            f"none of the nodes that see {name} in shared storage may write there: {', '.join(seeing)}",
            hint='"publish": true in models.shared of the agent.json of one lets it',
        )
    raise Fatal(
        f"no node sees {name} in its shared storage",
        hint="`bridgectl models shared`; --node asks one directly",
    )


async def _writer_of(to: Access, snapshot: Snapshot, name: str) -> str:
    """A node that has the model and may write it into shared storage that answers, if there is one.

    Raises:
        Fatal: nobody has the model, or none of those may write it.
    """
    from bridge_cli.models_remote import nodes_having

    having = nodes_having(snapshot, name, only_meant=True)
    said = {one.node: one.shared for one in await shared_at(to, snapshot, having)}
    able = {node: bool(one.fault) for node, one in said.items() if one is not None and one.publishes}
    if not able:
        raise Fatal(
            f"none of the nodes that have {name} may write into shared storage: {', '.join(having)}",
            hint='"publish": true in models.shared of the agent.json of one lets it',
        )
    return min(able, key=lambda node: (able[node], node))


def who_shares(outcomes: list[Outcome], name: str) -> list[str]:
    """The nodes that see a model in their shared storage."""
    wanted = canonical_or_same(name)
    return [
        one.node
        for one in outcomes
        if one.shared is not None and any(canonical_or_same(model) == wanted for model in one.shared.models)
    ]


async def shared_at(to: Access, snapshot: Snapshot, wanted: list[str]) -> list[Outcome]:
    """How the shared storage of these nodes stands; of all that are active where none is given.

    Raises:
        Fatal: one of them fits no node, or the identity cannot be used.
    """
    from bridge_cli.models_remote import ask_nodes
    from bridge_core import model_answers
    from bridge_core.model_answers import ModelAsked

    return await ask_nodes(
        to, snapshot, wanted, path=model_answers.SHARED, asked=ModelAsked(), show=lambda _node, _record: None
    )
