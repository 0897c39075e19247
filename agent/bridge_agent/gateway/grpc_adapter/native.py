"""What calls of `application/grpc` have in common where their frames are read and written here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from google.protobuf.message import DecodeError

from bridge_agent.gateway.config import LONGEST_S
from bridge_agent.gateway.grpc_adapter.call_exchange import CallExchange
from bridge_agent.gateway.grpc_adapter.calls import Calls
from bridge_agent.gateway.grpc_adapter.faults import CallFault, ClientGone, Status
from bridge_agent.gateway.grpc_adapter.hang_ups import HangUps, Watched
from bridge_agent.gateway.grpc_adapter.translate import MAX_MESSAGE, Call, to_call
from bridge_core.errors import BridgeError
from bridge_core.http1 import App
from bridge_core.large_json import LARGE
from bridge_wire.v1.inference_pb2 import InferenceRequest

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Asgi = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]

_PLAIN: Final = frozenset({b"application/grpc", b"application/grpc+proto"})
_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
HEAD: Final[dict[str, Any]] = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/grpc")],
    "trailers": True,
}
OK: Final[dict[str, Any]] = {
    "type": "http.response.trailers",
    "headers": [(b"grpc-status", b"0")],
    "more_trailers": False,
}


class NativeCalls:
    """Hands calls to the pipeline, and knows those under way.

    Args:
        pipeline: The gateway's entry.
        calls: Keeps those under way, so that somebody's can be ended.
    """

    def __init__(self, pipeline: App, calls: Calls) -> None:
        self._pipeline = pipeline
        self._calls = calls
        self._hang_ups = HangUps()

    def begin(self, exchange: CallExchange, receive: Receive, remaining: float | None) -> Watched:
        """One begins, and has so many seconds; tell `end` what this returns, whatever becomes of it."""
        self._pipeline(exchange)
        self._calls.begun(exchange)
        watched = self._hang_ups.begun(exchange, receive)
        if remaining is not None:
            loop = asyncio.get_running_loop()
            watched.deadline = loop.call_later(remaining, exchange.give_up, _too_late())
        return watched

    def answered(self, watched: Watched) -> None:
        """Its client has all of the answer: that it leaves means nothing from now on."""
        self._hang_ups.over(watched)

    def end(self, watched: Watched) -> None:
        """Nobody waits for its answer any more."""
        self._calls.over(watched.exchange)
        self._hang_ups.over(watched)
        watched.exchange.leave()


def takes(headers: dict[bytes, bytes]) -> bool:
    """Whether a call with these headers can be served here."""
    return (
        headers.get(b"content-type") in _PLAIN and headers.get(b"grpc-encoding", b"identity") == b"identity"
    )


async def call_in_time(
    receive: Receive, remaining: float | None, *, stream: bool
) -> tuple[Call | None, float | None]:
    """What a call asks for, see `call_of`, and the seconds that are left of `remaining` then.

    Raises:
        CallFault: see `call_of`; or its message was not whole at its deadline.
    """
    if remaining is None:
        return await call_of(receive, stream=stream), None
    until = asyncio.get_running_loop().time() + remaining
    try:
        async with asyncio.timeout_at(until):
            call = await call_of(receive, stream=stream)
    except TimeoutError:
        raise _too_late() from None
    return call, max(0.0, until - asyncio.get_running_loop().time())


def _too_late() -> CallFault:
    return CallFault(Status.DEADLINE_EXCEEDED, "the deadline has passed")


async def call_of(receive: Receive, *, stream: bool) -> Call | None:
    """What the one message of a call asks for; None when the client has gone.

    Args:
        receive: Where it comes from.
        stream: Whether the RPC streams its answer.

    Raises:
        CallFault: there is no message, more than one, a compressed or too large one, or one that asks for
            nothing that there is.
    """
    parts: list[bytes] = []
    size = 0
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            return None
        part: bytes = event.get("body", b"")
        size += len(part)
        if size > MAX_MESSAGE:
            raise CallFault(Status.RESOURCE_EXHAUSTED, f"the message is larger than {MAX_MESSAGE} bytes")
        parts.append(part)
        if not event.get("more_body", False):
            break
    if size < LARGE:
        return read_call(parts, stream)
    return await asyncio.get_running_loop().run_in_executor(None, read_call, parts, stream)


def read_call(parts: list[bytes], stream: bool) -> Call:
    """What a message that came in parts asks for; of a large one this is called in a thread.

    Raises:
        CallFault: see `call_of`.
    """
    data = parts[0] if len(parts) == 1 else b"".join(parts)
    parts.clear()
    if len(data) < 5 or int.from_bytes(data[1:5], "big") != len(data) - 5:
        raise CallFault(Status.INVALID_ARGUMENT, "the call has to bring exactly one message")
    if data[0]:
        raise CallFault(Status.INTERNAL, "the message is compressed, but grpc-encoding names no coding")
    try:
        request = InferenceRequest.FromString(data[5:])
    except DecodeError:
        raise CallFault(Status.INVALID_ARGUMENT, "the request is not an InferenceRequest") from None
    return to_call(request.model_name, request.input_data, request.metadata, stream=stream)


def read_timeout(given: bytes | None) -> float | None:
    """The seconds that a call may take; None without a limit.

    Raises:
        CallFault: it is malformed.
    """
    if given is None:
        return None
    unit = _UNITS.get(given[-1:])
    if unit is None or not given[:-1].isdigit() or len(given) > 9:
        raise CallFault(Status.INVALID_ARGUMENT, "malformed grpc-timeout")
    return min(int(given[:-1]) * unit, LONGEST_S)


async def failed(send: Send, fault: BridgeError, *, begun: bool) -> None:
    """Ends a call with a status; `begun`: its head was sent."""
    if isinstance(fault, ClientGone):
        return
    if not isinstance(fault, CallFault):
        fault = CallFault(Status.UNAVAILABLE, fault.message)  # what the pipeline cut off
    fields = [
        (b"grpc-status", b"%d" % fault.status.value),
        (b"grpc-message", percent_encoded(fault.message)),
    ]
    fields += [(name.encode(), value.encode("latin-1")) for name, value in fault.hints]
    if begun:
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        await send({"type": "http.response.trailers", "headers": fields, "more_trailers": False})
        return
    head = [(b"content-type", b"application/grpc"), *fields]
    await send({"type": "http.response.start", "status": 200, "headers": head, "trailers": False})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def percent_encoded(message: str) -> bytes:
    """A status message as gRPC puts it into a header: printable ASCII, the rest and % escaped."""
    return b"".join(
        [
            b"%c" % byte if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte
            for byte in message.encode()
        ]
    )
