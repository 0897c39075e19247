# ruff: noqa: E501 - recorded shapes are easier to compare unbroken
"""The translators, held to what a real Ollama answered.

Each recorded answer is turned back into the native records that must have stood behind it; the
translator has to make the recorded bytes of them again, ids and times aside.
"""

import json
import re
from pathlib import Path

import pytest

from bridge_core import dialects
from bridge_core.dialects import BROKEN_OFF, Stamp, refusal, translate
from bridge_core.dialects.errors import ApiError

RECORDINGS = Path(__file__).parent / "recordings"
STAMP = Stamp(1795469785, "0123456789abcdef" * 4)


def cases(file):
    return {one["case"]: one for one in json.loads((RECORDINGS / file).read_text())}


OPENAI = cases("openai.json")
ANTHROPIC = cases("anthropic.json")
ALL = {
    f"{file}: {name}": case
    for file, group in (("openai", OPENAI), ("anthropic", ANTHROPIC))
    for name, case in group.items()
}
GOOD = {name: case for name, case in ALL.items() if " 200 " in case["status"]}
REFUSED = {name: case for name, case in ALL.items() if "charset" in case["headers"]["Content-Type"]}
FAILED = {name: case for name, case in ALL.items() if name not in GOOD and name not in REFUSED}


def body_of(case):
    body = case["request"]["body"]
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()


def text_of(case):
    return "".join(case["chunks"])


def settled(text):
    """The text without what differs from answer to answer."""
    text = re.sub(r'"(created|created_at|completed_at)":\d+', r'"\1":0', text)
    return re.sub(r"\b(chatcmpl-|cmpl-|resp_|msg_|req_)[0-9a-f]+", r"\1ID", text)


def records(case):
    """The native records behind a recorded answer."""
    path, text = case["request"]["path"], text_of(case)
    if not case["request"]["body"].get("stream"):
        return [native_whole(path, json.loads(text))]
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    return list(native_stream(path, events))


def last(reason, prompt, answer, **more):
    return {"done": True, "done_reason": reason, "prompt_eval_count": prompt, "eval_count": answer, **more}


def native_whole(path, answer):
    usage = answer["usage"]
    if path == "/v1/embeddings":
        vectors = [one["embedding"] for one in answer["data"]]
        return {
            "embeddings": [decoded(vector) for vector in vectors],
            "prompt_eval_count": usage["prompt_tokens"],
        }
    if path == "/v1/messages":
        reason = {"end_turn": "stop", "max_tokens": "length"}[answer["stop_reason"]]
        message = {"role": "assistant", "content": answer["content"][0]["text"]}
        return last(reason, usage["input_tokens"], usage["output_tokens"], message=message)
    if path == "/v1/responses":
        message = {"role": "assistant", "content": answer["output"][0]["content"][0]["text"]}
        return last("stop", usage["input_tokens"], usage["output_tokens"], message=message)
    choice = answer["choices"][0]
    native = last(choice["finish_reason"], usage["prompt_tokens"], usage["completion_tokens"])
    if path == "/v1/completions":
        return native | {"response": choice["text"]}
    logprobs = {"logprobs": choice["logprobs"]["content"]} if "logprobs" in choice else {}
    return native | {"message": choice["message"]} | logprobs


def decoded(vector):
    import base64
    import struct

    if isinstance(vector, str):
        data = base64.b64decode(vector)
        return list(struct.unpack(f"<{len(data) // 4}f", data))
    return vector


def native_stream(path, events):
    """Text of the recorded events as native records, then one with the reason and the counts."""
    pieces = []
    if path == "/v1/messages":
        pieces = [one["delta"]["text"] for one in events if one["type"] == "content_block_delta"]
        usage, reason = events[-2]["usage"], "stop"
        counts = usage["input_tokens"], usage["output_tokens"]
    elif path == "/v1/responses":
        pieces = [one["delta"] for one in events if one["type"] == "response.output_text.delta"]
        usage, reason = events[-1]["response"]["usage"], "stop"
        counts = usage["input_tokens"], usage["output_tokens"]
    else:
        choices = [one["choices"][0] for one in events if one["choices"]]
        key = (
            (lambda one: one["text"])
            if path == "/v1/completions"
            else (lambda one: one["delta"].get("content", ""))
        )
        pieces = [key(one) for one in choices[:-1]]
        usage, reason = events[-1].get("usage") or {}, choices[-1]["finish_reason"]
        counts = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
    for piece in pieces:
        yield {"response": piece, "done": False} if path == "/v1/completions" else spoken(piece)
    yield last(reason, *counts, response="", message={"role": "assistant", "content": ""})


