"""An event of ours as a document of the Elastic Common Schema: pure.

A document is flat: its keys are the fields' full names, which Elasticsearch and OpenSearch read as objects.
Every field that a line can have is in `FIELDS` with its type, but for `labels.*`, which are keywords by ECS's
own rule: whatever an event says beside the common fields becomes one, as text. So no two events can ever
disagree about a field's type, for which a search engine would refuse the second.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from bridge_core.logs.cleaning_rules import MOST, cleaned, masked, message_of
from bridge_core.logs.overload_rules import CLASSES
from bridge_core.logs.tracebacks import ExcInfo, exception_info, short_traceback, type_of
from bridge_core.moments import utc_text

ECS_VERSION: Final = "8.17.0"
LABELS: Final = "labels."
EVENTS, REQUESTS = "bridge.events", "bridge.requests"
"""What `event.dataset` says: of a program's own events, and of requests."""

FIELDS: Final[Mapping[str, str]] = {
    "@timestamp": "date",
    "log.level": "keyword",
    "message": "match_only_text",
    "ecs.version": "keyword",
    "service.name": "keyword",
    "service.version": "keyword",
    "host.name": "keyword",
    "process.pid": "long",
    "event.action": "keyword",
    "event.dataset": "keyword",
    "event.duration": "long",
    "event.kind": "keyword",
    "event.outcome": "keyword",
    "event.reason": "keyword",
    "error.type": "keyword",
    "error.message": "match_only_text",
    "error.stack_trace": "wildcard",
    "http.request.id": "keyword",
    "http.request.method": "keyword",
    "http.request.body.bytes": "long",
    "http.response.body.bytes": "long",
    "http.response.status_code": "long",
    "span.id": "keyword",
    "trace.id": "keyword",
    "url.path": "keyword",
    "user.name": "keyword",
    "bridge.alert": "keyword",
    "bridge.attempts": "long",
    "bridge.backend": "keyword",
    "bridge.failed_attempts": "keyword",
    "bridge.first_byte_ms": "float",
    "bridge.forecast.earliest_s": "float",
    "bridge.forecast.figure": "keyword",
    "bridge.forecast.latest_s": "float",
    "bridge.forecast.likely_s": "float",
    "bridge.forecast.limit": "float",
    "bridge.forecast.node": "keyword",
    "bridge.forecast.of": "keyword",
    "bridge.forecast.value": "float",
    "bridge.instance": "keyword",
    "bridge.listener": "keyword",
    "bridge.model": "keyword",
    "bridge.outcome": "keyword",
    "bridge.prompt_tokens": "long",
    "bridge.quota": "keyword",
    "bridge.route": "keyword",
    "bridge.rule": "keyword",
    "bridge.served_by": "keyword",
    "bridge.tokens": "long",
    "bridge.via": "keyword",
    "bridge.waited_ms": "float",
    **{f"bridge.dropped.{kind}": "long" for kind in CLASSES},
}
"""All fields of our lines, and the types that a search engine is to give them."""

RENAMED: Final[Mapping[str, str]] = {
    "request_id": "http.request.id",
    "reason": "event.reason",
    "instance": "bridge.instance",
    "model": "bridge.model",
    "listener": "bridge.listener",
    "by": "user.name",
    "alert": "bridge.alert",
    **{
        f"forecast_{name}": f"bridge.forecast.{name}"
        for name in ("earliest_s", "figure", "latest_s", "likely_s", "limit", "node", "of", "value")
    },
}
"""What our events call a field that is a common one."""

_NUMBERS: Final = frozenset({"long", "float"})
_ITEMS: Final = 50  # of a list that are told
_TRACE_LINE: Final = 400


class Source(msgspec.Struct, frozen=True):
    """Whose log it is.

    Attributes:
        service: The program.
        node: The node's name, or the registry's; empty: not known yet.
        version: The program's.
        pid: The process.
    """

    service: str
    node: str
    version: str
    pid: int


Document = dict[str, str | int | float | list[str]]


def head(source: Source, at: float, level: str, message: str) -> Document:
    """What every line begins with, in the order that ECS loggers agree on; `at` is Unix seconds."""
    found: Document = {
        "@timestamp": utc_text(at),
        "log.level": level,
        "message": message,
        "ecs.version": ECS_VERSION,
        "service.name": source.service,
        "service.version": source.version,
        "process.pid": source.pid,
    }
    if source.node:
        found["host.name"] = source.node
    return found


def event_document(event: Mapping[str, Any], *, level: str, at: float, source: Source) -> Document:
    """A line about an event: its name under `event`, what it says under whatever names."""
    name = cleaned(str(event.get("event", "")), 200)
    reason = cleaned(str(event["reason"])) if event.get("reason") else ""
    said = name.replace("_", " ") if name.isidentifier() else name
    found = head(source, at, level, f"{said}: {reason}" if reason else said)
    found["event.kind"] = "event"
    found["event.dataset"] = EVENTS
    found["event.action"] = name
    for key, value in event.items():
        if key == "exc_info":
            trace = exception_info(value)
            if trace is not None:
                found |= error_fields(trace)
        elif key != "event" and value is not None:
            field = RENAMED.get(key) or f"{LABELS}{key if key.isidentifier() else cleaned(key, 60)}"
            number = FIELDS.get(field) in _NUMBERS and isinstance(value, int | float)
            found[field] = value if number else _text(value)
    return found


def error_fields(trace: ExcInfo) -> Document:
    """What a line says of an exception."""
    return {
        "error.type": type_of(trace[1]),
        "error.message": message_of(trace[1]),
        "error.stack_trace": "\n".join(
            cleaned(line, _TRACE_LINE) for line in masked(short_traceback(trace)).split("\n")
        ),
    }


def dropped_document(dropped: Mapping[str, int], at: float, source: Source) -> Document:
    """The line that says how many were left out since the last such line, by class."""
    total = sum(dropped.values())
    found = head(
        source, at, "warning", f"{total} lines of this log were left out: more than could be written"
    )
    found["event.kind"] = "event"
    found["event.dataset"] = EVENTS
    found["event.action"] = "log_lines_dropped"
    found |= {f"bridge.dropped.{kind}": count for kind, count in dropped.items() if count}
    return found


def line_of(document: Document) -> bytes:
    """A document as a line. JSON escapes what is left of line ends: a line is a line."""
    try:
        return msgspec.json.encode(document) + b"\n"
    except (ValueError, TypeError):  # a lone surrogate, in a name from a file system
        safe = {key: _encodable(value) for key, value in document.items()}
        return msgspec.json.encode(safe) + b"\n"


def _encodable(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _text(value: Any) -> str:
    """A value as a keyword: lists with commas, mappings as `key=value`."""
    if isinstance(value, str):
        return cleaned(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return cleaned(_listed((f"{key}={one}" for key, one in value.items()), len(value)))
    if isinstance(value, (list, tuple, set, frozenset)):
        return cleaned(_listed(map(str, value), len(value)))
    return cleaned(str(value))


def _listed(items: Iterable[str], count: int) -> str:
    told = ", ".join(one[:MOST] for one, _ in zip(items, range(_ITEMS), strict=False))
    return told if count <= _ITEMS else f"{told} and {count - _ITEMS} more"
