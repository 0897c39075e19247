"""`bridgectl admin`: who may look at the mesh and who may change it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from bridge_cli.client_commands import clients_stub, seconds_of
from bridge_cli.output import JsonOption, columns, plain, print_json, say, say_aside, when
from bridge_cli.own_identity import IdentityFolder
from bridge_cli.where import Where, asks_registry
from bridge_core.errors import Fatal

_TIMEOUT_S: Final = 15.0
_ROLES: Final = ("viewer", "operator", "admin")

admins = typer.Typer(help="Admins of the mesh and their roles.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The admin's name.")]


@admins.command("create")
@asks_registry
def create_command(
    *,
    name: NameArgument,
    role: Annotated[
        str, typer.Option("--role", help="viewer (looks), operator (changes), admin (also says who else).")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the certificate and its key (./admin-NAME).")
    ] = None,
    ttl: Annotated[str, typer.Option("--ttl", help="How long the certificate lives: 30d, 90d.")] = "90d",
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Make an admin's certificate, its key made here. For one there is already: another certificate."""
    folder = IdentityFolder((out or Path(f"admin-{name}")).absolute())

    async def work(stub: Any) -> Any:
        from bridge_wire.v1 import clients_pb2 as wire

        if role not in _ROLES:
            raise Fatal(f"--role {role!r} is none", hint=f"one of {', '.join(_ROLES)}")
        folder.check_free()
        ttl_s = seconds_of(ttl, "--ttl")

        async def certify(csr: bytes) -> Any:
            request = wire.CreateAdminRequest(name=name, role=role, csr_pem=csr, ttl_seconds=ttl_s)
            return await clients_stub(stub).CreateAdmin(request, timeout=_TIMEOUT_S)

        return await folder.fill("admin", name, certify)

    made = where.call(work)
    if as_json:
        files = {"cert": str(folder.cert), "certKey": str(folder.key), "ca": str(folder.ca)}
        print_json({"name": name, "role": role, "expiresUnix": made.expires_unix, **files})
        return
    say(f"Admin {name}, role {role}, until {when(made.expires_unix)}: {folder.folder}")
    to = where.access()
    say_aside(
        f"On the machine of whoever it is, with these files:\n  bridgectl context set {name} "
        f"--registry {','.join(to.registries)} --ca {folder.ca} --cert {folder.cert} --key {folder.key}"
    )


@admins.command("list")
@asks_registry
def list_command(*, as_json: JsonOption = False, where: Where) -> None:
    """List the admins and their roles."""

    async def work(stub: Any) -> Any:
        from bridge_wire.v1 import clients_pb2 as wire

        return await clients_stub(stub).ListAdmins(wire.ListAdminsRequest(), timeout=_TIMEOUT_S)

    found = where.call(work).admins
    if as_json:
        print_json([plain(one) for one in found])
        return
    rows = [("NAME", "ROLE", "MADE")]
    rows += [(one.name, one.role, _made(one)) for one in found]
    for line in columns(rows):
        say(line)


@admins.command("delete")
@asks_registry
def delete_command(*, name: NameArgument, as_json: JsonOption = False, where: Where) -> None:
    """Delete an admin: its certificates end at once, and its name is not given again."""

    async def work(stub: Any) -> None:
        from bridge_wire.v1 import clients_pb2 as wire

        await clients_stub(stub).DeleteAdmin(wire.DeleteAdminRequest(name=name), timeout=_TIMEOUT_S)

    where.call(work)
    if as_json:
        print_json({"name": name, "deleted": True})
    else:
        say(f"Admin {name} is deleted.")


def _made(one: Any) -> str:
    if not one.created_unix:
        return "with the mesh"
    return f"{when(one.created_unix)} by {one.created_by.partition('://')[2].partition('/')[2]}"
