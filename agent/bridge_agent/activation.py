"""Sockets that systemd opened for this process (sd_listen_fds), so that they outlive it."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

import structlog

log = structlog.get_logger()

_FIRST = 3


def named_descriptors(environment: MutableMapping[str, str], pid: int) -> list[tuple[str, int]]:
    """Names and descriptors that were handed to process `pid`.

    The variables are taken out of the environment, whoever they were meant for: what this process
    starts must not take our descriptors for its own.
    """
    count, meant = environment.pop("LISTEN_FDS", ""), environment.pop("LISTEN_PID", "")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    if meant != str(pid) or not count.isdecimal():
        return []
    return [
        (names[index] if index < len(names) else "", _FIRST + index) for index in range(min(int(count), 1024))
    ]


def inherited_sockets(wanted: tuple[str, ...]) -> dict[str, socket.socket]:
    """The listening sockets that systemd opened, by the name of their unit (FileDescriptorName=).

    Args:
        wanted: The names that mean something; any other socket is closed, and that is logged.
    """
    found: dict[str, socket.socket] = {}
    for name, handle in named_descriptors(os.environ, os.getpid()):
        try:
            sock = socket.socket(fileno=handle)
        except OSError as fault:
            log.warning("inherited_descriptor_unusable", name=name, reason=fault.strerror)
            continue
        if name not in wanted or name in found or not _listens(sock):
            log.warning("inherited_socket_unknown", name=name, known=wanted)
            sock.close()
            continue
        sock.setblocking(False)
        sock.set_inheritable(False)
        found[name] = sock
    return found


def _listens(sock: socket.socket) -> bool:
    return (
        sock.type == socket.SOCK_STREAM
        and sock.family in {socket.AF_INET, socket.AF_INET6}
        and bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    )
