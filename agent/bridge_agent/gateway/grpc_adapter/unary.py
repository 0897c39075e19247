"""`Predict` over native gRPC with the framing done here: the hot path.

connectrpc serves every shape of call; for the plain unary one its generality costs more than the
call itself. What this takes is exactly one uncompressed message of `application/grpc`; anything
else (compression, gRPC-Web, Connect, JSON) goes to connectrpc. Both are held to the same suite.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from google.protobuf.message import DecodeError

from bridge_agent.gateway.config import LONGEST_S
from bridge_agent.gateway.grpc_adapter.in_process import AnswerReader
from bridge_agent.gateway.grpc_adapter.service import GrpcCaller, encoder, open_call
from bridge_agent.gateway.grpc_adapter.translate import (
    MAX_MESSAGE,
    MAX_OUTPUT,
    CallFault,
    Status,
    answer_metadata,
    fault_of,
    to_call,
)
from bridge_core.errors import BridgeError
from bridge_core.http1 import App
from bridge_wire.v1.inference_pb2 import InferenceRequest, InferenceResponse

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

PATH: Final = "/bridge.v1.ModelInference/Predict"
_PLAIN: Final = frozenset({b"application/grpc", b"application/grpc+proto"})
_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_HEAD: Final = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/grpc")],
    "trailers": True,
}
_OK: Final = {
    "type": "http.response.trailers",
    "headers": [(b"grpc-status", b"0")],
    "more_trailers": False,
}


def takes(headers: dict[bytes, bytes]) -> bool:
    """Whether a call with these headers can be served here."""
    return (
        headers.get(b"content-type") in _PLAIN and headers.get(b"grpc-encoding", b"identity") == b"identity"
    )


async def predict(
    pipeline: App, caller: GrpcCaller, headers: dict[bytes, bytes], receive: Receive, send: Send
) -> None:
    """Serves one call; a client that goes away cancels the work behind it."""
    try:
        remaining = read_timeout(headers.get(b"grpc-timeout"))
        data = await _message(receive)
        if data is None:
            return
        response = await _answer(pipeline, caller, data, remaining, receive)
    except CallFault as fault:
        await _fail(send, fault)
        return
    except BridgeError as fault:
        await _fail(send, CallFault(Status.UNAVAILABLE, fault.message))
        return
    if response is None:
        return
    await send(_HEAD)
    framed = b"\0" + len(response).to_bytes(4, "big") + response
    await send({"type": "http.response.body", "body": framed, "more_body": False})
    await send(_OK)


async def _answer(
    pipeline: App, caller: GrpcCaller, data: bytes, remaining: float | None, receive: Receive
) -> bytes | None:
    """The response message; None when the client has gone."""
    try:
        request = InferenceRequest.FromString(data)
    except DecodeError:
        raise CallFault(Status.INVALID_ARGUMENT, "the request is not an InferenceRequest") from None
    call = to_call(request.model_name, request.input_data, request.metadata, stream=False)
    loop = asyncio.get_running_loop()
    with open_call(pipeline, caller, call, remaining) as reader:
        watch = loop.create_task(_watch(receive, reader), name="grpc-disconnect")
        deadline = None
        if remaining is not None:
            late = CallFault(Status.DEADLINE_EXCEEDED, "the deadline has passed")
            deadline = loop.call_later(remaining, reader.give_up, late)
        try:
            status = await reader.head()
            body = await reader.read(MAX_OUTPUT)
        except _ClientGone:
            return None
        finally:
            watch.cancel()
            if deadline is not None:
                deadline.cancel()
    if status != 200:
        raise fault_of(status, body, reader.headers)
    return InferenceResponse(
        output_data=encoder(call)(body), metadata=answer_metadata(reader.headers), done=True
    ).SerializeToString()


class _ClientGone(BridgeError):
    """The client hung up or cancelled."""


async def _watch(receive: Receive, reader: AnswerReader) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    reader.give_up(_ClientGone("the client went away"))


async def _message(receive: Receive) -> bytes | None:
    """The one message of the call; None when the client has gone.

    Raises:
        CallFault: there is none, more than one, a compressed or too large one.
    """
    parts, size = [], 0
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            return None
        part = event.get("body", b"")
        size += len(part)
        if size > MAX_MESSAGE:
            raise CallFault(Status.RESOURCE_EXHAUSTED, f"the message is larger than {MAX_MESSAGE} bytes")
        parts.append(part)
        if not event.get("more_body", False):
            break
    data = parts[0] if len(parts) == 1 else b"".join(parts)
    if len(data) < 5 or int.from_bytes(data[1:5], "big") != len(data) - 5:
        raise CallFault(Status.INVALID_ARGUMENT, "the call has to bring exactly one message")
    if data[0]:
        raise CallFault(Status.INTERNAL, "the message is compressed, but grpc-encoding names no coding")
    return data[5:]


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


async def _fail(send: Send, fault: CallFault) -> None:
    """Ends the call with a status alone."""
    headers = [
        (b"content-type", b"application/grpc"),
        (b"grpc-status", b"%d" % fault.status.value),
        (b"grpc-message", percent_encoded(fault.message)),
    ]
    headers += [(name.encode(), value.encode("latin-1")) for name, value in fault.hints]
    await send({"type": "http.response.start", "status": 200, "headers": headers, "trailers": False})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def percent_encoded(message: str) -> bytes:
    """A status message as gRPC puts it into a header: printable ASCII, the rest and % escaped."""
    return b"".join(
        b"%c" % byte if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte
        for byte in message.encode()
    )
