"""`bridgectl upgrade --plan`: in which order a mesh is renewed, and what would be refused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge_cli.output import JsonOption, print_json, say_line
from bridge_cli.where import Where, asks_registry
from bridge_core.command.guard import guarded
from bridge_core.errors import Fatal

if TYPE_CHECKING:
    from bridge_cli.upgrade_rules import Step, UpgradePlan, Whole

_TIMEOUT_S = 15.0


def register(app: typer.Typer) -> None:
    """Adds the command to the command `bridgectl`."""
    app.command("upgrade")(upgrade_command)


@asks_registry
def upgrade_command(
    *,
    plan: Annotated[bool, typer.Option("--plan", help="Say what is to be done; change nothing.")] = False,
    again: Annotated[
        bool,
        typer.Option("--again", help="Also what tells this version already: another commit, another build."),
    ] = False,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Plan how the mesh comes to the version of this bridgectl. Exits 1 where it must not be begun now."""
    from importlib.metadata import version

    from bridge_cli import upgrade_rules

    if not plan:
        guarded(_refuse_to_act)

    async def work(stub: Any) -> tuple[Any, Any]:
        from bridge_wire.v1 import registry_pb2 as wire

        status = await stub.Status(wire.StatusRequest(), timeout=_TIMEOUT_S)
        return status, await stub.Rollouts(wire.RolloutsRequest(), timeout=_TIMEOUT_S)

    made = upgrade_rules.plan(whole_of(*where.call(work)), version("deepseek-ollama-bridge"), again=again)
    if as_json:
        print_json(made)
    else:
        for line in lines_of(made):
            say_line(line)
    raise SystemExit(1 if made.refused else 0)


def _refuse_to_act() -> None:
    raise Fatal(
        "bridgectl renews no machine by itself: it has no way to their packages",
        hint="`bridgectl upgrade --plan` says what to do, in order",
    )


def whole_of(status: Any, rollouts: Any) -> Whole:
    """The mesh that a StatusResponse and a RolloutsResponse tell of."""
    from bridge_cli.mesh_report import leader_of
    from bridge_cli.upgrade_rules import Part, Whole
    from bridge_core.mesh_picture import node_state
    from bridge_core.names import display_or_same

    return Whole(
        registry=status.registry,
        leader=leader_of(status),
        registry_version=status.registry_version,
        speaks=dict(status.speaks),
        store_fault=status.store_fault,
        parts=tuple(
            Part(
                name=one.name,
                state=node_state(one.state, instances=bool(one.instances), reports=one.reports),
                version=one.version,
                speaks=dict(one.speaks),
                models=tuple(display_or_same(name) for name in one.models),
                in_flight=one.in_flight,
                rejected=one.rejected,
            )
            for one in status.nodes
        ),
        rollouts={one.name: one.phase for one in rollouts.rollouts},
    )


def lines_of(made: UpgradePlan) -> Iterable[str]:
    """The plan for people."""
    for reason in made.refused:
        yield f"REFUSED  {reason}"
    if not made.steps:
        yield f"All of the mesh runs {made.target}. --again plans for another build of it."
    else:
        yield f"To {made.target}, each step after the one before it is well (`bridgectl status`):"
    for number, step in enumerate(made.steps, 1):
        yield f"{number:>3}. {_title(step)}{f': {step.why}' if step.why else ''}"
        for command in _commands(step):
            yield f"       {command}"
    for heading, told in (("differs", made.differ), ("note", made.notes)):
        for line in told:
            yield f"{heading}: {line}"


def _title(step: Step) -> str:
    names = ", ".join(step.names)
    return {
        "backup": "back up",
        "registries": f"registry {names}" if names else "registries",
        "agent": f"agent of {names}",
        "agents together": f"agents of {names}, together",
    }[step.what]


def _commands(step: Step) -> Iterable[str]:
    if step.what == "backup":
        yield "bridgectl backup mesh.backup    # on a registry's machine"
    elif step.what == "registries":
        yield "systemctl restart bridge-store-guard bridge-registry    # on each of their machines"
    elif step.what == "agents together":
        yield "systemctl restart bridge-agent    # on all of these machines at once"
    else:
        name = step.names[0]
        kept = name in step.keep_drained
        if not kept:
            yield f"bridgectl drain {name}    # until `bridgectl nodes {name}` says: safe to stop"
        yield f"systemctl restart bridge-agent    # on {name}"
        if not kept:
            yield f"bridgectl drain {name} --undo"
