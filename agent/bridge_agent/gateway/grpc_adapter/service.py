"""`bridge.v1.ModelInference`: each call is a request to the pipeline in this very process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from connectrpc.code import Code
from connectrpc.errors import ConnectError
from connectrpc.request import RequestContext

from bridge_agent.gateway.grpc_adapter import current, in_process
from bridge_agent.gateway.grpc_adapter.calls import Calls
from bridge_agent.gateway.grpc_adapter.faults import CallFault, Status
from bridge_agent.gateway.grpc_adapter.translate import (
    MAX_OUTPUT,
    Call,
    answer_metadata,
    encoder,
    fault_of,
    read_record,
    to_call,
)
from bridge_core.errors import BridgeError
from bridge_core.http1 import App
from bridge_wire.v1.inference_pb2 import InferenceRequest, InferenceResponse

_CODES: Final = {
    Status.CANCELLED: Code.CANCELED,
    Status.UNKNOWN: Code.UNKNOWN,
    Status.INVALID_ARGUMENT: Code.INVALID_ARGUMENT,
    Status.DEADLINE_EXCEEDED: Code.DEADLINE_EXCEEDED,
    Status.NOT_FOUND: Code.NOT_FOUND,
    Status.PERMISSION_DENIED: Code.PERMISSION_DENIED,
    Status.RESOURCE_EXHAUSTED: Code.RESOURCE_EXHAUSTED,
    Status.ABORTED: Code.ABORTED,
    Status.UNIMPLEMENTED: Code.UNIMPLEMENTED,
    Status.INTERNAL: Code.INTERNAL,
    Status.UNAVAILABLE: Code.UNAVAILABLE,
    Status.UNAUTHENTICATED: Code.UNAUTHENTICATED,
}
Context = RequestContext[InferenceRequest, InferenceResponse]


class ModelInferenceService:
    """Implements the generated `ModelInference` over a pipeline; `calls` keeps those under way."""

    def __init__(self, pipeline: App, calls: Calls) -> None:
        self._pipeline = pipeline
        self._calls = calls

    async def predict(self, request: InferenceRequest, ctx: Context, /) -> InferenceResponse:
        """One request, the whole answer."""
        try:
            call = to_call(request.model_name, request.input_data, request.metadata, stream=False)
            with self._open(call, ctx.timeout_ms) as answer:
                status = await answer.head()
                body = await answer.whole(MAX_OUTPUT)
            if status != 200:
                raise fault_of(status, body, answer.headers)
        except BridgeError as fault:
            raise _translated(fault, ctx) from None
        return InferenceResponse(
            output_data=encoder(call)(body), metadata=answer_metadata(answer.headers), done=True
        )

    async def predict_stream(
        self, request: InferenceRequest, ctx: Context, /
    ) -> AsyncIterator[InferenceResponse]:
        """One request, the answer in pieces; the last has `done` set."""
        try:
            async for response in self._stream(request, ctx):
                yield response
        except BridgeError as fault:
            raise _translated(fault, ctx) from None

    async def converse(
        self, request: AsyncIterator[InferenceRequest], ctx: Context, /
    ) -> AsyncIterator[InferenceResponse]:
        """Requests and answers on one stream; the first request that fails ends it."""
        try:
            async for one in request:
                async for response in self._stream(one, ctx):
                    yield response
        except BridgeError as fault:
            raise _translated(fault, ctx) from None

    async def _stream(self, request: InferenceRequest, ctx: Context) -> AsyncIterator[InferenceResponse]:
        call = to_call(request.model_name, request.input_data, request.metadata, stream=True)
        encode = encoder(call)
        with self._open(call, ctx.timeout_ms) as answer:
            status = await answer.head()
            if status != 200 or not call.streams:
                body = await answer.whole(MAX_OUTPUT)
                if status != 200:
                    raise fault_of(status, body, answer.headers)
                metadata = answer_metadata(answer.headers)
                yield InferenceResponse(output_data=encode(body), metadata=metadata, done=True)
                return
            metadata = answer_metadata(answer.headers)
            async for line in answer.lines():
                record = read_record(line)
                yield InferenceResponse(output_data=encode(line), metadata=metadata, done=record.done)
                if record.done:
                    await answer.over()
                    return
                metadata = {}  # with the first piece only
        raise CallFault(Status.UNAVAILABLE, "the engine's answer ended before it was complete")

    def _open(self, call: Call, timeout_ms: float | None) -> in_process.InProcessExchange:
        timeout_s = None if timeout_ms is None else timeout_ms / 1000
        return in_process.call(self._pipeline, current.caller.get().request(call, timeout_s), self._calls)


def _translated(fault: BridgeError, ctx: Context) -> ConnectError:
    if not isinstance(fault, CallFault):
        # What the pipeline cut off after it had begun.
        return ConnectError(Code.UNAVAILABLE, fault.message)
    for name, value in fault.hints:
        ctx.response_trailers[name] = value
    return ConnectError(_CODES[fault.status], fault.message)
