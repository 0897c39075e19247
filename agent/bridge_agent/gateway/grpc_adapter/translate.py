"""Between `bridge.v1.ModelInference` messages and the engine's own HTTP requests; pure.

Rules:
1. `model_name` names the model. A body that names another is refused, one that names none gets it,
   and without a `model_name` the body's own counts.
2. Whether the answer streams is decided by the RPC, whatever the body says.
3. Of a JSON body everything else reaches the engine byte for byte; what the engine could read
   otherwise than it was decided on is the gateway's to refuse.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec
import zstandard

from bridge_agent.gateway.grpc_adapter.faults import CallFault, Record, Status
from bridge_core.http1 import Pair
from bridge_core.large_json import LARGE, Shortened
from bridge_core.names import canonical_or_same

MAX_INPUT: Final = 100 * 1024 * 1024
# The message around input_data: names, metadata and protobuf's own lengths.
MAX_MESSAGE: Final = MAX_INPUT + 1024 * 1024
MAX_OUTPUT: Final = MAX_INPUT
"""Bytes of an answer that becomes one message."""
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_STEP: Final = 4 * 1024

PATHS: Final = {"generate": b"/api/generate", "chat": b"/api/chat", "embed": b"/api/embed"}
# Of the map in the message: hints to the pipeline, under the names that HTTP clients use.
_HINTS: Final = ("x-bridge-session", "x-bridge-priority", "x-request-id")
PLAIN: Final[tuple[Pair, ...]] = ((b"content-type", b"application/json"),)
"""The fields of a request that asks for nothing particular."""
_ANSWER_FIELDS: Final = (b"x-request-id", b"x-bridge-node", b"x-bridge-attempts", b"x-bridge-overhead-us")


_STATUS: Final = {
    400: Status.INVALID_ARGUMENT,
    401: Status.UNAUTHENTICATED,
    403: Status.PERMISSION_DENIED,
    404: Status.NOT_FOUND,
    405: Status.UNIMPLEMENTED,
    408: Status.DEADLINE_EXCEEDED,
    409: Status.ABORTED,
    413: Status.RESOURCE_EXHAUSTED,
    415: Status.INVALID_ARGUMENT,
    422: Status.INVALID_ARGUMENT,
    429: Status.RESOURCE_EXHAUSTED,
    499: Status.CANCELLED,
    500: Status.INTERNAL,
    501: Status.UNIMPLEMENTED,
    502: Status.UNAVAILABLE,
    503: Status.UNAVAILABLE,
    504: Status.DEADLINE_EXCEEDED,
}


class Call:
    """An engine request.

    Attributes:
        target: Its path.
        body: Its body.
        headers: Its fields; `PLAIN` itself where the client asks for nothing particular.
        streams: Whether the answer comes in pieces.
        zstd: The client wants its answers compressed.
    """

    __slots__ = ("body", "headers", "streams", "target", "zstd")

    def __init__(
        self, target: bytes, body: bytes, headers: tuple[Pair, ...], *, streams: bool, zstd: bool
    ) -> None:
        self.target = target
        self.body = body
        self.headers = headers
        self.streams = streams
        self.zstd = zstd


# Names are in lower case, as an exchange is told them.
_ANSWER_LINES: Final = re.compile(
    rb"(?m)^(%b):([^\r\n]*)" % b"|".join(re.escape(name) for name in _ANSWER_FIELDS)
).findall


def to_call(model: str, data: bytes, metadata: Mapping[str, str], *, stream: bool) -> Call:
    """The engine request that an InferenceRequest stands for.

    Args:
        model: `model_name`.
        data: `input_data`.
        metadata: `metadata`.
        stream: Whether the RPC streams its answer.

    Raises:
        CallFault: INVALID_ARGUMENT or RESOURCE_EXHAUSTED, with a sentence for the client.
    """
    asks = len(metadata) > 0
    api = (metadata.get("api", "generate") or "generate") if asks else "generate"
    target = PATHS.get(api)
    if target is None:
        raise CallFault(
            Status.INVALID_ARGUMENT, f"metadata api {api!r} is not known: generate, chat and embed are"
        )
    compressed = asks and _wants_zstd(metadata)
    data = _plain(data, compressed=compressed)
    if not data:
        raise CallFault(
            Status.INVALID_ARGUMENT,
            f"input_data is empty: {'a prompt or ' if api == 'generate' else ''}a JSON object is needed",
        )
    streams = stream and api != "embed"
    # Of a large body the long strings are no decision: they are cut out to be read, and put back.
    shortened = Shortened(data, 0) if len(data) >= LARGE and data[:1] == b"{" else None
    fields = None if shortened is None else _object(shortened.text)
    if fields is None:
        shortened = None
        fields = _fields(api, data)
    named = msgspec.json.encode(_model(model, fields.get("model")))
    if len(fields) == 1 and api == "generate" and "prompt" in fields:  # as nearly always: written at once
        flag = b"true" if streams else b"false"
        body = b'{"prompt":%b,"model":%b,"stream":%b}' % (bytes(fields["prompt"]), named, flag)
    else:
        fields["model"] = msgspec.Raw(named)
        if api != "embed":
            fields["stream"] = msgspec.Raw(b"true" if streams else b"false")
        body = msgspec.json.encode(fields)
    if shortened is not None:
        body = shortened.whole(body)
    headers = PLAIN
    if asks:
        hints = [(name.encode(), _header(name, metadata[name])) for name in _HINTS if metadata.get(name)]
        if hints:
            headers = (*PLAIN, *hints)
    return Call(target, body, headers, streams=streams, zstd=compressed)


def fault_of(status: int, body: bytes, headers: Iterable[Pair] | bytes = ()) -> CallFault:
    """What an engine's or the pipeline's error answer means to a gRPC client."""
    if isinstance(headers, bytes):
        headers = _pairs(headers)
    try:
        message = msgspec.json.decode(body, type=Record).error
    except _UNREADABLE:
        message = None
    words = message or body[:200].decode("utf-8", "replace").strip() or f"the engine answered {status}"
    known = _STATUS.get(status, Status.UNKNOWN if status < 500 else Status.INTERNAL)
    after = next((value for name, value in headers if name.lower() == b"retry-after"), b"")
    return CallFault(known, words, retry_after=after.decode("latin-1"))


def read_record(line: bytes) -> Record:
    """What a line of a streamed answer says about the stream.

    Raises:
        CallFault: the line is an error record, or none that an engine writes.
    """
    try:
        record = msgspec.json.decode(line, type=Record)
    except _UNREADABLE:
        raise CallFault(Status.INTERNAL, "the engine sent a record that is not JSON") from None
    if record.error is not None:
        raise CallFault(Status.UNAVAILABLE, record.error)
    return record


def answer_metadata(headers: Iterable[Pair] | bytes) -> dict[str, str]:
    """What of the answer's head, its fields or its lines, goes into InferenceResponse.metadata."""
    if isinstance(headers, bytes):
        return {name.decode(): value.strip().decode("latin-1") for name, value in _ANSWER_LINES(headers)}
    return {
        name.decode(): value.decode("latin-1")
        for name, value in ((name.lower(), value) for name, value in headers)
        if name in _ANSWER_FIELDS
    }


