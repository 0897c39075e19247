"""The coroutine side of the client: a request as a context manager, its answer to iterate over."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from types import TracebackType
from typing import Protocol

from bridge_core.http1.client import ClientExchange, ResponseHead, ResponseSink
from bridge_core.http1.errors import ResponseTimeout, ResponseTooLarge, UpstreamError
from bridge_core.http1.headers import Headers, Pair
from bridge_core.http1.heads import content_length, request_head

_BUFFER = 256 * 1024
_READ_MOST = 64 * 1024 * 1024


class ClientResponse(ResponseSink):
    """An answer whose body is read with `async for` (its parts as they come) or `read`."""

    __slots__ = (
        "_buffered",
        "_done",
        "_error",
        "_exchange",
        "_head",
        "_parts",
        "_paused",
        "_waiter",
        "_writable",
    )

    def __init__(self) -> None:
        self._exchange: ClientExchange | None = None
        self._head: ResponseHead | None = None
        self._parts: deque[bytes] = deque()
        self._buffered = 0
        self._paused = False
        self._done = False
        self._error: UpstreamError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    @property
    def head(self) -> ResponseHead:
        """The head; there once the context was entered."""
        if self._head is None:
            raise RuntimeError("the head of the answer has not come")
        return self._head

    @property
    def status(self) -> int:
        """The status code."""
        return self.head.status

    @property
    def headers(self) -> Headers:
        """The header fields."""
        return self.head.headers

    async def read(self, limit: int = _READ_MOST) -> bytes:
        """The rest of the body.

        Raises:
            ResponseTooLarge: it is larger than `limit` bytes.
            UpstreamError: it did not come in full.
        """
        parts, size = [], 0
        async for part in self:
            size += len(part)
            if size > limit:
                raise ResponseTooLarge(f"the answer is larger than {limit} bytes")
            parts.append(part)
        return b"".join(parts)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._parts:
            if self._error is not None:
                raise self._error
            if self._done:
                raise StopAsyncIteration
            await self._wait()
        part = self._parts.popleft()
        self._buffered -= len(part)
        if self._paused and self._buffered < _BUFFER // 2 and self._exchange is not None:
            self._paused = False
            self._exchange.resume()
        return part

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -- ResponseSink

    def on_head(self, head: ResponseHead) -> None:
        """See `ResponseSink`."""
        self._head = head
        self._wake()

    def on_data(self, data: bytes) -> None:
        """See `ResponseSink`."""
        self._parts.append(data)
        self._buffered += len(data)
        if self._buffered > _BUFFER and not self._paused and self._exchange is not None:
            self._paused = True
            self._exchange.pause()
        self._wake()

    def on_end(self) -> None:
        """See `ResponseSink`."""
        self._done = True
        self._wake()

    def on_error(self, error: UpstreamError) -> None:
        """See `ResponseSink`."""
        self._error = error
        self._writable.set()
        self._wake()

    def on_writable(self, writable: bool) -> None:
        """See `ResponseSink`."""
        if writable:
            self._writable.set()
        else:
            self._writable.clear()

    # -- for RequestContext

    async def begin(self, exchange: ClientExchange, timeout_s: float | None) -> None:
        """Waits for the head."""
        self._exchange = exchange
        try:
            async with asyncio.timeout(timeout_s):
                while self._head is None and self._error is None:
                    await self._wait()
        except TimeoutError as fault:
            raise ResponseTimeout(f"{exchange.pool.label} did not answer within {timeout_s:g} s") from fault
        if self._head is None and self._error is not None:
            raise self._error

    async def upload(self, exchange: ClientExchange, body: AsyncIterable[bytes]) -> None:
        """Sends the request's body as it is made."""
        async for part in body:
            exchange.write(part)
            await self._writable.wait()
            if exchange.done:
                return
        exchange.finish()


class RequestPool(Protocol):
    """Where a request is sent, as `Pool` is one."""

    host: bytes

    def send(
        self, data: bytes, sink: ResponseSink, *, more: bool = False, chunked: bool = False
    ) -> ClientExchange:
        """See `Pool.send`."""

    def send_whole(self, head: bytes, body: bytes, sink: ResponseSink) -> ClientExchange:
        """See `Pool.send_whole`."""


class RequestContext:
    """A request under way; see `Pool.request`."""

    __slots__ = ("_body", "_exchange", "_headers", "_method", "_pool", "_target", "_timeout_s", "_upload")

    def __init__(
        self,
        pool: RequestPool,
        method: str,
        target: str | bytes,
        headers: Iterable[Pair],
        body: bytes | AsyncIterable[bytes] | None,
        *,
        timeout_s: float | None,
    ) -> None:
        self._pool = pool
        self._method = method
        self._target = target
        self._headers = headers
        self._body = body
        self._timeout_s = timeout_s
        self._exchange: ClientExchange | None = None
        self._upload: asyncio.Task[None] | None = None

    async def __aenter__(self) -> ClientResponse:
        pairs = list(self._headers)
        if not any(name == b"host" for name, _ in pairs):
            pairs.insert(0, (b"host", self._pool.host))
        target = self._target.encode("ascii") if isinstance(self._target, str) else self._target
        method, body = self._method.encode("ascii"), self._body
        response = ClientResponse()
        if body is None or isinstance(body, bytes):
            framing = content_length(len(body or b"")) if body or self._method not in _BODILESS else b""
            head = request_head(method, target, pairs, framing)
            exchange = self._pool.send_whole(head, body or b"", response)
        else:
            data = request_head(method, target, pairs, b"transfer-encoding: chunked\r\n")
            exchange = self._pool.send(data, response, more=True, chunked=True)
            self._upload = asyncio.ensure_future(response.upload(exchange, body))
        self._exchange = exchange
        try:
            await self._begin(response, exchange)
        except BaseException as fault:  # noqa: BLE001 - raised again below, since what waits must not stand here
            failed = fault
        else:
            return response
        await self._leave()
        raise failed

    async def _begin(self, response: ClientResponse, exchange: ClientExchange) -> None:
        """Waits for the head; a body that cannot be made fails the request."""
        upload = self._upload
        if upload is None:
            await response.begin(exchange, self._timeout_s)
            return
        head = asyncio.ensure_future(response.begin(exchange, self._timeout_s))
        try:
            await asyncio.wait([head, upload], return_when=asyncio.FIRST_COMPLETED)
            if upload.done() and not head.done():
                upload.result()
            await head
        finally:
            head.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave()

    async def _leave(self) -> None:
        """Gives up what has not come; an answer read to its end leaves its connection in the pool."""
        if self._exchange is not None:
            self._exchange.cancel()
        if self._upload is not None:
            self._upload.cancel()
            await asyncio.wait([self._upload])
            if not self._upload.cancelled():
                self._upload.exception()  # seen: the request's own outcome is what counts


_BODILESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