def spoken(text, **more):
    return {"model": "smollm2:135m", "message": {"role": "assistant", "content": text, **more}, "done": False}


@pytest.mark.parametrize(
    "name", [name for name, case in GOOD.items() if not case["request"]["body"].get("stream")]
)
def test_whole_answers_come_out_as_recorded(name):
    case = ALL[name]
    exchange = translate(case["request"]["path"], body_of(case), STAMP)
    assert exchange.native["stream"] is False
    reply = exchange.whole(records(case)[0])
    assert reply.status == 200
    assert reply.content_type == case["headers"]["Content-Type"]
    if "embeddings" in name:
        # Go writes small numbers without an exponent; the numbers are the same.
        assert json.loads(reply.body) == json.loads(text_of(case))
    else:
        assert settled(reply.body.decode()) == settled(text_of(case))


@pytest.mark.parametrize(
    "name", [name for name, case in GOOD.items() if case["request"]["body"].get("stream")]
)
def test_streams_come_out_as_recorded(name):
    case = ALL[name]
    exchange = translate(case["request"]["path"], body_of(case), STAMP)
    assert exchange.native["stream"] is True
    headers = {name.decode(): value.decode() for name, value in exchange.stream_headers}
    assert headers == {key: value for key, value in case["headers"].items() if key in headers}
    stream = exchange.stream()
    out = b"".join(stream.feed(record) for record in records(case)) + stream.finish()
    assert settled(out.decode()) == settled(text_of(case))


@pytest.mark.parametrize("name", REFUSED)
def test_requests_that_ollama_refuses_are_refused_alike(name):
    case = ALL[name]
    path = case["request"]["path"]
    with pytest.raises(ApiError) as caught:
        translate(path, body_of(case), STAMP)
    reply = refusal(path, caught.value.status, caught.value.message, STAMP)
    assert f" {reply.status} " in case["status"]
    assert reply.content_type == case["headers"]["Content-Type"]
    assert settled(reply.body.decode()) == settled(text_of(case))


@pytest.mark.parametrize("name", FAILED)
def test_refusals_of_the_engine_take_the_protocols_shape(name):
    case = ALL[name]
    exchange = translate(case["request"]["path"], body_of(case), STAMP)
    status = int(case["status"].split()[1])
    reply = exchange.failure(status, json.loads(text_of(case))["error"]["message"])
    assert reply.content_type == case["headers"]["Content-Type"]
    assert settled(reply.body.decode()) == settled(text_of(case))


def test_every_recorded_case_was_held_against_a_translator():
    assert len(GOOD) + len(REFUSED) + len(FAILED) == len(OPENAI) + len(ANTHROPIC)
    assert REFUSED
    assert FAILED


@pytest.mark.parametrize("case", ["GET /v1/models", "GET /v1/models/smollm2:135m", "GET /v1/models/nope"])
def test_models_come_out_as_recorded(case):
    meta = cases("meta.json")
    tags = json.loads(text_of(meta["GET /api/tags"]))
    show = next(one for one in tags["models"] if one["name"] == "smollm2:135m")
    reply = {
        "GET /v1/models": lambda: dialects.model_list(tags),
        "GET /v1/models/smollm2:135m": lambda: dialects.model("smollm2:135m", show),
        "GET /v1/models/nope": lambda: dialects.failure(404, "model 'nope:latest' not found"),
    }[case]()
    assert f" {reply.status} " in meta[case]["status"] or "nope" in case
    assert reply.content_type == meta[case]["headers"]["Content-Type"]
    assert reply.body.decode() == text_of(meta[case])


def native(path, **body):
    return translate(path, json.dumps({"model": "m", **body}).encode(), STAMP).native


