"""The command bridge-registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import uvloop

from bridge_core.addresses import split_address
from bridge_core.command.guard import guarded
from bridge_core.command.labels import listed
from bridge_core.command.program import program
from bridge_core.errors import Fatal
from bridge_core.hardening import keep_memory_private
from bridge_core.identity import check_node_name
from bridge_core.key_files import check_key_files
from bridge_core.logs.setup import log_of_program
from bridge_core.sealing.key_source import key_source
from bridge_registry import backup_commands, seal_commands, service_commands
from bridge_registry.enrolment.pki_files import Pki
from bridge_registry.external_metrics import commands as external_metrics_commands
from bridge_registry.options import GUARD_PORT, RegistryOptions
from bridge_registry.pod_costs import commands as pod_costs_commands
from bridge_registry.systemd import STATE

if TYPE_CHECKING:
    from bridge_registry.enrolment.pod_rules import KubernetesApi

app = program("The registry: the mesh's CA, its members, its config, and the snapshots of all that.")
app.add_typer(service_commands.group, name="service")
app.add_typer(seal_commands.group, name="seal")
backup_commands.register(app)
external_metrics_commands.register(app)
pod_costs_commands.register(app)
authorities = typer.Typer(help="The mesh's CAs, as this registry has them.", no_args_is_help=True)
app.add_typer(authorities, name="ca")
StateDir = Annotated[Path, typer.Option("--state-dir", help="Where keys and the last snapshot are kept.")]
Name = Annotated[
    str,
    typer.Option(
        "--name",
        envvar="BRIDGE_REGISTRY_NAME",
        help="This registry's name; registries of one mesh differ in it.",
    ),
]
Domain = Annotated[
    str | None,
    typer.Option(
        "--trust-domain",
        envvar="BRIDGE_REGISTRY_TRUST_DOMAIN",
        help="The mesh's name in every identity, bridge.local by default. Fixed at init.",
    ),
]
Hosts = Annotated[
    list[str] | None,
    typer.Option(
        "--host",
        "--advertise",
        envvar="BRIDGE_REGISTRY_HOST",
        help="A name or address that agents reach this registry by. May be repeated.",
    ),
]

SealKey = Annotated[
    str | None,
    typer.Option(
        "--seal-key",
        envvar="BRIDGE_REGISTRY_SEAL_KEY",
        help="Where the key comes from that opens the keyring: file:/PATH, credential:NAME of systemd, or "
        "exec:/PROGRAM ARGUMENTS. Without, a file beside the keyring.",
    ),
]

_NAME = "registry1"
_PROGRAM, _GUARD = "bridge-registry", "bridge-store-guard"  # in their logs


@app.command()
def init(
    *,
    state_dir: StateDir = STATE,
    name: Name = _NAME,
    trust_domain: Domain = None,
    host: Hosts = None,
    seal_key: SealKey = None,
) -> None:
    """Makes the CA and the first identities, or renews them when due; harmless when repeated."""
    keep_memory_private()
    settings = RegistryOptions(
        state_dir=state_dir,
        name=guarded(lambda: check_node_name(name)),
        grpc=("127.0.0.1", 0),
        admin=("127.0.0.1", 0),
        etcd=(),
        trust_domain=trust_domain,
        seal_key=guarded(lambda: key_source(seal_key)),
        hosts=tuple(host or ()),
    )
    ensured = guarded(settings.ensure_pki)
    made = ", ".join(ensured.written) or "nothing: all is there"
    typer.echo(f"mesh {ensured.trust_domain}: made {made} in {settings.pki.folder}")


@authorities.command("export-root")
def export_root(
    *,
    out: Annotated[Path, typer.Option("--out", help="A new file, which then has the only copy of the key.")],
    state_dir: StateDir = STATE,
    name: Name = _NAME,
    seal_key: SealKey = None,
) -> None:
    """Takes the root's key away from this registry, to be kept offline: all goes on without it."""
    from bridge_registry.enrolment.pki_files import take_root_away

    keep_memory_private()
    source = guarded(lambda: key_source(seal_key))
    pki = Pki(state_dir / "pki", guarded(lambda: check_node_name(name)), source)
    guarded(lambda: take_root_away(pki, out))
    typer.echo(f"the root's key and certificate are in {out}, and the key is nowhere else: keep it offline")


