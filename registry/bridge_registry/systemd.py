"""The registry, and an etcd of its own where it has none, as services of systemd."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bridge_core.addresses import join_address, split_address
from bridge_core.errors import Fatal
from bridge_core.etcd_server import EtcdOptions, find_etcd, option_variables
from bridge_core.systemd import placement
from bridge_core.systemd.manager import ServiceManager
from bridge_core.systemd.units import Service, quoted, unit, variables

REGISTRY_UNIT = "bridge-registry.service"
ETCD_UNIT = "bridge-etcd.service"
VARIABLES = "registry.env"
ETCD_VARIABLES = "etcd.env"
STATE = Path("/var/lib/bridge/registry")
_ETCD_DATA = Path("/var/lib/bridge/etcd")
_ETCD_PORTS = (2379, 2380)
_ON_PATH = (Path("/usr/local/bin/etcd"), Path("/usr/bin/etcd"))


class ServiceOptions(msgspec.Struct, frozen=True):
    """What the service is run with; see `bridge-registry run`.

    Attributes:
        name: This registry's.
        trust_domain: The mesh; None: that of the CA.
        hosts: What agents dial it by; the first is also where etcd listens, beside the loopback.
        grpc: host:port of its listener.
        admin: host:port of its admin listener.
        etcd: Endpoints of an etcd that somebody else runs; empty: one of our own, as a service.
        mesh_config: The folder that is the config; None: what admins apply.
    """

    name: str
    trust_domain: str | None = None
    hosts: tuple[str, ...] = ()
    grpc: str = "0.0.0.0:11400"
    admin: str = "127.0.0.1:11401"
    etcd: str = ""
    mesh_config: Path | None = None


def registry_service(options: ServiceOptions) -> Service:
    """The registry's service, with etcd's unit before it where that is ours.

    Raises:
        Fatal: there is no etcd to run, or no address for it.
    """
    own = None if options.etcd else _etcd(options)
    words = {
        "NAME": options.name,
        "TRUST_DOMAIN": options.trust_domain or "",
        "HOST": " ".join(options.hosts),
        "GRPC": options.grpc,
        "ADMIN": options.admin,
        "ETCD": options.etcd if own is None else own.url,
        # Ours alone, so its access control may be turned on.
        "ETCD_RBAC": "" if own is None else "1",
        "MESH_CONFIG": "" if options.mesh_config is None else str(options.mesh_config.absolute()),
    }
    said = {f"BRIDGE_REGISTRY_{name}": value for name, value in words.items() if value}
    files = {VARIABLES: variables(said, says="The registry; written by `bridge-registry service install`.")}
    home = placement.home_settings(_seen(options))
    units = [unit(REGISTRY_UNIT, {"Service": home})]
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


def _etcd(options: ServiceOptions) -> EtcdOptions:
    pki = STATE / "pki"
    host = options.hosts[0] if options.hosts else "127.0.0.1"
    if not host.replace(".", "").isdecimal() and ":" not in host:
        raise Fatal(
            f"etcd cannot listen on the name {host!r}",
            hint="give this machine's address as the first --host, names after it",
        )
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
    address = join_address(options.hosts[0] if options.hosts else "127.0.0.1", split_address(options.grpc)[1])
    return [
        *done,
        f"next, as root: bridgectl context set {options.name} --registry {address} --pki {STATE / 'pki'}",
    ]


def remove(manager: ServiceManager) -> list[str]:
    """Stops the services and takes their units away; returns what was done. Raises BridgeError."""
    return manager.remove((REGISTRY_UNIT, ETCD_UNIT), (VARIABLES, ETCD_VARIABLES))
