"""`Predict` over native gRPC with the framing done here: the hot path.

connectrpc serves every shape of call; for the plain unary one its generality costs more than the
call itself. What this takes is exactly one uncompressed message of `application/grpc`; anything
else (compression, gRPC-Web, Connect, JSON) goes to connectrpc. Both are held to the same suite.
"""

from __future__ import annotations

from typing import Final

from bridge_agent.gateway.grpc_adapter.call_exchange import CallExchange
from bridge_agent.gateway.grpc_adapter.callers import GrpcCaller
from bridge_agent.gateway.grpc_adapter.native import (
    HEAD,
    OK,
    NativeCalls,
    Receive,
    Send,
    call_in_time,
    failed,
    read_timeout,
)
from bridge_agent.gateway.grpc_adapter.translate import (
    MAX_OUTPUT,
    answer_metadata,
    encoder,
    fault_of,
)
from bridge_agent.gateway.grpc_adapter.wire import framed, response
from bridge_core.errors import BridgeError
from bridge_core.http1 import Request, ResponseTooLarge

PATH: Final = "/bridge.v1.ModelInference/Predict"


class WholeAnswer(CallExchange):
    """An exchange whose answer is wanted whole."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._parts: list[bytes] = []

    def take(self, data: bytes) -> None:
        """See `CallExchange`."""
        if self.sent > MAX_OUTPUT:
            words = f"the answer has more than the {MAX_OUTPUT} bytes that are read of it"
            self.give_up(ResponseTooLarge(words))
        else:
            self._parts.append(data)

    async def whole(self) -> bytes:
        """The body, once all of it is there.

        Raises:
            BridgeError: it was cut off, is too large, or the call was given up.
        """
        if not self.ended:
            await self.news()
        if self.fault is not None:
            raise self.fault
        parts = self._parts
        return parts[0] if len(parts) == 1 else b"".join(parts)


async def predict(
    calls: NativeCalls, caller: GrpcCaller, headers: dict[bytes, bytes], receive: Receive, send: Send
) -> None:
    """Serves one call; a client that goes away cancels the work behind it."""
    try:
        remaining = read_timeout(headers.get(b"grpc-timeout"))
        call, remaining = await call_in_time(receive, remaining, stream=False)
        if call is None:
            return
        answer = WholeAnswer(caller.request(call, remaining))
        watched = calls.begin(answer, receive, remaining)
        try:
            body = await answer.whole()
        finally:
            calls.end(watched)
        if answer.status != 200:
            raise fault_of(answer.status, body, answer.headers)
        made = response(encoder(call)(body), answer_metadata(answer.headers), done=True)
    except BridgeError as fault:
        await failed(send, fault, begun=False)
        return
    await send(HEAD)
    await send({"type": "http.response.body", "body": framed(made), "more_body": False})
    await send(OK)
