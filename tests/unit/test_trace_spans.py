"""A request as a span: OpenTelemetry's names and JSON, whole on the wire, nothing of what was asked."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from bridge_agent.audit.rendering import audited
from bridge_agent.gateway.config import Caller, ListenerKind, Outcome, RequestRecord
from bridge_agent.gateway.routes import ROUTES, Kind
from bridge_agent.routing.choose import Decision, Skipped
from bridge_agent.routing.health_rules import Failure
from bridge_agent.routing.request_rules import FailedAttempt
from bridge_agent.routing.view import Target
from bridge_agent.tracing.context_rules import Trace
from bridge_agent.tracing.sampling_rules import Kept
from bridge_agent.tracing.span_rules import message_of, resource_of, span_of
from bridge_core.command.plain_text import one_line
from bridge_core.identity.principal import Principal

VECTORS = Path(__file__).parent / "vectors" / "trace_spans.json"
AT = 1_780_000_000.25
MODEL = "registry.ollama.ai/library/m:latest"
TRACE = Trace(b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7", True)
CHILD = Trace(TRACE.trace_id, b"00f067aa0ba902b8", False, TRACE.span_id, b"vendor=a")
KEY = "brk_" + "a1B2c3D4e5F6" + "_" + "Z9" * 24 + "x"


def _target(id_: str) -> Target:
    return Target(id_, id_.partition("/")[0], local=False, address="127.0.0.1:1", available=True)


DECISION = Decision(
    MODEL,
    (_target("node2/0"), _target("node3/0")),
    True,
    "chat",
    skipped=(Skipped("node4/0", "ejected"),),
    strategy="ring_hash",
    backend="blue",
)
RECORD = RequestRecord(
    "r1",
    Caller(Principal("client", "alice", "client:alice"), ListenerKind.TLS),
    "POST",
    "/api/chat",
    MODEL,
    200,
    Outcome.OK,
    100.0,
    100.01,
    100.05,
    100.25,
    DECISION,
    "node2/0",
    (),
    321,
    4567,
    waited=0.004,
    tokens=12,
    prompt_tokens=7,
    remote=("203.0.113.7", 4711),
    loading=0.002,
    trace=TRACE,
)
FAILED = msgspec.structs.replace(
    RECORD,
    caller=Caller(Principal("client", "alice", "client:alice"), ListenerKind.PEER, "node1"),
    status=502,
    outcome=Outcome.FAILED,
    head=0.0,
    instance="",
    failed=(FailedAttempt("node2/0", 100.01, Failure.CUT, "the connection ended\nearly"),),
    trace=CHILD,
)
REFUSED = msgspec.structs.replace(
    RECORD,
    path="/v1/models/:model",
    method="GET",
    status=503,
    outcome=Outcome.REFUSED,
    sent=0.0,
    head=0.0,
    instance="",
    decision=None,
    reason="draining",
)


def _span(record: RequestRecord, kept: Kept = Kept.SAMPLED) -> dict[str, Any]:
    assert record.trace is not None
    return span_of(record, audited(record, AT, node="node1"), record.trace, kept)


def _message(*spans: dict[str, Any]) -> bytes:
    raw = [msgspec.Raw(msgspec.json.encode(one)) for one in spans]
    return message_of(resource_of("node1", "test.mesh", "1.2.3"), "1.2.3", raw)


def _as_collectors_read_it(message: bytes) -> ExportTraceServiceRequest:
    """By the official schema; of ids OTLP's JSON has hexadecimal digits where protobuf's has base64."""
    document = json.loads(message)
    for span in document["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        for name in span.keys() & {"traceId", "spanId", "parentSpanId"}:
            assert span[name] == span[name].lower()
            span[name] = base64.b64encode(bytes.fromhex(span[name])).decode()
    return json_format.ParseDict(document, ExportTraceServiceRequest())


def _attributes(span: Span) -> dict[str, Any]:
    found = {}
    for one in span.attributes:
        kind = one.value.WhichOneof("value")
        assert kind is not None, one.key
        value = getattr(one.value, kind)
        found[one.key] = [item.string_value for item in value.values] if kind == "array_value" else value
    assert len(found) == len(span.attributes)
    return found


def test_spans_are_what_they_were() -> None:
    """Dashboards, alerts and people's searches are made for these."""
    message = _message(_span(RECORD), _span(FAILED, Kept.FAILED), _span(REFUSED, Kept.FAILED))
    assert json.loads(message) == json.loads(VECTORS.read_text(encoding="utf-8"))


