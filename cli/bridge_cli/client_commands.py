"""`bridgectl client`: who may call the mesh."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from bridge_cli.output import JsonOption, columns, plain, print_json, say, say_aside, when
from bridge_cli.own_identity import IdentityFolder
from bridge_cli.where import Where, asks_registry
from bridge_core.command.labels import labels_of
from bridge_core.errors import Fatal
from bridge_core.quantities import parse_duration

_TIMEOUT_S: Final = 15.0
_HTTPS: Final = 11443  # where agents listen unless told otherwise
_HTTPS_BEFORE_PEER: Final = 2  # by default, and in a mesh of `bridgectl up`

clients = typer.Typer(help="Clients: their API keys and certificates.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The client's name.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Folder for the certificate and its key (./client-NAME).")
]
CertTtlOption = Annotated[str, typer.Option("--cert-ttl", help="How long the certificate lives: 30d, 90d.")]


@clients.command("create")
@asks_registry
def create_command(
    *,
    name: NameArgument,
    group: Annotated[
        list[str] | None, typer.Option("--group", help="A group that it belongs to; repeatable.")
    ] = None,
    attr: Annotated[
        list[str] | None, typer.Option("--attr", help="KEY=VALUE for policies to ask about; repeatable.")
    ] = None,
    expires: Annotated[
        str, typer.Option("--expires", help="After how long it is refused: 90d. Without, never.")
    ] = "",
    cert: Annotated[bool, typer.Option("--cert", help="With a certificate, its key made here.")] = False,
    out: OutOption = None,
    cert_ttl: CertTtlOption = "90d",
    no_key: Annotated[bool, typer.Option("--no-key", help="Without an API key.")] = False,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Make a client and print its API key: the only time it can be seen."""
    folder = _folder(name, out)

    async def work(stub: Any) -> Any:
        from bridge_wire.v1 import clients_pb2 as wire

        if cert:
            folder.check_free()
        ends = int(time.time()) + seconds_of(expires, "--expires") if expires else 0
        certificate_s = seconds_of(cert_ttl, "--cert-ttl")
        request = wire.CreateClientRequest(
            name=name,
            groups=group or [],
            attributes=labels_of(attr or [], "--attr"),
            expires_unix=ends,
            without_key=no_key or cert,
        )
        # The key comes last: whatever fails before it, none is made that nobody saw.
        urls = await _urls(stub, where)
        made = await clients_stub(stub).CreateClient(request, timeout=_TIMEOUT_S)
        if cert:
            await _certify(stub, name, folder, certificate_s)
            if not no_key:
                rotate = wire.RotateClientRequest(name=name)
                made = await clients_stub(stub).RotateClient(rotate, timeout=_TIMEOUT_S)
        return made, urls

    made, urls = where.call(work)
    if as_json:
        files = {"cert": folder.cert, "certKey": folder.key, "ca": folder.ca} if cert else {}
        print_json({**plain(made), **{key: str(path) for key, path in files.items()}, "urls": urls})
        return
    if made.key:
        _show_key(f"Client {name}; its API key is shown this once:", made.key)
    else:
        say_aside(f"Client {name} is made, without an API key.")
    if cert:
        say_aside(f"Its certificate and key are in {folder.folder}.")
    say_aside(_next_step(urls, str(folder.ca if cert else where.access().ca), key=bool(made.key), cert=cert))


@clients.command("list")
@asks_registry
def list_command(*, as_json: JsonOption = False, where: Where) -> None:
    """List the clients."""
    found = _found(where, "")
    if as_json:
        print_json([plain(client) for client in found])
        return
    if not found:
        say("No clients: `bridgectl client create NAME` makes one.")
        return
    rows = [("NAME", "GROUPS", "KEYS", "STATE", "LAST USED")]
    rows += [
        (one.name, ", ".join(one.groups), str(len(one.keys)), _state(one), _moment(one.last_used_unix, "-"))
        for one in found
    ]
    for line in columns(rows):
        say(line)


