"""An event as a line: ECS's names, one type a field, nothing raw from outside, no secret, bounded."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_core.errors import BridgeError
from bridge_core.identity.api_keys import PATTERN
from bridge_core.identity.tokens import JoinToken
from bridge_core.logs.cleaning_rules import MASK, cleaned, masked, message_of
from bridge_core.logs.ecs_rules import FIELDS, LABELS, Source, dropped_document, event_document, line_of
from bridge_core.logs.tracebacks import short_traceback

SOURCE = Source("bridge-agent", "node1", "1.2.3", 42)
VECTORS = Path(__file__).parent / "vectors" / "log_lines.jsonl"
KEY = "brk_" + "a1B2c3D4e5F6" + "_" + "Z9" * 24 + "x"
PROMPT = "my diagnosis is private"


def _line(event: dict[str, Any], level: str = "info") -> dict[str, Any]:
    line = line_of(event_document(event, level=level, at=1_780_000_000.25, source=SOURCE))
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    found: dict[str, Any] = json.loads(line)
    return found


def _raised(fault: BaseException) -> BaseException:
    with pytest.raises(type(fault)) as caught:
        raise fault
    return caught.value


EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("info", {"event": "agent_serving", "node": "node1", "http": "127.0.0.1:11434"}),
    (
        "warning",
        {"event": "model_not_loaded", "model": "m:latest", "instance": "node1/0", "reason": "no room"},
    ),
    ("info", {"event": "members_dropped", "instances": ["a/0", "b/0"], "by": "admin", "request_id": "r1"}),
    ("warning", {"event": "alert", "summary": "x\ny\x1b[2J", "nothing": None, "out": True, "took_s": 1.5}),
]


def test_lines_are_what_they_were() -> None:
    """Collectors, dashboards and people's searches are made for these."""
    lines = [json.dumps(_line(event, level), ensure_ascii=False) for level, event in EVENTS]
    assert lines == VECTORS.read_text(encoding="utf-8").splitlines()


@settings(max_examples=60)
@given(
    st.dictionaries(
        st.sampled_from(["reason", "model", "request_id", "by", "count", "path", "what", "a name"]),
        st.none()
        | st.text()
        | st.integers()
        | st.floats()
        | st.booleans()
        | st.lists(st.text(max_size=20), max_size=60)
        | st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
    ),
    st.text(),
)
def test_whatever_an_event_says_its_line_is_one_and_its_fields_are_known(
    said: dict[str, Any], name: str
) -> None:
    found = _line({"event": name, **said})
    for field, value in found.items():
        known = FIELDS.get(field) or ("keyword" if field.startswith(LABELS) else None)
        assert known is not None, field
        assert isinstance(value, int if known == "long" else str), field
        if isinstance(value, str):
            assert len(value) <= 1300
            assert not [one for one in value if unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


@pytest.mark.parametrize(
    "secret",
    [
        KEY,
        str(JoinToken("0" * 16, "ab" * 32, "cd" * 32)),
        "brk1.eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJwb2QifQ.c2lnbmF0dXJl",
        "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJlc2lnbmF0dXJl",
        "-----BEGIN PRIVATE KEY-----\nMIGHAgEA\nabc\n-----END PRIVATE KEY-----",
        "-----BEGIN EC PRIVATE KEY-----\nMIGHAgEAabc",
    ],
)
def test_what_has_the_shape_of_a_secret_is_masked_wherever_it_stands(secret: str) -> None:
    for text in (secret, f"got {secret!s} from x", f"Bearer {secret}", "y" * 990 + secret):
        shown = cleaned(text)
        for part in re.findall(r"[0-9A-Za-z]{8,}", secret.replace("PRIVATE", "")):
            assert part not in shown
    assert MASK in masked(f"Authorization: Bearer {secret}")
    found = _line(
        {
            "event": "x",
            "reason": secret,
            "keys": [secret],
            "said": {"k": secret},
            "exc_info": _raised(ValueError(secret)),
        }
    )
    assert secret[10:40] not in json.dumps(found)


def test_the_pattern_of_keys_is_the_one_that_keys_have() -> None:
    assert re.fullmatch(PATTERN, KEY)
    assert masked("a basic idea, a bearer of news; authorization is needed") == (
        "a basic idea, a bearer of news; authorization is needed"
    )


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (KeyError(PROMPT), "'…'"),
        (KeyError("word"), "'…'"),
        (
            ValueError(f"invalid literal for int() with base 10: '{PROMPT}'"),
            "invalid literal for int() with base 10: '…'",
        ),
        (TypeError(f'cannot take "{PROMPT}" nor \'open'), "cannot take '…' nor 'open"),
        (TypeError(f"cannot take '{PROMPT}"), "cannot take '…'"),
        (
            AttributeError("'NoneType' object has no attribute 'x_y'"),
            "'NoneType' object has no attribute 'x_y'",
        ),
        (BridgeError("no model 'a b'", hint="pull it"), "no model 'a b' (pull it)"),
        (FileNotFoundError(2, "No such file", "/a b"), "[Errno 2] No such file: '/a b'"),
    ],
)
def test_what_an_exception_quotes_is_told_only_where_it_is_ours(fault: BaseException, says: str) -> None:
    assert message_of(fault) == says
    caught = _raised(fault)
    assert says in short_traceback((type(caught), caught, caught.__traceback__))


def test_the_text_of_an_exception_may_fail_itself() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert message_of(Mute()) == "(it has no text)"


def test_an_exception_has_its_type_message_and_trace_with_causes_and_members() -> None:
    try:
        try:
            {}[PROMPT]
        except KeyError as cause:
            raise ExceptionGroup(
                "two of them", [OSError(28, "No space left"), RuntimeError(PROMPT * 999)]
            ) from cause
    except ExceptionGroup as fault:
        found = _line({"event": "task_failed", "exc_info": fault}, "error")
    assert found["error.type"] == "ExceptionGroup"
    trace = found["error.stack_trace"].split("\n")
    assert [line for line in trace if re.match(r"\w+(Error|Group): ", line)][:3] == [
        "KeyError: '…'",
        "ExceptionGroup: two of them (2 sub-exceptions)",
        "OSError: [Errno 28] No space left",
    ]
    assert sum(map(len, trace)) < 8000
    assert not any(len(line) > 401 for line in trace)


def test_a_chain_of_causes_ends() -> None:
    fault: BaseException = ValueError("0")
    for number in range(1, 50):
        outer = ValueError(str(number))
        outer.__cause__ = fault
        fault = outer
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    for one in (fault, first):
        assert "(and others)" in short_traceback((ValueError, one, None))


def test_what_was_left_out_is_said_by_class() -> None:
    found = json.loads(line_of(dropped_document({"info": 3, "error": 0, "request": 4}, 0.0, SOURCE)))
    assert found["event.action"] == "log_lines_dropped"
    assert {key: value for key, value in found.items() if key.startswith("bridge.")} == {
        "bridge.dropped.info": 3,
        "bridge.dropped.request": 4,
    }
    assert found["message"].startswith("7 lines")
