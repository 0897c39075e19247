"""Taking connections off a TLS listener: who has not proven yet who it is may hold little.

A connection is a stranger from when it is accepted until the handshake has shown a certificate of
somebody known, or a request on it a key; without either it stays a stranger. Rules:

1. There are so many strangers in all, and so many from one address. One more ends the one that has been
   there longest: an honest client is done in milliseconds, and so not the one that goes.
2. A handshake has a time limit.
3. Without a descriptor to spare nothing is accepted for a moment; nothing else is harmed.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl as ssl_module
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from bridge_core.addresses import source_of

log = structlog.get_logger()

_BACKLOG: Final = 1024
_AT_ONCE: Final = 64  # accepted before others get their turn
_PAUSE_S: Final = 0.5
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Newcomer(Protocol):
    """The protocol of an accepted connection."""

    @property
    def known(self) -> bool:
        """Whether it has shown who it is, once it is made."""

    @property
    def open(self) -> bool:
        """Whether it was made and has not ended."""

    def cut(self) -> None:
        """Ends it."""


class _Stranger:
    """An accepted connection, with its handshake's task and then with what it became."""

    __slots__ = ("address", "connection", "source", "task")

    def __init__(self, address: str) -> None:
        self.address = address
        self.source = source_of(address)
        self.task: asyncio.Task[None] | None = None
        self.connection: Newcomer | None = None


class Acceptor:
    """Accepts on a socket, and takes what it accepts through the handshake.

    Raises:
        OSError: the socket cannot listen.

    Args:
        sock: A bound socket; the acceptor's own from now on.
        context: The listener's.
        make: A connection for whoever is let in.
        name: The listener's, for the log.
        most: How many strangers there may be.
        each: How many of one address.
        handshake_s: How long a handshake may take.
        goodbye_s: How long an end is waited for that the other side confirms; None: as long as the loop does.
        refused: Told the address of each handshake that TLS refused: a certificate that does not
            count, an older version.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: ssl_module.SSLContext,
        make: Callable[[], Newcomer],
        *,
        name: str,
        most: int,
        each: int,
        handshake_s: float,
        goodbye_s: float | None = None,
        refused: Callable[[str], None] | None = None,
    ) -> None:
        self._sock = sock
        self._context = context
        self._make = make
        self._name = name
        self._most = most
        self._each = each
        self._handshake_s = handshake_s
        self._goodbye_s = goodbye_s
        self._refused = refused
        self._loop = asyncio.get_running_loop()
        self._strangers: dict[_Stranger, None] = {}  # those that came first, first
        self._by_source: dict[str, dict[_Stranger, None]] = {}
        self._known: dict[Newcomer, _Stranger] = {}
        self._pause: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        sock.listen(_BACKLOG)
        self._loop.add_reader(sock, self._accept)

    @property
    def port(self) -> int:
        """The TCP port."""
        return int(self._sock.getsockname()[1])

    @property
    def strangers(self) -> int:
        """How many there are now."""
        return len(self._strangers)

    def retire(self) -> None:
        """Accepts no more; handshakes go on."""
        if self._sock.fileno() >= 0:
            if self._pause is not None:
                self._pause.cancel()
            self._loop.remove_reader(self._sock)
            self._sock.close()

    async def close(self, grace_s: float = 0.0) -> None:
        """Accepts no more, and ends the handshakes that are not done after `grace_s`."""
        self.retire()
        tasks = [one.task for one in self._strangers if one.task is not None]
        if tasks and grace_s > 0:
            await asyncio.wait(tasks, timeout=grace_s)
            tasks = [task for task in tasks if not task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def left(self, connection: Newcomer) -> None:
        """A connection has ended, or is a stranger no more."""
        stranger = self._known.pop(connection, None)
        if stranger is not None:
            self._forget(stranger)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                sock, address = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as fault:
                if fault.errno in _EXHAUSTED:
                    log.warning("listener_paused", listener=self._name, reason=fault.strerror)
                    self._loop.remove_reader(self._sock)
                    self._pause = self._loop.call_later(_PAUSE_S, self._resume)
                    return
                continue  # this one broke off before it was accepted
            sock.setblocking(False)
            stranger = _Stranger(address[0] if isinstance(address, tuple) else "")
            self._make_room(stranger.source)
            self._strangers[stranger] = None
            self._by_source.setdefault(stranger.source, {})[stranger] = None
            stranger.task = self._loop.create_task(self._let_in(sock, stranger))

    def _resume(self) -> None:
        self._loop.add_reader(self._sock, self._accept)

    def _make_room(self, source: str) -> None:
        same = self._by_source.get(source, {})
        if len(same) >= self._each:
            self._end(next(iter(same)))
        elif len(self._strangers) >= self._most:
            self._end(next(iter(self._strangers)))

    def _end(self, stranger: _Stranger) -> None:
        self._forget(stranger)
        if stranger.connection is not None:
            self._known.pop(stranger.connection, None)
            stranger.connection.cut()
        elif stranger.task is not None:
            stranger.task.cancel()

    def _forget(self, stranger: _Stranger) -> None:
        self._strangers.pop(stranger, None)
        same = self._by_source.get(stranger.source)
        if same is not None:
            same.pop(stranger, None)
            if not same:
                del self._by_source[stranger.source]

    async def _let_in(self, sock: socket.socket, stranger: _Stranger) -> None:
        connection = self._make()
        try:
            await self._loop.connect_accepted_socket(
                lambda: connection,  # type: ignore[type-var]  # each is a protocol of asyncio's
                sock,
                ssl=self._context,
                ssl_handshake_timeout=self._handshake_s,
                ssl_shutdown_timeout=self._goodbye_s,
            )
        except OSError as fault:  # ssl.SSLError and TimeoutError are such
            log.debug("handshake_failed", listener=self._name, remote=stranger.source, reason=str(fault))
            self._forget(stranger)
            # Who goes away in the middle, as a look at a port does, was not refused.
            if self._refused is not None and isinstance(fault, ssl_module.SSLError) and not _left(fault):
                self._refused(stranger.address)
        except BaseException:
            self._forget(stranger)
            raise
        else:
            stranger.task = None
            if connection.known or not connection.open:  # its first request may have been quicker
                self._forget(stranger)
            else:
                stranger.connection = connection
                self._known[connection] = stranger


def _left(fault: ssl_module.SSLError) -> bool:
    return isinstance(fault, ssl_module.SSLEOFError | ssl_module.SSLZeroReturnError)


def bound(host: str, port: int) -> socket.socket:
    """A socket for an acceptor.

    Raises:
        OSError: the port is taken, or the address is not this machine's.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        # A port that an earlier process has just left is free, one that somebody listens on is not.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock
