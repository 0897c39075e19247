"""What a client asked for, and the body of a request that is read while it arrives."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import unquote

from bridge_core.errors import BridgeError
from bridge_core.http1.headers import Headers

STREAM_BUFFER = 256 * 1024


class Request:
    """One request as it came.

    Attributes:
        method: As sent, upper case.
        target: The request target, raw (for an absolute-form target: its path and query).
        headers: All header fields; `host` is the one that counts.
        body: The whole body; empty when it is streamed.
        stream: The body while it arrives, or None when it was read whole.
        keep_alive: The client can take another answer on this connection.
        minor: 0 or 1, of HTTP/1.x.
        remote: Address and port of the client; None on a socket without.
        identity: URI SAN of the client's verified certificate.
        listener: Name of the listener that accepted the connection.
        memo: What was made of the head, by keys of whoever made it. A connection mostly repeats its
            head, and requests of one head on one connection share this: what depends on the head
            alone (Content-Length and the server's `varying` excepted) is worked out once.
    """

    # Slots: a request is made for every few microseconds of work.
    __slots__ = (
        "_path",
        "_query",
        "body",
        "headers",
        "identity",
        "keep_alive",
        "listener",
        "memo",
        "method",
        "minor",
        "remote",
        "stream",
        "target",
    )

    def __init__(
        self,
        method: str,
        target: bytes,
        headers: Headers,
        memo: dict[Any, Any] | None = None,
        *,
        body: bytes = b"",
        like: Request | None = None,
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.stream: BodyStream | None = None
        self.remote: tuple[str, int] | None
        self.identity: str | None
        self._path: str | None
        if like is None:
            self.memo = {} if memo is None else memo
            self.keep_alive = True
            self.minor = 1
            self.remote = None
            self.identity = None
            self.listener = ""
            self._path = None
            self._query = ""
        else:  # all that a connection and a head give
            self.memo = like.memo
            self.keep_alive = like.keep_alive
            self.minor = like.minor
            self.remote = like.remote
            self.identity = like.identity
            self.listener = like.listener
            self._path = like._path  # noqa: SLF001 - another of this class
            self._query = like._query  # noqa: SLF001 - likewise

    @property
    def path(self) -> str:
        """The path, percent-decoded (undecodable bytes become U+FFFD)."""
        if self._path is None:
            self._split()
        return self._path  # type: ignore[return-value]  # _split has set it

    @property
    def query(self) -> str:
        """The query as sent, without the question mark."""
        if self._path is None:
            self._split()
        return self._query

    def body_parts(self) -> AsyncIterator[bytes]:
        """The body, part by part as it arrives (one part where it was read whole): iterate over it.

        Raises:
            Disconnected, BodyTimeout: the rest of the body will not come.
        """
        return _WholeBody(self.body) if self.stream is None else self.stream

    def again(self, headers: Headers, body: bytes) -> Request:
        """A request whose head repeats this one's, on the same connection."""
        if self._path is None:
            self._split()
        return Request(self.method, self.target, headers, body=body, like=self)

    def _split(self) -> None:
        path, _, query = self.target.partition(b"?")
        text = path.decode("latin-1")
        self._path = unquote(text) if "%" in text else text
        self._query = query.decode("latin-1")


class BodyStream:
    """The body of a request while it arrives: a bounded buffer between socket and reader.

    Read it with `async for`, or take the callbacks with `attach`; not both. The connection stops
    reading while more than `STREAM_BUFFER` bytes wait or while the reader has paused it.

    Attributes:
        buffered: Bytes that wait for the reader.
        complete: All of the body has arrived.
        wanted: A reader has begun: a client that waits for that may be told to send.
    """

    __slots__ = (
        "_discards",
        "_failure",
        "_flow",
        "_on_data",
        "_on_end",
        "_on_failure",
        "_parts",
        "_paused",
        "_waiter",
        "buffered",
        "complete",
        "wanted",
    )

    def __init__(self, flow: Callable[[], None]) -> None:
        self._flow = flow
        self._parts: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._failure: BridgeError | None = None
        self._on_data: Callable[[bytes], None] | None = None
        self._on_end: Callable[[], None] | None = None
        self._on_failure: Callable[[BridgeError], None] | None = None
        self._paused = False
        self._discards = False
        self.buffered = 0
        self.complete = False
        self.wanted = False

    @property
    def wants_data(self) -> bool:
        """Whether the connection should go on reading."""
        return not self._paused and self.buffered < STREAM_BUFFER

    def feed(self, data: bytes) -> None:
        """Takes what the connection received; `pump` hands it on."""
        if self._discards:
            return
        self._parts.append(data)
        self.buffered += len(data)

    def end(self) -> None:
        """The body is whole; `pump` says so."""
        self.complete = True

    def pump(self) -> None:
        """Hands on what came, outside the parser's calls."""
        if self._on_data is None:
            self._wake()
            return
        parts, self._parts, self.buffered = self._parts, deque(), 0
        for part in parts:
            self._on_data(part)
        if self.complete and self._on_end is not None:
            on_end, self._on_end = self._on_end, None
            on_end()

    def fail(self, failure: BridgeError) -> None:
        """The rest of the body will not come."""
        if self.complete or self._failure is not None:
            return
        self._failure = failure
        if self._on_failure is not None:
            self._on_failure(failure)
        self._wake()

    def attach(
        self,
        on_data: Callable[[bytes], None],
        on_end: Callable[[], None],
        on_failure: Callable[[BridgeError], None],
    ) -> None:
        """Delivers what has arrived and all that follows through callbacks."""
        self._on_data, self._on_end, self._on_failure = on_data, on_end, on_failure
        self.wanted = True
        self.pump()
        if self._failure is not None:
            on_failure(self._failure)
        elif not self.complete:
            self._flow()

    def discard(self) -> None:
        """Nobody reads on: what has arrived and all that follows is dropped."""
        self._on_data = self._on_end = self._on_failure = None
        self._parts.clear()
        self.buffered = 0
        self._paused = False
        self._discards = True
        self._flow()

    def pause(self) -> None:
        """Stops reading from the client until `resume`."""
        if self._discards:
            return
        self._paused = True
        self._flow()

    def resume(self) -> None:
        """Goes on reading."""
        self._paused = False
        self._flow()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def __aiter__(self) -> AsyncIterator[bytes]:
        self.wanted = True
        self._flow()
        return self

    async def __anext__(self) -> bytes:
        while not self._parts:
            if self._failure is not None:
                raise self._failure
            if self.complete:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        part = self._parts.popleft()
        self.buffered -= len(part)
        self._flow()
        return part


class _WholeBody:
    """The one part of a body that was read whole; none of an empty one."""

    __slots__ = ("_left",)

    def __init__(self, body: bytes) -> None:
        self._left = body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        body, self._left = self._left, b""
        if not body:
            raise StopAsyncIteration
        return body


def given_id(request: Request) -> str | None:
    """The id that whoever sent a request gave it, for a line of a log; None: none."""
    found = request.headers.get(b"x-request-id")
    return None if found is None else found[:128].decode("latin-1")
