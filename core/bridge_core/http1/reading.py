"""Reading requests off one connection: llhttp's calls in, checked requests out, within the limits.

llhttp calls back while it parses. The callbacks only gather; whoever feeds it acts once it has returned.

A client that keeps its connection mostly repeats its head. A read that is one whole request with the
head of the request before is not parsed again (see `RepeatedHead`).
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import Any, NoReturn

import httptools
import structlog

from bridge_core.http1.headers import Pair
from bridge_core.http1.http_exchange import HttpExchange
from bridge_core.http1.listening import Listening
from bridge_core.http1.repeated import RepeatedHead
from bridge_core.http1.request import BodyStream, Request
from bridge_core.http1.rules import CHUNKED, HeadRefusal, check_head

log = structlog.get_logger()

_METHODS = {name: name.decode("ascii") for name in (b"GET", b"POST", b"HEAD", b"PUT", b"DELETE", b"OPTIONS")}
PARSER_STOPS = (httptools.HttpParserError, httptools.HttpParserUpgrade)
_KNOWN_HEAD_MOST = 4096  # a longer head is not remembered: it would be kept as long as the connection
# Bodies of more bytes are put together in a thread; from here on CPython does it with its lock free.
_JOINED_HERE = 1024 * 1024
# Framing may cost this much more than the chunks' content: 1-byte chunks pass, extension floods not.
_OVERHEAD_FREE, _OVERHEAD_FACTOR = 64 * 1024, 16


class RequestReader(asyncio.Protocol):
    """The reading half of a server's connection.

    Attributes:
        deadline: Loop time at which the server's timer calls `expire`.
        write_paused: The client's side is over its high-water mark.
    """

    def __init__(self, server: Listening) -> None:
        self.server = server
        self._limits = server.limits
        self._parser: Any = None
        self._ready: deque[Request] = deque()
        self._pairs: list[Pair] = []
        self._body: list[bytes] = []
        self._in_parts: dict[Request, list[bytes]] = {}  # large bodies of requests that are ready
        self._remote: tuple[str, int] | None = None
        self._identity: str | None = None
        self._current: HttpExchange | None = None
        self._parsing: Request | None = None  # whose body is being read
        self._upgrading: Request | None = None
        self._refusal: HeadRefusal | None = None
        self._known: RepeatedHead | None = None
        self._known_request: Request | None = None
        self._target = b""
        self._body_size = 0
        self._held = 0  # of it, counted in the listener's `bodies_held`
        self._body_began = 0.0
        self._received = 0  # bytes of the present read, less what belongs to finished messages
        self._unparsed = 0  # bytes of an unfinished head, as far as known
        self._overhead = 0
        self._in_head = False
        self._chunked = False
        self._continue = False
        self._keep_after_continue = False
        self.write_paused = False
        self.deadline = math.inf

    # -- llhttp's calls

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
        except HeadRefusal as refusal:
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
            raise HeadRefusal(505, f"HTTP version {version} is not supported")
        return 1 if version == "1.1" else 0

    def _expect_body(self, request: Request, length: int, expects_continue: bool) -> None:
        server = self.server
        self._body_size = self._overhead = 0
        self._body_began = server.now
        if server.stream_body is not None and server.stream_body(request):
            request.stream = BodyStream(self._flow)
            self._ready.append(request)
        elif length > server.limits.body:
            self._reject(HeadRefusal(413, "the request body is too large"))
        self._chunked = length == CHUNKED
        self._continue = expects_continue
        if expects_continue and request.stream is not None:
            # Until the reader begins: a client that is answered first may or may not send its body.
            self._keep_after_continue, request.keep_alive = request.keep_alive, False

    def on_body(self, data: bytes) -> None:  # noqa: D102
        request = self._parsing
        if request is None:
            return
        self._body_size += len(data)
        if request.stream is not None:
            request.stream.feed(data)
            return
        if self._body_size > self._limits.body:
            self._reject(HeadRefusal(413, "the request body is too large"))
        if self._refusal is None:
            self._body.append(data)

    def on_message_complete(self) -> None:  # noqa: D102
        request, self._parsing = self._parsing, None
        if request is None:
            return
        self._continue = False
        if self._held:
            self._let_go()
        self._received = 0  # what is left of this read is the next message's, and not known
        if request.stream is not None:
            request.stream.end()
            return
        body = self._body
        if self._refusal is not None:  # not all of it was kept
            self._body = []
            return
        if len(body) == 1:
            request.body = body[0]
            self._body = []
        elif body:
            if self._body_size > _JOINED_HERE:
                self._in_parts[request] = body
            else:
                request.body = b"".join(body)
            self._body = []
        self._ready.append(request)

    def _reject(self, refusal: HeadRefusal) -> NoReturn:
        """Stops the parser; the refusal is answered when its turn comes."""
        self._refusal = refusal
        raise refusal

    def _check_size(self) -> None:
        limits = self._limits
        if len(self._target) > limits.request_line:
            self._reject(HeadRefusal(414, "the request target is too long"))
        if len(self._pairs) > limits.header_count:
            self._reject(HeadRefusal(431, "the request has too many headers"))
        if sum(len(name) + len(value) + 4 for name, value in self._pairs) > limits.head:
            self._reject(HeadRefusal(431, "the request headers are too large"))

    def _parse_failed(self, fault: Exception, data: bytes) -> None:
        if isinstance(fault, httptools.HttpParserUpgrade):
            self._go_on_after_upgrade(data[fault.args[0] :])
        elif self._refusal is not None:
            pass  # ours, raised through the parser
        elif isinstance(fault, httptools.HttpParserCallbackError):
            log.error("http_parse_failed", listener=self.server.name, exc_info=fault)
            self._refusal = HeadRefusal(500, "internal error")
        elif self._in_head or self._parsing is not None or not self._closes_after():
            self._refusal = HeadRefusal(400, f"malformed HTTP: {fault}")

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
        except PARSER_STOPS as fault:
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
                    HeadRefusal(414, "the request target is too long")
                    if long_target
                    else HeadRefusal(431, "the request headers are too large")
                )
            return
        if not self.write_paused and (self._current is None or self._current.request is self._parsing):
            self.deadline = self.server.now + limits.body_idle_s
        if self._parsing is not None and self._parsing.stream is None:
            self._hold()
        if self._chunked:
            self._overhead += received
            bound = _OVERHEAD_FREE + _OVERHEAD_FACTOR * self._body_size
            if self._overhead > bound and self._refusal is None:
                self._refusal = HeadRefusal(400, "malformed HTTP: too much chunk framing")

    def _hold(self) -> None:
        """Counts what has come of the body; whose bytes are one too many for all together is turned away."""
        if self._refusal is not None:
            return
        self.server.bodies_held += self._body_size - self._held
        self._held = self._body_size
        if self.server.bodies_held > self._limits.bodies:
            self._refusal = HeadRefusal(503, "too many large requests at once: try again in a moment")
            self._body = []
            self._let_go()

    def _let_go(self) -> None:
        """The body is whole, or is not read on."""
        self.server.bodies_held -= self._held
        self._held = 0

    def _flow(self) -> None:
        """Reads, or stops reading."""
        raise NotImplementedError

    # -- repeated heads

    def _repeated(self, data: bytes) -> Request | None:
        """The request that `data` is, when it is a whole one with the head of the one before."""
        known, like = self._known, self._known_request
        if known is None or like is None:
            return None
        read = known.read(data)
        if read is None:
            return None
        headers, body = read
        return None if len(body) > self._limits.body else like.again(headers, body)

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
            self._known_request = request.again(headers, b"")  # not the body: it may be large
            self._known = RepeatedHead(data[:size], headers, self.server.varying)


def joined(parts: list[bytes]) -> bytes:
    """A large body, put together in a thread; the parts are let go there, too."""
    whole = b"".join(parts)
    while parts:
        parts.pop()  # one by one: others may have the interpreter in between
    return whole


class _AfterUpgrade:
    """llhttp's listener for the rest of a message whose head another parser has read.

    The first message's head is made up and passed over; all else goes to the connection.
    """

    def __init__(self, connection: RequestReader) -> None:
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
