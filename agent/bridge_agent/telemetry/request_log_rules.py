"""A request as a line of the log: pure.

What was asked and answered is no part of it, nor is the client's address: who needs that has the audit. The
fields are those that `bridgectl audit export --ecs` gives, so that one dashboard reads both.
"""

from __future__ import annotations

from typing import Final

from bridge_agent.gateway.config import Outcome, RequestRecord
from bridge_core.audit.entries import AuditRecord
from bridge_core.logs.cleaning_rules import cleaned
from bridge_core.logs.ecs_rules import REQUESTS, Document, Source, head
from bridge_core.names import display_or_same

_SUCCESS, _FAILURE, _UNKNOWN = "success", "failure", "unknown"
_NAME: Final = 200  # characters of a name
_TRIES: Final = 8  # that are told


def outcome_of(record: AuditRecord) -> str:
    """ECS's word for how it ended: who left by himself neither failed nor succeeded."""
    if record.outcome == Outcome.CANCELLED.value:
        return _UNKNOWN
    return _SUCCESS if record.outcome == Outcome.OK.value and record.status < 400 else _FAILURE


def request_document(record: RequestRecord, audited: AuditRecord, source: Source) -> Document:
    """The line about a request that is over.

    Args:
        record: The gateway's.
        audited: The audit's of the same.
        source: Whose log it is.
    """
    outcome = outcome_of(audited)
    failed = outcome == _FAILURE
    model = audited.model if record.decision is None else record.decision.model
    path, status = cleaned(audited.path, _NAME), audited.status
    ended = audited.at + audited.duration_ms / 1000
    said = f"{cleaned(audited.method, 20)} {path} {status} {audited.outcome} in {audited.duration_ms:.0f} ms"
    found = head(source, ended, "warning" if failed else "info", said)
    found |= {
        "event.kind": "event",
        "event.dataset": REQUESTS,
        "event.action": "request",
        "event.outcome": outcome,
        "event.duration": int(audited.duration_ms * 1e6),
        "http.request.id": audited.request_id,
        "http.request.method": cleaned(audited.method, 20),
        "http.request.body.bytes": audited.bytes_in,
        "http.response.body.bytes": audited.bytes_out,
        "http.response.status_code": status,
        "url.path": path,
        "user.name": cleaned(audited.principal, _NAME),
        "bridge.attempts": len(record.failed) + (1 if record.sent and audited.instance else 0),
        "bridge.listener": audited.listener,
        "bridge.outcome": audited.outcome,
        "bridge.waited_ms": audited.waited_ms,
    }
    _add(found, "bridge.model", display_or_same(model[: 2 * _NAME]))
    _add(found, "bridge.instance", audited.instance)
    _add(found, "bridge.served_by", served_by(record, audited))
    _add(found, "bridge.via", audited.via)
    _add(found, "bridge.route", audited.route)
    _add(found, "bridge.backend", audited.backend)
    _add(found, "bridge.rule", audited.rule)
    _add(found, "bridge.quota", audited.quota)
    if audited.first_ms:
        found["bridge.first_byte_ms"] = audited.first_ms
    if audited.prompt_tokens:
        found["bridge.prompt_tokens"] = audited.prompt_tokens
    if audited.tokens:
        found["bridge.tokens"] = audited.tokens
    if audited.failed_attempts:
        found["bridge.failed_attempts"] = [cleaned(one, 400) for one in audited.failed_attempts[:_TRIES]]
    if failed:
        found["error.type"], found["error.message"] = what_went_wrong(record, audited)
        _add(found, "event.reason", audited.reason)
    if record.trace is not None:
        found["trace.id"] = record.trace.trace_id.decode()
        found["span.id"] = record.trace.span_id.decode()
    return found


def served_by(record: RequestRecord, audited: AuditRecord) -> str:
    """The node that served it, else the one that was asked last: failures are of nodes, too."""
    tried = audited.instance or (record.failed[-1].instance if record.failed else "")
    return tried.partition("/")[0]


def what_went_wrong(record: RequestRecord, audited: AuditRecord) -> tuple[str, str]:
    """The kind and the words of a failure: the last try's where there was one, else why it was refused."""
    last = record.failed[-1] if record.failed else None
    if last is not None:
        kind, words = last.failure.value, last.detail
    else:
        kind, words = audited.reason or audited.outcome, audited.quota or audited.rule
    kind = cleaned(kind, _NAME)
    return kind, cleaned(words) or kind


def _add(found: Document, field: str, value: str) -> None:
    if value:
        found[field] = cleaned(value, _NAME)
