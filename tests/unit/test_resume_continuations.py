"""Streams cut at any line and continued: the client gets the text of the uninterrupted one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_agent.gateway.routes import ROUTES
from bridge_agent.gateway.watch import StreamVerdict, StreamWatch
from bridge_agent.routing import resume
from bridge_agent.routing.resume import Continuation, NotResumable
from bridge_core.dialects import Stamp, translate

RENDERED = "<|user|>hé<|assistant|>"
PROMPT_TOKENS = 7
MESSAGES = [{"role": "user", "content": "hé"}]
BODIES: dict[str, dict[str, Any]] = {
    "/api/generate": {"prompt": "hé"},
    "/api/chat": {"messages": MESSAGES},
    "/v1/chat/completions": {"messages": MESSAGES, "stream_options": {"include_usage": True}},
    "/v1/completions": {"prompt": "hé", "stream_options": {"include_usage": True}},
    "/v1/responses": {"input": "hé"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 100},
}
LIMITS = {
    "/v1/messages": "max_tokens",
    "/v1/responses": "max_output_tokens",
    "/v1/completions": "max_tokens",
    "/v1/chat/completions": "max_tokens",
}
FRAMINGS = {route.path: route.framing for route in ROUTES}
TOKENS = ["The", " naïve", " 😀", "\n\n", "data: ", '"error"', "日本", " </s>", "\\u00e9"]


def request_body(path: str, limit: int | None = None, **more: Any) -> bytes:
    body = {"model": "m:1b", "stream": True, **BODIES[path], **more}
    if limit is not None:
        if path in LIMITS:
            body[LIMITS[path]] = limit
        else:
            body["options"] = {"num_predict": limit}
    return json.dumps(body).encode()


def final(count: int, reason: str = "stop", prompt: int = PROMPT_TOKENS) -> dict[str, Any]:
    counters = {"total_duration": 5, "load_duration": 1, "eval_duration": 4, "prompt_eval_duration": 2}
    return {"done": True, "done_reason": reason, "eval_count": count, "prompt_eval_count": prompt} | counters


def whole_stream(path: str, tokens: list[str], reason: str = "stop") -> bytes:
    """What an engine sends when nothing happens to it."""
    chat = path != "/api/generate" and path != "/v1/completions"

    def record(text: str, more: dict[str, Any]) -> dict[str, Any]:
        said = {"message": {"role": "assistant", "content": text}} if chat else {"response": text}
        return {"model": "m:1b", "created_at": "t", **said, **more}

    records = [record(token, {"done": False}) for token in tokens]
    records.append(record("", final(len(tokens), reason)))
    if path.startswith("/api/"):
        return b"".join(json.dumps(one, ensure_ascii=False).encode() + b"\n" for one in records)
    stream = translate(path, request_body(path), Stamp(1_700_000_000, "ab" * 30)).stream()
    return b"".join(stream.feed(one) for one in records)


def read(path: str, data: bytes) -> tuple[str, list[dict[str, Any]]]:
    """The text and all records of a stream, as a client reads them."""
    if path.startswith("/api/"):
        found = [json.loads(line) for line in data.splitlines()]
        key = "message" if path == "/api/chat" else "response"
        return "".join(one[key]["content"] if path == "/api/chat" else one[key] for one in found), found
    found = []
    for block in data.split(b"\n\n"):
        lines = [line for line in block.split(b"\n") if line]
        names = [line for line in lines if line.startswith(b"event:")]
        values = [line for line in lines if line.startswith(b"data:")]
        assert len(values) == bool(lines), block
        if values and values[0] != b"data: [DONE]":
            found.append(json.loads(values[0][5:]))
            if names:
                assert names[-1] == b"event: " + found[-1]["type"].encode()
    return "".join(_said(one) for one in found), found


def _said(event: dict[str, Any]) -> str:
    if event.get("choices"):
        choice = event["choices"][0]
        return choice.get("text") or choice.get("delta", {}).get("content") or ""
    if event.get("type") == "response.output_text.delta":
        return event["delta"]
    return event.get("delta", {}).get("text", "") if event.get("type") == "content_block_delta" else ""


def fake_engine(body: bytes, tokens: list[str], reason: str) -> Iterator[dict[str, Any]]:
    """A deterministic engine: what follows a prompt depends on the prompt alone."""
    asked = json.loads(body)
    assert asked["raw"]
    assert asked["stream"]
    delivered = asked["prompt"].removeprefix(RENDERED)
    known = next(n for n in range(len(tokens) + 1) if "".join(tokens[:n]) == delivered)
    limit = asked["options"].get("num_predict", -1)
    new = tokens[known:] if limit < 0 else tokens[known:][:limit]
    assert limit != 0
    ends = "length" if 0 <= limit < len(tokens) - known else reason
    for token in new:
        yield {"model": "m:1b", "created_at": "u", "response": token, "done": False}
    yield {"model": "m:1b", "created_at": "u", "response": "", **final(len(new), ends, PROMPT_TOKENS + known)}


def lines_of(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


def continued(
    path: str, got: bytes, tokens: list[str], *, cuts: list[int], limit: int | None = None, pieces: int = 999
) -> bytes:
    """Everything the client gets when the stream dies after `got` and again after each of `cuts` records."""
    tracker = resume.tracker_for(path)
    for start in range(0, len(got), pieces):
        tracker.feed(got[start : start + pieces])
    request = resume.request_of(path, request_body(path, limit))
    out = got
    for resumed, cut in enumerate([*cuts, 10**6], 1):
        tracker.settle()
        resume.check(request, tracker)
        body = resume.continuation_body(request, RENDERED, tracker)
        rest = Continuation(request, tracker, resumed=resumed, spent_ns=10, decoded_ns=3)
        reason = "length" if limit == len(tokens) else "stop"
        for number, record in enumerate(fake_engine(body, tokens, reason)):
            if number == cut:
                break
            out += rest.take(record)
        if rest.done:
            return out
    raise AssertionError("it never ended")


def counts(path: str, records: list[dict[str, Any]]) -> tuple[int, int]:
    last = records[-1]
    if path.startswith("/api/"):
        return last["prompt_eval_count"], last["eval_count"]
    if path == "/v1/responses":
        usage = last["response"]["usage"]
        return usage["input_tokens"], usage["output_tokens"]
    if path == "/v1/messages":
        usage = next(one["usage"] for one in records if one["type"] == "message_delta")
        return usage["input_tokens"], usage["output_tokens"]
    return last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]


def check_equal(path: str, out: bytes, expected: bytes, tokens: list[str]) -> None:
    text, records = read(path, out)
    expected_text, expected_records = read(path, expected)
    assert text == expected_text == "".join(tokens)
    watch = StreamWatch(FRAMINGS[path])
    watch.feed(out)
    assert watch.verdict is StreamVerdict.COMPLETE
    assert counts(path, records) == counts(path, expected_records)
    # Where nothing but OpenAI's last line was missing there is no record to mark.
    assert b'"bridge":{"resumed":' in out or out.endswith(expected[-40:])
    for key in ("id", "model", "created", "object"):
        known = {one[key] for one in expected_records if key in one and "created_at" not in one}
        assert {one[key] for one in records if key in one and "created_at" not in one} == known
    if path in ("/v1/responses", "/v1/messages"):
        assert [one["type"] for one in records] == [one["type"] for one in expected_records]
    if path == "/v1/responses":
        assert [one["sequence_number"] for one in records] == list(range(len(records)))
        assert records[-1]["response"]["output"] == expected_records[-1]["response"]["output"]
        assert records[-1]["response"].keys() == expected_records[-1]["response"].keys() | {"bridge"}


@pytest.mark.parametrize("path", BODIES)
def test_a_stream_cut_at_any_line_continues_to_the_same_text(path: str) -> None:
    tokens = TOKENS
    expected = whole_stream(path, tokens)
    lines = lines_of(expected)
    begun = {"/v1/responses": 2, "/v1/messages": 2}.get(path, 1)
    for cut in range(begun, len(lines)):
        got = b"".join(lines[:cut])
        watch = StreamWatch(FRAMINGS[path])
        watch.feed(got)
        if watch.verdict is StreamVerdict.COMPLETE:
            continue
        check_equal(path, continued(path, got, tokens, cuts=[]), expected, tokens)


@pytest.mark.parametrize("path", BODIES)
@given(data=st.data())
@settings(max_examples=25)
def test_a_stream_that_dies_again_and_again_continues_to_the_same_text(path: str, data: Any) -> None:
    texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)
    tokens = data.draw(st.lists(texts, min_size=3, max_size=12))
    expected = whole_stream(path, tokens)
    lines = lines_of(expected)
    cut = data.draw(st.integers(2, len(lines) - 2))
    got = b"".join(lines[:cut])
    watch = StreamWatch(FRAMINGS[path])
    watch.feed(got)
    if watch.verdict is StreamVerdict.COMPLETE:
        return
    cuts = data.draw(st.lists(st.integers(0, 4), max_size=4))
    out = continued(path, got, tokens, cuts=cuts, pieces=data.draw(st.integers(1, 300)))
    check_equal(path, out, expected, tokens)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("limit", [2, 4, 9])
def test_the_limit_of_tokens_holds_for_the_whole_answer(path: str, limit: int) -> None:
    tokens = TOKENS
    lines = lines_of(whole_stream(path, tokens[:limit], "length"))
    got, count = b"", 0
    while count < 2:  # two tokens delivered
        got += lines.pop(0)
        count = len([one for one in TOKENS[:2] if one in read_partial(path, got)])
    out = continued(path, got, tokens, cuts=[], limit=limit)
    text, records = read(path, out)
    assert text == "".join(tokens[:limit])
    assert counts(path, records) == (PROMPT_TOKENS, limit)
    reason = "max_tokens" if path == "/v1/messages" else "length"
    assert path == "/v1/responses" or f'"{reason}"'.encode() in out


def read_partial(path: str, got: bytes) -> str:
    tracker = resume.tracker_for(path)
    tracker.feed(got)
    tracker.settle()
    return tracker.text


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tool"),
        ({"format": "json"}, "format"),
        ({"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]}, "images"),
    ],
)
def test_what_the_text_alone_cannot_tell_is_not_continued(more: dict[str, Any], why: str) -> None:
    tracker = resume.tracker_for("/api/chat")
    tracker.feed(lines_of(whole_stream("/api/chat", TOKENS))[0])
    tracker.settle()
    request = resume.request_of("/api/chat", request_body("/api/chat", **more))
    with pytest.raises(NotResumable, match=why):
        resume.check(request, tracker)


@pytest.mark.parametrize(
    ("path", "record", "why"),
    [
        ("/api/chat", {"message": {"content": "", "thinking": "hm"}}, "thinking"),
        ("/api/chat", {"message": {"content": "", "tool_calls": [{}]}}, "tool"),
        ("/api/generate", {"response": "", "thinking": "hm"}, "thinking"),
        ("/v1/chat/completions", {"choices": [{"delta": {"reasoning": "hm"}}]}, "thinking"),
        ("/v1/chat/completions", {"choices": [{"delta": {"tool_calls": [{}]}}]}, "tool"),
        ("/v1/messages", {"type": "content_block_start", "content_block": {"type": "thinking"}}, "thinking"),
        ("/v1/messages", {"type": "content_block_start", "content_block": {"type": "tool_use"}}, "tool"),
        ("/v1/responses", {"type": "response.reasoning_summary_text.delta", "delta": "h"}, "thinking"),
        (
            "/v1/responses",
            {"type": "response.output_item.added", "item": {"type": "function_call"}},
            "tool",
        ),
        ("/api/generate", {"response": 7}, "not known"),
    ],
)
def test_thinking_tools_and_nonsense_in_the_stream_end_it(path: str, record: Any, why: str) -> None:
    tracker = resume.tracker_for(path)
    tracker.feed((b"" if path.startswith("/api/") else b"data: ") + json.dumps(record).encode() + b"\n")
    tracker.settle()
    with pytest.raises(NotResumable, match=why):
        resume.check(resume.request_of(path, request_body(path)), tracker)


def test_a_raw_prompt_needs_no_rendering_and_keeps_what_was_asked() -> None:
    options = {"num_predict": -1, "temperature": 0.5, "stop": ["x"]}
    body = request_body("/api/generate", raw=True, options=options, keep_alive="1h", truncate=False)
    request = resume.request_of("/api/generate", body)
    assert resume.render_body(request) is None
    tracker = resume.tracker_for("/api/generate")
    tracker.feed(b'{"response":" w\\u00e9"}\n')
    tracker.settle()
    asked = json.loads(resume.continuation_body(request, None, tracker))
    assert asked["prompt"] == "hé wé"
    assert asked["options"] == options
    assert (asked["keep_alive"], asked["truncate"], asked["think"]) == ("1h", False, False)
    rendering = json.loads(
        resume.render_body(resume.request_of("/v1/messages", request_body("/v1/messages")))
    )
    assert (rendering["_debug_render_only"], rendering["stream"]) == (True, False)
    assert rendering["messages"] == MESSAGES


@pytest.mark.parametrize("word", ["`", " no", "\n", "🌍", " Paris\n"])
def test_what_an_engine_ended_for_repeating_itself_is_left_ended(word: str) -> None:
    def told(times: int) -> resume.Tracker:
        tracker = resume.tracker_for("/api/generate")
        for text in ["Once", *[word] * times]:
            tracker.feed(json.dumps({"response": text}).encode() + b"\n")
        tracker.settle()
        return tracker

    with pytest.raises(NotResumable, match="repeat"):
        resume.check_ending(told(31))
    resume.check_ending(told(20))


def test_the_bound_on_text_makes_a_stream_not_resumable() -> None:
    tracker = resume.tracker_for("/api/generate")
    line = json.dumps({"response": "x" * 60_000}).encode() + b"\n"
    for _ in range(20):
        tracker.feed(line)
    assert tracker.lost


@pytest.mark.parametrize(
    ("before", "parts", "expected", "stopped"),
    [
        ("one EN", ["D", " two"], "", True),
        ("one EN", ["X", " two"], "X two", False),
        ("one E", ["N", "D!"], "", True),
        ("one E", ["N", "T"], "NT", False),
        ("one E", ["N"], "N", False),
        ("one", ["END"], "END", False),
    ],
)
def test_a_stop_sequence_may_straddle_the_cut(
    before: str, parts: list[str], expected: str, stopped: bool
) -> None:
    tracker = resume.tracker_for("/api/generate")
    tracker.feed(json.dumps({"model": "m", "response": before}).encode() + b"\n")
    tracker.settle()
    request = resume.request_of("/api/generate", request_body("/api/generate", options={"stop": "END"}))
    rest = Continuation(request, tracker, resumed=1, spent_ns=0, decoded_ns=0)
    out = b"".join(rest.take({"response": part, "done": False}) for part in parts)
    assert rest.done is stopped
    out += rest.take({"response": "", **final(9)})
    text, records = read("/api/generate", out)
    assert text == expected
    assert records[-1]["done_reason"] == "stop"


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("comment", [b"", b": still here\n\n"])
def test_a_long_stream_is_read_in_batches_to_the_same_text(path: str, comment: bytes) -> None:
    tokens = TOKENS * 60
    lines = lines_of(whole_stream(path, tokens))[:-8]
    tracker = resume.tracker_for(path)
    for number, line in enumerate(lines):
        tracker.feed(line)
        if comment and number % 40 == 39 and line == b"\n":
            tracker.feed(comment)
    tracker.settle()
    assert not tracker.lost
    got = read_partial(path, b"".join(lines))
    assert tracker.text == got
    assert len(tokens) - 8 <= tracker.tokens <= len(tokens)
    assert "".join(tokens).startswith(got)
