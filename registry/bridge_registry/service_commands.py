"""`bridge-registry service`: the registry as a service of systemd."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bridge_core.command.guard import guarded
from bridge_core.command.units import say, show
from bridge_core.identity import check_node_name
from bridge_core.sealing.key_source import key_source
from bridge_core.systemd.manager import ServiceManager
from bridge_registry import systemd
from bridge_registry.systemd import ServiceOptions

group = typer.Typer(help="Run the registry and its store guard as services of systemd.", no_args_is_help=True)

Name = Annotated[
    str, typer.Option("--name", help="This registry's name; registries of one mesh differ in it.")
]
Domain = Annotated[str | None, typer.Option("--trust-domain", help="The mesh's name in every identity.")]
Hosts = Annotated[
    list[str] | None,
    typer.Option("--host", help="A name or address that agents reach this machine by. May be repeated."),
]
Grpc = Annotated[str, typer.Option("--grpc", help="host:port of the gRPC listener.")]
Admin = Annotated[str, typer.Option("--admin", help="host:port of the admin listener.")]
Etcd = Annotated[
    str,
    typer.Option("--etcd", help="Endpoints of an etcd there is; without, one of our own is a service, too."),
]
Guards = Annotated[
    str,
    typer.Option(
        "--store-guard",
        help="Store guards as nodes reach them: https://a:11404,https://b:11404. Without, this machine's.",
    ),
]
GuardListen = Annotated[
    str, typer.Option("--store-guard-listen", help="host:port of this machine's store guard.")
]
GuardAdmin = Annotated[str, typer.Option("--store-guard-admin", help="host:port of its admin listener.")]
MeshConfig = Annotated[
    Path | None,
    typer.Option("--mesh-config", help="A folder of YAML that is the config, applied when it changes."),
]
SealKey = Annotated[
    str,
    typer.Option(
        "--seal-key",
        help="Where the key comes from that opens the registry's keyring: file:/PATH, credential:NAME or "
        "exec:/PROGRAM ARGUMENTS.",
    ),
]
_DEFAULTS = ServiceOptions(name="registry1")


@group.command("install")
def install_command(
    *,
    name: Name = _DEFAULTS.name,
    trust_domain: Domain = None,
    host: Hosts = None,
    grpc: Grpc = _DEFAULTS.grpc,
    admin: Admin = _DEFAULTS.admin,
    etcd: Etcd = "",
    store_guard: Guards = "",
    store_guard_listen: GuardListen = _DEFAULTS.guard_listen,
    store_guard_admin: GuardAdmin = _DEFAULTS.guard_admin,
    mesh_config: MeshConfig = None,
    seal_key: SealKey = "",
) -> None:
    """Write the registry's units, enable and start them; put our commands on PATH. State: /var/lib/bridge."""

    def work() -> None:
        options = ServiceOptions(
            name=check_node_name(name),
            trust_domain=trust_domain,
            hosts=tuple(host or ()),
            grpc=grpc,
            admin=admin,
            etcd=etcd,
            guards=store_guard,
            guard_listen=store_guard_listen,
            guard_admin=store_guard_admin,
            mesh_config=mesh_config,
            seal_key=_source(seal_key),
        )
        say(systemd.install(ServiceManager(), options))

    guarded(work)


@group.command("show")
def show_command(
    *,
    name: Name = _DEFAULTS.name,
    trust_domain: Domain = None,
    host: Hosts = None,
    grpc: Grpc = _DEFAULTS.grpc,
    admin: Admin = _DEFAULTS.admin,
    etcd: Etcd = "",
    store_guard: Guards = "",
    store_guard_listen: GuardListen = _DEFAULTS.guard_listen,
    store_guard_admin: GuardAdmin = _DEFAULTS.guard_admin,
    mesh_config: MeshConfig = None,
    seal_key: SealKey = "",
    into: Annotated[
        Path | None, typer.Option("--into", help="A folder to write them to, instead of printing.")
    ] = None,
) -> None:
    """Print the files that `install` would write; changes nothing."""

    def work() -> None:
        options = ServiceOptions(
            name=check_node_name(name),
            trust_domain=trust_domain,
            hosts=tuple(host or ()),
            grpc=grpc,
            admin=admin,
            etcd=etcd,
            guards=store_guard,
            guard_listen=store_guard_listen,
            guard_admin=store_guard_admin,
            mesh_config=mesh_config,
            seal_key=_source(seal_key),
        )
        show(systemd.registry_service(options), into)

    guarded(work)


@group.command("remove")
def remove_command() -> None:
    """Stop the services and take their units away; the state stays."""
    guarded(lambda: say(systemd.remove(ServiceManager()) or ["none of our units is installed"]))


def _source(text: str) -> str:
    return str(key_source(text) or "")
