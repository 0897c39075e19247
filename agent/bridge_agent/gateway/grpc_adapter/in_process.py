"""A request to the pipeline from inside this process, without a socket.

The pipeline sees an `Exchange` as from any listener; what it writes is handed to a reader with
the same back-pressure that a slow client's socket would give.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Final, Self

from bridge_agent.gateway.grpc_adapter.calls import Calls
from bridge_agent.gateway.grpc_adapter.translate import pairs_of
from bridge_core.errors import BridgeError
from bridge_core.http1 import (
    Disconnected,
    Exchange,
    IncompleteResponse,
    Pair,
    Request,
    ResponseTooLarge,
)

LINE_MOST: Final = 17 << 20
"""Bytes of a line: more than any that the pipeline passes on."""
HIGH_WATER: Final = 256 * 1024
LOW_WATER: Final = 64 * 1024


class InProcessExchange:
    """The pipeline's side, an `Exchange`. `reader` is the other one."""

    __slots__ = (
        "_drained",
        "disconnected",
        "finished",
        "on_disconnect",
        "on_writable",
        "reader",
        "request",
        "sent",
        "shown",
        "started",
        "status",
        "write_paused",
    )

    def __init__(self, request: Request) -> None:
        self.request = request
        self.shown = request.identity
        self.reader = AnswerReader(self)
        self.started = False
        self.finished = False
        self.disconnected = False
        self.write_paused = False
        self.on_disconnect: Callable[[], None] | None = None
        self.on_writable: Callable[[bool], None] | None = None
        self.status = 0
        self.sent = 0
        self._drained: asyncio.Future[None] | None = None

    def proven(self, identity: str) -> None:
        """See `Exchange.proven`."""
        self.shown = identity

    def respond(
        self,
        status: int,
        headers: Iterable[Pair] | bytes = (),
        body: bytes = b"",
        *,
        forwarded: bool = False,
    ) -> None:
        """See `Exchange.respond`."""
        self.start(status, headers, len(body))
        if body:
            self.write(body)
        self.finish()

    def start(
        self,
        status: int,
        headers: Iterable[Pair] | bytes = (),
        length: int | None = None,
        *,
        cork: bool = False,
        forwarded: bool = False,
    ) -> None:
        """See `Exchange.start`."""
        if self.started:
            raise RuntimeError("the answer was started already")
        if self.disconnected or self.finished:
            return
        self.started = True
        self.status = status
        self.reader.take_head(status, pairs_of(headers) if isinstance(headers, bytes) else tuple(headers))

    def write(self, data: bytes) -> None:
        """See `Exchange.write`."""
        if self.finished or self.disconnected or not data:
            return
        if not self.started:
            raise RuntimeError("write before start")
        self.sent += len(data)
        self.reader.take_data(data)
        if not self.write_paused and self.reader.buffered > HIGH_WATER:
            self._pause(paused=True)

    def finish(self, data: bytes = b"") -> None:
        """See `Exchange.finish`."""
        if self.finished or self.disconnected:
            return
        if not self.started:
            raise RuntimeError("finish before start")
        if data:
            self.write(data)
        self.finished = True
        self.on_disconnect = self.on_writable = None
        self.reader.take_end(None)

    def fail(self, status: int, message: str) -> None:
        """See `Exchange.fail`."""
        if self.started:
            self.abort()
        else:
            self.respond(status, (), message.encode())

    def abort(self) -> None:
        """See `Exchange.abort`."""
        if self.finished:
            return
        self.finished = True
        self.on_disconnect = self.on_writable = None
        self.reader.take_end(IncompleteResponse("the answer was cut off"))

    def flush(self) -> None:
        """See `Exchange.flush`: nothing is held back here."""

    async def drain(self) -> None:
        """See `Exchange.drain`."""
        if self.disconnected:
            raise Disconnected("the client went away")
        if self.write_paused:
            if self._drained is None:
                self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    # For the reader only.

    def reader_took(self) -> None:
        """The reader consumed something."""
        if self.write_paused and self.reader.buffered <= LOW_WATER:
            self._pause(paused=False)

    def reader_left(self) -> None:
        """Nobody reads any more."""
        if self.disconnected:
            return
        self.disconnected = True
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_exception(Disconnected("the client went away"))
        callback, self.on_disconnect = self.on_disconnect, None
        if callback is not None and not self.finished:
            callback()
        self.on_writable = None

    def _pause(self, *, paused: bool) -> None:
        self.write_paused = paused
        if not paused:
            drained, self._drained = self._drained, None
            if drained is not None and not drained.done():
                drained.set_result(None)
        if self.on_writable is not None:
            self.on_writable(not paused)