def test_openai_options_become_ollamas():
    found = native(
        "/v1/chat/completions",
        messages=[{"role": "user", "content": "x"}],
        max_tokens=3, seed=7, stop="END", temperature=0, frequency_penalty=0.5, presence_penalty=0.25, top_p=0.5,
        reasoning_effort="high", logprobs=True, top_logprobs=2,
    )  # fmt: skip
    assert found == {
        "model": "m",
        "messages": [{"role": "user", "content": "x"}],
        "stream": False,
        "options": {
            "stop": ["END"], "num_predict": 3, "seed": 7, "frequency_penalty": 0.5, "presence_penalty": 0.25,
            "temperature": 0, "top_p": 0.5,
        },
        "logprobs": True,
        "top_logprobs": 2,
        "think": "high",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("stop", 5, "stop"),
        ("stop", [5], "stop"),
        ("reasoning_effort", "huge", "invalid reasoning value"),
        ("messages", [{"role": "user", "content": 5}], "invalid message content type"),
        ("messages", [{"role": "user"}], "invalid message content type: <nil>"),
        (
            "messages",
            [{"role": "user", "content": [{"type": "image_url", "image_url": "http://x"}]}],
            "image",
        ),
        (
            "messages",
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}],
            "arguments",
        ),
        ("messages", "hi", "cannot unmarshal string into Go struct field ChatCompletionRequest.messages"),
    ],
)
def test_openai_requests_that_make_no_sense_say_why(field, value, said):
    body = {"messages": [{"role": "user", "content": "x"}]} | {field: value}
    with pytest.raises(ApiError, match=said) as caught:
        native("/v1/chat/completions", **body)
    assert caught.value.status == 400


def test_openai_tools_and_images_become_ollamas():
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    found = native(
        "/v1/chat/completions",
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "42"},
        ],
    )  # fmt: skip
    assert found["messages"] == [
        {"role": "user", "content": "look"},
        {"role": "user", "content": "", "images": ["AAAA"]},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}}]},
        {"role": "tool", "content": "42", "tool_call_id": "c1", "tool_name": "f"},
    ]  # fmt: skip


def test_anthropic_blocks_become_ollamas():
    found = native(
        "/v1/messages",
        max_tokens=5, top_k=3, stop_sequences=["E"], thinking={"type": "enabled", "budget_tokens": 1024},
        system=[{"type": "text", "text": "one"}, {"type": "text", "text": "two"}],
        tools=[{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}]},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "42"}]}, {"type": "text", "text": "so?"}]},
        ],
    )  # fmt: skip
    assert found == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "onetwo"},
            {"role": "user", "content": "a", "images": ["AAAA"]},
            {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [{"id": "t1", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}}]},
            {"role": "tool", "content": "42", "tool_call_id": "t1", "tool_name": "f"},
            {"role": "user", "content": "so?"},
        ],
        "stream": False,
        "options": {"num_predict": 5, "top_k": 3, "stop": ["E"]},
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}],
    }  # fmt: skip


def test_response_items_become_ollamas():
    found = native(
        "/v1/responses",
        instructions="be brief", max_output_tokens=9, reasoning={"effort": "low"},
        text={"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}},
        tools=[{"type": "function", "name": "f", "parameters": {"type": "object"}}, {"type": "web_search"}],
        input=[
            {"role": "developer", "content": "d"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "q"}, {"type": "input_image", "image_url": "data:image/jpeg;base64,AAAA"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "42"},
        ],
    )  # fmt: skip
    assert found["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "system", "content": "d"},
        {"role": "user", "content": "q", "images": ["AAAA"]},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "function": {"index": 0, "name": "f", "arguments": {}}}], "thinking": "hm"},
        {"role": "tool", "content": "42", "tool_call_id": "c1", "tool_name": "f"},
    ]  # fmt: skip
    assert found["format"] == {"type": "object"}
    assert found["think"] == "low"
    assert found["options"]["num_predict"] == 9
    assert [tool["function"]["name"] for tool in found["tools"]] == ["f"]


BODIES = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/completions": {"prompt": "x"},
    "/v1/responses": {"input": "x"},
    "/v1/messages": {"max_tokens": 5, "messages": [{"role": "user", "content": "x"}]},
}
TERMINAL = ("[DONE]", "response.completed", "message_stop")


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("how", ["record", "call", "silence"])
@pytest.mark.parametrize("after", [0, 2])
def test_a_stream_that_breaks_never_looks_complete(path, how, after):
    body = json.dumps({"model": "m", "stream": True, **BODIES[path]}).encode()
    stream = translate(path, body, STAMP).stream()
    out = b"".join(stream.feed(spoken("a", thinking="t") | {"response": "a"}) for _ in range(after))
    message = BROKEN_OFF if how == "silence" else "the runner died"
    if how == "record":
        out += stream.feed({"error": message})
    elif how == "call":
        out += stream.error(500, message)
    out += stream.finish()
    assert stream.finish() == b""
    assert stream.feed({"done": True}) == b""
    text = out.decode()
    assert not any(word in text for word in TERMINAL)
    final = json.loads(text.splitlines()[-2].removeprefix("data: "))
    assert final["error"] == (
        {"type": "api_error", "message": message}
        if path == "/v1/messages"
        else {"message": message, "type": "api_error", "param": None, "code": None}
    )
