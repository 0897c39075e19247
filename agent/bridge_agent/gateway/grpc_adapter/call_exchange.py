"""The pipeline's side of a gRPC call that is framed here: an `Exchange` without a socket.

What it writes is kept for the one task that serves the call. Nothing holds on to an ended one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from bridge_core.errors import BridgeError
from bridge_core.http1 import Disconnected, IncompleteResponse, Pair, Request
from bridge_core.native import mypyc_attr


@mypyc_attr(allow_interpreted_subclasses=True)
class CallExchange:
    """See `Exchange`; subclasses say what becomes of what is written.

    Attributes:
        shown: Who makes the call, as the pipeline found out.
        headers: The answer's fields, or its lines.
        ended: Nothing more comes.
        fault: Why the answer is not whole; None: it is, or has not ended.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.shown = request.identity
        self.started = False
        self.finished = False
        self.disconnected = False
        self.write_paused = False
        self.on_disconnect: Callable[[], None] | None = None
        self.on_writable: Callable[[bool], None] | None = None
        self.status = 0
        self.sent = 0
        self.headers: tuple[Pair, ...] | bytes = ()
        self.ended = False
        self.fault: BridgeError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None

    @property
    def caller(self) -> str | None:
        """Who makes the call, as the pipeline found out."""
        return self.shown

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
        self.finish(body)

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
        self.headers = headers if isinstance(headers, bytes) else tuple(headers)
        self.begun()

    def write(self, data: bytes) -> None:
        """See `Exchange.write`."""
        if self.finished or self.disconnected or not data:
            return
        if not self.started:
            raise RuntimeError("write before start")
        self.sent += len(data)
        self.take(data)

    def finish(self, data: bytes = b"") -> None:
        """See `Exchange.finish`."""
        if self.finished or self.disconnected:
            return
        if not self.started:
            raise RuntimeError("finish before start")
        if data:
            self.write(data)
        if not self.ended:
            self.finished = True
            self.end(None)

    def fail(self, status: int, message: str) -> None:
        """See `Exchange.fail`."""
        if self.started:
            self.abort()
        else:
            self.respond(status, (), message.encode())

    def abort(self) -> None:
        """See `Exchange.abort`."""
        if not self.finished and not self.ended:
            self.finished = True
            self.end(IncompleteResponse("the answer was cut off"))

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

    # For who serves the call.

    def begun(self) -> None:
        """The head is there."""

    def take(self, data: bytes) -> None:
        """A part of the body."""
        raise NotImplementedError

    def give_up(self, fault: BridgeError) -> None:
        """Cancels what is not answered yet; whoever waits for the answer gets `fault`."""
        if not self.ended:
            self._leave()
            self.end(fault)

    def leave(self) -> None:
        """Nobody waits for an answer any more."""
        if not self.ended:
            self.ended = True
            self._leave()

    def end(self, fault: BridgeError | None) -> None:
        """Nothing more comes."""
        self.ended = True
        self.fault = fault
        self.on_disconnect = self.on_writable = None
        self.wake()

    def wake(self) -> None:
        """Has who waits look again."""
        waiter = self._waiter
        self._waiter = None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def news(self) -> asyncio.Future[None]:
        """Done when there is something to look at."""
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        return waiter

    def pause(self, *, paused: bool) -> None:
        """Who reads lags behind, or has caught up."""
        self.write_paused = paused
        if not paused:
            drained = self._drained
            self._drained = None
            if drained is not None and not drained.done():
                drained.set_result(None)
        if self.on_writable is not None:
            self.on_writable(not paused)

    def _leave(self) -> None:
        self.disconnected = True
        drained = self._drained
        self._drained = None
        if drained is not None and not drained.done():
            drained.set_exception(Disconnected("the client went away"))
        callback = self.on_disconnect
        self.on_disconnect = self.on_writable = None
        if callback is not None and not self.finished:
            callback()
