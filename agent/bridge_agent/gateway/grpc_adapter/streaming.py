"""`PredictStream` over native gRPC with the framing done here: what a token costs.

As `unary` for the plain call of one request. Lines that are there together are one write.
"""

from __future__ import annotations

from typing import Final

from bridge_agent.gateway.grpc_adapter.callers import GrpcCaller
from bridge_agent.gateway.grpc_adapter.faults import CallFault, Status
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
from bridge_agent.gateway.grpc_adapter.streamed_answer import LINE_MOST, StreamedAnswer
from bridge_agent.gateway.grpc_adapter.translate import (
    MAX_OUTPUT,
    Call,
    answer_metadata,
    encoder,
    fault_of,
    read_record,
)
from bridge_agent.gateway.grpc_adapter.wire import framed, response
from bridge_core.errors import BridgeError
from bridge_core.http1 import ResponseTooLarge

PATH: Final = "/bridge.v1.ModelInference/PredictStream"


class Records:
    """Cuts an answer into its records, and makes messages of them.

    Attributes:
        done: The last record has come.
        fault: A record says so, or is none: the answer ends with the ones before it.
    """

    def __init__(self, call: Call, metadata: dict[str, str]) -> None:
        self._encode = encoder(call)
        self._metadata = metadata  # for the first message
        self._rest = bytearray()  # of a record that is not whole
        self.done = False
        self.fault: CallFault | None = None

    def frames(self, part: bytes) -> bytes:
        """What is whole with this part of the answer, as it is sent; see `done` and `fault` then.

        Args:
            part: What came; empty: nothing more comes, and what is left counts as a record.

        Raises:
            ResponseTooLarge: a record has more than LINE_MOST bytes.
        """
        lines = part.split(b"\n")
        if self._rest or not part:
            self._rest += lines[0]
            if len(lines) > 1 or not part:
                lines[0] = bytes(self._rest)
                self._rest.clear()
            else:
                lines = []
        if part and lines and lines[-1]:
            self._rest += lines.pop()
        if len(self._rest) > LINE_MOST:
            raise ResponseTooLarge(f"a line of the answer is longer than {LINE_MOST >> 20} MiB")
        made = [self._made(line) for line in lines if self._goes_on(line)]
        return made[0] if len(made) == 1 else b"".join(made)

    def _goes_on(self, line: bytes) -> bool:
        return not self.done and self.fault is None and len(line) > 0 and not line.isspace()

    def _made(self, line: bytes) -> bytes:
        try:
            record = read_record(line)
        except CallFault as fault:
            self.fault = fault
            return b""
        metadata = self._metadata
        if metadata:
            self._metadata = {}
        self.done = record.done
        return framed(response(self._encode(line), metadata, done=record.done))


async def predict_stream(
    calls: NativeCalls, caller: GrpcCaller, headers: dict[bytes, bytes], receive: Receive, send: Send
) -> None:
    """Serves one call; a client that goes away cancels the work behind it."""
    begun = False
    try:
        remaining = read_timeout(headers.get(b"grpc-timeout"))
        call, remaining = await call_in_time(receive, remaining, stream=True)
        if call is None:
            return
        answer = StreamedAnswer(caller.request(call, remaining))
        watched = calls.begin(answer, receive, remaining)
        try:
            first = await _first(call, answer)
            begun = True
            await send(HEAD)
            if first:
                await send({"type": "http.response.body", "body": first, "more_body": False})
            else:
                await _relay(call, answer, send)
            calls.answered(watched)
            await send(OK)
            if not answer.ended:
                await answer.over()
        finally:
            calls.end(watched)
    except BridgeError as fault:
        await failed(send, fault, begun=begun)


async def _first(call: Call, answer: StreamedAnswer) -> bytes:
    """The only message of an answer that does not stream; empty where it does.

    Raises:
        CallFault: it is an error.
    """
    status = await answer.head()
    if status == 200 and call.streams:
        return b""
    body = await answer.whole(MAX_OUTPUT)
    if status != 200:
        raise fault_of(status, body, answer.headers)
    return framed(response(encoder(call)(body), answer_metadata(answer.headers), done=True))


async def _relay(call: Call, answer: StreamedAnswer, send: Send) -> None:
    """Sends the records of a stream as they come, until the one that says that it is the last."""
    records = Records(call, answer_metadata(answer.headers))
    while True:
        part = await answer.part()
        made = records.frames(part)
        if made:
            await send({"type": "http.response.body", "body": made, "more_body": not records.done})
        if records.fault is not None:
            raise records.fault
        if records.done:
            return
        if not part:
            raise CallFault(Status.UNAVAILABLE, "the engine's answer ended before it was complete")
