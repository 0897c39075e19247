"""The server's side of one connection: bytes in, requests to the application, answers out in order.

How a connection lives:

1. llhttp parses what arrives. Requests whose head (and body, unless streamed) is there wait in
   `_ready`; the first becomes the current exchange, and the next only after that one is finished.
2. While requests wait, or a streamed body's reader lags, the socket is not read. Otherwise it is,
   also during an answer, so that a client that leaves is noticed at once.
3. What breaks the protocol is answered after the requests before it; then the connection is closed,
   after a short drain, because closing with unread input would reset it under the answer.
4. A client that keeps its connection mostly repeats its head. A read that is one whole request with
   the very head of the request before is not parsed again: the framing is the same by construction.
5. `deadline` is the one time limit that counts at present; the server's coarse timer looks at it.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import httptools
import structlog

from bridge_core.http1.errors import BodyTimeout, Disconnected
from bridge_core.http1.exchange import Exchange
from bridge_core.http1.headers import Pair
from bridge_core.http1.heads import CONTINUE, response_head
from bridge_core.http1.request import BodyStream, Request
from bridge_core.http1.rules import CHUNKED, Refusal, check_head

if TYPE_CHECKING:
    from bridge_core.http1.server import Server

log = structlog.get_logger()

App = Callable[[Exchange], None]

_METHODS = {name: name.decode("ascii") for name in (b"GET", b"POST", b"HEAD", b"PUT", b"DELETE", b"OPTIONS")}
_PARSER_STOPS = (httptools.HttpParserError, httptools.HttpParserUpgrade)
_DRAIN_MOST = 4 * 1024 * 1024  # of a refused request's rest, before the connection is reset
_KNOWN_HEAD_MOST = 4096  # a longer head is not remembered: it would be kept as long as the connection
# Framing may cost this much more than the chunks' content: 1-byte chunks pass, extension floods not.
_OVERHEAD_FREE, _OVERHEAD_FACTOR = 64 * 1024, 16


class _KnownRequest(NamedTuple):
    """A head that was parsed, the size of the whole message, and what the parse gave."""

    head: bytes
    size: int
    request: Request


class ServerConnection(asyncio.Protocol):
    """One accepted connection; see the module's rules."""

    # Defaults on the class: see Request.
    _remote: tuple[str, int] | None = None
    _identity: str | None = None
    _current: Exchange | None = None
    _parsing: Request | None = None  # whose body is being read
    _upgrading: Request | None = None
    _refusal: Refusal | None = None
    _known: _KnownRequest | None = None
    _target = b""
    _body_size = 0
    _body_began = 0.0
    _received = 0  # bytes of the present read, less what belongs to finished messages
    _unparsed = 0  # bytes of an unfinished head, as far as known
    _overhead = 0
    _drained = 0
    _stalled_at = 0
    _in_head = False
    _chunked = False
    _continue = False
    _dispatching = False
    _reading = True
    _deaf = False
    write_paused = False
    deadline = math.inf

    def __init__(self, server: Server) -> None:
        self.server = server
        self._limits = server.limits
        self._transport: Any = None
        self._parser: Any = None
        self._write: Callable[[bytes], None] = _discard
        self._ready: deque[Request] = deque()
        self._pairs: list[Pair] = []
        self._body: list[bytes] = []

    # -- the transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = transport
        self._write = transport.write  # type: ignore[attr-defined]  # a stream transport
        server = self.server
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
            self._drain_off(len(data))
            return
        between = self._current is None and self._parsing is None and not self._in_head
        if between:
            known = self._known
            if known is not None and len(data) == known.size and data.startswith(known.head):
                self._ready.append(self._request_like(known, data))
                self._dispatch()
                if self._current is None:
                    self._settle()
                return
        self._received = len(data)
        try:
            self._parser.feed_data(data)
        except _PARSER_STOPS as fault:
            self._parse_failed(fault, data)
        if between:
            self._know(data)
        if self._in_head or self._parsing is not None:
            self._count(len(data))
        current = self._current
        if current is None:
            if self._ready:
                self._dispatch()
            if self._current is None:
                self._settle()
        elif current.request.stream is not None:
            current.request.stream.pump()
        if self._ready or not self._reading or self._parsing is not None:
            self._flow()

    def _request_like(self, known: _KnownRequest, data: bytes) -> Request:
        """A request whose head repeats the one before, byte for byte; see rule 4 of the module."""
        like = known.request
        request = Request(like.method, like.target, like.headers)
        request.remote = self._remote
        request.identity = self._identity
        request.listener = self.server.name
        request.body = data[len(known.head) :]
        request.share_path(like)
        return request

    def _know(self, data: bytes) -> None:
        """Remembers the head of a plain request that was all there was in one read."""
        if len(self._ready) != 1 or self._in_head or self._parsing is not None or self._refusal is not None:
            return
        request = self._ready[0]
        if request.stream is not None or not request.keep_alive or not request.minor:
            return
        headers = request.headers
        if b"transfer-encoding" in headers or b"upgrade" in headers or b"expect" in headers:
            return
        size = len(data) - len(request.body)
        if size <= _KNOWN_HEAD_MOST and data[:1].isalpha():
            like = Request(request.method, request.target, headers)  # not the body: it may be large
            like.share_path(request)
            self._known = _KnownRequest(data[:size], len(data), like)

    def eof_received(self) -> bool | None:  # noqa: D102
        if self._current is not None:
            # As Ollama's own server: a client that ends its side has left. Waiting bytes would
            # otherwise keep a dead connection open.
            self.cut()
        elif not self._deaf and (self._in_head or self._parsing is not None):
            self._refuse(Refusal(400, "the request ended early"))
        return None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self.server.remove(self)
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
        self.deadline = self.server.now + self._limits.write_stall_s
        if self._current is not None:
            self._current.set_writable(False)

    def resume_writing(self) -> None:  # noqa: D102
        self.write_paused = False
        if self._current is not None:
            self._set_deadline()
            self._current.set_writable(True)

    # -- llhttp's calls; they only gather, the application runs after the parser has returned

    def on_message_begin(self) -> None:  # noqa: D102
        self._pairs = []
        self._target = b""
        self._in_head = True
        if self._current is None:
            self.deadline = self.server.now + self._limits.head_s

    def on_url(self, url: bytes) -> None:  # noqa: D102
        self._target = self._target + url if self._target else url

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102
        self._pairs.append((name.lower(), value.rstrip(b" \t")))  # llhttp leaves blanks at the end

    def on_headers_complete(self) -> None:  # noqa: D102
        parser = self._parser
        pairs = self._pairs
        target = self._target
        if (
            len(target) > self._limits.request_line
            or len(pairs) > self._limits.header_count
            or self._unparsed + self._received > self._limits.head
        ):
            self._check_size()
        keep_alive = parser.should_keep_alive()
        method: bytes = parser.get_method()
        try:
            minor = self._minor(keep_alive)
            target, headers, length, expects_continue = check_head(method, minor, target, pairs)
        except Refusal as refusal:
            self._reject(refusal)
        request = Request(_METHODS.get(method) or method.decode("ascii"), target, headers)
        request.remote = self._remote
        request.identity = self._identity
        request.listener = self.server.name
        if not keep_alive:
            request.keep_alive = False
        if not minor:
            request.minor = 0
        self._in_head = False
        self._pairs = []  # for trailer fields, which are dropped
        self._unparsed = 0
        self._parsing = request
        if length:
            self._body = []
            self._expect_body(request, length, expects_continue)
        if b"upgrade" in headers and parser.should_upgrade():
            # llhttp takes `Upgrade` for the end of HTTP; a server may ignore the wish, and we do.
            self._parsing, self._upgrading = None, request

    def _minor(self, keep_alive: bool) -> int:
        """The minor HTTP version; asking llhttp makes a string, so first what follows without."""
        if keep_alive and not any(name == b"connection" for name, _ in self._pairs):
            return 1  # older versions are kept alive only where Connection says so
        version = self._parser.get_http_version()
        if version not in {"1.1", "1.0"}:
            raise Refusal(505, f"HTTP version {version} is not supported")
        return 1 if version == "1.1" else 0

    def _expect_body(self, request: Request, length: int, expects_continue: bool) -> None:
        server = self.server
        self._body_size = self._overhead = 0
        self._body_began = server.now
        if server.stream_body is not None and server.stream_body(request):
            request.stream = BodyStream(self._flow)
            self._ready.append(request)
        elif length > server.limits.body:
            self._reject(Refusal(413, "the request body is too large"))
        self._chunked = length == CHUNKED
        self._continue = expects_continue

    def on_body(self, data: bytes) -> None:  # noqa: D102
        request = self._parsing
        if request is None:
            return
        self._body_size += len(data)
        if request.stream is not None:
            request.stream.feed(data)
            return
        if self._body_size > self._limits.body:
            self._reject(Refusal(413, "the request body is too large"))
        self._body.append(data)

    def on_message_complete(self) -> None:  # noqa: D102
        request, self._parsing = self._parsing, None
        if request is None:
            return
        self._continue = False
        self._received = 0  # what is left of this read is the next message's, and not known
        if request.stream is not None:
            request.stream.end()
            return
        body = self._body
        if body:
            request.body = body[0] if len(body) == 1 else b"".join(body)
            self._body = []
        self._ready.append(request)

    def _reject(self, refusal: Refusal) -> NoReturn:
        """Stops the parser; the refusal is answered when its turn comes."""
        self._refusal = refusal
        raise refusal

    def _check_size(self) -> None:
        limits = self._limits
        if len(self._target) > limits.request_line:
            self._reject(Refusal(414, "the request target is too long"))
        if len(self._pairs) > limits.header_count:
            self._reject(Refusal(431, "the request has too many headers"))
        if sum(len(name) + len(value) + 4 for name, value in self._pairs) > limits.head:
            self._reject(Refusal(431, "the request headers are too large"))

    def _parse_failed(self, fault: Exception, data: bytes) -> None:
        if isinstance(fault, httptools.HttpParserUpgrade):
            self._go_on_after_upgrade(data[fault.args[0] :])
        elif self._refusal is not None:
            pass  # ours, raised through the parser
        elif isinstance(fault, httptools.HttpParserCallbackError):
            log.error("http_parse_failed", listener=self.server.name, exc_info=fault)
            self._refusal = Refusal(500, "internal error")
        elif self._in_head or self._parsing is not None or not self._closes_after():
            self._refusal = Refusal(400, f"malformed HTTP: {fault}")

    def _closes_after(self) -> bool:
        """Whether the last request parsed was the connection's last: what follows is ignored."""
        last = self._ready[-1] if self._ready else self._current.request if self._current else None
        return last is not None and not last.keep_alive

    def _go_on_after_upgrade(self, rest: bytes) -> None:
        """Parses the body of a request that asked for an upgrade, and what follows it.

        llhttp stops at the end of such a head, so a new parser is told the body's framing first.
        """
        request = self._upgrading
        if request is None:
            return
        self._upgrading = None
        self._parsing = request
        listener = _AfterUpgrade(self)
        self._parser = httptools.HttpRequestParser(listener)
        framing = b""
        for name in (b"content-length", b"transfer-encoding"):
            value = request.headers.get(name)
            if value is not None:
                framing = b"%b: %b\r\n" % (name, value)
        try:
            self._parser.feed_data(b"POST / HTTP/1.1\r\nhost: x\r\n%b\r\n" % framing)
            listener.passing = True
            if rest:
                self._parser.feed_data(rest)
        except _PARSER_STOPS as fault:
            self._parse_failed(fault, rest)

    def _count(self, received: int) -> None:
        """Bounds what a message that is not whole yet may take, in bytes and in time."""
        limits = self._limits
        if self._in_head:
            # llhttp gathers an unfinished field out of our sight: count what went in instead.
            self._unparsed += self._received
            if self._unparsed > limits.head and self._refusal is None:
                long_target = len(self._target) > limits.request_line
                self._refusal = (
                    Refusal(414, "the request target is too long")
                    if long_target
                    else Refusal(431, "the request headers are too large")
                )
            return
        if not self.write_paused and (self._current is None or self._current.request is self._parsing):
            self.deadline = self.server.now + limits.body_idle_s
        if self._chunked:
            self._overhead += received
            bound = _OVERHEAD_FREE + _OVERHEAD_FACTOR * self._body_size
            if self._overhead > bound and self._refusal is None:
                self._refusal = Refusal(400, "malformed HTTP: too much chunk framing")

    def _drain_off(self, received: int) -> None:
        """Drops what a refused client still sends, within bounds."""
        self._drained += received
        if self._drained > _DRAIN_MOST:
            self.cut()

    # -- from request to request

    def _dispatch(self) -> None:
        """Runs requests until one is under way; a loop, so that pipelines cannot recurse."""
        self._dispatching = True
        ready = self._ready
        while ready and self._current is None and not self._deaf:
            exchange = self._current = Exchange(self, ready.popleft(), self._write)
            self.deadline = math.inf
            try:
                self.server.app(exchange)
            except Exception:  # the exchange's root: logged whole, answered without detail
                log.exception("http_app_failed", listener=self.server.name, path=exchange.request.path)
                exchange.fail(500, "internal error")
        self._dispatching = False
        if self._current is not None and self._current.request.stream is not None:
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
        elif not request.keep_alive or self.server.closing:
            self._close()
        elif not self._dispatching:
            if self._ready:
                self._dispatch()
            if self._current is None:
                self._settle()
            if not self._reading:
                self._flow()

    def _settle(self) -> None:
        """Nothing is being answered: what comes next, and by when?"""
        if self._in_head or self._parsing is not None or self._refusal is not None or self._deaf:
            self._settle_unfinished()
        elif self.server.closing:
            self._close()
        else:
            self.deadline = self.server.now + self._limits.keep_alive_s

    def _settle_unfinished(self) -> None:
        if self._deaf:
            return
        if self._refusal is not None:
            self._refuse(self._refusal)
            return
        if self._continue:
            self._continue = False
            self._write(CONTINUE)

    def _set_deadline(self) -> None:
        limits, now = self._limits, self.server.now
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

    # -- ends

    @property
    def identity(self) -> str | None:
        """Who the client's verified certificate names, as the server's `identify` said."""
        return self._identity

    def expire(self, now: float) -> None:
        """Called by the server's timer once `deadline` has passed."""
        if self.write_paused:
            waiting = self._transport.get_write_buffer_size()
            if waiting < self._stalled_at:
                self._stalled_at = waiting
                self.deadline = now + self._limits.write_stall_s
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
            self.deadline = now + self._limits.body_idle_s  # the reader's pause, not the client's
        else:
            stream.fail(BodyTimeout("the request body stopped"))
            exchange.fail(408, "the request body stopped")

    def too_slow(self, now: float) -> bool:
        """Whether a body that is read whole drips in; answers it then."""
        limits = self._limits
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
        content_type, body = self.server.error_body(status, message, path)
        return [(b"content-type", content_type)], body

    @property
    def date_line(self) -> bytes:
        """The Date field, at most one timer tick old."""
        return self.server.date_line

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
            listener=self.server.name,
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
        self.deadline = self.server.now + self._limits.linger_s
        if transport.can_write_eof():
            transport.write_eof()

    def _close(self) -> None:
        """Ends the connection after what was written; nothing unread is expected."""
        self._deaf = True
        self.deadline = self.server.now + self._limits.linger_s
        self._transport.close()


def _discard(data: bytes) -> None:
    """Where writes go before and after the connection."""


class _AfterUpgrade:
    """llhttp's listener for the rest of a message whose head another parser has read.

    The first message's head is made up and passed over; all else goes to the connection.
    """

    def __init__(self, connection: ServerConnection) -> None:
        self._connection = connection
        self.passing = False

    def on_message_begin(self) -> None:
        if self.passing:
            self._connection.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self.passing:
            self._connection.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.passing:
            self._connection.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.passing:
            self._connection.on_headers_complete()

    def on_body(self, data: bytes) -> None:
        self._connection.on_body(data)

    def on_message_complete(self) -> None:
        self._connection.on_message_complete()
