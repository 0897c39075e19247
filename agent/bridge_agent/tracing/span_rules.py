"""A request that is over as a span: OTLP's JSON, pure.

The attributes are OpenTelemetry's (`http.*`, `url.*`, `gen_ai.*`, `error.type`, `user.name`) where it has a
name, else `bridge.*` by the names that the request's line in the log has. What was asked and answered is no
part of it, nor is the client's address, a key or a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from bridge_agent.gateway.config import ListenerKind, RequestRecord
from bridge_agent.telemetry.request_log_rules import served_by, what_went_wrong
from bridge_agent.tracing.context_rules import Trace
from bridge_agent.tracing.sampling_rules import Kept, is_failure
from bridge_core.audit.entries import AuditRecord
from bridge_core.logs.cleaning_rules import cleaned
from bridge_core.names import display_or_same

SCOPE: Final = "bridge_agent.tracing"

_SERVER: Final = 2  # SPAN_KIND_SERVER
_ERROR: Final = 2  # STATUS_CODE_ERROR
# Bits of a span's `flags`: W3C's own; whether it is known if the parent is another process's; if it is.
_SAMPLED, _KNOWN, _REMOTE = 0x01, 0x100, 0x200
_NAME: Final = 200  # characters of a name
_MANY: Final = 8  # tries, candidates, instances that were passed over
_OPERATIONS: Final[Mapping[str, str]] = {
    "/api/chat": "chat",
    "/api/generate": "text_completion",
    "/api/embed": "embeddings",
    "/api/embeddings": "embeddings",
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
}
"""OpenTelemetry's word for what a route does (`gen_ai.operation.name`)."""

Value = str | bool | int | float | list[str]
Attributes = dict[str, Value]


def span_of(record: RequestRecord, audited: AuditRecord, trace: Trace, kept: Kept) -> dict[str, Any]:
    """The span of a request, as `ExportTraceServiceRequest` has it in JSON.

    Args:
        record: The gateway's.
        audited: The audit's of the same.
        trace: Where it stands in its trace.
        kept: Why it is told.
    """
    start = int(audited.at * 1e6) * 1000  # as finely as seconds since 1970 tell
    began = record.began

    def at(moment: float) -> str:
        return str(start + int((moment - began) * 1e9))

    method = cleaned(audited.method, 20)
    span: dict[str, Any] = {
        "traceId": trace.trace_id.decode(),
        "spanId": trace.span_id.decode(),
        "flags": trace.sampled * _SAMPLED | _KNOWN | (_REMOTE if trace.parent_id else 0),
        "name": f"{method} {cleaned(audited.path, _NAME)}".strip(),
        "kind": _SERVER,
        "startTimeUnixNano": str(start),
        "endTimeUnixNano": at(record.ended),
        "attributes": listed(
            _http(record, audited, method) | _gen_ai(record, audited) | _bridge(record, audited, kept)
        ),
        "events": [
            _event(
                at(one.began), "bridge.attempt.failed", _attempt(one.instance, one.failure.value, one.detail)
            )
            for one in record.failed[:_MANY]
        ],
    }
    if trace.parent_id:
        span["parentSpanId"] = trace.parent_id.decode()
    if trace.state:
        span["traceState"] = trace.state.decode("ascii")
    if record.sent:
        span["events"].append(_event(at(record.sent), "bridge.sent", {}))
    if record.head:
        span["events"].append(_event(at(record.head), "bridge.first_byte", {}))
    if is_failure(record):
        span["status"] = {"code": _ERROR, "message": what_went_wrong(record, audited)[1]}
    return span


def resource_of(node: str, mesh: str, version: str) -> dict[str, Any]:
    """Whose spans they are.

    Args:
        node: The node's name.
        mesh: The mesh's, which is its trust domain.
        version: The program's.
    """
    return {
        "attributes": listed(
            {
                "service.name": "bridge-agent",
                "service.namespace": mesh,
                "service.instance.id": node,
                "service.version": version,
                "host.name": node,
                "bridge.node": node,
            }
        )
    }


