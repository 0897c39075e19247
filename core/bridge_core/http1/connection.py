"""The server's side of one connection: bytes in, requests to the application, answers out in order.

How a connection lives:

1. `RequestReader` parses what arrives. Requests whose head (and body, unless streamed) is there wait in
   `_ready`; the first becomes the current exchange, and the next only after that one is finished.
2. While requests wait, or a streamed body's reader lags, the socket is not read. Otherwise it is,
   also during an answer, so that a client that leaves is noticed at once.
3. What breaks the protocol is answered after the requests before it; then the connection is closed,
   after a short drain, because closing with unread input would reset it under the answer. For the same
   reason a streamed body whose answer came first is read to its end and dropped: whole where it was
   answered well (it costs less than to take it), up to a bound where it was refused.
4. `deadline` is the one time limit that counts at present; the server's coarse timer looks at it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import httptools
import structlog

from bridge_core.http1.errors import BodyTimeout, Disconnected
from bridge_core.http1.headers import Pair
from bridge_core.http1.heads import CONTINUE, response_head
from bridge_core.http1.http_exchange import HttpExchange
from bridge_core.http1.listening import Listening
from bridge_core.http1.reading import PARSER_STOPS, RequestReader, joined
from bridge_core.http1.request import Request, given_id
from bridge_core.http1.rules import HeadRefusal

log = structlog.get_logger()

_UNHEARD_S = 1.0  # for the first request of a connection accepted just before the server closed
_DRAIN_MOST = 4 * 1024 * 1024  # of a refused request's rest, before the connection is reset
_TURN = 64 * 1024  # bytes in one read after which others have their turn
_DISCARD_MOST = 64.0 * 1024 * 1024  # of a refused upload, before the connection is closed


class ServerConnection(RequestReader):
    """One accepted connection; see the module's rules."""

    # Defaults on the class: see Request.
    _drained = 0
    _stalled_at = 0
    _dispatching = False
    _reading = True
    _deaf = False
    _used = False  # whether anything was ever received
    _shown: str | None = None
    _discarding: Request | None = None  # whose body is dropped, its answer being written
    _discarded = 0
    _discard_most = math.inf
    _discard_until = math.inf

    def __init__(self, server: Listening) -> None:
        super().__init__(server)
        self._transport: Any = None
        self._write: Callable[[bytes], None] = _discard

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
        self.deadline = server.now + (_UNHEARD_S if server.closing else server.limits.head_s)
        if len(server.connections) > server.limits.connections:
            self._refuse(HeadRefusal(503, "too many connections"))

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if self._deaf:
            self._drain_off(len(data))
            return
        between = self._current is None and self._parsing is None and not self._in_head
        if between and (request := self._repeated(data)) is not None:
            self._dispatching = True
            self._run(request)
            self._dispatching = False
            if self._current is None:
                self._settle()
            return
        self._received = len(data)
        self._used = True
        try:
            self._parser.feed_data(data)
        except PARSER_STOPS as fault:
            self._parse_failed(fault, data)
        if between:
            self._know(data)
        if self._in_head or self._parsing is not None:
            self._count(len(data))
        if self._discarding is not None and not self._goes_on_after(self._discarding, len(data)):
            return
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
            if len(data) >= _TURN:
                self._give_way()

    def eof_received(self) -> bool | None:  # noqa: D102
        if self._current is not None:
            # As Ollama's own server: a client that ends its side has left. Waiting bytes would
            # otherwise keep a dead connection open.
            self.cut()
        elif not self._deaf and (self._in_head or self._parsing is not None):
            self._refuse(HeadRefusal(400, "the request ended early"))
        return None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self.server.remove(self)
        self._deaf = True
        self._write = _discard
        self._parser = None
        self._ready.clear()
        self._in_parts.clear()
        self._let_go()
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
            request = ready.popleft()
            if self._in_parts and request in self._in_parts:
                self._join(request)
            else:
                self._run(request)
        self._dispatching = False
        if self._current is not None and self._current.request.stream is not None:
            self._set_deadline()

    def _join(self, request: Request) -> None:
        """Has the parts of a large body put together in a thread before it is run."""
        exchange = self._current = HttpExchange(self, request, self._write)  # holds its place
        self.deadline = math.inf
        parts = self._in_parts.pop(request)
        future = asyncio.get_running_loop().run_in_executor(None, joined, parts)
        future.add_done_callback(partial(self._run_joined, exchange))

    def _run_joined(self, exchange: HttpExchange, future: asyncio.Future[bytes]) -> None:
        if future.cancelled() or exchange is not self._current:
            return  # the loop ends, or the client has left
        fault = future.exception()
        if fault is None:
            exchange.request.body = future.result()
            self._run(exchange.request)
        else:
            log.error("http_body_not_joined", listener=self.server.name, exc_info=fault)
            exchange.fail(503, "too many large requests at once: try again in a moment")

    def _run(self, request: Request) -> None:
        exchange = self._current = HttpExchange(self, request, self._write)
        self.deadline = math.inf
        try:
            self.server.app(exchange)
        except Exception:  # the exchange's root: logged whole, answered without detail
            given = given_id(request)
            log.exception("http_app_failed", listener=self.server.name, path=request.path, request_id=given)
            exchange.fail(500, "internal error")

    def exchange_done(self, exchange: HttpExchange) -> None:
        """The current exchange was answered in full."""
        if exchange is not self._current:
            return
        self._current = None
        request = exchange.request
        exchange.on_disconnect = exchange.on_writable = None
        if request.stream is not None and not request.stream.complete:
            if self._continue:
                self._linger()
            else:
                self._discard(request, exchange.status)
        elif not request.keep_alive or self.server.closing:
            self._close()
        elif not self._dispatching:
            if not self._ready:
                self._settle()
            else:
                self._dispatch()
                if self._idle():
                    self._settle()
            if not self._reading:
                self._flow()

    def _idle(self) -> bool:
        """Asked after a call that may have begun the next exchange: mypyc believes what it saw before it."""
        return self._current is None

    def _discard(self, request: Request, status: int) -> None:
        """Drops the rest of a body whose answer was written, so that the client can read that."""
        if self._deaf or request.stream is None:
            return
        self._discarding, self._discarded = request, 0
        self._discard_most = self._discard_until = math.inf
        if status >= 400:
            self._discard_most = _DISCARD_MOST
            self._discard_until = self.server.now + self._limits.refused_s
        self.deadline = self.server.now + self._limits.body_idle_s
        request.stream.discard()

    def _goes_on_after(self, dropped: Request, received: int) -> bool:
        """Counts what came of a body that is dropped; False once the connection ends with it."""
        self._discarded += received
        if dropped.stream is None or dropped.stream.complete:
            self._discarding = None
            if not dropped.keep_alive:
                self._close()
        elif self._discarded > self._discard_most:
            self._linger()
        return not self._deaf

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

    def _give_way(self) -> None:
        """Reads on after everybody else's turn: libuv reads a socket 32 times in a row, some MiB."""
        if self._reading and not self._transport.is_closing():
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        if self._reading and not self._transport.is_closing():
            self._transport.resume_reading()

    def _flow(self) -> None:
        """Reads, or stops reading, as rule 2 of the module says."""
        wants = not self._ready
        if wants and self._current is not None:
            stream = self._current.request.stream
            wants = stream is None or stream.complete or stream.wants_data
        if self._deaf:
            wants = True
        elif self._continue and self._current is not None:
            self._call_for(self._current.request)
        if wants is self._reading or self._transport is None or self._transport.is_closing():
            return
        self._reading = wants
        if wants:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _call_for(self, request: Request) -> None:
        """Has a client send the body that it holds back, once somebody reads it."""
        if request.stream is not None and request.stream.wanted and request is self._parsing:
            self._continue = False
            request.keep_alive = self._keep_after_continue
            self._write(CONTINUE)

    # -- ends

    @property
    def open(self) -> bool:
        """Whether it has not ended."""
        return self._parser is not None

    @property
    def identity(self) -> str | None:
        """Who the client's verified certificate names, as the server's `identify` said."""
        return self._identity

    @property
    def known(self) -> bool:
        """Whether the client has shown who it is."""
        return self._identity is not None or self._shown is not None

    @property
    def shown(self) -> str | None:
        """Who the client's last request proved to be, where it was not the certificate that said so."""
        return self._shown

    def proven(self, identity: str) -> None:
        """The present request has proven who sends it."""
        if self._shown is None:
            self.server.known(self)
        self._shown = identity

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
            self._refuse(HeadRefusal(408, "the request head took too long"))
        elif self._parsing is not None:
            self._refuse(HeadRefusal(408, "the request body stopped"))
        elif self._transport.get_write_buffer_size():
            self.cut()
        else:
            self._close()

    def _expire_stream(self, exchange: HttpExchange, now: float) -> None:
        stream = exchange.request.stream
        if stream is None or stream.complete:
            self.deadline = math.inf
        elif not stream.wants_data:
            self.deadline = now + self._limits.body_idle_s  # the reader's pause, not the client's
        else:
            stream.fail(BodyTimeout("the request body stopped"))
            exchange.fail(408, "the request body stopped")

    def too_slow(self, now: float) -> bool:
        """Whether a body that is read whole drips in; answers it then. Also ends a refused body's rest."""
        limits = self._limits
        if self._discarding is not None and now >= self._discard_until:
            self._discarding = None
            self._linger()
            return True
        request = self._parsing
        if not limits.body_rate or request is None or request.stream is not None or self._current is not None:
            return False
        elapsed = now - self._body_began
        if elapsed <= limits.body_idle_s or self._body_size >= elapsed * limits.body_rate:
            return False
        self._refuse(HeadRefusal(408, "the request body came too slowly"))
        return True

    def drain(self) -> None:
        """The server closes: an idle connection ends now, a busy one after its answer.

        One that was accepted but has not been heard yet gets a moment to send its request: its client
        could not know better, and does not expect to be turned away before it has spoken.
        """
        if self._current is None and not (self._ready or self._in_head or self._parsing or self._deaf):
            if self._used:
                self._close()
            else:
                self.deadline = min(self.deadline, self.server.now + _UNHEARD_S)

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

    def _refuse(self, refusal: HeadRefusal) -> None:
        """Answers what is no valid request, and closes: the framing is in doubt."""
        if self._discarding is not None:  # it has its answer
            self._refusal = None
            self._linger()
            return
        path = self._target.partition(b"?")[0].decode("latin-1")
        pairs, body = self.error_answer(refusal.status, refusal.message, path)
        if refusal.status == 503:
            pairs.append((b"retry-after", b"1"))
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
        self._in_parts.clear()
        self._parsing = None
        self._body = []
        self._let_go()
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
        # Once: asyncio's TLS before 3.11.3 cannot be aborted any more after a second time.
        if not self._transport.is_closing():
            self._transport.close()


def _discard(data: bytes) -> None:
    """Where writes go before and after the connection."""
