"""The registry's TLS listener, with the gRPC server behind it on a private socket.

One port serves callers with a client certificate and, for Join, callers without: gRPC's own
listener can only demand certificates or ignore them, takes TLS 1.2, and keeps its certificate for
life. So TLS ends here, and every connection goes on to gRPC through a Unix socket in a folder of
mode 0700, from an end with a path of its own; gRPC names that path as the peer, and `caller` knows
who is behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import socket
import ssl
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, cast

import msgspec
import structlog

from bridge_core.accepting import Acceptor, bound
from bridge_core.errors import Fatal
from bridge_core.identity.spiffe import SpiffeId
from bridge_core.tls import Peer, peer

log = structlog.get_logger()

_CHUNK: Final = 64 * 1024
_HANDSHAKE_S: Final = 10.0
_GOODBYE_S: Final = 0.5
_LONGEST_FOLDER: Final = 90  # a Unix socket's whole path has 107 bytes
_MAX_CONNECTIONS: Final = 8192
_STRANGERS: Final = 512  # who show no certificate: nodes that join, and whoever else comes
_STRANGERS_EACH: Final = 64


class RpcCaller(msgspec.Struct, frozen=True):
    """Who is at the other end of a connection. `peer` is None without a client certificate."""

    remote: str
    peer: Peer | None


class TlsFront:
    """See the module. `serve` may be called once; `close` ends it.

    Args:
        folder: Of its own, for the private sockets; emptied now. One elsewhere is taken when the
            path is too long for a socket's.
        flag: What moves its listener, for a message.
        most_each: Connections that one identity may hold.
    """

    def __init__(self, folder: Path, *, flag: str = "--grpc", most_each: int = _MAX_CONNECTIONS) -> None:
        if len(os.fsencode(folder.absolute())) > _LONGEST_FOLDER:
            folder = Path(tempfile.mkdtemp(prefix="bridge-registry-"))
        shutil.rmtree(folder, ignore_errors=True)  # what a killed registry left
        folder.mkdir(mode=0o700, parents=True)
        self._folder = folder.absolute()
        self._flag = flag
        self._most_each = most_each
        self._held: Counter[SpiffeId | None] = Counter()
        self._callers: dict[str, RpcCaller] = {}
        self._numbers = itertools.count()
        self._acceptor: Acceptor | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def inner_target(self) -> str:
        """Where the gRPC server has to listen."""
        return f"unix:{self._folder / 'grpc'}"

    @property
    def port(self) -> int:
        """The port that `serve` listens on; 0 before."""
        return self._acceptor.port if self._acceptor is not None else 0

    def caller(self, grpc_peer: str) -> RpcCaller:
        """Who made the call of which gRPC says that it came from `grpc_peer`."""
        return self._callers.get(grpc_peer.removeprefix("unix:"), RpcCaller("unknown", None))

    async def serve(self, host: str, port: int, context: ssl.SSLContext) -> None:
        """Listens on host:port (0: any) from now on.

        Raises:
            Fatal: the port is taken or the address is not this machine's.
        """
        context.set_alpn_protocols(["h2"])
        try:
            self._acceptor = Acceptor(
                bound(host, port),
                context,
                lambda: _Connection(self._accept, self._left),
                name="registry",
                most=_STRANGERS,
                each=_STRANGERS_EACH,
                handshake_s=_HANDSHAKE_S,
                # gRPC hangs up without TLS's goodbye; asyncio would wait 30 s for it.
                goodbye_s=_GOODBYE_S,
            )
        except OSError as fault:
            raise Fatal(
                f"cannot listen on {host}:{port}: {os.strerror(fault.errno) if fault.errno else fault}",
                hint=f"move it with {self._flag} HOST:PORT",
            ) from fault

    async def close(self) -> None:
        """Stops listening and cuts every connection."""
        if self._acceptor is not None:
            await self._acceptor.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _left(self, connection: _Connection) -> None:
        if self._acceptor is not None:
            self._acceptor.left(connection)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a stream callback is a task
        self._connections.add(task)
        remote = _remote(writer)  # not to be asked of a connection that has ended
        try:
            if len(self._connections) <= _MAX_CONNECTIONS:
                await self._forward(reader, writer)
            if not writer.is_closing():
                writer.close()
            await writer.wait_closed()
        except OSError as fault:  # ssl.SSLError is one
            log.debug("registry_connection_cut", remote=remote, reason=fault.strerror)
        except asyncio.CancelledError:
            # From `close` alone, which waits for this task. A polite end would wait for a peer that
            # may be stopped; and a stream callback that ends cancelled is reported as a fault.
            pass
        finally:
            # The goodbye belongs to the connection: one that `close` does not see outlives the loop.
            writer.transport.abort()
            self._connections.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found = peer(writer.get_extra_info("ssl_object"))
        identity = found.identity if found is not None else None
        if self._held[identity] >= self._most_each:
            log.debug("registry_connection_refused", remote=_remote(writer), identity=str(identity))
            return
        path = str(self._folder / f"c{next(self._numbers)}")
        self._callers[path] = RpcCaller(_remote(writer), found)
        self._held[identity] += 1
        inner: asyncio.StreamWriter | None = None
        end = socket.socket(socket.AF_UNIX)
        try:
            end.setblocking(False)
            end.bind(path)
            await asyncio.get_running_loop().sock_connect(end, str(self._folder / "grpc"))
            inner_reader, inner = await asyncio.open_unix_connection(sock=end)
            async with asyncio.TaskGroup() as group:
                pumps = (
                    group.create_task(_pump(reader, inner)),
                    group.create_task(_pump(inner_reader, writer)),
                )
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                for pump in pumps:
                    pump.cancel()
        finally:
            del self._callers[path]
            self._held[identity] -= 1
            if not self._held[identity]:
                del self._held[identity]
            with contextlib.suppress(OSError):
                os.unlink(path)  # noqa: PTH108 - one name, not worth a thread
            if inner is not None:
                inner.close()
            else:
                end.close()


class _Connection(asyncio.StreamReaderProtocol):
    """A stream of the front; see `Newcomer`."""

    def __init__(
        self,
        accepted: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
        left: Callable[[_Connection], None],
    ) -> None:
        super().__init__(asyncio.StreamReader(), accepted)
        self._on_left = left
        self._wire: asyncio.Transport | None = None
        self.known = False

    @property
    def open(self) -> bool:
        return self._wire is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = cast("asyncio.Transport", transport)
        self.known = peer(transport.get_extra_info("ssl_object")) is not None
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wire = None
        super().connection_lost(exc)
        self._on_left(self)

    def cut(self) -> None:
        if self._wire is not None:
            self._wire.abort()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    # A broken connection ends its pump, which ends the other: nothing is to be done about it.
    with contextlib.suppress(OSError, ssl.SSLError):
        while data := await source.read(_CHUNK):
            sink.write(data)
            await sink.drain()


def _remote(writer: asyncio.StreamWriter) -> str:
    name = writer.get_extra_info("peername")
    return f"{name[0]}:{name[1]}" if name else "unknown"