def message_of(resource: Mapping[str, Any], version: str, spans: list[msgspec.Raw]) -> bytes:
    """An `ExportTraceServiceRequest` of encoded spans, as JSON."""
    scope = {"scope": {"name": SCOPE, "version": version}, "spans": spans}
    return msgspec.json.encode({"resourceSpans": [{"resource": resource, "scopeSpans": [scope]}]})


def listed(attributes: Attributes) -> list[dict[str, Any]]:
    """Attributes as OTLP has them; those without a value are left out."""
    return [{"key": key, "value": _any(value)} for key, value in attributes.items() if value not in ("", [])]


def _any(value: Value) -> dict[str, Any]:
    """An `AnyValue`: of whole numbers JSON has the digits as text, since it cannot hold 64 bits."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [{"stringValue": one} for one in value]}}
    return {"stringValue": value}


def _event(at: str, name: str, attributes: Attributes) -> dict[str, Any]:
    return {"timeUnixNano": at, "name": name, "attributes": listed(attributes)}


def _attempt(instance: str, failure: str, detail: str) -> Attributes:
    return {
        "bridge.instance": cleaned(instance, _NAME),
        "error.type": failure,
        "error.message": cleaned(detail, 2 * _NAME),
    }


def _http(record: RequestRecord, audited: AuditRecord, method: str) -> Attributes:
    path = cleaned(audited.path, _NAME)
    found: Attributes = {
        "http.request.method": method,
        "http.route": path,
        # A route with a parameter is no path; that of the request is on no record.
        "url.path": "" if ":" in path else path,
        "url.scheme": "http" if record.caller.listener is ListenerKind.LOCAL else "https",
        "http.response.status_code": audited.status,
        "http.request.body.size": audited.bytes_in,
        "http.response.body.size": audited.bytes_out,
        "user.name": cleaned(audited.principal, _NAME),
    }
    if is_failure(record):
        found["error.type"] = what_went_wrong(record, audited)[0]
    return found


def _gen_ai(record: RequestRecord, audited: AuditRecord) -> Attributes:
    operation = _OPERATIONS.get(audited.path)
    if operation is None:
        return {}
    found: Attributes = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "ollama",  # whose API it is, and whose models
        "gen_ai.request.model": _model(audited.model),
    }
    if record.decision is not None and record.instance:
        found["gen_ai.response.model"] = _model(record.decision.model)
    if audited.prompt_tokens:
        found["gen_ai.usage.input_tokens"] = audited.prompt_tokens
    if audited.tokens:
        found["gen_ai.usage.output_tokens"] = audited.tokens
    return found


def _bridge(record: RequestRecord, audited: AuditRecord, kept: Kept) -> Attributes:
    decision = record.decision
    found: Attributes = {
        "bridge.request_id": cleaned(audited.request_id, _NAME),
        "bridge.kept": kept.value,
        "bridge.listener": audited.listener,
        "bridge.outcome": audited.outcome,
        "bridge.attempts": len(record.failed) + (1 if record.sent and audited.instance else 0),
        "bridge.waited_ms": audited.waited_ms,
    }
    for name, value in (
        ("bridge.instance", audited.instance),
        ("bridge.served_by", served_by(record, audited)),
        ("bridge.via", audited.via),
        ("bridge.route", audited.route),
        ("bridge.backend", audited.backend),
        ("bridge.rule", audited.rule),
        ("bridge.quota", audited.quota),
        ("bridge.reason", audited.reason),
    ):
        found[name] = cleaned(value, _NAME)
    if record.loading:
        found["bridge.loading_ms"] = int(record.loading * 1e6) / 1000
    if audited.first_ms:
        found["bridge.first_byte_ms"] = audited.first_ms
    if decision is not None:
        found["bridge.strategy"] = decision.strategy
        found["bridge.candidates"] = [cleaned(one.id, _NAME) for one in decision.candidates[:_MANY]]
        found["bridge.passed_over"] = [
            cleaned(f"{one.instance}: {one.reason}", _NAME) for one in decision.skipped[:_MANY]
        ]
        if decision.panic:
            found["bridge.panic"] = True
    return found


def _model(name: str) -> str:
    return cleaned(display_or_same(name[: 2 * _NAME]), _NAME)