class AnswerReader:
    """The caller's side of an exchange; leave the context to let go of what is not read."""

    def __init__(self, exchange: InProcessExchange) -> None:
        self._exchange = exchange
        self.calls: Calls | None = None
        self._parts: deque[bytes] = deque()
        self._ended = False
        self._fault: BridgeError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.status = 0
        self.headers: tuple[Pair, ...] = ()
        self.buffered = 0

    @property
    def caller(self) -> str | None:
        """Who makes the call, as the pipeline found out."""
        return self._exchange.shown

    def __enter__(self) -> Self:
        if self.calls is not None:
            self.calls.begun(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.calls is not None:
            self.calls.over(self)
        if not self._ended:
            self._exchange.reader_left()

    async def head(self) -> int:
        """Waits for the head; the answer's status.

        Raises:
            IncompleteResponse: the pipeline cut the answer before it began.
        """
        while not self.status:
            if self._ended:
                raise self._fault or IncompleteResponse("no answer came")
            await self._wait()
        return self.status

    async def read(self, most: int) -> bytes:
        """The whole body.

        Raises:
            IncompleteResponse: it was cut off.
            ResponseTooLarge: it has more than `most` bytes.
        """
        if self._ended and self._fault is None and len(self._parts) == 1 and self.buffered <= most:
            return self._parts.popleft()
        parts, size = [], 0
        async for part in self.parts():
            size += len(part)
            if size > most:
                raise ResponseTooLarge(f"the answer has more than the {most} bytes that are read of it")
            parts.append(part)
        return b"".join(parts)

    async def parts(self) -> AsyncIterator[bytes]:
        """The body in parts, as they were written.

        Raises:
            IncompleteResponse: it was cut off.
        """
        while True:
            while self._parts:
                part = self._parts.popleft()
                self.buffered -= len(part)
                self._exchange.reader_took()
                yield part
            if self._ended:
                if self._fault is not None:
                    raise self._fault
                return
            await self._wait()

    async def lines(self) -> AsyncIterator[bytes]:
        """The body's lines, without their ends; the rest after the last one counts as a line.

        Raises:
            IncompleteResponse: it was cut off.
            ResponseTooLarge: a line has more than LINE_MOST bytes.
        """
        rest = bytearray()
        async for part in self.parts():
            first, *whole = part.split(b"\n")
            rest += first
            if len(rest) > LINE_MOST:
                raise ResponseTooLarge(f"a line of the answer is longer than {LINE_MOST >> 20} MiB")
            if not whole:
                continue
            *whole, last = bytes(rest), *whole
            rest = bytearray(last)
            for line in whole:
                if line:
                    yield line
        if rest.strip():
            yield bytes(rest)

    def give_up(self, fault: BridgeError) -> None:
        """Cancels what is not answered yet; whoever reads gets `fault`."""
        if not self._ended:
            self._exchange.reader_left()
            self.take_end(fault)

    # For the exchange only.

    def take_head(self, status: int, headers: tuple[Pair, ...]) -> None:
        """The answer begins."""
        self.status, self.headers = status, headers
        self._wake()

    def take_data(self, data: bytes) -> None:
        """A part of the body."""
        self._parts.append(data)
        self.buffered += len(data)
        self._wake()

    def take_end(self, fault: BridgeError | None) -> None:
        """Nothing more comes."""
        self._ended, self._fault = True, fault
        self._wake()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


def call(app: Callable[[Exchange], None], request: Request, calls: Calls) -> AnswerReader:
    """Hands a request to the pipeline `app`; read the answer within the context of what it returns."""
    exchange = InProcessExchange(request)
    exchange.reader.calls = calls
    app(exchange)
    return exchange.reader
