"""A pool of connections to one server, and the requests that wait for one."""

from __future__ import annotations

import asyncio
import socket
import ssl as ssl_module
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable

import structlog

from bridge_core.addresses import without_localhost
from bridge_core.errors import BridgeError
from bridge_core.http1.client import AT_ONCE, ClientConnection, ClientExchange, ResponseSink
from bridge_core.http1.errors import ConnectFailed, PoolBusy, PoolClosed, UpstreamError
from bridge_core.http1.headers import Pair
from bridge_core.http1.limits import PoolLimits
from bridge_core.http1.response import RequestContext

log = structlog.get_logger()

Address = tuple[str, int] | str | Callable[[], Awaitable[socket.socket]]
VerifyPeer = Callable[[ssl_module.SSLObject], None]


class Pool:
    """Keep-alive connections to one server; most recently used first.

    A request on a reused connection that closes without a byte of answer, soon after the request
    was sent, lost a race against the server's keep-alive time-out: it is sent once more on another
    connection. Everything else that fails is reported.

    Args:
        address: (host, port), the path of a Unix socket, or what makes a connected socket.
        ssl: Speak TLS.
        server_hostname: The name to verify; the host of `address` by default.
        verify_peer: Looks at the TLS peer of each new connection; raises BridgeError to refuse it.
        host: The Host field of requests that bring none; host and port of `address` by default.
        label: What the server is called in messages; `host` by default.
        limits: See `PoolLimits`.
        varying: Names of fields that differ from one answer of a connection to the next: a head that
            differs in their values alone is known again.
    """

    def __init__(
        self,
        address: Address,
        *,
        ssl: ssl_module.SSLContext | None = None,
        server_hostname: str | None = None,
        verify_peer: VerifyPeer | None = None,
        host: bytes | None = None,
        label: str | None = None,
        limits: PoolLimits | None = None,
        varying: frozenset[bytes] = frozenset(),
    ) -> None:
        self.varying = varying
        self.address = address
        self.limits = limits or PoolLimits()
        self.host = host if host is not None else _host_of(address)
        self.label = label if label is not None else self.host.decode("latin-1")
        self.closed = False
        self._ssl = ssl
        self._server_hostname = server_hostname
        self._verify_peer = verify_peer
        self._idle: list[ClientConnection] = []
        self._open: set[ClientConnection] = set()
        self._waiting: deque[ClientExchange] = deque()
        self._connecting: set[asyncio.Task[None]] = set()
        self._reaper: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def size(self) -> int:
        """How many connections are open or being opened."""
        return len(self._open) + len(self._connecting)

    @property
    def idle(self) -> int:
        """How many connections are idle."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """How many requests wait for a connection."""
        return len(self._waiting)

    def send(
        self,
        data: bytes,
        sink: ResponseSink,
        *,
        more: bool = False,
        chunked: bool = False,
        body: bytes | None = None,
    ) -> ClientExchange:
        """Sends a serialised request and lets `sink` take the answer.

        Args:
            data: Head and body, or the head and the first of the body.
            sink: Takes the answer; never called before this returns.
            more: The body goes on with `ClientExchange.write` and ends with `finish`.
            chunked: Those parts are to be written as chunks.
            body: What follows `data` where that is the head alone: a large body is not copied, and is
                written in pieces.

        Raises:
            PoolBusy: too many requests wait.
            PoolClosed: the pool was closed.
        """
        if self.closed:
            raise PoolClosed(f"the pool of {self.label} is closed")
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        exchange = ClientExchange(self, data, sink, self._loop.time())
        if more:
            exchange.more, exchange.chunked = True, chunked
        elif body is not None:
            exchange.body = body
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.usable:
                connection.start(exchange)
                return exchange
        if len(self._waiting) >= self.limits.waiting:
            raise PoolBusy(f"{len(self._waiting)} requests wait for a connection to {self.label}")
        self._waiting.append(exchange)
        self._connect_for_waiting()
        return exchange

    def send_whole(self, head: bytes, body: bytes, sink: ResponseSink) -> ClientExchange:
        """As `send`, of a head and a body that may be large."""
        if len(body) > AT_ONCE:
            return self.send(head, sink, body=body)
        return self.send(head + body, sink)

    def request(
        self,
        method: str,
        target: str | bytes,
        headers: Iterable[Pair] = (),
        body: bytes | AsyncIterable[bytes] | None = None,
        *,
        timeout_head: float | None = None,
    ) -> RequestContext:
        """Sends a request; use as `async with pool.request(…) as response`.

        Args:
            method: Upper case.
            target: Path and query.
            headers: Fields with lower-case names; Host and the framing are added.
            body: The whole body, or its parts (sent chunked).
            timeout_head: Seconds until the head of the answer must be there.

        Raises:
            UpstreamError: on entering or while reading; see `bridge_core.http1.errors`.
            ResponseTimeout: `timeout_head` passed.
        """
        return RequestContext(self, method, target, headers, body, timeout_s=timeout_head)

    async def close(self) -> None:
        """Closes every connection; requests under way and waiting fail."""
        self.closed = True
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        tasks = list(self._connecting)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        while self._waiting:
            self._fail_next(PoolClosed(f"the pool of {self.label} is closed"))
        self._idle.clear()
        for connection in list(self._open):
            connection.close_now(PoolClosed(f"the pool of {self.label} is closed"))

    # -- for connections and exchanges

    def release(self, connection: ClientConnection) -> None:
        """A connection's answer is whole and the connection can take another request."""
        if self.closed:
            connection.close()
        elif self._waiting and connection.usable and (exchange := self._next_for(connection)) is not None:
            connection.start(exchange)
        elif len(self._idle) >= self.limits.idle:
            connection.close()
        else:
            self._idle.append(connection)
            if self._loop is not None:
                connection.idle_since = self._loop.time()
                if self._reaper is None:
                    self._reaper = self._loop.call_later(self.limits.idle_s / 2, self._reap)

    def _next_for(self, connection: ClientConnection) -> ClientExchange | None:
        """Takes the first waiting request that may go on `connection`.

        One that has lost a keep-alive race gets a new connection: on another used one it could
        lose again, as against llama.cpp's server, which closes half of those it offers to keep.
        """
        for at, exchange in enumerate(self._waiting):
            if not exchange.retried or not connection.requests:
                del self._waiting[at]
                return exchange
        return None

    def lost(self, connection: ClientConnection) -> None:
        """A connection has ended."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._waiting and not self.closed:
            self._connect_for_waiting()

    def forget(self, exchange: ClientExchange) -> None:
        """A waiting request was cancelled."""
        if exchange in self._waiting:
            self._waiting.remove(exchange)

    def send_again(self, exchange: ClientExchange) -> bool:
        """Sends a request once more if it lost a keep-alive race; says whether."""
        if self.closed or self._loop is None or exchange.more or exchange.retried or not exchange.data:
            return False
        if self._loop.time() - exchange.sent_at > self.limits.race_s:
            return False
        exchange.retried = True
        exchange.connection = None
        # The others have been idle for longer still; a restarted server has closed them all.
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        self._waiting.appendleft(exchange)
        self._connect_for_waiting()
        return True

    # -- connecting

    def _connect_for_waiting(self) -> None:
        """Opens connections until each waiting request has one under way, or the bound is met."""
        while len(self._connecting) < len(self._waiting) and self.size < self.limits.connections:
            task = asyncio.ensure_future(self._connect())
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self) -> None:
        """Opens one connection and gives it work; the pool is this task's parent."""
        failure: UpstreamError | None = None
        connection: ClientConnection | None = None
        try:
            async with asyncio.timeout(self.limits.connect_s):
                connection = await self._open_connection()
        except TimeoutError:
            failure = ConnectFailed(f"connecting to {self.label} took over {self.limits.connect_s:g} s")
        except BridgeError as fault:
            failure = ConnectFailed(fault.message, hint=fault.hint)
        except OSError as refused:  # ssl.SSLError is one
            failure = ConnectFailed(f"cannot connect to {self.label}: {_reason(refused)}")
        except Exception:  # the task's root
            log.exception("http_connect_failed", upstream=self.label)
            failure = ConnectFailed(f"cannot connect to {self.label}: internal error")
        task = asyncio.current_task()
        if task is not None:
            self._connecting.discard(task)
        if connection is not None and connection.usable:
            self._open.add(connection)
            self.release(connection)
        elif self._waiting:
            self._fail_next(failure or ConnectFailed(f"{self.label} closed the connection at once"))
            self._connect_for_waiting()

    async def _open_connection(self) -> ClientConnection:
        loop = asyncio.get_running_loop()
        address = self.address

        def make() -> ClientConnection:
            return ClientConnection(self)

        hostname = self._server_hostname
        if self._ssl is not None and hostname is None:
            hostname = address[0] if isinstance(address, tuple) else ""
        if isinstance(address, tuple):
            transport, connection = await loop.create_connection(
                make, without_localhost(address[0]), address[1], ssl=self._ssl, server_hostname=hostname
            )
        elif isinstance(address, str):
            transport, connection = await loop.create_unix_connection(
                make, address, ssl=self._ssl, server_hostname=hostname
            )
        else:
            sock = await address()
            transport, connection = await loop.create_connection(
                make, sock=sock, ssl=self._ssl, server_hostname=hostname
            )
        if isinstance(address, tuple) and self.limits.silence_s > 0:
            _notice_silence(transport.get_extra_info("socket"), self.limits.silence_s)
        if self._verify_peer is not None and self._ssl is not None:
            try:
                self._verify_peer(transport.get_extra_info("ssl_object"))
            except BaseException:
                transport.abort()
                raise
        return connection

    def _fail_next(self, error: UpstreamError) -> None:
        exchange = self._waiting.popleft()
        exchange.done = True
        exchange.sink.on_error(error)

    def _reap(self) -> None:
        """Closes what has been idle for too long."""
        self._reaper = None
        if self._loop is None or self.closed:
            return
        oldest = self._loop.time() - self.limits.idle_s
        expired = [connection for connection in self._idle if connection.idle_since <= oldest]
        if expired:
            self._idle = [connection for connection in self._idle if connection.idle_since > oldest]
            for connection in expired:
                connection.close()
        if self._idle:
            self._reaper = self._loop.call_later(self.limits.idle_s / 2, self._reap)


def _host_of(address: Address) -> bytes:
    if isinstance(address, tuple):
        host, port = address
        return f"[{host}]:{port}".encode() if ":" in host else f"{host}:{port}".encode()
    return b"localhost"


def _reason(fault: OSError) -> str:
    if isinstance(fault, ssl_module.SSLError):
        return f"TLS: {fault.reason or fault}".lower().replace("_", " ")
    return fault.strerror or str(fault) or type(fault).__name__


def _notice_silence(sock: socket.socket, after_s: float) -> None:
    """Has the kernel end a connection whose other machine is gone: no FIN comes from there."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, int(after_s / 2)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(after_s * 1000))