@clients.command("show")
@asks_registry
def show_command(*, name: NameArgument, as_json: JsonOption = False, where: Where) -> None:
    """Show all of a client but its keys' secrets."""
    (one,) = _found(where, name)
    if as_json:
        print_json(plain(one))
        return
    rows = [
        ("name", one.name),
        ("state", _state(one)),
        ("groups", ", ".join(one.groups) or "-"),
        ("attributes", ", ".join(f"{key}={value}" for key, value in sorted(one.attributes.items())) or "-"),
        ("expires", _moment(one.expires_unix, "never")),
        ("made", f"{when(one.created_unix)} by {_who(one.created_by)}"),
        ("last used", _moment(one.last_used_unix, "not since the registry began")),
    ]
    for key in one.keys:
        ends = _moment(key.expires_unix, "never")
        rows.append((f"key {key.id}", f"made {_moment(key.created_unix, '-')}, ends {ends}"))
    for line in columns(rows):
        say(line)


@clients.command("rotate")
@asks_registry
def rotate_command(
    *,
    name: NameArgument,
    overlap: Annotated[
        str, typer.Option("--overlap", help="For how long the keys before still count: 0s, 1h, 7d.")
    ] = "24h",
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Give a client a new API key; the ones before end after the overlap."""

    async def work(stub: Any) -> Any:
        from bridge_wire.v1 import clients_pb2 as wire

        request = wire.RotateClientRequest(
            name=name, overlap_seconds=seconds_of(overlap, "--overlap", least=0)
        )
        return await clients_stub(stub).RotateClient(request, timeout=_TIMEOUT_S)

    made = where.call(work)
    if as_json:
        print_json(plain(made))
        return
    until = (
        "no longer count" if seconds_of(overlap, "--overlap", least=0) == 0 else f"count for {overlap} more"
    )
    _show_key(f"Client {name}; its new API key is shown this once, those before {until}:", made.key)


@clients.command("block")
@asks_registry
def block_command(*, name: NameArgument, as_json: JsonOption = False, where: Where) -> None:
    """Refuse a client from now on, whatever it brings; what it has running is cut."""
    _block(where, name, blocked=True)
    _say_done({"name": name, "blocked": True}, f"Client {name} is blocked.", as_json=as_json)


@clients.command("unblock")
@asks_registry
def unblock_command(*, name: NameArgument, as_json: JsonOption = False, where: Where) -> None:
    """Let a blocked client call again."""
    _block(where, name, blocked=False)
    _say_done({"name": name, "blocked": False}, f"Client {name} may call again.", as_json=as_json)


@clients.command("delete")
@asks_registry
def delete_command(*, name: NameArgument, as_json: JsonOption = False, where: Where) -> None:
    """Delete a client: its keys and certificates end at once."""

    async def work(stub: Any) -> None:
        from bridge_wire.v1 import clients_pb2 as wire

        await clients_stub(stub).DeleteClient(wire.DeleteClientRequest(name=name), timeout=_TIMEOUT_S)

    where.call(work)
    _say_done({"name": name, "deleted": True}, f"Client {name} is deleted.", as_json=as_json)


@clients.command("certify")
@asks_registry
def certify_command(
    *,
    name: NameArgument,
    out: OutOption = None,
    cert_ttl: CertTtlOption = "90d",
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Make a certificate for a client that there is; its key is made here and stays here."""
    folder = _folder(name, out)

    async def work(stub: Any) -> Any:
        folder.check_free()
        return await _certify(stub, name, folder, seconds_of(cert_ttl, "--cert-ttl"))

    made = where.call(work)
    if as_json:
        files = {"cert": str(folder.cert), "certKey": str(folder.key), "ca": str(folder.ca)}
        print_json({"name": name, "expiresUnix": made.expires_unix, **files})
        return
    say(f"Certificate of client {name} until {when(made.expires_unix)}: {folder.cert}, its key {folder.key}")


def seconds_of(text: str, flag: str, *, least: int = 1) -> int:
    """The whole seconds of a span such as 90d.

    Raises:
        Fatal: it is none, or less than `least` seconds.
    """
    try:
        found = int(parse_duration(text.strip()))
    except ValueError as fault:
        raise Fatal(f"{flag} {text!r} is {fault}", hint="such as 30m, 12h or 90d") from None
    if found < least:
        raise Fatal(f"{flag} {text!r} is less than a second", hint="such as 30m, 12h or 90d")
    return found


def clients_stub(stub: Any) -> Any:
    """The stub of the clients' service, beside the one that `Where.call` gives."""
    from bridge_wire.v1.clients_pb2_grpc import ClientsStub

    return ClientsStub(stub.channel)  # type: ignore[no-untyped-call]  # generated


def _found(where: Where, name: str) -> list[Any]:
    async def work(stub: Any) -> Any:
        from bridge_wire.v1 import clients_pb2 as wire

        return await clients_stub(stub).ListClients(wire.ListClientsRequest(name=name), timeout=_TIMEOUT_S)

    return list(where.call(work).clients)


def _block(where: Where, name: str, *, blocked: bool) -> None:
    async def work(stub: Any) -> None:
        from bridge_wire.v1 import clients_pb2 as wire

        await clients_stub(stub).BlockClient(
            wire.BlockClientRequest(name=name, blocked=blocked), timeout=_TIMEOUT_S
        )

    where.call(work)


async def _certify(stub: Any, name: str, folder: IdentityFolder, ttl_s: int) -> Any:
    from bridge_wire.v1 import clients_pb2 as wire

    async def certify(csr: bytes) -> Any:
        request = wire.CertifyClientRequest(name=name, csr_pem=csr, ttl_seconds=ttl_s)
        return await clients_stub(stub).CertifyClient(request, timeout=_TIMEOUT_S)

    return await folder.fill("client", name, certify)


async def _urls(stub: Any, where: Where) -> list[str]:
    """Where clients reach the agents: as mesh.json says, else two ports before the one for other agents."""
    from bridge_cli.access import mesh_here
    from bridge_core.addresses import join_address, split_address
    from bridge_wire.v1 import registry_pb2 as wire

    if (here := mesh_here(where.flags, where.access())) is not None:
        return [f"https://{agent.https}" for agent in here[1].agents]
    status = await stub.Status(wire.StatusRequest(), timeout=_TIMEOUT_S)
    peers = [split_address(node.peer_address) for node in status.nodes if node.peer_address]
    return list(
        dict.fromkeys(f"https://{join_address(host, port - _HTTPS_BEFORE_PEER)}" for host, port in peers)
    )


def _next_step(urls: list[str], ca: str, *, key: bool, cert: bool) -> str:
    url = urls[0] if urls else f"https://NODE:{_HTTPS}"
    lines = [
        "",
        f"Any node answers it, over HTTPS: {', '.join(urls[:3]) or url}",
        "(Where a node's listeners were moved: `bridge-agent status` there says to where.)",
    ]
    if key:
        lines += [
            "For the clients of Ollama, OpenAI and Anthropic, with this key in the place of …:",
            f"  export OLLAMA_HOST={url} OLLAMA_API_KEY=…",
            f"  export OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY=…",
            f"  export ANTHROPIC_BASE_URL={url} ANTHROPIC_API_KEY=…",
            f"  export SSL_CERT_FILE={ca}  # so that they trust the mesh's CA",
        ]
    if cert:
        folder = Path(ca).parent
        files = f"--cacert {ca} --cert {folder / 'cert.pem'} --key {folder / 'key.pem'}"
        lines += ["With the certificate:", f"  curl {files} {url}/api/tags"]
    return "\n".join(lines)


def _show_key(says: str, key: str) -> None:
    say_aside(says)
    sys.stdout.write(key + "\n")
    sys.stdout.flush()


def _say_done(fields: dict[str, object], text: str, *, as_json: bool) -> None:
    if as_json:
        print_json(fields)
    else:
        say(text)


def _folder(name: str, out: Path | None) -> IdentityFolder:
    return IdentityFolder((out or Path(f"client-{name}")).absolute())


def _state(client: Any) -> str:
    if client.blocked:
        return "blocked"
    return "expired" if client.expires_unix and client.expires_unix <= time.time() else "active"


def _moment(unix: int, without: str) -> str:
    return when(unix) if unix else without


def _who(identity: str) -> str:
    return identity.partition("://")[2].partition("/")[2] or identity
