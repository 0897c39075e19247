"""The registry, its store guard, and an etcd of its own where it has none, as services of systemd."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bridge_core.addresses import join_address, split_address
from bridge_core.errors import Fatal
from bridge_core.etcd_server import EtcdOptions, find_etcd, option_variables
from bridge_core.systemd import placement
from bridge_core.systemd.manager import ServiceManager
from bridge_core.systemd.units import Service, quoted, unit, variables
from bridge_registry.options import GUARD_PORT, dialled_host

REGISTRY_UNIT = "bridge-registry.service"
GUARD_UNIT = "bridge-store-guard.service"
ETCD_UNIT = "bridge-etcd.service"
VARIABLES = "registry.env"
ETCD_VARIABLES = "etcd.env"
STATE = Path("/var/lib/bridge/registry")
_ETCD_DATA = Path("/var/lib/bridge/etcd")
_ETCD_PORTS = (2379, 2380)
_ON_PATH = (Path("/usr/local/bin/etcd"), Path("/usr/bin/etcd"))


class ServiceOptions(msgspec.Struct, frozen=True):
    """What the services are run with; see `bridge-registry run` and `bridge-registry store-guard`.

    Attributes:
        name: This registry's.
        trust_domain: The mesh; None: that of the CA.
        hosts: What agents dial it by; without `guards` they are told that its guard is at the first.
        grpc: host:port of its listener.
        admin: host:port of its admin listener.
        etcd: Endpoints of an etcd that somebody else runs; empty: one of our own, as a service.
        guards: Store guards as nodes reach them, with those beside other registries; empty: our own.
        guard_listen: host:port of our own guard.
        guard_admin: host:port of its admin listener.
        mesh_config: The folder that is the config; None: what admins apply.
        seal_key: Where the key comes from that opens the keyring; empty: a file beside it.
    """

    name: str
    trust_domain: str | None = None
    hosts: tuple[str, ...] = ()
    grpc: str = "0.0.0.0:11400"
    admin: str = "127.0.0.1:11401"
    etcd: str = ""
    guards: str = ""
    guard_listen: str = f"0.0.0.0:{GUARD_PORT}"
    guard_admin: str = f"127.0.0.1:{GUARD_PORT + 1}"
    mesh_config: Path | None = None
    seal_key: str = ""


def registry_service(options: ServiceOptions) -> Service:
    """The registry's service: its guard before it, and etcd before both where that is ours.

    Raises:
        Fatal: there is no etcd to run, or a listener's address is none.
    """
    own = None if options.etcd else _etcd()
    words = {
        "REGISTRY_NAME": options.name,
        "REGISTRY_TRUST_DOMAIN": options.trust_domain or "",
        "REGISTRY_HOST": " ".join(options.hosts),
        "REGISTRY_GRPC": options.grpc,
        "REGISTRY_ADMIN": options.admin,
        "REGISTRY_ETCD": options.etcd if own is None else own.url,
        # Ours alone, so its access control may be turned on.
        "REGISTRY_ETCD_RBAC": "" if own is None else "1",
        "REGISTRY_STORE_GUARD": options.guards or _guard(options),
        "REGISTRY_MESH_CONFIG": "" if options.mesh_config is None else str(options.mesh_config.absolute()),
        "REGISTRY_SEAL_KEY": options.seal_key,
        "STORE_GUARD_LISTEN": options.guard_listen,
        "STORE_GUARD_ADMIN": options.guard_admin,
    }
    said = {f"BRIDGE_{name}": value for name, value in words.items() if value}
    says = "The registry and its store guard; written by `bridge-registry service install`."
    files = {VARIABLES: variables(said, says=says)}
    home = placement.home_settings(_seen(options))
    units = [unit(name, {"Service": home}) for name in (GUARD_UNIT, REGISTRY_UNIT)]
    if own is None:
        return Service(tuple(units), files, gone=(ETCD_UNIT,))
    binary = own.binary or find_etcd()
    program = [] if binary in _ON_PATH else ["ExecStart=", f"ExecStart={quoted([str(binary)])}"]
    says = "etcd; written by `bridge-registry service install`."
    files[ETCD_VARIABLES] = variables(option_variables(own), says=says)
    return Service((unit(ETCD_UNIT, {"Service": [*program, *home]}), *units), files)


def _seen(options: ServiceOptions) -> list[str]:
    folders = placement.program_folders()
    if not options.etcd:
        folders.append(str(find_etcd()))
    if options.mesh_config is not None:
        folders.append(str(options.mesh_config.absolute()))
    return folders


def _guard(options: ServiceOptions) -> str:
    """Where nodes reach our own guard; empty where the registry knows without being told."""
    _, port = split_address(options.guard_listen, flag="--store-guard-listen")
    if not port:
        raise Fatal(
            "the store guard has no fixed port, and nodes are told one",
            hint="--store-guard-listen HOST:PORT",
        )
    return "" if port == GUARD_PORT else f"https://{_dialled(options, port)}"


def _dialled(options: ServiceOptions, port: int) -> str:
    return join_address(dialled_host(options.hosts, split_address(options.grpc, flag="--grpc")[0]), port)


def _etcd() -> EtcdOptions:
    pki = STATE / "pki"
    client, peer = _ETCD_PORTS
    return EtcdOptions(
        data_dir=_ETCD_DATA,
        log_file=Path("/dev/null"),  # systemd keeps what it says
        client_port=client,
        peer_port=peer,
        cert=pki / "etcd.pem",
        key=pki / "etcd.key",
        ca=pki / "etcd-ca.pem",
    )


def install(manager: ServiceManager, options: ServiceOptions) -> list[str]:
    """Puts the units in place and starts them; returns what was done. Raises BridgeError."""
    manager.check()
    placement.check_lasting(_seen(options))
    placement.check_open_to_all(_seen(options))
    done = manager.install(registry_service(options))
    address = _dialled(options, split_address(options.grpc, flag="--grpc")[1])
    return [
        *done,
        f"next, as root: bridgectl context set {options.name} --registry {address} --pki {STATE / 'pki'}",
    ]


def remove(manager: ServiceManager) -> list[str]:
    """Stops the services and takes their units away; returns what was done. Raises BridgeError."""
    return manager.remove((REGISTRY_UNIT, GUARD_UNIT, ETCD_UNIT), (VARIABLES, ETCD_VARIABLES))