def test_a_collector_understands_a_span() -> None:
    found = _as_collectors_read_it(_message(_span(RECORD)))
    (resource,) = found.resource_spans
    assert {one.key: one.value.string_value for one in resource.resource.attributes} == {
        "service.name": "bridge-agent",
        "service.namespace": "test.mesh",
        "service.instance.id": "node1",
        "service.version": "1.2.3",
        "host.name": "node1",
        "bridge.node": "node1",
    }
    (span,) = resource.scope_spans[0].spans
    assert span.trace_id.hex().encode() == TRACE.trace_id
    assert span.span_id.hex().encode() == TRACE.span_id
    assert not span.parent_span_id
    assert span.kind == Span.SPAN_KIND_SERVER
    assert span.name == "POST /api/chat"
    assert span.start_time_unix_nano == 1_780_000_000_250_000_000
    assert span.end_time_unix_nano - span.start_time_unix_nano == pytest.approx(250e6, abs=1e3)
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert span.flags == 0x101
    assert [one.name for one in span.events] == ["bridge.sent", "bridge.first_byte"]
    moments = [one.time_unix_nano - span.start_time_unix_nano for one in span.events]
    assert moments == [pytest.approx(10e6, abs=1e3), pytest.approx(50e6, abs=1e3)]
    assert _attributes(span) == {
        "http.request.method": "POST",
        "http.route": "/api/chat",
        "url.path": "/api/chat",
        "url.scheme": "https",
        "http.response.status_code": 200,
        "http.request.body.size": 321,
        "http.response.body.size": 4567,
        "user.name": "client:alice",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "ollama",
        "gen_ai.request.model": "m:latest",
        "gen_ai.response.model": "m:latest",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 12,
        "bridge.request_id": "r1",
        "bridge.kept": "sampled",
        "bridge.listener": "tls",
        "bridge.outcome": "ok",
        "bridge.attempts": 1,
        "bridge.waited_ms": 4.0,
        "bridge.loading_ms": 2.0,
        "bridge.first_byte_ms": 49.999,
        "bridge.instance": "node2/0",
        "bridge.served_by": "node2",
        "bridge.route": "chat",
        "bridge.backend": "blue",
        "bridge.strategy": "ring_hash",
        "bridge.candidates": ["node2/0", "node3/0"],
        "bridge.passed_over": ["node4/0: ejected"],
    }


def test_one_that_failed_says_where_and_belongs_under_its_parent() -> None:
    (span,) = (
        _as_collectors_read_it(_message(_span(FAILED, Kept.FAILED))).resource_spans[0].scope_spans[0].spans
    )
    assert span.parent_span_id.hex().encode() == TRACE.span_id
    assert span.trace_state == "vendor=a"
    assert span.flags == 0x300
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert span.status.message == "the connection ended\\x0aearly"
    attributes = _attributes(span)
    assert attributes["error.type"] == "cut"
    assert attributes["bridge.via"] == "node1"
    assert attributes["bridge.served_by"] == "node2"
    assert attributes["bridge.attempts"] == 1
    tried, sent = span.events
    assert (tried.name, sent.name) == ("bridge.attempt.failed", "bridge.sent")
    assert {one.key: one.value.string_value for one in tried.attributes} == {
        "bridge.instance": "node2/0",
        "error.type": "cut",
        "error.message": "the connection ended\\x0aearly",
    }


def test_one_that_was_refused_says_why_and_has_no_model_of_its_own() -> None:
    (span,) = (
        _as_collectors_read_it(_message(_span(REFUSED, Kept.FAILED))).resource_spans[0].scope_spans[0].spans
    )
    attributes = _attributes(span)
    assert span.name == "GET /v1/models/:model"
    assert attributes["error.type"] == attributes["bridge.reason"] == "draining"
    assert not {name for name in attributes if name.startswith("gen_ai.")}
    assert "url.path" not in attributes
    assert not span.events


def test_a_client_s_own_fault_is_no_error_of_the_server_s() -> None:
    found = _span(msgspec.structs.replace(RECORD, status=404, outcome=Outcome.REFUSED))
    assert "status" not in found
    assert "error.type" not in {one["key"] for one in found["attributes"]}


def _values(record: RequestRecord, kept: Kept = Kept.FAILED) -> dict[str, Any]:
    message = _as_collectors_read_it(_message(_span(record, kept)))
    return _attributes(message.resource_spans[0].scope_spans[0].spans[0])


