"""The client's side of one connection: one request at a time, its answer through callbacks."""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol

import httptools
import structlog

from bridge_core.http1.errors import BadResponse, IncompleteResponse, UpstreamError
from bridge_core.http1.headers import Headers, Pair
from bridge_core.http1.heads import LAST_CHUNK, chunk
from bridge_core.http1.limits import PoolLimits
from bridge_core.http1.repeated import RepeatedHead
from bridge_core.native import mypyc_attr

log = structlog.get_logger()

_KNOWN_HEAD_MOST = 4096
AT_ONCE: Final = 256 * 1024  # bytes of a request that are written in one turn of the loop


class ConnectionPool(Protocol):
    """The pool that a connection belongs to, as `Pool` is one."""

    limits: PoolLimits
    label: str
    varying: frozenset[bytes]

    def release(self, connection: ClientConnection) -> None:
        """It is idle."""

    def lost(self, connection: ClientConnection) -> None:
        """It is closed."""

    def send_again(self, exchange: ClientExchange) -> bool:
        """Sends a request once more that lost the race against a keep-alive; False: not this one."""

    def forget(self, exchange: ClientExchange) -> None:
        """A request that waits for a connection is given up."""


class ResponseHead:
    """Status and header fields of an answer.

    Attributes:
        status: The final status (informational ones are passed over).
        headers: The fields as they came.
        length: The announced Content-Length, also where no body follows (HEAD); None without.
        more: `on_data` or `on_end` follows before control returns to the loop.
    """

    __slots__ = ("headers", "keep_alive", "length", "more", "status", "until_close")

    def __init__(self, status: int, headers: Headers, length: int | None, keep_alive: bool) -> None:
        self.status = status
        self.headers = headers
        self.length = length
        self.keep_alive = keep_alive
        self.until_close = False
        self.more = False


@mypyc_attr(allow_interpreted_subclasses=True)
class ResponseSink:
    """Takes an answer: `on_head`, `on_data`…, then either `on_end` or `on_error`, nothing after.

    An answer that came in one read is first offered to `on_whole`, which may take it instead.

    All parts of the body that came in one read are one `on_data`. `on_error` may come at any time
    before `on_end`. Nothing is called after `ClientExchange.cancel`. Called on the loop; must not
    block.
    """

    __slots__ = ()

    def on_whole(self, head: ResponseHead, body: bytes) -> bool:
        """The whole answer has come. True: it was taken. False: it is to be handed on in its parts."""
        return False

    def on_head(self, head: ResponseHead) -> None:
        """The final head has come."""

    def on_data(self, data: bytes) -> None:
        """Some of the body has come."""

    def on_end(self) -> None:
        """The answer is whole."""

    def on_error(self, error: UpstreamError) -> None:
        """The answer will not be whole."""

    def on_writable(self, writable: bool) -> None:
        """The request's side crossed a water mark; matters to whoever sends a body in parts."""


class ClientExchange:
    """A request on its way; made by `Pool.send`.

    Attributes:
        done: It was answered, failed or was cancelled.
        reused: It runs on a connection that had answered before.
    """

    __slots__ = (
        "body",
        "chunked",
        "connection",
        "data",
        "done",
        "more",
        "pool",
        "retried",
        "sent_at",
        "sink",
    )

    def __init__(self, pool: ConnectionPool, data: bytes, sink: ResponseSink, sent_at: float) -> None:
        self.pool = pool
        self.data = data
        self.body = b""  # after it, where that is so large that it is not copied
        self.sink = sink
        self.sent_at = sent_at
        self.connection: ClientConnection | None = None
        self.more = False
        self.chunked = False
        self.done = False
        self.retried = False

    @property
    def reused(self) -> bool:
        """Whether the connection had answered an earlier request."""
        return self.connection is not None and self.connection.requests > 1

    def cancel(self) -> None:
        """Gives the answer up and closes its connection, which is how the server hears of it."""
        if self.done:
            return
        self.done = True
        if self.connection is not None:
            self.connection.abandon()
        else:
            self.pool.forget(self)

    def pause(self) -> None:
        """Stops reading the answer."""
        if self.connection is not None and not self.done:
            self.connection.set_reading(False)

    def resume(self) -> None:
        """Goes on reading the answer."""
        if self.connection is not None and not self.done:
            self.connection.set_reading(True)

    def write(self, data: bytes) -> None:
        """Sends a part of the request's body, where `send` was told that `more` follows."""
        if self.done or not data:
            return
        if self.chunked:
            data = chunk(data)
        if self.connection is not None:
            self.connection.write(data)
        else:
            self.data += data

    def finish(self) -> None:
        """The request's body is whole."""
        if self.done or not self.more:
            return
        if self.chunked:
            if self.connection is not None:
                self.connection.write(LAST_CHUNK)
            else:
                self.data += LAST_CHUNK
        self.more = False


_NO_SINK = ResponseSink()


