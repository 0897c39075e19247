"""Where others reach this node: the host that it advertises, and the names that its certificate asks for."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from typing import Final

import msgspec

from bridge_core.addresses import split_address
from bridge_core.errors import Fatal

_HOST_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")
_HINT: Final = "a host name or an address, without a port: node1.example, 192.0.2.7 or 2001:db8::7"


class SubjectNames(msgspec.Struct, frozen=True):
    """What clients from outside may check in the node's certificate."""

    dns_names: tuple[str, ...]
    addresses: tuple[str, ...]


def advertised_host(text: str) -> str:
    """The host that `--advertise` names, an IPv6 address without its brackets.

    Raises:
        Fatal: it is no host, or none that another machine could dial.
    """
    bracketed = text.startswith("[") and text.endswith("]")
    host = text[1:-1] if bracketed else text
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if bracketed or len(host) > 253 or ".." in host or not _HOST_NAME.fullmatch(host):
            raise Fatal(f"--advertise {text!r} is not a host", hint=_HINT) from None
        if host.replace(".", "").isdecimal():  # a C library would read 0, 1.2 or 4711 as an address
            raise Fatal(f"--advertise {text!r} is not a whole address", hint=_HINT) from None
        return host.lower()
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_unspecified or address.is_multicast or host.partition("%")[2]:
        why = "is all addresses and none" if address.is_unspecified else "is no address of one machine"
        raise Fatal(
            f"--advertise {text} {why}: other agents cannot dial it",
            hint="name the address that they reach this machine at; without --advertise it is looked up",
        )
    return str(address)


def reachable_host(peer_listener: str, registry: str) -> str:
    """Where others reach the peer listener: its own host, or this machine's address towards the registry.

    Raises:
        Fatal: there is no route to the registry, or its name is not known.
    """
    host, _ = split_address(peer_listener, flag="--peer")
    if host not in {"0.0.0.0", "::"}:
        return advertised_host(host)
    target = split_address(registry, flag="REGISTRY")
    try:
        family, kind, _, _, remote = socket.getaddrinfo(*target, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(remote)  # of a datagram socket: chooses a route, sends nothing
            return str(probe.getsockname()[0]).partition("%")[0]
    except OSError as fault:
        raise Fatal(
            f"this machine's address towards {registry} cannot be told: {fault.strerror}",
            hint="name it with --advertise HOST",
        ) from fault


def subject_names(advertise: str) -> SubjectNames:
    """The host names and addresses of a node that advertises this host."""
    names, addresses = ["localhost", socket.gethostname().lower()], ["127.0.0.1", "::1"]
    (addresses if _is_address(advertise) else names).append(advertise)
    fit = [name for name in dict.fromkeys(names) if _HOST_NAME.fullmatch(name)]
    return SubjectNames(tuple(fit), tuple(dict.fromkeys(addresses)))


def _is_address(host: str) -> bool:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return True
    return False