def test_names_are_cut_where_the_log_cuts_them_and_lists_after_eight() -> None:
    long = "n" * 900
    record = msgspec.structs.replace(
        FAILED,
        method=long,
        model=long,
        rule=long,
        failed=(FailedAttempt(long, 100.01, Failure.CUT, long),) * 9,
        decision=msgspec.structs.replace(DECISION, candidates=(_target("n/0"),) * 9),
    )
    found = _values(record)
    assert found["http.request.method"] == "n" * 20 + "…"
    assert found["bridge.rule"] == found["gen_ai.request.model"] == "n" * 200 + "…"
    assert len(found["bridge.candidates"]) == 8
    assert found["bridge.attempts"] == 9
    events = _span(record)["events"]
    assert len(events) == 9  # eight of them and that it was sent
    told = {one["key"]: one["value"]["stringValue"] for one in events[0]["attributes"]}
    assert (told["bridge.instance"], told["error.message"]) == ("n" * 200 + "…", "n" * 400 + "…")


def test_a_long_name_is_read_before_it_is_cut() -> None:
    name = "/".join(["registry.ollama.ai", "n" * 80, "m" * 80 + ":" + "t" * 80])
    found = _values(msgspec.structs.replace(RECORD, model=name))["gen_ai.request.model"]
    assert found == ("n" * 80 + "/" + "m" * 80 + ":" + "t" * 38 + "…")


def test_what_is_said_only_where_it_is_so() -> None:
    panic = msgspec.structs.replace(DECISION, panic=True)
    assert _values(msgspec.structs.replace(RECORD, decision=panic))["bridge.panic"] is True
    assert _values(msgspec.structs.replace(RECORD, loading=1.25))["bridge.loading_ms"] == 1250.0
    bare = _values(msgspec.structs.replace(RECORD, loading=0.0, head=0.0, tokens=0, prompt_tokens=0))
    absent = {"bridge.panic", "bridge.loading_ms", "bridge.first_byte_ms", "gen_ai.usage.input_tokens"}
    assert not bare.keys() & absent


def test_one_that_is_not_picked_and_begins_a_trace_has_no_flags_but_that_this_is_known() -> None:
    assert (
        _span(msgspec.structs.replace(RECORD, trace=Trace(TRACE.trace_id, TRACE.span_id, False)))["flags"]
        == 0x100
    )


def test_every_route_that_infers_has_a_name_for_what_it_does() -> None:
    named = {
        route.path
        for route in ROUTES
        if "gen_ai.operation.name"
        in {one["key"] for one in _span(msgspec.structs.replace(RECORD, path=route.path))["attributes"]}
    }
    infers = {route.path for route in ROUTES if route.kind is Kind.INFER}
    assert named == infers - {"/v1/audio/transcriptions"}  # OpenTelemetry has no word for it


def test_where_the_client_is_and_its_keys_are_no_part_of_a_span() -> None:
    detail = f"refused: Authorization: Bearer {KEY}"
    record = msgspec.structs.replace(
        FAILED, model=KEY, failed=(FailedAttempt("node2/0", 100.01, Failure.CUT, detail),)
    )
    for kept in Kept:
        message = _message(_span(record, kept)).decode()
        assert "203.0.113.7" not in message
        assert KEY not in message
        assert "Z9Z9" not in message


@settings(max_examples=40)
@given(name=st.text(), detail=st.text(), count=st.integers(0, 40))
def test_whatever_names_say_a_span_is_bounded_and_understood(name: str, detail: str, count: int) -> None:
    record = msgspec.structs.replace(
        FAILED,
        request_id=name,
        caller=Caller(Principal("client", name, f"client:{name}"), ListenerKind.TLS, name),
        method=name,
        path=name,
        model=name * 50,
        reason=detail,
        quota=detail,
        rule=name,
        failed=(FailedAttempt(name, 100.01, Failure.CUT, detail * 100),) * count,
        decision=msgspec.structs.replace(DECISION, model=name, candidates=(_target(name),) * count),
    )
    message = _message(_span(record, Kept.FAILED))
    assert len(message) < 128 << 10
    (span,) = _as_collectors_read_it(message).resource_spans[0].scope_spans[0].spans
    for text in (span.name, span.status.message, *map(str, _attributes(span).values())):
        assert one_line(text, len(text)) == text  # nothing is left to write out
