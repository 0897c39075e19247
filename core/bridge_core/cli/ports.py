"""Finding taken ports before anything is started, and naming who holds them."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterable

import psutil

from bridge_core.errors import Fatal


def check_free(wanted: Iterable[tuple[str, str]]) -> None:
    """Makes sure that every (what, host:port) can be listened on.

    Raises:
        Fatal: some are taken; all are named, with who holds them and the flag that moves them.
    """
    taken = [(what, address) for what, address in wanted if not _free(address)]
    if not taken:
        return
    words = "; ".join(f"{address} for {what}{_holder(address)}" for what, address in taken)
    raise Fatal(
        f"taken: {words}",
        hint="`bridge up --base-port PORT` moves all ports of the mesh (node1's HTTP port is PORT)",
    )


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


def _holder(address: str) -> str:
    port = int(address.rpartition(":")[2])
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr
            if listens and listens.port == port and connection.pid:
                return f" (by {psutil.Process(connection.pid).name()}, process {connection.pid})"
    return ""
