"""`bridgectl policy`: what the access policies are, and what they would say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bridge_cli.admin_commands import read_files
from bridge_cli.output import JsonOption, plain, print_json, say
from bridge_cli.where import Where, asks_registry
from bridge_core.command.labels import labels_of
from bridge_core.errors import Fatal

_TIMEOUT_S = 15.0

policies = typer.Typer(help="Who may do what with which models.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Adds the commands to the command `bridgectl`."""
    app.add_typer(policies, name="policy")


@policies.command("test")
@asks_registry
def policy_test(
    *,
    subject: Annotated[
        str,
        typer.Option(
            "--as",
            metavar="WHO",
            help="A client's name, or admin/NAME, node/NAME, local@NODE, group/NAME, user/PROVIDER#SUBJECT.",
        ),
    ],
    action: Annotated[
        str, typer.Option("--do", metavar="ACTION", help="predict, embed, list, show, pull, delete, …")
    ],
    model: Annotated[
        str, typer.Option("--model", help="A model or route; without it, none in particular.")
    ] = "",
    node: Annotated[
        str, typer.Option("--node", help="A node that something is changed at, in its place.")
    ] = "",
    fact: Annotated[
        list[str] | None,
        typer.Option(
            "--fact",
            metavar="KEY=VALUE",
            help="What conditions ask: time, weekday, network, num_ctx, keep_alive, images, node.LABEL, "
            "or an attribute; repeatable.",
        ),
    ] = None,
    group: Annotated[
        list[str] | None, typer.Option("--group", help="A group that it belongs to as well; repeatable.")
    ] = None,
    files: Annotated[
        list[Path] | None,
        typer.Option("--file", "-f", help="Decide by the policies of these files, not the applied ones."),
    ] = None,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Say whether somebody may do something, and by which rule. Exits 1 where not."""
    if model and node:
        raise Fatal("--model and --node are two questions: ask them one by one")

    async def work(stub: Any) -> Any:
        from bridge_wire.v1 import policy_pb2 as wire
        from bridge_wire.v1.policy_pb2_grpc import PoliciesStub

        request = wire.TestAccessRequest(
            subject=subject,
            action=action,
            resource=node or model,
            resource_kind="Node" if node else "Model",
            facts=labels_of(fact or [], "--fact"),
            files=read_files(files) if files else [],
            groups=group or [],
        )
        asked = PoliciesStub(stub.channel)  # type: ignore[no-untyped-call]  # generated
        return await asked.TestAccess(request, timeout=_TIMEOUT_S)

    answer = where.call(work)
    if as_json:
        print_json(plain(answer))
    else:
        say(f"{'yes' if answer.allowed else 'no'}: {answer.reason}")
        if answer.open:
            say("It also hangs on what was not said: --fact node.LABEL=VALUE, --fact network=ADDRESS.")
        for name in answer.shadowed:
            say(f"In shadow, {name} would have refused it.")
    raise SystemExit(0 if answer.allowed else 1)


@policies.command("list")
@asks_registry
def policy_list(
    *,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """List the applied policies."""

    async def work(stub: Any) -> Any:
        from bridge_wire.v1 import registry_pb2 as wire

        return await stub.GetConfig(wire.GetConfigRequest(kind="ModelAccessPolicy"), timeout=_TIMEOUT_S)

    found = where.call(work).documents
    from bridge_core.config import load

    loaded = load([(one.name, one.yaml) for one in found], alone=True).documents
    specs = [(document.name, document.parsed.spec) for document in loaded]
    if as_json:
        print_json([{"name": name, **spec.model_dump(by_alias=True)} for name, spec in specs])
        return
    if not specs:
        say("No policies: the defaults decide.")
        return
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(Column("policy", no_wrap=True), "effect", "who", "what", "about", "if")
    for name, spec in specs:
        table.add_row(name, *_row(spec))
    Console(highlight=False, soft_wrap=True).print(table)


def _row(spec: Any) -> tuple[str, ...]:
    effect = spec.effect + (" (shadow)" if spec.shadow else "")
    who = ", ".join(f"{one.kind} {one.name}" for one in spec.subjects)
    about = "; ".join(f"{' and '.join(one.kinds)} {', '.join(one.names)}" for one in spec.resources)
    conditions = " and ".join(
        " ".join(part for part in (one.key, one.operator, ", ".join(one.values)) if part)
        for one in spec.conditions
    )
    return effect, who, ", ".join(spec.actions), about, conditions
