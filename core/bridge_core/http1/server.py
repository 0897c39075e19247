"""Listening for HTTP/1.1: one `Server` a listener, one coarse timer for all its connections."""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import socket
import ssl as ssl_module
from collections.abc import Callable
from typing import Any, Final

from bridge_core.accepting import Acceptor, bound
from bridge_core.addresses import join_address
from bridge_core.errors import Fatal
from bridge_core.http1.connection import ServerConnection
from bridge_core.http1.exchange import App
from bridge_core.http1.limits import HttpLimits
from bridge_core.http1.listening import ErrorBody, Identify, Listening, OpenConnection
from bridge_core.http1.request import Request

_BACKLOG: Final = 1024
_HANDSHAKES_S: Final = 1.0  # for those under way when the server closes


def json_error(status: int, message: str, path: str) -> tuple[bytes, bytes]:
    """The default error body, in Ollama's shape: (content type, body)."""
    return b"application/json; charset=utf-8", json.dumps({"error": message}).encode("utf-8")


class Server(Listening):
    """A listener and its connections; make it with `serve`.

    Attributes:
        port: The TCP port it listens on (0 for a socket without).
    """

    def __init__(
        self,
        app: App,
        *,
        name: str,
        limits: HttpLimits,
        stream_body: Callable[[Request], bool] | None,
        identify: Identify | None,
        error_body: ErrorBody,
        varying: frozenset[bytes],
    ) -> None:
        super().__init__(
            app,
            name=name,
            limits=limits,
            stream_body=stream_body,
            identify=identify,
            error_body=error_body,
            varying=varying,
        )
        self.port = 0
        self._loop = asyncio.get_running_loop()
        self._listener: asyncio.Server | None = None
        self._acceptor: Acceptor | None = None
        shortest = min(limits.head_s, limits.body_idle_s, limits.keep_alive_s, limits.linger_s)
        self._tick_s = max(0.01, min(1.0, shortest / 4))
        self._timer: asyncio.TimerHandle | None = None
        self._tick()

    def listening(self, listener: asyncio.Server) -> None:
        """Takes over the listening sockets."""
        self._listener = listener
        taken: Any = listener  # its sockets: a tuple, as its type says, and uvloop's a list
        address = taken.sockets[0].getsockname()
        self.port = address[1] if isinstance(address, tuple) else 0

    def listening_tls(
        self,
        sock: socket.socket,
        context: ssl_module.SSLContext,
        refused: Callable[[str], None] | None = None,
    ) -> None:
        """Takes over a bound socket, and accepts TLS connections on it; see `Acceptor` for `refused`."""
        address = sock.getsockname()
        self.port = address[1] if isinstance(address, tuple) else 0
        limits = self.limits
        self._acceptor = Acceptor(
            sock,
            context,
            lambda: ServerConnection(self),
            name=self.name,
            most=limits.strangers,
            each=limits.strangers_each,
            handshake_s=limits.head_s,
            refused=refused,
        )

    @property
    def strangers(self) -> int:
        """Connections of a TLS listener that have not shown who they are."""
        return 0 if self._acceptor is None else self._acceptor.strangers

    def known(self, connection: OpenConnection) -> None:
        """A connection without a certificate turned out to be of somebody known."""
        if self._acceptor is not None and isinstance(connection, ServerConnection):
            self._acceptor.left(connection)

    def remove(self, connection: OpenConnection) -> None:
        """A connection has ended."""
        super().remove(connection)
        if self._acceptor is not None and isinstance(connection, ServerConnection):
            self._acceptor.left(connection)

    def leave(self) -> None:
        """Answers from now on say `Connection: close`: who keeps a connection connects anew, where it may
        find another server. Nobody is turned away, so that no request meets a connection that just ends.
        """
        self.leaving = True

    def retire(self) -> None:
        """Stops accepting and closes idle connections; answers from now on say `Connection: close`.

        A listening socket that another process holds as well goes on queueing connections for that.
        """
        self.closing = True
        if self._listener is not None:
            self._listener.close()
        if self._acceptor is not None:
            self._acceptor.retire()
        for connection in list(self.connections):
            connection.drain()

    async def close(self, grace_s: float = 0.0) -> None:
        """Stops accepting, lets answers under way finish, and cuts what is left after `grace_s`."""
        self.retire()
        if self._acceptor is not None:
            await self._acceptor.close(min(grace_s, _HANDSHAKES_S))
        if not await self._emptied(grace_s):
            for connection in list(self.connections):
                connection.cut()
            await self._emptied(1.0)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _emptied(self, within_s: float) -> bool:
        if not self.connections:
            return True
        self._empty = self._loop.create_future()
        done, _ = await asyncio.wait([self._empty], timeout=within_s)
        return bool(done)

    def _tick(self) -> None:
        # First, so that a fault below cannot end all time limits.
        self._timer = self._loop.call_later(self._tick_s, self._tick)
        self.now = now = self._loop.time()
        self.date_line = b"date: %b\r\n" % email.utils.formatdate(usegmt=True).encode("ascii")
        for connection in list(self.connections):
            if connection.deadline <= now:
                connection.expire(now)
            else:
                connection.too_slow(now)


async def serve(
    app: App,
    *,
    name: str,
    host: str = "127.0.0.1",
    port: int = 0,
    sock: socket.socket | None = None,
    ssl: ssl_module.SSLContext | None = None,
    limits: HttpLimits | None = None,
    stream_body: Callable[[Request], bool] | None = None,
    identify: Identify | None = None,
    error_body: ErrorBody = json_error,
    varying: frozenset[bytes] = frozenset(),
    handshake_refused: Callable[[str], None] | None = None,
) -> Server:
    """Listens and serves `app` until `Server.close`.

    Args:
        app: Called with each `Exchange` once its request is complete; must not block.
        name: The listener's name, for logs and `Request.listener`.
        host: Address to listen on, unless `sock` is given.
        port: Port to listen on; 0 picks a free one (see `Server.port`).
        sock: A bound socket to listen on instead.
        ssl: Serve TLS.
        limits: What is accepted; the defaults of `HttpLimits`.
        stream_body: Asked once a head is there: True calls the app at once, with the body to be
            read through `Request.body_parts`; such a body has no size limit.
        identify: Gives the identity of a TLS client; asked once a connection.
        error_body: Renders refusals: `(status, message, path) -> (content type, body)`.
        varying: Names of fields that differ from one request of a connection to the next: a head that
            differs in their values alone is known again, and shares `Request.memo`.
        handshake_refused: Told the address of each handshake that TLS refused.

    Raises:
        Fatal: the address cannot be bound.
    """
    loop = asyncio.get_running_loop()
    server = Server(
        app,
        name=name,
        limits=limits or HttpLimits(),
        stream_body=stream_body,
        identify=identify,
        error_body=error_body,
        varying=varying,
    )

    def accept() -> ServerConnection:
        return ServerConnection(server)

    try:
        if ssl is not None:
            server.listening_tls(sock or bound(host, port), ssl, handshake_refused)
        elif sock is not None:
            server.listening(await loop.create_server(accept, sock=sock, backlog=_BACKLOG))
        else:
            server.listening(await loop.create_server(accept, host, port, backlog=_BACKLOG))
    except OSError as fault:  # what waits comes behind it: docs/adr/compiled-hot-path.md
        refused = fault
    else:
        return server
    await server.close()
    where = join_address(host, port) if sock is None else "the given socket"
    raise Fatal(
        f"cannot listen on {where} for {name}: {os.strerror(refused.errno) if refused.errno else refused}",
        hint="another program may use the port; choose another one",
    ) from refused