@app.command("run")
def run_command(
    *,
    etcd: Annotated[
        str,
        typer.Option(
            "--etcd", envvar="BRIDGE_REGISTRY_ETCD", help="Endpoints: https://a:2379,https://b:2379"
        ),
    ],
    state_dir: StateDir = STATE,
    name: Name = _NAME,
    trust_domain: Domain = None,
    host: Hosts = None,
    seal_key: SealKey = None,
    grpc: Annotated[
        str,
        typer.Option(
            "--grpc",
            "--listen",
            envvar="BRIDGE_REGISTRY_GRPC",
            help="host:port of the gRPC listener; port 0: any.",
        ),
    ] = "0.0.0.0:11400",
    admin: Annotated[
        str, typer.Option("--admin", envvar="BRIDGE_REGISTRY_ADMIN", help="host:port of the admin listener.")
    ] = "127.0.0.1:11401",
    store_guard: Annotated[
        str,
        typer.Option(
            "--store-guard",
            envvar="BRIDGE_REGISTRY_STORE_GUARD",
            help="Store guards as nodes reach them: https://a:11404,https://b:11404. "
            "Without, one at the first --host.",
        ),
    ] = "",
    etcd_rbac: Annotated[
        bool,
        typer.Option(
            "--etcd-rbac",
            envvar="BRIDGE_REGISTRY_ETCD_RBAC",
            help="Turn on etcd's access control: a store guard writes what it forwards alone. "
            "Only for an etcd that nobody else uses.",
        ),
    ] = False,
    mesh_config: Annotated[
        Path | None,
        typer.Option(
            "--mesh-config",
            envvar="BRIDGE_REGISTRY_MESH_CONFIG",
            help="A folder of YAML that is the config, applied when it changes.",
        ),
    ] = None,
    kubernetes_join: Annotated[
        str,
        typer.Option(
            "--kubernetes-join",
            envvar="BRIDGE_REGISTRY_KUBERNETES_JOIN",
            help="Service accounts whose pods join by their own token, NAMESPACE:NAME[,…]; Kubernetes is "
            "asked whose it is.",
        ),
    ] = "",
    kubernetes_dns_name: Annotated[
        str,
        typer.Option(
            "--kubernetes-dns-name",
            envvar="BRIDGE_REGISTRY_KUBERNETES_DNS_NAME",
            help="Host names that certificates of those pods may carry, NAME[,…]: their Service's.",
        ),
    ] = "",
    ready_file: Annotated[
        Path | None, typer.Option("--ready-file", help="Written when it listens: pid and addresses, JSON.")
    ] = None,
) -> None:
    """Runs the registry until it is told to stop."""
    keep_memory_private()
    guarded(lambda: log_of_program(_PROGRAM, node=name))
    settings = RegistryOptions(
        state_dir=state_dir,
        name=guarded(lambda: check_node_name(name)),
        grpc=guarded(lambda: split_address(grpc, flag="--grpc")),
        admin=guarded(lambda: split_address(admin, flag="--admin")),
        etcd=listed(etcd),
        guards=listed(store_guard),
        etcd_rbac=etcd_rbac,
        trust_domain=trust_domain,
        seal_key=guarded(lambda: key_source(seal_key)),
        hosts=tuple(host or ()),
        mesh_config=mesh_config,
        kubernetes=guarded(lambda: _kubernetes(kubernetes_join, kubernetes_dns_name)),
        ready_file=ready_file,
    )
    from bridge_registry import app as registry

    guarded(lambda: uvloop.run(registry.run(settings)))


@app.command("store-guard")
def store_guard_command(
    *,
    etcd: Annotated[
        str,
        typer.Option(
            "--etcd", envvar="BRIDGE_REGISTRY_ETCD", help="Endpoints: https://a:2379,https://b:2379"
        ),
    ],
    state_dir: StateDir = STATE,
    name: Name = _NAME,
    listen: Annotated[
        str,
        typer.Option(
            "--listen",
            envvar="BRIDGE_STORE_GUARD_LISTEN",
            help="host:port that nodes reach it at; port 0: any.",
        ),
    ] = f"0.0.0.0:{GUARD_PORT}",
    admin: Annotated[
        str,
        typer.Option("--admin", envvar="BRIDGE_STORE_GUARD_ADMIN", help="host:port of the admin listener."),
    ] = f"127.0.0.1:{GUARD_PORT + 1}",
    ready_file: Annotated[
        Path | None, typer.Option("--ready-file", help="Written when it listens: pid and addresses, JSON.")
    ] = None,
) -> None:
    """Runs the store guard: lets nodes through to etcd, each to its own lease and records alone.

    Run it beside etcd and apart from the registry, so that leases go on while the registry is down.
    """
    keep_memory_private()
    guarded(lambda: log_of_program(_GUARD, node=name))
    from bridge_registry.store_guard import app as guard

    options = guard.GuardOptions(
        pki=Pki(state_dir / "pki", guarded(lambda: check_node_name(name))),
        sockets=state_dir / "guard-sockets",
        listen=guarded(lambda: split_address(listen, flag="--listen")),
        admin=guarded(lambda: split_address(admin, flag="--admin")),
        etcd=listed(etcd),
        ready_file=ready_file,
    )
    guarded(lambda: check_key_files(*(options.pki.pair(what)[1] for what in ("guard", "guard-etcd"))))
    guarded(lambda: uvloop.run(guard.run(options)))


def _kubernetes(accounts: str, names: str) -> KubernetesApi | None:
    from bridge_registry.enrolment.join_rules import check_dns_names
    from bridge_registry.enrolment.pod_rules import KubernetesApi, check_accounts

    if not accounts.strip():
        return None
    try:
        return KubernetesApi(check_accounts(listed(accounts)), check_dns_names(listed(names)))
    except ValueError as fault:
        raise Fatal(f"--kubernetes-join: {fault}") from fault


def run() -> None:
    """The command's entry point."""
    app()
