"""What counts for which backend of a route."""

from __future__ import annotations

import msgspec
import pytest

from bridge_agent.gateway.config import Caller, ListenerKind, Outcome, RequestRecord
from bridge_agent.gateway.routes import Framing
from bridge_agent.gateway.watch import StreamWatch
from bridge_agent.routing.choose import Decision
from bridge_agent.routing.health_rules import Failure
from bridge_agent.routing.request_rules import FailedAttempt
from bridge_agent.routing.view import Target
from bridge_agent.telemetry.tally import BackendTally
from bridge_core.counts import Counts

SERVED = (Target("n1/0", "n1", True, "127.0.0.1:1", True),)
RECORD = RequestRecord(
    request_id="r",
    caller=Caller("local", ListenerKind.LOCAL),
    method="POST",
    path="/api/chat",
    model="new",
    status=200,
    outcome=Outcome.OK,
    began=10.0,
    sent=10.1,
    head=10.5,
    ended=12.5,
    decision=Decision("new", SERVED, True, route="chat", backend="canary"),
    instance="n1/0",
    failed=(),
    bytes_in=1,
    bytes_out=1,
    tokens=100,
)
NOBODY = Decision("new", (), True, route="chat", backend="canary")
FAILED = (FailedAttempt("n1/0", 10.0, Failure.CUT),)


def counted(**changes: object) -> Counts:
    tally = BackendTally()
    tally.take(msgspec.structs.replace(RECORD, **changes))
    return tally.counts.get(("chat", "canary"), Counts())


def test_an_answer_counts_with_its_times() -> None:
    found = counted()
    assert (found.requests, found.errors, found.stream_errors, found.tokens_per_s) == (1, 0, 0, 50.0)
    assert 0.5 <= found.ttft_quantile(0.5) <= 0.625


@pytest.mark.parametrize(
    "changes",
    [
        {"status": 502, "outcome": Outcome.FAILED, "head": 0.0},
        {"status": 500, "outcome": Outcome.ENGINE_ERROR},
        {"failed": FAILED},  # another attempt saved it
        {"failed": (FailedAttempt("n1/0", 10.0, Failure.ANSWERED_500),)},
        # Nobody is there to serve it; once its leases ended, nobody even has its model.
        {"status": 503, "outcome": Outcome.REFUSED, "head": 0.0, "decision": NOBODY},
        {"status": 404, "outcome": Outcome.REFUSED, "head": 0.0, "decision": NOBODY},
    ],
)
def test_what_is_an_error_of_the_backend(changes) -> None:
    found = counted(**changes)
    assert (found.requests, found.errors, found.answered) == (1, 1, 0)


@pytest.mark.parametrize("outcome", [Outcome.BROKEN, Outcome.ENGINE_ERROR])
def test_what_breaks_after_a_byte_is_an_in_stream_error(outcome) -> None:
    found = counted(outcome=outcome)
    assert (found.requests, found.errors, found.stream_errors) == (1, 0, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": Outcome.CANCELLED},
        {"outcome": Outcome.REFUSED, "status": 503},
        {"outcome": Outcome.ENGINE_ERROR, "status": 400},
        {"caller": Caller("n2", ListenerKind.PEER, "n2")},
        {"decision": Decision("new", SERVED, True)},
        {"decision": None},
    ],
)
def test_what_does_not_count(changes) -> None:
    assert counted(**changes) == Counts()


def test_a_refusal_for_want_of_room_is_no_failure_of_the_backend() -> None:
    assert counted(failed=(FailedAttempt("n1/0", 10.0, Failure.REFUSED),)).errors == 0


@pytest.mark.parametrize(
    ("framing", "data", "tokens"),
    [
        (Framing.NDJSON, b'{"done":false}\n{"done":true,"eval_count":7}\n', 7),
        (Framing.CHAT_SSE, b'data: {"usage":{"completion_tokens":8}}\n\n', 8),
        (Framing.CHAT_SSE, b"data: [DONE]\n\n", 0),
        (Framing.RESPONSES_SSE, b'data: {"response":{"usage":{"output_tokens":9}}}\n\n', 9),
        (Framing.NDJSON, b'{"usage":[],"eval_count":"x"}\n', 0),
        (Framing.NDJSON, b"[1]\n", 0),
    ],
)
def test_tokens_are_read_from_the_last_record(framing, data, tokens) -> None:
    watch = StreamWatch(framing)
    watch.feed(data)
    assert watch.tokens == tokens