class ClientConnection(asyncio.Protocol):
    """One connection of a pool.

    Attributes:
        requests: How many were sent on it.
        idle_since: Loop time at which it became idle.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._transport: Any = None
        self._parser: Any = httptools.HttpResponseParser(self)
        self._pairs: list[Pair] = []
        self._parts: list[bytes] = []
        self._exchange: ClientExchange | None = None
        self._head: ResponseHead | None = None
        self._fresh_head: ResponseHead | None = None
        self._known: tuple[RepeatedHead, ResponseHead] | None = None
        self._fault = ""
        self._head_size = 0
        self._head_only = False
        self._in_head = False
        self._informational = False
        self._complete = False
        self._surplus = False
        self._seen = False
        self._reading = True
        self._rest: memoryview | None = None  # of the request, to be written
        self._full = False
        self.requests = 0
        self.idle_since = 0.0

    @property
    def usable(self) -> bool:
        """Whether it may take a request."""
        return self._transport is not None and not self._transport.is_closing()

    def start(self, exchange: ClientExchange) -> None:
        """Sends a request; the connection must be usable and idle."""
        self._exchange = exchange
        self._seen = False
        self.requests += 1
        exchange.connection = self
        data = exchange.data
        if exchange.body:
            self._transport.write(data)
            self._rest = memoryview(exchange.body)
            self._write_rest()
        else:
            self._transport.write(data)
        self._head_only = data.startswith(b"HEAD ")

    def _write_rest(self) -> None:
        """Writes the next piece of a large request: to encrypt all of it would hold up everybody else."""
        rest = self._rest
        if rest is None or self._transport.is_closing():
            return
        self._rest = rest[AT_ONCE:] if len(rest) > AT_ONCE else None
        self._transport.write(bytes(rest[:AT_ONCE]))
        if self._rest is not None and not self._full:
            asyncio.get_running_loop().call_soon(self._write_rest)

    def write(self, data: bytes) -> None:
        """Sends more of the request's body."""
        self._transport.write(data)

    def set_reading(self, reading: bool) -> None:
        """Reads the answer, or lets it wait in the kernel and so at the server."""
        if reading is self._reading or self._transport.is_closing():
            return
        self._reading = reading
        if reading:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def abandon(self) -> None:
        """The answer is no longer wanted."""
        self._exchange = None
        self._transport.abort()

    def close(self) -> None:
        """Ends an idle connection, or one whose answer is whole."""
        # Once, as at the server's side.
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()

    def close_now(self, error: UpstreamError) -> None:
        """Ends the connection; a request under way fails with `error`."""
        self._fail(error)

    # -- the transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = transport

    def data_received(self, data: bytes) -> None:  # noqa: D102
        exchange = self._exchange
        if exchange is None:
            # Bytes nobody asked for: an answer to nothing would be taken for the next one's.
            self._transport.abort()
            return
        if not self._seen and self._known is not None and self._repeated(exchange, self._known, data):
            return
        alone = not self._seen
        if alone:
            self._seen = True
            self._head_size = 0
            exchange.data = exchange.body = b""  # not sent again: a long stream need not hold the prompt
        fault = self._feed(data)
        if self._in_head and not fault:
            self._head_size += len(data)
            if self._head_size > self._pool.limits.head:
                fault = "the response headers are too large"
        elif alone and self._complete and not fault:
            self._know(data)
        if fault and not self._complete:
            self._fail(BadResponse(f"malformed answer from {self._pool.label}: {fault}", seen=True))
            return
        try:
            self._hand_on(exchange, broken=bool(fault))
        except Exception:  # the answer's root: a fault of ours must end the exchange, not the loop
            log.exception("http_sink_failed", upstream=self._pool.label)
            self._sink_failed(exchange)

    def _know(self, data: bytes) -> None:
        """Remembers the head of a plain answer that was all there was in one read."""
        head = self._fresh_head
        if head is None or not head.length or not head.keep_alive or self._surplus or self._parts == []:
            return
        size = len(data) - head.length
        if sum(map(len, self._parts)) == head.length and size <= _KNOWN_HEAD_MOST and data[:5] == b"HTTP/":
            head.more = True
            self._known = RepeatedHead(data[:size], head.headers, self._pool.varying), head

    def _repeated(
        self, exchange: ClientExchange, known: tuple[RepeatedHead, ResponseHead], data: bytes
    ) -> bool:
        """Hands on a whole answer with the head of the one before; False when `data` is none."""
        repeated, head = known
        read = None if self._head_only else repeated.read(data)
        if read is None:
            return False
        headers, body = read
        if not body:
            return False
        if headers is not head.headers:
            head = ResponseHead(head.status, headers, len(body), keep_alive=True)
            head.more = True
        self._seen = True
        sink = exchange.sink
        try:
            taken = sink.on_whole(head, body)
            if not taken:
                sink.on_head(head)
                if self._exchange is exchange:
                    sink.on_data(body)
            if self._exchange is exchange:
                exchange.done = True
                self._exchange = None
                if exchange.more or self._rest is not None:
                    self._transport.close()
                else:
                    if not self._reading:
                        self.set_reading(True)
                    self._pool.release(self)
                if not taken:
                    sink.on_end()
                exchange.sink = _NO_SINK
        except Exception:  # as above
            log.exception("http_sink_failed", upstream=self._pool.label)
            self._sink_failed(exchange)
        return True

    def _sink_failed(self, exchange: ClientExchange) -> None:
        if self._exchange is exchange:
            self._fail(IncompleteResponse("internal error while passing the answer on", seen=True))

    def eof_received(self) -> bool | None:  # noqa: D102
        exchange, head = self._exchange, self._head
        if exchange is not None and head is not None and head.until_close:
            self._exchange = None
            exchange.done = True
            exchange.sink.on_end()
        return None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._pool.lost(self)
        self._parser = None
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        reused = self.requests > 1
        if reused and not self._seen and self._pool.send_again(exchange):
            return
        exchange.done = True
        reason = f": {exc}" if exc is not None and str(exc) else ""
        part = "in the middle of its answer" if self._seen else "without an answer"
        exchange.sink.on_error(
            IncompleteResponse(
                f"{self._pool.label} closed the connection {part}{reason}", reused=reused, seen=self._seen
            )
        )

    def pause_writing(self) -> None:  # noqa: D102
        self._full = True
        if self._exchange is not None:
            self._exchange.sink.on_writable(False)

    def resume_writing(self) -> None:  # noqa: D102
        self._full = False
        if self._rest is not None:
            asyncio.get_running_loop().call_soon(self._write_rest)
        if self._exchange is not None:
            self._exchange.sink.on_writable(True)

    # -- llhttp's calls; they only gather

    def on_message_begin(self) -> None:  # noqa: D102
        if self._complete:
            self._surplus = True
            return
        self._pairs = []
        self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102
        if not self._in_head:
            return  # a trailer field: dropped
        self._pairs.append((name.lower(), value.rstrip(b" \t")))  # llhttp leaves blanks at the end

    def on_headers_complete(self) -> None:  # noqa: D102
        if self._surplus:
            return
        parser = self._parser
        status = parser.get_status_code()
        self._in_head = False
        limits = self._pool.limits
        if len(self._pairs) > limits.header_count:
            self._reject("too many response headers")
        if status < 200:
            if status == 101 or status < 100:
                self._reject(f"status {status}")
            self._informational = True
            return
        keep_alive = parser.should_keep_alive()
        headers = Headers(self._pairs)
        if (not keep_alive or b"connection" in headers) and parser.get_http_version() not in {"1.1", "1.0"}:
            self._reject("not HTTP/1.x")
        length = headers.get(b"content-length")
        head = ResponseHead(status, headers, None if length is None else int(length), keep_alive)
        coding = headers.get(b"transfer-encoding")
        if coding is not None:
            if coding.lower() != b"chunked" or len(headers.get_all(b"transfer-encoding")) > 1:
                self._reject("a transfer coding other than chunked")
        elif length is None:
            head.until_close = status not in {204, 304}
        self._head = self._fresh_head = head
        if self._head_only:
            head.until_close = False
            self._complete = True

    def on_body(self, data: bytes) -> None:  # noqa: D102
        if self._complete:
            self._surplus = True
            return
        self._parts.append(data)

    def on_message_complete(self) -> None:  # noqa: D102
        if self._informational:
            self._informational = False
            return
        if not self._surplus:
            self._complete = True

    def _reject(self, fault: str) -> None:
        self._fault = fault
        raise ValueError(fault)

    def _feed(self, data: bytes) -> str:
        """Parses; returns what is wrong, or nothing."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return "an upgrade nobody asked for"
        except httptools.HttpParserCallbackError as fault:
            return self._fault or str(fault)
        except httptools.HttpParserError as malformed:
            return str(malformed)
        return ""

    # -- handing on

    def _hand_on(self, exchange: ClientExchange, *, broken: bool) -> None:
        sink = exchange.sink
        parts = self._parts
        complete = self._complete
        head = self._fresh_head
        if head is not None:
            self._fresh_head = None
            head.more = complete or bool(parts)
            sink.on_head(head)
            if self._exchange is not exchange:
                return
        if parts:
            self._parts = []
            sink.on_data(parts[0] if len(parts) == 1 else b"".join(parts))
            if self._exchange is not exchange:
                return
        if complete:
            exchange.done = True
            self._exchange = None
            self._release(exchange, broken=broken)
            sink.on_end()
            exchange.sink = _NO_SINK  # a sink mostly knows its exchange: no cycle for the collector

    def _release(self, exchange: ClientExchange, *, broken: bool) -> None:
        head, self._head = self._head, None
        if (
            head is None
            or not head.keep_alive
            or exchange.more
            or self._rest is not None
            or broken
            or self._surplus
        ):
            self._transport.close()
            return
        if self._head_only:
            # llhttp cannot know that no body follows and would take the next answer for one.
            self._parser = httptools.HttpResponseParser(self)
        self._complete = False
        self.set_reading(True)
        self._pool.release(self)

    def _fail(self, error: UpstreamError) -> None:
        exchange, self._exchange = self._exchange, None
        error.reused = self.requests > 1
        self._transport.abort()
        if exchange is not None:
            exchange.done = True
            exchange.sink.on_error(error)
