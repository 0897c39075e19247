"""Between `bridge.v1.ModelInference` messages and the engine's own HTTP requests; pure.

Rules:
1. `model_name` names the model. A body that names another is refused, one that names none gets it,
   and without a `model_name` the body's own counts.
2. Whether the answer streams is decided by the RPC, whatever the body says.
3. Of a JSON body everything else reaches the engine byte for byte; what the engine could read
   otherwise than it was decided on is the gateway's to refuse.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
import zstandard

from bridge_core.errors import BridgeError
from bridge_core.names import canonical_or_same

MAX_INPUT: Final = 100 * 1024 * 1024
# The message around input_data: names, metadata and protobuf's own lengths.
MAX_MESSAGE: Final = MAX_INPUT + 1024 * 1024
MAX_OUTPUT: Final = MAX_INPUT
"""Bytes of an answer that becomes one message."""
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_STEP: Final = 4 * 1024
_DIGITS: Final = 6  # of the seconds after which anybody is told to come again

PATHS: Final = {"generate": b"/api/generate", "chat": b"/api/chat", "embed": b"/api/embed"}
# Of the map in the message: hints to the pipeline, under the names that HTTP clients use.
_HINTS: Final = ("x-bridge-session", "x-bridge-priority", "x-request-id")
_ANSWER_FIELDS: Final = (b"x-request-id", b"x-bridge-node", b"x-bridge-attempts", b"x-bridge-overhead-us")


class Status(enum.Enum):
    """gRPC's codes that the adapter answers with; the values are the wire's."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    ABORTED = 10
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


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


class CallFault(BridgeError):
    """What a call ends with when it fails."""

    def __init__(self, status: Status, message: str, *, retry_after: str = "") -> None:
        """`retry_after` is the engine's or the queue's hint, in seconds."""
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after

    @property
    def hints(self) -> tuple[tuple[str, str], ...]:
        """When to come again, as metadata: the answer's own field, and the one gRPC's clients retry by."""
        if not self.retry_after:
            return ()
        found = [("retry-after", self.retry_after)]
        if self.retry_after.isascii() and self.retry_after.isdigit() and len(self.retry_after) <= _DIGITS:
            found.append(("grpc-retry-pushback-ms", f"{int(self.retry_after) * 1000}"))
        return tuple(found)


class Call(msgspec.Struct, frozen=True):
    """An engine request. `zstd`: the client wants its answers compressed."""

    target: bytes
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    streams: bool
    zstd: bool


class Record(msgspec.Struct, frozen=True):
    """One line of a streamed answer, as far as the adapter reads it."""

    done: bool = False
    error: str | None = None


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
    api = metadata.get("api", "generate") or "generate"
    target = PATHS.get(api)
    if target is None:
        raise CallFault(
            Status.INVALID_ARGUMENT, f"metadata api {api!r} is not known: generate, chat and embed are"
        )
    compressed = _wants_zstd(metadata)
    data = _plain(data, compressed=compressed)
    if not data:
        raise CallFault(
            Status.INVALID_ARGUMENT,
            f"input_data is empty: {'a prompt or ' if api == 'generate' else ''}a JSON object is needed",
        )
    streams = stream and api != "embed"
    fields = _fields(api, data)
    fields["model"] = msgspec.Raw(msgspec.json.encode(_model(model, fields.get("model"))))
    if api != "embed":
        fields["stream"] = msgspec.Raw(b"true" if streams else b"false")
    headers = [(b"content-type", b"application/json")]
    headers += [(name.encode(), _header(name, metadata[name])) for name in _HINTS if metadata.get(name)]
    return Call(target, msgspec.json.encode(fields), tuple(headers), streams, compressed)


def fault_of(status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> CallFault:
    """What an engine's or the pipeline's error answer means to a gRPC client."""
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


def answer_metadata(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """What of the answer's head goes into InferenceResponse.metadata."""
    return {
        name.decode(): value.decode("latin-1")
        for name, value in ((name.lower(), value) for name, value in headers)
        if name in _ANSWER_FIELDS
    }


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
