"""A request to the pipeline from inside this process, without a socket.

The pipeline sees an `Exchange` as from any listener; what it writes is read in parts, or in lines.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Self

from bridge_agent.gateway.grpc_adapter.calls import Calls
from bridge_agent.gateway.grpc_adapter.streamed_answer import LINE_MOST, StreamedAnswer
from bridge_core.http1 import Exchange, Request, ResponseTooLarge


class InProcessExchange(StreamedAnswer):
    """See the module; leave the context to let go of what is not read.

    Args:
        request: What is asked.
        calls: Keeps it while it is under way; None: nobody does.
    """

    def __init__(self, request: Request, calls: Calls | None = None) -> None:
        super().__init__(request)
        self._calls = calls

    def __enter__(self) -> Self:
        if self._calls is not None:
            self._calls.begun(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._calls is not None:
            self._calls.over(self)
        self.leave()

    async def parts(self) -> AsyncIterator[bytes]:
        """The body in parts, as they came.

        Raises:
            BridgeError: the rest will not come.
        """
        while part := await self.part():
            yield part

    async def lines(self) -> AsyncIterator[bytes]:
        """The body's lines, without their ends; the rest after the last one counts as a line.

        Raises:
            BridgeError: the rest will not come.
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


def call(app: Callable[[Exchange], None], request: Request, calls: Calls) -> InProcessExchange:
    """Hands a request to the pipeline `app`; read the answer within the context of what it returns."""
    exchange = InProcessExchange(request, calls)
    app(exchange)
    return exchange
