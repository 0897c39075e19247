"""Finding taken ports before anything is started, and naming who holds them."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Iterable, Mapping

import psutil

from bridge_core.addresses import LOOPBACK, without_localhost
from bridge_core.errors import Fatal

_NAMED = 4  # of many taken ports the first show what is going on


def check_free(wanted: Iterable[tuple[str, str]]) -> None:
    """Makes sure that every (what, host:port) can be listened on.

    Raises:
        Fatal: some are taken; they are named, with who holds them and the flag that moves them.
    """
    taken = [(what, address) for what, address in wanted if not _free(address)]
    if not taken:
        return
    held = holders(listening())
    words = [f"{address} for {what}{held.get(_port(address), '')}" for what, address in taken[:_NAMED]]
    if len(taken) > _NAMED:
        words.append(f"and {len(taken) - _NAMED} more")
    raise Fatal(
        f"taken: {'; '.join(words)}",
        hint="`bridgectl up --base-port PORT` moves all ports of the mesh (node1's HTTP port is PORT)",
    )


def resolved(host: str) -> str:
    """The address of this machine that a name is for; empty where `host` is an address.

    Raises:
        Fatal: nobody knows the name, or nobody else reaches what it is the name of.
    """
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return ""
    if without_localhost(host) != host:
        return LOOPBACK
    try:
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError) as fault:
        raise Fatal(
            f"--host {host}: the name is not known here", hint="give an address, or put it into /etc/hosts"
        ) from fault
    abroad = [one for one in found if not ipaddress.ip_address(one).is_loopback]
    if not abroad:
        raise Fatal(
            f"--host {host} is {found[0]} here, where no other machine gets",
            hint="give this machine's own address, or mend /etc/hosts",
        )
    return abroad[0]


def _free(address: str) -> bool:
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do; connections of the last run that linger in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as fault:
            if fault.errno != errno.EADDRINUSE:  # no such address here, or a port not for us
                raise Fatal(f"cannot listen on {address}: {fault.strerror}") from fault
            return False
    return True


def listening() -> dict[int, int]:
    """The process that listens on each port, as far as we may know."""
    found = {}
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr
            if listens and connection.pid:
                found[listens.port] = connection.pid
    return found


def holders(pids: Mapping[int, int]) -> dict[int, str]:
    """The same in words, for a message."""
    found = {}
    for port, pid in pids.items():
        with contextlib.suppress(psutil.Error):
            found[port] = f" (by {psutil.Process(pid).name()}, process {pid})"
    return found


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
