"""Which finished requests tell the engine's prober something."""

from __future__ import annotations

import pytest

from bridge_agent.gateway.config import Caller, ListenerKind, Outcome, RequestRecord
from bridge_agent.records import generated


def finished(path: str, outcome: Outcome, status: int = 200, instance: str = "n1/0") -> RequestRecord:
    caller = Caller("local", ListenerKind.LOCAL)
    times = (1.0, 1.1, 1.2, 2.0)
    return RequestRecord("id", caller, "POST", path, "m", status, outcome, *times, None, instance, (), 0, 0)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (finished("/api/chat", Outcome.OK), True),
        (finished("/v1/chat/completions", Outcome.OK), True),
        (finished("/api/embed", Outcome.OK), True),
        (finished("/api/generate", Outcome.CANCELLED), False),
        (finished("/api/generate", Outcome.BROKEN), False),
        (finished("/api/generate", Outcome.OK, status=400), False),
        (finished("/api/generate", Outcome.REFUSED, instance=""), None),
        (finished("/api/show", Outcome.OK), None),
        (finished("/api/pull", Outcome.OK), None),
    ],
)
def test_only_an_inference_says_whether_a_model_answers(record, expected):
    assert generated(record) is expected
