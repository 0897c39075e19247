"""`bridgectl models ls`: which node has which weights by a model's name, and which node is behind."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

from bridge_cli.output import JsonOption, columns, print_json, say, say_aside
from bridge_cli.where import Where, asks_registry
from bridge_core.command.guard import guarded
from bridge_core.command.plain_text import one_line
from bridge_core.errors import BridgeError, Fatal

if TYPE_CHECKING:
    from bridge_cli.access import Access
    from bridge_core.model_digests import Copy
    from bridge_core.snapshot import Snapshot

_SNAPSHOT: Final = "/bridge/snapshot"
_SHORT: Final = 12


class Weights(msgspec.Struct, frozen=True):
    """One digest that nodes have by a model's name.

    Attributes:
        digest: Empty where the nodes do not say.
        nodes: Who has it.
        modified_at: Its newest copy's time, as the engine says it.
        meant: A node without a copy of its own means this one.
        behind: Other nodes have newer weights by the name.
        sealed: Those of the nodes on whose disk it lies sealed.
    """

    digest: str
    nodes: tuple[str, ...]
    modified_at: str
    meant: bool
    behind: bool
    sealed: tuple[str, ...] = ()


class Loading(msgspec.Struct, frozen=True):
    """An instance that loads a model; `progress` is what is likely, from 0 to 1, 0 where nobody knows."""

    instance: str
    since_s: float
    progress: float


class Withheld(msgspec.Struct, frozen=True):
    """A node that has a model and does not serve it, and why."""

    node: str
    digest: str
    why: str


class ModelReport(msgspec.Struct, frozen=True):
    """A model of the mesh; `weights` newest first, one entry where all nodes agree.

    Attributes:
        name: As people write it.
        weights: Those that are served.
        loading: Instances that load it.
        withheld: Nodes that have it and do not serve it.
    """

    name: str
    weights: tuple[Weights, ...]
    loading: tuple[Loading, ...] = ()
    withheld: tuple[Withheld, ...] = ()


@asks_registry
def models_command(
    *,
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]…", help="Only these.")] = None,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """List the mesh's models: who has them, and which node is behind where their weights differ."""

    def work() -> None:
        import asyncio
        import time

        from bridge_core.names import canonical_or_same

        found = model_reports(asyncio.run(snapshot_of(where.access())), time.time())
        wanted = {canonical_or_same(name) for name in names or ()}
        shown = [one for one in found if not wanted or canonical_or_same(one.name) in wanted]
        if wanted and not shown:
            raise Fatal(f"nobody has {', '.join(names or ())}", hint="`bridgectl models` lists what there is")
        if as_json:
            print_json(shown)
        else:
            _print(shown)

    guarded(work)


async def snapshot_of(to: Access) -> Snapshot:
    """The snapshot in force at the first node that answers.

    Raises:
        BridgeError: none does.
    """
    from bridge_cli.agents import ask_agents
    from bridge_core import snapshot_file

    said = await ask_agents(to, _SNAPSHOT, first=True)
    if not said.bodies:
        raise BridgeError("no node answers", hint="`bridgectl status` says what runs")
    return snapshot_file.decode(next(iter(said.bodies.values())))


def copies_by_name(snapshot: Snapshot) -> dict[str, list[Copy]]:
    """Every copy in the mesh by its model's name, canonical where a request can name it."""
    from bridge_core.model_digests import Copy
    from bridge_core.names import canonical_or_same

    copies: dict[str, list[Copy]] = {}
    for instance in snapshot.instances.values():
        node = snapshot.nodes.get(instance.node)
        leaving = node is None or node.state != "active" or instance.state in ("draining", "stopped")
        for model in instance.models:
            copy = Copy(instance.id, instance.node, model, leaving=leaving)
            copies.setdefault(canonical_or_same(model.name), []).append(copy)
    return copies


def loads_by_name(snapshot: Snapshot, now_unix: float) -> dict[str, list[Loading]]:
    """What instances bring into memory, by canonical name."""
    from bridge_core.names import canonical_or_same

    loads: dict[str, list[Loading]] = {}
    for instance in snapshot.instances.values():
        for one in instance.loading:
            since_s = max(0.0, now_unix - one.since_unix)
            found = Loading(instance.id, since_s, one.progress(now_unix))
            loads.setdefault(canonical_or_same(one.name), []).append(found)
    return loads


