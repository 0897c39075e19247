"""The agent's five listeners: bound before anything else starts, closed after everything drained."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import resource
import socket
from collections.abc import Mapping

import structlog

from bridge_agent.config import Listeners
from bridge_core.addresses import join_address, split_address
from bridge_core.errors import Fatal
from bridge_core.http1 import HttpLimits, Server

log = structlog.get_logger()

NAMES = ("http", "https", "grpc", "peer", "admin")
_DESCRIPTORS = 65_536  # as many as the program asks for, where it may
# Of ten descriptors, who may take how many: what is left is for engines, peers, the registry and files.
_TENTHS = {"http": 2, "https": 2, "grpc": 1, "peer": 2}
_ADMIN_CONNECTIONS = 64
_ADMIN_BODY = 64 * 1024  # its pages take none


def bind_all(
    listeners: Listeners, inherited: Mapping[str, socket.socket] | None = None
) -> dict[str, socket.socket]:
    """A bound socket for each listener.

    Args:
        listeners: Where to bind.
        inherited: Sockets that systemd has bound already, by listener; these are taken as they are.

    Raises:
        Fatal: a port is taken or an address is not this machine's; names the flag that moves it.
    """
    bound: dict[str, socket.socket] = dict(inherited or {})
    for name, sock in bound.items():
        if (wanted := getattr(listeners, name)) != address_of(sock):
            log.warning("listener_given_by_systemd", listener=name, settings=wanted, address=address_of(sock))
    try:
        for name in NAMES:
            if name not in bound:
                bound[name] = _bind(name, getattr(listeners, name))
    except BaseException:
        for sock in bound.values():
            sock.close()
        raise
    return bound


def raise_descriptors() -> None:
    """Asks the system for the descriptors that many connections need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def connections_of(name: str) -> int:
    """How many connections a listener may have: never so many that none are left for the agent itself."""
    if name == "admin":
        return _ADMIN_CONNECTIONS
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (_DESCRIPTORS if soft == resource.RLIM_INFINITY else min(soft, _DESCRIPTORS)) * _TENTHS[name] // 10


def limits_of(name: str) -> HttpLimits:
    """What a listener accepts."""
    usual, connections = HttpLimits(), connections_of(name)
    strangers = min(usual.strangers, connections // 4)
    return dataclasses.replace(
        usual,
        connections=connections,
        strangers=strangers,
        strangers_each=min(usual.strangers_each, strangers // 4),
        body=_ADMIN_BODY if name == "admin" else usual.body,
    )


def _bind(name: str, address: str) -> socket.socket:
    flag = f"--{name}"
    host, port = split_address(address, flag=flag)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # A port that our own earlier process has just left is free, one that somebody listens on is not.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind((host, port))
        sock.listen(1024)
    except OSError as fault:
        sock.close()
        if fault.errno == errno.EADDRINUSE:
            raise Fatal(
                f"{address} is taken by another program ({flag})", hint=f"move it with {flag} HOST:PORT"
            ) from fault
        raise Fatal(f"cannot listen on {address}: {fault.strerror}", hint=f"check {flag}") from fault
    return sock


def address_of(sock: socket.socket) -> str:
    """The "host:port" that a socket is bound to."""
    host, port, *_ = sock.getsockname()
    return join_address(host, port)


async def close_all(servers: list[Server], grace_s: float) -> None:
    """Stops accepting everywhere at once, finishes what runs, cuts what is left."""
    await asyncio.gather(*(server.close(grace_s) for server in servers))
