"""`bridgectl token|apply|diff|get|history|rollback`: what an admin asks of a registry."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from bridge_cli.output import JsonOption, plain, print_json, say, say_aside, when
from bridge_cli.where import Where, asks_registry
from bridge_core.command.labels import labels_of
from bridge_core.errors import Fatal
from bridge_core.quantities import parse_duration

_TIMEOUT_S = 15.0

FilesOption = Annotated[
    list[Path], typer.Option("--file", "-f", help="A YAML file, or a folder of them; repeatable.")
]

tokens = typer.Typer(help="Join tokens.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Adds the commands to the command `bridgectl`."""
    app.add_typer(tokens, name="token")
    app.command("apply")(apply_command)
    app.command("diff")(diff_command)
    app.command("get")(get_command)
    app.command("history")(history_command)
    app.command("rollback")(rollback_command)


@tokens.command("create")
@asks_registry
def token_create(
    *,
    ttl: Annotated[str, typer.Option("--ttl", help="How long it may be used: 30m, 1h, 7d.")] = "1h",
    uses: Annotated[int, typer.Option("--uses", min=1, help="How many nodes may join with it.")] = 1,
    node: Annotated[str, typer.Option("--node", help="Only this node name may join with it.")] = "",
    label: Annotated[
        list[str] | None, typer.Option("--label", help="KEY=VALUE for nodes that join with it; repeatable.")
    ] = None,
    dns_name: Annotated[
        list[str] | None,
        typer.Option(
            "--dns-name",
            help="A host name that certificates of these nodes may carry, or *.DOMAIN; repeatable.",
        ),
    ] = None,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Make a join token and print it: the only time it can be seen."""

    async def work(stub: Any) -> Any:
        from bridge_wire.v1 import registry_pb2 as wire

        request = wire.CreateTokenRequest(
            ttl_seconds=_seconds(ttl),
            uses=uses,
            node_name=node,
            labels=labels_of(label or []),
            dns_names=dns_name or [],
        )
        return await stub.CreateToken(request, timeout=_TIMEOUT_S)

    made = where.call(work)
    if as_json:
        print_json(plain(made))
        return
    say_aside(f"Token {made.id} for {uses} use{'s' if uses > 1 else ''}, until {when(made.expires_unix)}:")
    sys.stdout.write(made.token + "\n")


@tokens.command("list")
@asks_registry
def token_list(
    *,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """List the tokens that can still be used."""

    async def work(stub: Any) -> Any:
        from bridge_wire.v1 import registry_pb2 as wire

        return await stub.ListTokens(wire.ListTokensRequest(), timeout=_TIMEOUT_S)

    found = where.call(work).tokens
    if as_json:
        print_json([plain(token) for token in found])
        return
    if not found:
        say("No tokens.")
        return
    from rich.console import Console
    from rich.table import Column, Table

    # An id cut short could not be pasted into `revoke`.
    table = Table(
        Column("id", no_wrap=True, min_width=16), "expires", "uses left", "node", "labels", "made by"
    )
    for token in found:
        labels = ", ".join(f"{name}={value}" for name, value in sorted(token.labels.items()))
        expires = when(token.expires_unix)
        table.add_row(
            token.id, expires, str(token.uses_left), token.node_name, labels, _who(token.created_by)
        )
    Console(highlight=False, soft_wrap=True).print(table)


@tokens.command("revoke")
@asks_registry
def token_revoke(
    *,
    token_id: Annotated[str, typer.Argument(metavar="ID", help="As `bridgectl token list` shows it.")],
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Make a token useless from now on."""

    async def work(stub: Any) -> None:
        from bridge_wire.v1 import registry_pb2 as wire

        await stub.RevokeToken(wire.RevokeTokenRequest(id=token_id), timeout=_TIMEOUT_S)

    where.call(work)
    if as_json:
        print_json({"id": token_id, "revoked": True})
    else:
        say(f"Token {token_id} is revoked.")


@asks_registry
def apply_command(
    *,
    files: FilesOption,
    prune: Annotated[
        bool, typer.Option("--prune", help="Also delete applied documents that are not in the files.")
    ] = False,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Apply mesh_config documents: all of them in one revision, or none."""

    async def work(stub: Any) -> Any:
        from bridge_wire.v1 import registry_pb2 as wire

        request = wire.ApplyRequest(files=read_files(files), prune=prune)
        return await stub.Apply(request, timeout=_TIMEOUT_S)

    _print_applied(where.call(work), as_json=as_json)


@asks_registry
def diff_command(
    *,
    files: FilesOption,
    prune: Annotated[bool, typer.Option("--prune", help="As `apply --prune` would.")] = False,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Show what `apply` would change. Exits 1 when it would change something."""

    async def work(stub: Any) -> Any:
        from bridge_wire.v1 import registry_pb2 as wire

        return await stub.Diff(wire.ApplyRequest(files=read_files(files), prune=prune), timeout=_TIMEOUT_S)

    answer = where.call(work)
    if as_json:
        print_json(plain(answer))
        raise SystemExit(1 if answer.faults or answer.unified_diff else 0)
    _refuse_faults(answer.faults)
    sys.stdout.write(answer.unified_diff)
    _say_warnings(answer)
    if answer.unified_diff:
        raise SystemExit(1)


@asks_registry
def get_command(
    *,
    kind: Annotated[str, typer.Argument(help="Mesh, ModelRoute, …; without it, all.")] = "",
    name: Annotated[str, typer.Argument(help="One document's name.")] = "",
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Print applied documents as YAML."""

    async def work(stub: Any) -> Any:
        from bridge_wire.v1 import registry_pb2 as wire

        return await stub.GetConfig(wire.GetConfigRequest(kind=kind, name=name), timeout=_TIMEOUT_S)

    documents = where.call(work).documents
    if as_json:
        print_json([plain(document) for document in documents])
        return
    if not documents:
        say_aside("Nothing of that kind and name is applied." if kind else "Nothing is applied.")
    sys.stdout.write("---\n".join(document.yaml.rstrip("\n") + "\n" for document in documents))


@asks_registry
def history_command(
    *,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many revisions.")] = 20,
    diffs: Annotated[bool, typer.Option("--diff", help="With what each changed.")] = False,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """List applied revisions, newest first."""

    async def work(stub: Any) -> Any:
        from bridge_wire.v1 import registry_pb2 as wire

        return await stub.History(wire.HistoryRequest(limit=limit), timeout=_TIMEOUT_S)

    revisions = where.call(work).revisions
    if as_json:
        print_json([plain(revision) for revision in revisions])
        return
    if not revisions:
        say("Nothing was applied yet.")
    for revision in revisions:
        line = f"{revision.number}  {when(revision.applied_unix)}  {_who(revision.author)}  "
        if revision.restores:
            line += f"back to revision {revision.restores}: "
        say(line + ", ".join(revision.changed))
        if diffs:
            sys.stdout.write(revision.unified_diff)


@asks_registry
def rollback_command(
    *,
    revision: Annotated[int, typer.Argument(help="As `bridgectl history` numbers them.")],
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Apply what was applied at a revision, as a new revision."""

    async def work(stub: Any) -> Any:
        from bridge_wire.v1 import registry_pb2 as wire

        return await stub.Rollback(wire.RollbackRequest(revision=revision), timeout=_TIMEOUT_S)

    _print_applied(where.call(work), as_json=as_json)


def _print_applied(answer: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(plain(answer))
        raise SystemExit(1 if answer.faults else 0)
    _refuse_faults(answer.faults)
    gone = frozenset(answer.removed)
    changes = ", ".join(f"{key} (deleted)" if key in gone else key for key in answer.changed)
    say(f"Revision {answer.revision}: {changes}" if answer.changed else "Nothing to change.")
    _say_warnings(answer)


def _say_warnings(answer: Any) -> None:
    for warning in answer.warnings:
        say_aside(f"warning: {warning}")


def _refuse_faults(faults: Iterable[Any]) -> None:
    lines = [_fault(fault) for fault in faults]
    for line in lines:
        sys.stderr.write(line + "\n")
    if lines:
        count = f"{len(lines)} fault{'s' if len(lines) > 1 else ''}"
        say_aside(f"bridgectl: nothing was applied: {count}")
        raise SystemExit(1)


def _fault(fault: Any) -> str:
    where = f"{fault.file}:{fault.line}" if fault.line else fault.file
    path = f"{fault.path}: " if fault.path else ""
    return f"{where}: {path}{fault.message}"


def read_files(paths: Iterable[Path]) -> list[Any]:
    """Files of mesh_config as a registry is sent them, those of folders too.

    Raises:
        Fatal: there is none, or one cannot be read.
    """
    from bridge_core.config import decoded
    from bridge_wire.v1 import registry_pb2 as wire

    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(found for found in path.rglob("*") if found.suffix in {".yaml", ".yml"})
        else:
            files.append(path)
    if not files:
        raise Fatal("no YAML file there", hint="-f names a file, or a folder with *.yaml files")
    try:
        return [wire.ConfigFile(name=str(path), text=decoded(path.read_bytes())) for path in files]
    except OSError as fault:
        raise Fatal(f"cannot read {fault.filename}: {fault.strerror}") from fault


def _seconds(text: str) -> int:
    try:
        seconds = int(parse_duration(text.strip()))
    except ValueError as fault:
        raise Fatal(f"--ttl {text!r} is {fault}", hint="such as 30m, 1h or 7d") from None
    if not seconds:
        raise Fatal(f"--ttl {text!r} is less than a second", hint="such as 30m, 1h or 7d")
    return seconds


def _who(identity: str) -> str:
    """`spiffe://<mesh>/admin/ann` as `admin/ann`."""
    return identity.partition("://")[2].partition("/")[2] or identity
