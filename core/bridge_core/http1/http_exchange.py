"""The exchange of a request that came over a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from bridge_core.errors import BridgeError
from bridge_core.http1.errors import Disconnected
from bridge_core.http1.headers import Pair
from bridge_core.http1.heads import LAST_CHUNK, BadHeader, response_head
from bridge_core.http1.listening import Listening
from bridge_core.http1.request import Request

_CHUNKED = b"transfer-encoding: chunked\r\n"
_CLOSE = b"connection: close\r\n"
_KEEP_ALIVE = b"connection: keep-alive\r\n"

_BODILESS = frozenset({204, 304})

# How the body of the answer is delimited.
_NOTHING, _LENGTH, _CHUNKS, _UNTIL_CLOSE = range(4)


class ExchangeConnection(Protocol):
    """The connection that an exchange's answer goes to."""

    server: Listening

    @property
    def date_line(self) -> bytes:
        """The Date field."""

    @property
    def write_paused(self) -> bool:
        """Whether the client's side is over its high-water mark."""

    def proven(self, identity: str) -> None:
        """Its present request has proven who sends it."""

    def exchange_done(self, exchange: HttpExchange) -> None:
        """Its answer is complete."""

    def cut(self) -> None:
        """Ends the connection, whatever it is doing."""

    def error_answer(self, status: int, message: str, path: str) -> tuple[list[Pair], bytes]:
        """Fields and body of an error in the listener's shape."""


class HttpExchange:
    """The exchange of a request that came over a connection; see `Exchange`."""

    __slots__ = (
        "_connection",
        "_drained",
        "_framing",
        "_head",
        "_left",
        "_write",
        "disconnected",
        "finished",
        "on_disconnect",
        "on_writable",
        "request",
        "sent",
        "started",
        "status",
    )

    def __init__(
        self, connection: ExchangeConnection, request: Request, write: Callable[[bytes], None]
    ) -> None:
        self.request = request
        self._connection = connection
        self._write = write
        self.started = False
        self.finished = False
        self.disconnected = False
        self.on_disconnect: Callable[[], None] | None = None
        self.on_writable: Callable[[bool], None] | None = None
        self.status = 0
        self.sent = 0
        self._drained: asyncio.Future[None] | None = None
        self._framing = _NOTHING
        self._head = b""
        self._left = 0

    def proven(self, identity: str) -> None:
        """See `Exchange.proven`."""
        self._connection.proven(identity)

    def respond(
        self,
        status: int,
        headers: Iterable[Pair] | bytes = (),
        body: bytes = b"",
        *,
        forwarded: bool = False,
    ) -> None:
        """See `Exchange`."""
        head = self._begin(status, headers, len(body), forwarded)
        if not head:
            return
        self.sent = len(body)
        self._write(head + body if self._framing == _LENGTH else head)
        self.finished = True
        self._connection.exchange_done(self)

    def start(
        self,
        status: int,
        headers: Iterable[Pair] | bytes = (),
        length: int | None = None,
        *,
        cork: bool = False,
        forwarded: bool = False,
    ) -> None:
        """See `Exchange`."""
        head = self._begin(status, headers, length, forwarded)
        if not head:
            return
        if cork:
            self._head = head
        else:
            self._write(head)

    def _begin(
        self, status: int, headers: Iterable[Pair] | bytes, length: int | None, forwarded: bool
    ) -> bytes:
        """The head of the answer; empty when the client is gone."""
        if self.started:
            raise RuntimeError("the answer was started already")
        if self.disconnected or self.finished:
            return b""
        framing = self._frame(status, length, self.request)
        if not forwarded:
            framing = self._connection.date_line + framing
        head = response_head(status, headers, framing)
        self.started = True
        self.status = status
        return head

    def _frame(self, status: int, length: int | None, request: Request) -> bytes:
        """Decides how the body is delimited and writes it down as header lines."""
        if status < 200:
            raise BadHeader(f"{status} is not a final status")
        server = self._connection.server
        keep = request.keep_alive and not (server.leaving or server.closing)
        if status in _BODILESS:
            framing = b""
        elif length is not None:
            framing = b"content-length: %d\r\n" % length
            if request.method != "HEAD":
                self._framing, self._left = _LENGTH, length
        elif request.minor:
            framing = _CHUNKED
            if request.method != "HEAD":
                self._framing = _CHUNKS
        else:
            framing, keep, self._framing = b"", False, _UNTIL_CLOSE
        if not keep:
            request.keep_alive = False
            return framing + _CLOSE
        return framing if request.minor else framing + _KEEP_ALIVE

    def write(self, data: bytes) -> None:
        """See `Exchange`: one call is one chunk."""
        if self.finished or self.disconnected or not data:
            return
        if not self.started:
            raise RuntimeError("write before start")
        framing = self._framing
        size = len(data)
        self.sent += size
        if framing == _CHUNKS:
            data = b"%x\r\n%b\r\n" % (size, data)
        elif framing == _LENGTH:
            self._left -= size
            if self._left < 0:
                self.abort()
                raise RuntimeError("more body than the announced length")
        elif framing == _NOTHING:
            return
        if self._head:
            data = self._head + data
            self._head = b""
        self._write(data)

    def flush(self) -> None:
        """See `Exchange`."""
        if self._head:
            head, self._head = self._head, b""
            self._write(head)

    def finish(self, data: bytes = b"") -> None:
        """See `Exchange`."""
        if self.finished or self.disconnected:
            return
        if not self.started:
            raise RuntimeError("finish before start")
        if self._framing == _CHUNKS:
            self.sent += len(data)
            last = b"%x\r\n%b\r\n%b" % (len(data), data, LAST_CHUNK) if data else LAST_CHUNK
            self._write(self._head + last if self._head else last)
        else:
            if data:
                self.write(data)
            if self._head:
                self._write(self._head)
                self._head = b""
            if self._left > 0:
                self.abort()
                return
        self.finished = True
        self._connection.exchange_done(self)

    def fail(self, status: int, message: str) -> None:
        """See `Exchange`."""
        if self.finished or self.disconnected:
            return
        if self._head:
            # Only held back so far: the client has seen nothing of it.
            self._head, self._framing, self._left, self.started = b"", _NOTHING, 0, False
        if self.started:
            self.abort()
            return
        pairs, body = self._connection.error_answer(status, message, self.request.path)
        self.respond(status, pairs, body)

    def abort(self) -> None:
        """See `Exchange`: the connection is cut."""
        if self.finished:
            return
        self.finished = True
        self._connection.cut()

    async def drain(self) -> None:
        """See `Exchange`."""
        if self.disconnected:
            raise Disconnected("the client went away")
        if self._connection.write_paused:
            if self._drained is None:
                self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    @property
    def write_paused(self) -> bool:
        """See `Exchange`."""
        return self._connection.write_paused

    # For the connection only.

    def set_writable(self, writable: bool) -> None:
        """The connection's buffer crossed a water mark."""
        if writable and self._drained is not None:
            waiter, self._drained = self._drained, None
            if not waiter.done():
                waiter.set_result(None)
        if self.on_writable is not None:
            self.on_writable(writable)

    def lose_client(self, reason: BridgeError) -> None:
        """The connection is gone."""
        if self.disconnected:
            return
        self.disconnected = True
        if self._drained is not None and not self._drained.done():
            self._drained.set_exception(Disconnected("the client went away"))
        if self.request.stream is not None:
            self.request.stream.fail(reason)
        callback, self.on_disconnect = self.on_disconnect, None
        if callback is not None and not self.finished:
            callback()
        self.on_writable = None