def encoder(call: Call) -> Callable[[bytes], bytes]:
    """What makes the engine's records into `output_data`."""
    if not call.zstd:
        return _as_is
    compress: Any = zstandard.ZstdCompressor(level=1).compress
    return compress  # type: ignore[no-any-return]  # the library has no types for it


def _as_is(data: bytes) -> bytes:
    return data


def _pairs(lines: bytes) -> tuple[Pair, ...]:
    """The fields of header lines as the pipeline writes them."""
    fields = [line.partition(b":") for line in lines.split(b"\r\n") if line]
    return tuple([(name, value.strip()) for name, _, value in fields])


def _wants_zstd(metadata: Mapping[str, str]) -> bool:
    encoding = metadata.get("encoding", "")
    if encoding not in {"", "identity", "zstd"}:
        raise CallFault(Status.INVALID_ARGUMENT, f"metadata encoding {encoding!r} is not known: zstd is")
    return encoding == "zstd"


def _plain(data: bytes, *, compressed: bool) -> bytes:
    if compressed and data:
        data = _decompress(data)
    if len(data) > MAX_INPUT:
        raise CallFault(Status.RESOURCE_EXHAUSTED, f"input_data is larger than {MAX_INPUT} bytes")
    return data


def _decompress(frame: bytes) -> bytes:
    """The content of one whole zstd frame; in steps, so that a small bomb is noticed before it is large."""
    reader = zstandard.ZstdDecompressor().decompressobj()
    parts, size = [], 0
    for at in range(0, len(frame), _STEP):
        try:
            part = reader.decompress(frame[at : at + _STEP])
        except zstandard.ZstdError as fault:
            raise CallFault(Status.INVALID_ARGUMENT, f"input_data is not zstd: {fault}") from None
        size += len(part)
        if size > MAX_INPUT:
            raise CallFault(Status.RESOURCE_EXHAUSTED, f"input_data is larger than {MAX_INPUT} bytes")
        parts.append(part)
        if reader.eof:
            if reader.unused_data or at + _STEP < len(frame):
                raise CallFault(Status.INVALID_ARGUMENT, "input_data goes on after its zstd frame")
            return b"".join(parts)
    raise CallFault(Status.INVALID_ARGUMENT, "input_data is a truncated zstd frame")


def _object(data: bytes) -> dict[str, msgspec.Raw] | None:
    """The members of a JSON body; None where it is none."""
    try:
        return msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except _UNREADABLE:
        return None


def _fields(api: str, data: bytes) -> dict[str, msgspec.Raw]:
    """The members of a JSON body; of generate's plain prompt, a body made of it."""
    if data.lstrip()[:1] == b"{":
        try:
            return msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        except _UNREADABLE as fault:
            if api != "generate":
                raise CallFault(
                    Status.INVALID_ARGUMENT, f"input_data is not a JSON object: {fault}"
                ) from None
    elif api != "generate":
        raise CallFault(Status.INVALID_ARGUMENT, f"input_data is not a JSON object, as {api} takes")
    try:
        prompt = data.decode("utf-8")
    except UnicodeDecodeError:
        raise CallFault(
            Status.INVALID_ARGUMENT, "input_data is neither UTF-8 text nor a JSON object"
        ) from None
    return {"prompt": msgspec.Raw(msgspec.json.encode(prompt))}


def _model(wanted: str, raw: msgspec.Raw | None) -> str:
    if raw is None:
        named = ""
    else:
        try:
            named = msgspec.json.decode(raw, type=str)
        except _UNREADABLE:
            raise CallFault(Status.INVALID_ARGUMENT, "model in input_data is not a string") from None
    if not wanted and not named:
        raise CallFault(Status.INVALID_ARGUMENT, "model_name is empty")
    if wanted and named and canonical_or_same(wanted) != canonical_or_same(named):
        raise CallFault(
            Status.INVALID_ARGUMENT, f"model_name is {wanted!r} but input_data names the model {named!r}"
        )
    return wanted or named


def _header(name: str, value: str) -> bytes:
    if not value.isascii() or not value.isprintable():
        raise CallFault(Status.INVALID_ARGUMENT, f"metadata {name} is not printable ASCII")
    return value.encode()
