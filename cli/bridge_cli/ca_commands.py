"""`bridgectl ca`: the mesh's certificate authorities, and how one takes another's place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bridge_cli.output import JsonOption, plain, print_json, say, when
from bridge_cli.where import Where, asks_registry
from bridge_core.errors import Fatal

_TIMEOUT_S = 20.0

group = typer.Typer(help="The mesh's certificate authorities.", no_args_is_help=True)
rotate = typer.Typer(
    help="Put a new CA in the place of the present one, step by step, with nobody refused meanwhile.",
    no_args_is_help=True,
)
group.add_typer(rotate, name="rotate")

Force = Annotated[
    bool, typer.Option("--force", help="Do not wait for anybody: who is in the way is cut off.")
]


@group.command("status")
@asks_registry
def status_command(*, as_json: JsonOption = False, where: Where) -> None:
    """Show the CAs, who trusts them, and what is to be done next."""

    async def work(stub: Any) -> Any:
        from bridge_wire.v1 import authority_pb2 as wire

        return await _authority(stub).GetAuthorities(wire.GetAuthoritiesRequest(), timeout=_TIMEOUT_S)

    _show(where.call(work), as_json=as_json)


@rotate.command("begin")
@asks_registry
def begin_command(
    *,
    new_root: Annotated[bool, typer.Option("--new-root", help="Under a new root as well.")] = False,
    chain: Annotated[
        Path | None,
        typer.Option(
            "--chain",
            help="An intermediate that an offline root signed, PEM: itself first, its root last.",
        ),
    ] = None,
    issuer_key: Annotated[Path | None, typer.Option("--chain-key", help="Its key, PEM.")] = None,
    force: Force = False,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Announce a new CA: everybody is told to trust it, and nobody shows a certificate of it yet."""
    if (chain is None) != (issuer_key is None):
        raise Fatal("an intermediate and its key are given together", hint="--chain FILE --chain-key FILE")
    fields = {
        "certificate_chain_pem": _read(chain),
        "key_pem": _read(issuer_key),
        "new_root": new_root,
        "force": force,
    }
    _rotate("begin", fields, as_json=as_json, where=where)


@rotate.command("issue")
@asks_registry
def issue_command(*, force: Force = False, as_json: JsonOption = False, where: Where) -> None:
    """Have the announced CA sign from now on; nodes renew in the next minutes."""
    _rotate("issue", {"force": force}, as_json=as_json, where=where)


@rotate.command("finish")
@asks_registry
def finish_command(*, force: Force = False, as_json: JsonOption = False, where: Where) -> None:
    """End the trust in the CA that was before."""
    _rotate("finish", {"force": force}, as_json=as_json, where=where)


@rotate.command("abort")
@asks_registry
def abort_command(*, as_json: JsonOption = False, where: Where) -> None:
    """Go back to the CA that was before."""
    _rotate("abort", {}, as_json=as_json, where=where)


def _rotate(step: str, fields: dict[str, Any], *, as_json: bool, where: Where) -> None:
    async def work(stub: Any) -> Any:
        from bridge_wire.v1 import authority_pb2 as wire

        request = wire.RotateAuthorityRequest(step=step, **fields)
        return await _authority(stub).RotateAuthority(request, timeout=_TIMEOUT_S)

    _show(where.call(work), as_json=as_json)


def _authority(stub: Any) -> Any:
    from bridge_wire.v1.authority_pb2_grpc import AuthorityStub

    return AuthorityStub(stub.channel)  # type: ignore[no-untyped-call]  # generated


def _show(answer: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(plain(answer))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("kind", "state", "nodes of it", "trusted by", "until", "key", "subject", "pin")
    for one in answer.authorities:
        issues = one.kind == "intermediate"
        table.add_row(
            one.kind,
            one.state,
            str(one.nodes) if issues else "",
            str(one.trusted_by) if issues else "",
            when(one.expires_unix),
            "here" if one.key_here else "not here",
            one.subject,
            one.pin[:16],
        )
    Console(highlight=False, soft_wrap=True).print(table)
    say(f"Next: {answer.next}.")


def _read(path: Path | None) -> bytes:
    if path is None:
        return b""
    try:
        return path.read_bytes()
    except OSError as fault:
        raise Fatal(f"cannot read {path}: {fault.strerror}") from fault
