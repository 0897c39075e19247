"""A request as a line of the log: how it ended, what failed, where; never what was asked or from where."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from bridge_agent.audit.rendering import audited
from bridge_agent.gateway.config import Caller, ListenerKind, Outcome, RequestRecord
from bridge_agent.routing.health_rules import Failure
from bridge_agent.routing.request_rules import FailedAttempt
from bridge_agent.telemetry.request_log import RequestLog, request_log
from bridge_agent.telemetry.request_log_rules import request_document
from bridge_agent.tracing.context_rules import Trace
from bridge_core.errors import Fatal
from bridge_core.identity.principal import Principal
from bridge_core.logs.ecs_rules import FIELDS, Source, line_of
from bridge_core.logs.setup import ProgramLog
from bridge_core.logs.sink import LogSink

SOURCE = Source("bridge-agent", "node1", "1", 1)
RECORD = RequestRecord(
    "r1",
    Caller(Principal("client", "alice", "client:alice"), ListenerKind.TLS),
    "POST",
    "/api/chat",
    "registry.ollama.ai/library/m:latest",
    200,
    Outcome.OK,
    100.0,
    100.01,
    100.05,
    100.25,
    None,
    "node2/0",
    (),
    321,
    4567,
    waited=0.004,
    tokens=12,
    prompt_tokens=7,
    remote=("203.0.113.7", 4711),
)
CUT = FailedAttempt("node2/0", 100.01, Failure.CUT, "the connection ended\nearly")


def _line(**changes: Any) -> dict[str, Any]:
    record = msgspec.structs.replace(RECORD, **changes)
    line = line_of(request_document(record, audited(record, 1_780_000_000.0, node="node1"), SOURCE))
    assert line.count(b"\n") == 1
    found: dict[str, Any] = json.loads(line)
    assert found.keys() <= FIELDS.keys()
    for field, value in found.items():
        kinds = {"long": (int,), "float": (int, float)}.get(FIELDS[field], (str, list))
        assert isinstance(value, kinds), field
    assert "203.0.113.7" not in line.decode()
    return found


def test_a_request_that_was_answered() -> None:
    found = _line()
    assert found["@timestamp"] == "2026-05-28T20:26:40.250Z"
    assert found["message"] == "POST /api/chat 200 ok in 250 ms"
    assert {
        key: value for key, value in found.items() if key.startswith(("bridge.", "event.", "http.", "user."))
    } == {
        "event.kind": "event",
        "event.dataset": "bridge.requests",
        "event.action": "request",
        "event.outcome": "success",
        "event.duration": 250_000_000,
        "http.request.id": "r1",
        "http.request.method": "POST",
        "http.request.body.bytes": 321,
        "http.response.body.bytes": 4567,
        "http.response.status_code": 200,
        "user.name": RECORD.caller.principal,
        "bridge.attempts": 1,
        "bridge.listener": "tls",
        "bridge.outcome": "ok",
        "bridge.waited_ms": pytest.approx(4.0, abs=0.01),
        "bridge.model": "m:latest",
        "bridge.instance": "node2/0",
        "bridge.served_by": "node2",
        "bridge.first_byte_ms": pytest.approx(50.0, abs=0.01),
        "bridge.prompt_tokens": 7,
        "bridge.tokens": 12,
    }


def test_one_that_failed_says_how_its_last_try_did() -> None:
    early = FailedAttempt("node3/0", 100.0, Failure.CONNECT, "refused")
    assert (
        _line(status=502, outcome=Outcome.FAILED, failed=(early,), instance="")["bridge.served_by"] == "node3"
    )
    found = _line(outcome=Outcome.BROKEN, failed=(early, CUT))
    assert (found["event.outcome"], found["log.level"]) == ("failure", "warning")
    assert (found["error.type"], found["error.message"]) == ("cut", "the connection ended\\x0aearly")
    assert found["bridge.failed_attempts"] == ["node3/0: refused", "node2/0: the connection ended\\x0aearly"]


@pytest.mark.parametrize(
    ("changes", "outcome", "error"),
    [
        ({"failed": (CUT,)}, "success", None),  # another try saved it
        ({"status": 499, "outcome": Outcome.CANCELLED}, "unknown", None),
        ({"status": 403, "outcome": Outcome.REFUSED, "reason": "host"}, "failure", "host"),
        ({"status": 429, "outcome": Outcome.REFUSED, "quota": "q"}, "failure", "refused"),
        ({"status": 400, "outcome": Outcome.OK}, "failure", "ok"),
        ({"status": 200, "outcome": Outcome.ENGINE_ERROR}, "failure", "engine_error"),
        ({"status": 399}, "success", None),
    ],
)
def test_who_is_told_of_as_failed(changes: dict[str, Any], outcome: str, error: str | None) -> None:
    found = _line(**changes)
    assert (found["event.outcome"], found.get("error.type")) == (outcome, error)
    assert found["log.level"] == ("warning" if outcome == "failure" else "info")


def test_a_hostile_name_is_cut_and_written_out() -> None:
    found = _line(model="\x1b]0;owned\x07\u202e" + "m" * 100_000)
    assert found["bridge.model"].startswith("\\x1b]0;owned\\x07\\u202emm")
    assert len(found["bridge.model"]) <= 220


class Kept(LogSink):
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__(told=lambda _: b"")
        self.lines: list[bytes] = []

    def put(self, kind: str, line: bytes) -> None:
        assert kind == "request"
        self.lines.append(line)


def test_a_flood_that_goes_well_leaves_room_for_what_fails() -> None:
    sink, now = Kept(), 0.0
    log = RequestLog(ProgramLog(SOURCE, sink), failed_only=False, now=lambda: now)
    good = audited(RECORD, 0.0)
    for _ in range(3000):
        log.take(RECORD, good)
    assert (len(sink.lines), sink.dropped) == (1000, {"request": 2000})
    failed = msgspec.structs.replace(RECORD, status=500, outcome=Outcome.FAILED)
    log.take(failed, audited(failed, 0.0))
    assert len(sink.lines) == 1001
    now = 1.0
    for _ in range(300):
        log.take(RECORD, good)
    assert len(sink.lines) == 1201


def test_which_requests_are_told_is_chosen_by_name() -> None:
    program = ProgramLog(SOURCE, Kept())
    assert request_log(program, {"BRIDGE_LOG_REQUESTS": "none"}) is None
    assert request_log(None, {}) is None
    assert request_log(program, {}) is not None
    only = request_log(program, {"BRIDGE_LOG_REQUESTS": "failed"})
    assert only is not None
    only.take(RECORD, audited(RECORD, 0.0))
    assert not program.sink.lines  # type: ignore[attr-defined]
    with pytest.raises(Fatal, match="BRIDGE_LOG_REQUESTS is 'some'"):
        request_log(program, {"BRIDGE_LOG_REQUESTS": "some"})


def test_a_line_names_the_span_that_tells_of_the_same_request() -> None:
    assert "trace.id" not in _line(), "an id of a request is none of a trace"
    trace = Trace(b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7", False)
    found = _line(trace=trace)
    assert (found["trace.id"], found["span.id"]) == (trace.trace_id.decode(), trace.span_id.decode())
    assert found["http.request.id"] == "r1"