def sealed_by_name(snapshot: Snapshot) -> dict[str, set[str]]:
    """The instances on whose node's disk a model lies sealed, by canonical name."""
    from bridge_core.names import canonical_or_same

    found: dict[str, set[str]] = {}
    for instance in snapshot.instances.values():
        for name in instance.sealed:
            found.setdefault(canonical_or_same(name), set()).add(instance.id)
    return found


def withheld_by_name(snapshot: Snapshot) -> dict[str, tuple[Withheld, ...]]:
    """What nodes have and do not serve, by canonical name."""
    from bridge_core.names import canonical_or_same

    found: dict[str, set[Withheld]] = {}
    for instance in snapshot.instances.values():
        for model in instance.withheld:
            said = Withheld(instance.node, model.digest, model.why)
            found.setdefault(canonical_or_same(model.name), set()).add(said)
    return {name: tuple(sorted(some, key=lambda one: one.node)) for name, some in found.items()}


def model_reports(snapshot: Snapshot, now_unix: float = 0.0) -> list[ModelReport]:
    """Every model of the mesh that a request can name, by name."""
    from bridge_core.model_digests import meant
    from bridge_core.names import InvalidName, display

    reports, loads, sealed = [], loads_by_name(snapshot, now_unix), sealed_by_name(snapshot)
    copies, withheld = copies_by_name(snapshot), withheld_by_name(snapshot)
    for name in sorted(copies.keys() | withheld.keys()):
        found = copies.get(name, [])
        with contextlib.suppress(InvalidName):
            weights = _weights(found, meant(found), sealed.get(name, set())) if found else ()
            loading = tuple(loads.get(name, ()))
            reports.append(ModelReport(display(name), weights, loading, withheld.get(name, ())))
    return reports


def _weights(copies: list[Copy], digest: str, sealed: set[str]) -> tuple[Weights, ...]:
    from bridge_core.model_digests import moment

    groups: dict[str, list[Copy]] = {}
    for copy in copies:
        groups.setdefault(copy.model.digest, []).append(copy)
    newest = {
        one: max((copy.model.modified_at for copy in group), key=moment) for one, group in groups.items()
    }
    order = sorted(groups, key=lambda one: (-moment(newest[one]), one))
    latest = moment(newest[order[0]])
    return tuple(
        Weights(
            one,
            tuple(sorted({copy.node for copy in groups[one]})),
            newest[one],
            one == digest,
            bool(one) and moment(newest[one]) < latest,
            tuple(sorted({copy.node for copy in groups[one] if copy.instance in sealed})),
        )
        for one in order
    )


def _print(models: list[ModelReport]) -> None:
    if not models:
        say_aside("No node has a model.")
        return
    rows = [("MODEL", "DIGEST", "MODIFIED", "NODES", "")]
    for model in models:
        for at, one in enumerate(model.weights):
            remarks = ["behind"] if one.behind else []
            if len(model.weights) > 1 and one.meant:
                remarks.append("meant at nodes without a copy")
            if one.sealed:
                remarks.append("sealed" if one.sealed == one.nodes else f"sealed at {', '.join(one.sealed)}")
            name = "" if at else model.name
            digest = one.digest[:_SHORT] or "not known"
            rows.append((name, digest, one.modified_at[:19], ", ".join(one.nodes), "; ".join(remarks)))
        for at, held in enumerate(model.withheld, start=len(model.weights)):
            rows.append(("" if at else model.name, held.digest[:_SHORT], "", held.node, "not served"))
    for line in columns(rows):
        say(line)
    reasons: dict[str, list[str]] = {}
    for model in models:
        for why in sorted({held.why for held in model.withheld}):
            reasons.setdefault(why, []).append(model.name)
    for why, names in reasons.items():
        say_aside(one_line(f"not served: {', '.join(names)}: {why}"))
    for model in models:
        for load in model.loading:
            share = f", about {load.progress:.0%}" if load.progress else ""
            say(f"{load.instance} is loading {model.name} for {load.since_s:.0f} s{share}")
    differing = [model.name for model in models if len(model.weights) > 1]
    if differing:
        say_aside(
            f"Nodes have different weights by the name of {', '.join(differing)}; each node serves its own. "
            "Pull or create it again where it is behind."
        )
