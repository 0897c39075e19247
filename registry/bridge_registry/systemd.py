"""The registry, and an etcd of its own where it has none, as services of systemd."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bridge_core.errors import Fatal
from bridge_core.etcd_server import EtcdOptions, arguments
from bridge_core.systemd import placement
from bridge_core.systemd.manager import ServiceManager
from bridge_core.systemd.units import Unit, quoted, render

REGISTRY_UNIT = "bridge-registry.service"
ETCD_UNIT = "bridge-etcd.service"
STATE = Path("/var/lib/bridge/registry")
_ETCD_DATA = Path("/var/lib/bridge/etcd")
_ETCD_PORTS = (2379, 2380)


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


def registry_units(options: ServiceOptions) -> list[Unit]:
    """The units, etcd's first where it is ours.

    Raises:
        Fatal: there is no etcd to run, or no address for it.
    """
    program = placement.program("bridge-registry")
    identity = ["--state-dir", str(STATE), "--name", options.name]
    if options.trust_domain is not None:
        identity += ["--trust-domain", options.trust_domain]
    for host in options.hosts:
        identity += ["--host", host]
    own = _etcd(options) if not options.etcd else None
    run = [program, "run", *identity, "--grpc", options.grpc, "--admin", options.admin]
    run += ["--etcd", own.url if own is not None else options.etcd]
    if own is not None:  # ours alone, so its access control may be turned on
        run.append("--etcd-rbac")
    if options.mesh_config is not None:
        run += ["--mesh-config", str(options.mesh_config.absolute())]
    sandbox = render("sandbox", {"HOME": placement.protect_home(_seen(options))}).text.rstrip()
    wants = f"Wants={ETCD_UNIT}" if own is not None else ""
    values = {"NAME": options.name, "RUN": quoted(run), "SANDBOX": sandbox, "WANTS": wants}
    units = [render(REGISTRY_UNIT, values)]
    if own is not None:
        init = quoted([program, "init", *identity])
        units.insert(0, render(ETCD_UNIT, {"INIT": init, "RUN": quoted(arguments(own)), "SANDBOX": sandbox}))
    return units


def _seen(options: ServiceOptions) -> list[str]:
    folders = placement.program_folders()
    if not options.etcd:
        folders.append(arguments(_etcd(options))[0])
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
    done = manager.install(registry_units(options))
    return [*done, f"the first admin's certificate, for `bridgectl token create`, is in {STATE / 'pki'}"]


def remove(manager: ServiceManager) -> list[str]:
    """Stops the services and takes their units away; returns what was done. Raises BridgeError."""
    return manager.remove((REGISTRY_UNIT, ETCD_UNIT))
