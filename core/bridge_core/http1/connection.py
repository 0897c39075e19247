"""The server's side of one connection: bytes in, requests to the application, answers out in order.

How a connection lives:

1. llhttp parses what arrives. Requests whose head (and body, unless streamed) is there wait in
   `_ready`; the first becomes the current exchange, and the next only after that one is finished.
2. While requests wait, or a streamed body's reader lags, the socket is not read. Otherwise it is,
   also during an answer, so that a client that leaves is noticed at once.
3. What breaks the protocol is answered after the requests before it; then the connection is closed,
   after a short drain, because closing with unread input would reset it under the answer.
4. `deadline` is the one time limit that counts at present; the server's coarse timer looks at it.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httptools
import structlog

from bridge_core.http1.errors import BodyTimeout, Disconnected
from bridge_core.http1.exchange import Exchange
from bridge_core.http1.headers import Pair
from bridge_core.http1.heads import CONTINUE, response_head
from bridge_core.http1.request import BodyStream, Request
from bridge_core.http1.rules import Refusal, check_head

if TYPE_CHECKING:
    from bridge_core.http1.server import Server

log = structlog.get_logger()

App = Callable[[Exchange], None]

_METHODS = {name: name.decode("ascii") for name in (b"GET", b"POST", b"HEAD", b"PUT", b"DELETE", b"OPTIONS")}
_DRAIN_MOST = 4 * 1024 * 1024  # of a refused request's rest, before the connection is reset
# Framing may cost this much more than the chunks' content: 1-byte chunks pass, extension floods not.
_OVERHEAD_FREE, _OVERHEAD_FACTOR = 64 * 1024, 16


class ServerConnection(asyncio.Protocol):
    """One accepted connection; see the module's rules."""

    __slots__ = (
        "_body",
        "_body_began",
        "_body_size",
        "_continue",
        "_current",
        "_deaf",
        "_dispatching",
        "_drained",
        "_head_size",
        "_identity",
        "_in_head",
        "_overhead",
        "_pairs",
        "_parser",
        "_parsing",
        "_reading",
        "_ready",
        "_refusal",
        "_remote",
        "_server",
        "_skip_message",
        "_stalled_at",
        "_target",
        "_transport",
        "_unparsed",
        "_write",
        "deadline",
        "write_paused",
    )

    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: Any = None
        self._parser: Any = None
        self._write: Callable[[bytes], None] = _discard
        self._remote: tuple[str, int] | None = None
        self._identity: str | None = None
        self._ready: deque[Request] = deque()
        self._current: Exchange | None = None
        self._parsing: Request | None = None
        self._refusal: Refusal | None = None
        self._pairs: list[Pair] = []
        self._target = b""
        self._body: list[bytes] = []
        self._body_size = 0
        self._body_began = 0.0
        self._head_size = 0
        self._unparsed = 0
        self._overhead = 0
        self._drained = 0
        self._stalled_at = 0
        self._in_head = False
        self._continue = False
        self._skip_message = False
        self._dispatching = False
        self._reading = True
        self._deaf = False
        self.write_paused = False
        self.deadline = math.inf

    # -- the transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = transport
        self._write = transport.write  # type: ignore[attr-defined]  # a stream transport
        server = self._server
        server.add(self)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self._remote = (peer[0], peer[1])
        if server.identify is not None:
            ssl_object = transport.get_extra_info("ssl_object")
            if ssl_object is not None:
                self._identity = server.identify(ssl_object)
        self._parser = httptools.HttpRequestParser(self)
        self.deadline = server.now + server.limits.head_s
        if len(server.connections) > server.limits.connections:
            self._refuse(Refusal(503, "too many connections"))

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if self._deaf:
            self._drained += len(data)
            if self._drained > _DRAIN_MOST:
                self.cut()
            return
        was_in_head = self._in_head
        self._feed(data)
        if self._in_head:
            # llhttp gathers an unfinished field out of our sight: count what went in instead.
            self._unparsed = self._unparsed + len(data) if was_in_head else 0
            if self._unparsed > self._server.limits.head and self._refusal is None:
                self._refusal = _head_too_large(self._target, self._server.limits.request_line)
        elif self._parsing is not None:
            self._count_body(len(data))
        if self._current is not None:
            stream = self._current.request.stream
            if stream is not None:
                stream.pump()
        elif self._ready:
            self._dispatch()
        if self._current is None:
            self._settle()
        self._flow()

    def eof_received(self) -> bool | None:  # noqa: D102
        if self._current is not None:
            # As Ollama's own server: a client that ends its side has left. Waiting bytes would
            # otherwise keep a dead connection open.
            self.cut()
        elif not self._deaf and (self._in_head or self._parsing is not None):
            self._refuse(Refusal(400, "the request ended early"))
        return None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._server.remove(self)
        self._deaf = True
        self._write = _discard
        self._parser = None
        self._ready.clear()
        current, self._current = self._current, None
        if current is not None:
            current.lose_client(Disconnected("the client went away"))

    def pause_writing(self) -> None:  # noqa: D102
        self.write_paused = True
        self._stalled_at = self._transport.get_write_buffer_size()
        self.deadline = self._server.now + self._server.limits.write_stall_s
        if self._current is not None:
            self._current.set_writable(False)

    def resume_writing(self) -> None:  # noqa: D102
        self.write_paused = False
        if self._current is not None:
            self._set_deadline()
            self._current.set_writable(True)

    # -- llhttp's calls; they only gather, the application runs after the parser has returned

    def on_message_begin(self) -> None:  # noqa: D102
        if self._skip_message:
            return
        self._pairs = []
        self._target = b""
        self._in_head = True
        self._head_size = 0
        if self._current is None:
            self.deadline = self._server.now + self._server.limits.head_s

    def on_url(self, url: bytes) -> None:  # noqa: D102
        if self._skip_message:
            return
        self._target = self._target + url if self._target else url
        if len(self._target) > self._server.limits.request_line:
            self._reject(Refusal(414, "the request target is too long"))

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102
        if self._skip_message:
            return
        limits = self._server.limits
        self._head_size += len(name) + len(value) + 4
        if self._head_size > limits.head:
            self._reject(Refusal(431, "the request headers are too large"))
        if not self._in_head:
            return  # a trailer field: dropped
        pairs = self._pairs
        if len(pairs) >= limits.header_count:
            self._reject(Refusal(431, "the request has too many headers"))
        # llhttp leaves the blanks that may follow a value.
        pairs.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:  # noqa: D102
        if self._skip_message:
            return
        parser = self._parser
        name: bytes = parser.get_method()
        version: str = parser.get_http_version()
        try:
            head = check_head(name, version, self._target, self._pairs)
        except Refusal as refusal:
            self._reject(refusal)
        method = _METHODS.get(name) or name.decode("ascii")
        request = Request(
            method,
            head.target,
            head.headers,
            minor=0 if version == "1.0" else 1,
            keep_alive=parser.should_keep_alive(),
            remote=self._remote,
            identity=self._identity,
            listener=self._server.name,
        )
        self._in_head = False
        self._unparsed = self._head_size = 0
        self._parsing = request
        if head.chunked or head.length:
            self._expect_body(request, head.length, head.expects_continue)
        # llhttp takes `Upgrade` for the end of HTTP; a server may ignore the wish, and we do.
        self._skip_message = parser.should_upgrade()

    def _expect_body(self, request: Request, length: int | None, expects_continue: bool) -> None:
        server = self._server
        self._body = []
        self._body_size = self._overhead = 0
        self._body_began = server.now
        if server.stream_body is not None and server.stream_body(request):
            request.stream = BodyStream(self._flow)
            self._ready.append(request)
        elif length is not None and length > server.limits.body:
            self._reject(Refusal(413, "the request body is too large"))
        self._continue = expects_continue
        if self._current is None:
            self.deadline = server.now + server.limits.body_idle_s

    def on_body(self, data: bytes) -> None:  # noqa: D102
        request = self._parsing
        if request is None:
            return
        self._continue = False
        self._body_size += len(data)
        if request.stream is not None:
            request.stream.feed(data)
            return
        if self._body_size > self._server.limits.body:
            self._reject(Refusal(413, "the request body is too large"))
        self._body.append(data)

    def on_message_complete(self) -> None:  # noqa: D102
        if self._skip_message:
            return
        request, self._parsing = self._parsing, None
        if request is None:
            return
        self._continue = False
        if request.stream is not None:
            request.stream.end()
            return
        body = self._body
        if body:
            request.body = body[0] if len(body) == 1 else b"".join(body)
            self._body = []
        self._ready.append(request)

    def _reject(self, refusal: Refusal) -> None:
        """Stops the parser; the refusal is answered when its turn comes."""
        self._refusal = refusal
        raise refusal

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_after_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError as fault:
            if self._refusal is None:
                log.error("http_parse_failed", listener=self._server.name, exc_info=fault)
                self._refusal = Refusal(500, "internal error")
        except httptools.HttpParserError as fault:
            last = self._parsing is None and not self._in_head and self._closes_after()
            if self._refusal is None and not last:
                self._refusal = Refusal(400, f"malformed HTTP: {fault}")

    def _closes_after(self) -> bool:
        """Whether the last request parsed was the connection's last: what follows is ignored."""
        last = self._ready[-1] if self._ready else self._current.request if self._current else None
        return last is not None and not last.keep_alive

    def _go_on_after_upgrade(self, rest: bytes) -> None:
        """Parses the body of a request that asked for an upgrade, and what follows it.

        llhttp stops at the end of such a head, so a new parser is told the body's framing first.
        """
        request = self._parsing
        if request is None:
            return
        self._parser = httptools.HttpRequestParser(self)
        framing = b""
        for name in (b"content-length", b"transfer-encoding"):
            value = request.headers.get(name)
            if value is not None:
                framing = b"%b: %b\r\n" % (name, value)
        if framing and framing != b"content-length: 0\r\n":
            self._parser.feed_data(b"POST / HTTP/1.1\r\nhost: x\r\n%b\r\n" % framing)
            self._skip_message = False
        else:
            self._skip_message = False
            self.on_message_complete()
        if rest:
            self._feed(rest)

    def _count_body(self, received: int) -> None:
        """Restarts the silence timer and bounds what chunk framing may cost."""
        if not self.write_paused:
            self.deadline = self._server.now + self._server.limits.body_idle_s
        self._overhead += received
        if self._overhead > _OVERHEAD_FREE + _OVERHEAD_FACTOR * self._body_size and self._refusal is None:
            self._refusal = Refusal(400, "malformed HTTP: too much chunk framing")

    # -- from request to request

    def _dispatch(self) -> None:
        """Runs requests until one is under way; a loop, so that pipelines cannot recurse."""
        self._dispatching = True
        while self._ready and self._current is None and not self._deaf:
            exchange = self._current = Exchange(self, self._ready.popleft(), self._write)
            self.deadline = math.inf
            try:
                self._server.app(exchange)
            except Exception:  # the exchange's root: logged whole, answered without detail
                log.exception("http_app_failed", listener=self._server.name, path=exchange.request.path)
                exchange.fail(500, "internal error")
        self._dispatching = False
        if self._current is not None:
            self._set_deadline()

    def exchange_done(self, exchange: Exchange) -> None:
        """The current exchange was answered in full."""
        if exchange is not self._current:
            return
        self._current = None
        request = exchange.request
        exchange.on_disconnect = exchange.on_writable = None
        if request.stream is not None and not request.stream.complete:
            self._linger()
        elif not request.keep_alive or self._server.closing:
            self._close()
        elif not self._dispatching:
            if self._ready:
                self._dispatch()
            if self._current is None:
                self._settle()
            self._flow()

    def _settle(self) -> None:
        """Nothing is being answered: what comes next, and by when?"""
        if self._deaf:
            return
        if self._refusal is not None:
            self._refuse(self._refusal)
            return
        if self._continue:
            self._continue = False
            self._write(CONTINUE)
        if self._server.closing and not self._in_head and self._parsing is None:
            self._close()
            return
        self._set_deadline()

    def _set_deadline(self) -> None:
        limits, now = self._server.limits, self._server.now
        current = self._current
        if current is not None:
            stream = current.request.stream
            waits = stream is not None and not stream.complete
            self.deadline = now + limits.body_idle_s if waits else math.inf
        elif self._in_head:
            pass  # runs since the head began
        elif self._parsing is not None:
            self.deadline = now + limits.body_idle_s
        else:
            self.deadline = now + limits.keep_alive_s

    def _flow(self) -> None:
        """Reads, or stops reading, as rule 2 of the module says."""
        wants = not self._ready
        if wants and self._current is not None:
            stream = self._current.request.stream
            wants = stream is None or stream.complete or stream.wants_data
        if self._deaf:
            wants = True
        if wants is self._reading or self._transport is None or self._transport.is_closing():
            return
        self._reading = wants
        if wants:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def may_keep_alive(self, request: Request) -> bool:
        """Whether the connection can take another request after this one."""
        return request.keep_alive and not self._server.closing

    # -- ends

    def expire(self, now: float) -> None:
        """Called by the server's timer once `deadline` has passed."""
        if self.write_paused:
            waiting = self._transport.get_write_buffer_size()
            if waiting < self._stalled_at:
                self._stalled_at = waiting
                self.deadline = now + self._server.limits.write_stall_s
            else:
                self.cut()
        elif self._deaf:
            self.cut()
        elif self._current is not None:
            self._expire_stream(self._current, now)
        elif self._in_head:
            self._refuse(Refusal(408, "the request head took too long"))
        elif self._parsing is not None:
            self._refuse(Refusal(408, "the request body stopped"))
        elif self._transport.get_write_buffer_size():
            self.cut()
        else:
            self._close()

    def _expire_stream(self, exchange: Exchange, now: float) -> None:
        stream = exchange.request.stream
        if stream is None or stream.complete:
            self.deadline = math.inf
        elif not stream.wants_data:
            self.deadline = now + self._server.limits.body_idle_s  # the reader's pause, not the client's
        else:
            stream.fail(BodyTimeout("the request body stopped"))
            exchange.fail(408, "the request body stopped")

    def too_slow(self, now: float) -> bool:
        """Whether a body that is read whole drips in; answers it then."""
        limits = self._server.limits
        request = self._parsing
        if not limits.body_rate or request is None or request.stream is not None or self._current is not None:
            return False
        elapsed = now - self._body_began
        if elapsed <= limits.body_idle_s or self._body_size >= elapsed * limits.body_rate:
            return False
        self._refuse(Refusal(408, "the request body came too slowly"))
        return True

    def drain(self) -> None:
        """The server closes: an idle connection ends now, a busy one after its answer."""
        if self._current is None and not (self._ready or self._in_head or self._parsing or self._deaf):
            self._close()

    def cut(self) -> None:
        """Ends the connection at once, whatever waits to be written."""
        self._deaf = True
        if self._transport is not None:
            self._transport.abort()

    def error_answer(self, status: int, message: str, path: str) -> tuple[list[Pair], bytes]:
        """Header fields and body of an error, in the listener's shape."""
        content_type, body = self._server.error_body(status, message, path)
        return [(b"content-type", content_type)], body

    @property
    def date_line(self) -> bytes:
        """The Date field, at most one timer tick old."""
        return self._server.date_line

    def _refuse(self, refusal: Refusal) -> None:
        """Answers what is no valid request, and closes: the framing is in doubt."""
        path = self._target.partition(b"?")[0].decode("latin-1")
        pairs, body = self.error_answer(refusal.status, refusal.message, path)
        framing = b"%bcontent-length: %d\r\nconnection: close\r\n" % (self.date_line, len(body))
        if self._parsing is not None and self._parsing.method == "HEAD":
            body = b""
        self._write(response_head(refusal.status, pairs, framing) + body)
        log.debug(
            "http_refused",
            listener=self._server.name,
            remote=self._remote,
            status=refusal.status,
            reason=refusal.message,
        )
        self._refusal = None
        self._linger()

    def _linger(self) -> None:
        """Says that nothing follows, and drains what the client still sends before closing."""
        self._deaf = True
        self._ready.clear()
        self._parsing = None
        self._in_head = False
        transport = self._transport
        if transport.is_closing():
            return
        self._flow()
        self.deadline = self._server.now + self._server.limits.linger_s
        if transport.can_write_eof():
            transport.write_eof()

    def _close(self) -> None:
        """Ends the connection after what was written; nothing unread is expected."""
        self._deaf = True
        self.deadline = self._server.now + self._server.limits.linger_s
        self._transport.close()


def _discard(data: bytes) -> None:
    """Where writes go before and after the connection."""


def _head_too_large(target: bytes, request_line: int) -> Refusal:
    if len(target) > request_line:
        return Refusal(414, "the request target is too long")
    return Refusal(431, "the request headers are too large")
