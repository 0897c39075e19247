# ruff: noqa: E501 - cases are easier to compare unbroken
"""Every case of every switch in Ollama's own translators, and what becomes of it here.

A case is either translated (the native fields that it must give) or refused (words of the 400). What
Ollama passes over in silence and cannot be understood here is refused by name.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from bridge_core.dialects import Stamp, translate
from bridge_core.dialects.errors import ApiError

STAMP = Stamp(created=1, token="0" * 64)
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES, EMBEDDINGS = "/v1/responses", "/v1/messages", "/v1/embeddings"
PNG = "data:image/png;base64,AAAA"
USER = {"role": "user", "content": "hi"}
SCHEMA = {"type": "object"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
NATIVE_CALL = {"id": "c1", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}}
BASE: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [USER]},
    COMPLETIONS: {"prompt": "hi"},
    RESPONSES: {"input": "hi"},
    MESSAGES: {"messages": [USER], "max_tokens": 9},
    EMBEDDINGS: {"input": "hi"},
}


def native(path: str, body: dict[str, Any]) -> dict[str, Any]:
    whole = {"model": "m", **BASE[path], **body}
    return translate(path, json.dumps(whole).encode(), STAMP).native


def content(*parts: Any, role: str = "user", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": list(parts), **more}]}


def items(*given: Any) -> dict[str, Any]:
    return {"input": list(given)}


def said(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages)}


def user(text: str, *images: str) -> dict[str, Any]:
    return {"role": "user", "content": text} | ({"images": list(images)} if images else {})


def assistant(text: str = "", *calls: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text} | ({"tool_calls": list(calls)} if calls else {}) | more


def tool(text: str, identity: str = "c1", **more: Any) -> dict[str, Any]:
    return {"role": "tool", "content": text, "tool_call_id": identity, **more}


def second(call: dict[str, Any]) -> dict[str, Any]:
    return {"id": "c2", "function": {**call["function"], "index": 1}}


FUNCTION_CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "42"}
REASONING = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
TEXT = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "so"}]}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
USE = {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}}
RESULT = {"type": "tool_result", "tool_use_id": "c1", "content": "42"}
SOURCE = {"type": "base64", "media_type": "image/png", "data": "AA\r\nAA\n"}

TRANSLATED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    # -- chat completions: content
    (CHAT, {}, said(user("hi"))),
    (CHAT, content({"type": "text", "text": "a"}, {"type": "text", "text": "b"}), said(user("a"), user("b"))),
    (CHAT, content({"type": "image_url", "image_url": {"url": PNG}}), said(user("", "AAAA"))),
    (CHAT, content({"type": "image_url", "image_url": "data:;base64,AA\nAA"}), said(user("", "AAAA"))),
    (CHAT, said({"role": "assistant", "content": None, "tool_calls": [CALL]}), said(assistant("", NATIVE_CALL))),
    (CHAT, said({"role": "assistant", "content": None, "tool_calls": []}), said(assistant())),
    (
        CHAT,
        content({"type": "text", "text": "a"}, role="assistant", tool_calls=[CALL], reasoning="hm"),
        said(assistant("a", NATIVE_CALL, thinking="hm")),
    ),
    (
        CHAT,
        said({"role": "assistant", "content": "a", "reasoning": "hm", "tool_calls": [CALL]}, tool("42")),
        said(assistant("a", NATIVE_CALL, thinking="hm"), tool("42", tool_name="f")),
    ),
    (CHAT, said({"role": "Tool", "content": "42", "name": "g"}), said({"role": "Tool", "content": "42", "tool_name": "g"})),
    (
        CHAT,
        said(assistant("", {**CALL, "function": {"name": "f", "arguments": ""}})),
        said(assistant("", {"id": "c1", "function": {"index": 0, "name": "f", "arguments": {}}})),
    ),
    # -- chat completions: the rest
    (CHAT, {}, {"options": {"temperature": 1.0, "top_p": 1.0}, "stream": False}),
    (CHAT, {"stop": "E", "seed": 1, "max_tokens": 2, "temperature": 0, "top_p": 0.5, "frequency_penalty": 1, "presence_penalty": 2}, {"options": {"stop": ["E"], "seed": 1, "num_predict": 2, "temperature": 0, "top_p": 0.5, "frequency_penalty": 1, "presence_penalty": 2}}),
    (CHAT, {"stop": ["a", "b"]}, {"options": {"stop": ["a", "b"], "temperature": 1.0, "top_p": 1.0}}),
    (CHAT, {"response_format": {"type": " JSON_OBJECT "}}, {"format": "json"}),
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}}, {"format": SCHEMA}),
    (CHAT, {"response_format": {"type": "text"}}, {"format": None}),
    (CHAT, {"tools": [TOOL], "logprobs": True, "top_logprobs": 2}, {"tools": [TOOL], "logprobs": True, "top_logprobs": 2}),
    (CHAT, {"reasoning": {"effort": "low"}, "reasoning_effort": "high"}, {"think": "low"}),
    # -- completions
    (COMPLETIONS, {"suffix": "s", "logprobs": 3}, {"prompt": "hi", "suffix": "s", "logprobs": True, "top_logprobs": 3}),
    (COMPLETIONS, {"stop": "E", "max_tokens": 2}, {"options": {"stop": ["E"], "num_predict": 2, "temperature": 1.0, "top_p": 1.0}}),
    (COMPLETIONS, {"logprobs": 0}, {"logprobs": None}),
    # -- embeddings
    (EMBEDDINGS, {"input": ""}, {"input": [""]}),
    (EMBEDDINGS, {"input": ["a", "b"], "dimensions": 2}, {"input": ["a", "b"], "dimensions": 2}),
    # -- responses: items
    (RESPONSES, {"instructions": "be"}, said({"role": "system", "content": "be"}, user("hi"))),
    (RESPONSES, items({"role": "developer", "content": "d"}, USER), said({"role": "system", "content": "d"}, user("hi"))),
    (RESPONSES, items({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "output_text", "text": "b"}, {"type": "input_image", "image_url": PNG}]}), said(user("ab", "AAAA"))),
    (RESPONSES, items({"role": "user"}), said(user(""))),
    (RESPONSES, items(FUNCTION_CALL, OUTPUT), said(assistant("", NATIVE_CALL), tool("42", tool_name="f"))),
    (RESPONSES, items(FUNCTION_CALL, {**FUNCTION_CALL, "call_id": "c2"}), said(assistant("", NATIVE_CALL, second(NATIVE_CALL)))),
    (RESPONSES, items(TEXT, FUNCTION_CALL), said(assistant("so", NATIVE_CALL))),
    (RESPONSES, items(FUNCTION_CALL, TEXT, OUTPUT), said(assistant("so", NATIVE_CALL), tool("42", tool_name="f"))),
    (RESPONSES, items(TEXT, FUNCTION_CALL, TEXT, OUTPUT), said(assistant("so\nso", NATIVE_CALL), tool("42", tool_name="f"))),
    (RESPONSES, items(FUNCTION_CALL, TEXT, USER), said(assistant("", NATIVE_CALL), assistant("so"), user("hi"))),
    (RESPONSES, items(REASONING, FUNCTION_CALL), said(assistant("", NATIVE_CALL, thinking="hm"))),
    (RESPONSES, items(REASONING, TEXT), said(assistant("so", thinking="hm"))),
    (RESPONSES, items(USER, REASONING), said(user("hi"), assistant(thinking="hm"))),
    (RESPONSES, items({"type": "reasoning", "encrypted_content": "hm"}, TEXT), said(assistant("so", thinking="hm"))),
    (RESPONSES, items(FUNCTION_CALL, {**OUTPUT, "output": [{"type": "input_text", "text": "4"}, {"type": "output_text", "text": "2"}, {"type": "input_image", "image_url": PNG}]}), said(assistant("", NATIVE_CALL), tool("42", tool_name="f", images=["AAAA"]))),
    (RESPONSES, items(USER, {"type": "web_search_call", "id": "ws", "status": "completed", "action": {"type": "search", "query": "q"}}, TEXT), said(user("hi"), assistant("so"))),
    (RESPONSES, items({**FUNCTION_CALL, "arguments": ""}), said(assistant("", {"id": "c1", "function": {"index": 0, "name": "f", "arguments": {}}}))),
    # -- responses: the rest
    (RESPONSES, {}, {"options": {"temperature": 1.0}, "stream": False}),
    (RESPONSES, {"top_p": 0.5, "max_output_tokens": 3, "temperature": 0}, {"options": {"top_p": 0.5, "num_predict": 3, "temperature": 0}}),
    (RESPONSES, {"text": {"format": {"type": "json_schema", "schema": SCHEMA}}}, {"format": SCHEMA}),
    (RESPONSES, {"text": {"format": {"type": "json_object"}}}, {"format": "json"}),
    (RESPONSES, {"text": {"format": {"type": "text"}}}, {"format": None}),
    (RESPONSES, {"tools": [{"type": "function", "name": "f", "description": None, "parameters": SCHEMA}]}, {"tools": [TOOL]}),
    (RESPONSES, {"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "f"}, {"type": "function", "name": "n.g"}]}]}, {"tools": [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("n.f", "n.g")]}),
    (RESPONSES, {"tools": [{"type": "custom", "name": "patch"}]}, {"tools": [{"type": "function", "function": {"name": "patch", "parameters": {}}}]}),
    (RESPONSES, {"tools": [{"type": "web_search"}]}, {"tools": None}),
    # -- messages: system
    (MESSAGES, {"system": "s"}, said({"role": "system", "content": "s"}, user("hi"))),
    (MESSAGES, {"system": ""}, said(user("hi"))),
    (MESSAGES, {"system": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, said({"role": "system", "content": "ab"}, user("hi"))),
    # -- messages: blocks
    (MESSAGES, said({"role": "User", "content": "hi"}), said(user("hi"))),
    (MESSAGES, content({"type": "text", "text": "a"}, {"type": "text", "text": "b"}), said(user("ab"))),
    (MESSAGES, content({"type": "image", "source": SOURCE}), said(user("", "AAAA"))),
    (MESSAGES, content({"type": "thinking", "thinking": "hm", "signature": "x"}, USE, role="assistant"), said(assistant("", thinking="hm") | {"tool_calls": [NATIVE_CALL]})),
    (MESSAGES, content({**USE, "type": "server_tool_use"}, role="assistant"), said(assistant("", NATIVE_CALL))),
    (MESSAGES, content({"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "a"}, role="assistant"), said(assistant("a"))),
    (MESSAGES, content({"type": "text", "text": "so?"}, RESULT), said(tool("42"), user("so?"))),
    (MESSAGES, content(RESULT, {"type": "text", "text": "so?"}, role="assistant"), said(assistant("so?"), tool("42"))),
    (MESSAGES, content({"type": "tool_result", "tool_use_id": "c1"}), said(tool(""))),
    (MESSAGES, content({**RESULT, "content": [{"type": "text", "text": "4"}, {"type": "text", "text": "2"}, {"type": "image", "source": SOURCE}]}), said(tool("42", images=["AAAA"]))),
    (MESSAGES, content({"type": "web_search_tool_result", "tool_use_id": "c1", "content": [{"type": "web_search_result", "title": "t", "url": "u"}]}), said(tool("- t: u\n"))),
    (MESSAGES, content({"type": "web_search_tool_result", "tool_use_id": "c1", "content": {"type": "web_search_tool_result_error", "error_code": "x"}}), said(tool("web_search_tool_result_error: x"))),
    (MESSAGES, content({"type": "web_search_tool_result", "tool_use_id": "c1", "content": "t"}), said(tool("t"))),
    # -- messages: the rest
    (MESSAGES, {"temperature": 0, "top_p": 0.5, "top_k": 3, "stop_sequences": ["E"]}, {"options": {"num_predict": 9, "temperature": 0, "top_p": 0.5, "top_k": 3, "stop": ["E"]}}),
    (MESSAGES, {"tools": [{"name": "f", "description": "d", "input_schema": SCHEMA}]}, {"tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}]}),
    (MESSAGES, {"tools": [{"type": "web_search_20250305", "name": "web_search"}, {"name": "web_search"}]}, {"tools": [{"type": "function", "function": {"name": "web_search", "parameters": {}}}]}),
    (MESSAGES, {"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"think": None}),
    (MESSAGES, {"thinking": {"type": "disabled"}}, {"think": False}),
    (MESSAGES, {"thinking": {"type": "adaptive"}, "output_config": {"effort": " XHigh "}}, {"think": "high", "_relax_thinking": True}),
    (MESSAGES, {"output_config": {"effort": "max"}}, {"think": "max", "_relax_thinking": True}),
    (MESSAGES, {"output_config": {"effort": "other"}}, {"think": None}),
    (MESSAGES, {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}, {"format": SCHEMA}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "wanted"), TRANSLATED)
def test_a_case_is_translated(path: str, body: dict[str, Any], wanted: dict[str, Any]) -> None:
    found = native(path, body)
    assert {name: found.get(name) for name in wanted} == wanted


@pytest.mark.parametrize(
    ("effort", "think"),
    [("none", False), ("minimal", "low"), ("low", "low"), ("medium", "medium"), ("high", "high"), ("xhigh", "max"), ("ultra", "max"), ("max", "max"), ("", None)],
)  # fmt: skip
def test_an_effort_is_clamped_to_the_nearest_tier(effort: str, think: bool | str | None) -> None:
    assert native(CHAT, {"reasoning_effort": effort}).get("think") == think
    assert native(CHAT, {"reasoning": {"effort": effort}}).get("think") == think
    assert native(RESPONSES, {"reasoning": {"effort": effort}}).get("think") == think


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {"messages": []}, "[] is too short - 'messages'"),
    (CHAT, {"messages": [{"role": "user"}]}, "invalid message content type: <nil>"),
    (CHAT, {"messages": [{"role": "user", "content": {}}]}, "invalid message content type: map"),
    (CHAT, content("x"), "invalid message format"),
    (CHAT, content({"type": "text", "text": 1}), "invalid message format"),
    (CHAT, content({"type": "image_url", "image_url": 1}), "invalid message format"),
    (CHAT, content({"type": "image_url", "image_url": "http://x/y.png"}), "not fetched"),
    (CHAT, content({"type": "image_url", "image_url": "data:image/gif;base64,AAAA"}), "invalid image input"),
    (CHAT, content({"type": "image_url", "image_url": "data:;base64,A_A-"}), "invalid image input"),
    (CHAT, content({"type": "input_audio", "input_audio": {"data": "AAAA"}}), '"input_audio"'),
    (CHAT, content({"type": "file", "file": {}}), '"file"'),
    (CHAT, said(assistant("", {**CALL, "function": {"name": "f", "arguments": "{"}})), "invalid tool call arguments"),
    (CHAT, said(assistant("", {**CALL, "function": {"name": "f", "arguments": "[" * 9999}})), "invalid tool call arguments"),
    (CHAT, said(assistant("", {**CALL, "function": {"name": {}}})), "cannot unmarshal object"),
    (CHAT, {"stop": 5}, "'stop'"),
    (CHAT, {"stop": [5]}, "'stop'"),
    (CHAT, {"reasoning_effort": "some"}, "invalid reasoning value"),
    (CHAT, {"response_format": {"type": "xml"}}, "'xml'"),
    (CHAT, {"response_format": {"type": "json_schema"}}, "json_schema.schema"),
    (COMPLETIONS, {"prompt": ["a"]}, "cannot unmarshal array"),
    (COMPLETIONS, {"stop": [5]}, "'stop'"),
    (EMBEDDINGS, {"input": []}, "invalid input"),
    (EMBEDDINGS, {"input": None}, "invalid input"),
    (EMBEDDINGS, {"encoding_format": "hex"}, "encoding_format"),
    (RESPONSES, {"input": 5}, "input must be a string or an array"),
    (RESPONSES, items("x"), "input[0]: items must be objects"),
    (RESPONSES, items({}), "input[0]: input item missing required 'type' field"),
    (RESPONSES, items(USER, {"type": "item_reference"}), 'input[1]: unknown input item type: "item_reference"'),
    (RESPONSES, items({"type": "custom_tool_call"}), '"custom_tool_call"'),
    (RESPONSES, items({"role": "user", "content": [{"type": "input_file"}]}), "file inputs are not currently supported"),
    (RESPONSES, items({"role": "user", "content": [{"type": "refusal"}]}), 'content[0]: unknown content type: "refusal"'),
    (RESPONSES, items({"role": "user", "content": [{"type": "input_image", "file_id": "x"}]}), "file_id is not supported"),
    (RESPONSES, items({"role": "user", "content": [{"type": "input_text", "text": {}}]}), "cannot unmarshal object"),
    (RESPONSES, items({"role": "user", "content": 5}), "content must be a string or array"),
    (RESPONSES, items({**OUTPUT, "output": {}}), "output must be a string or array"),
    (RESPONSES, items({**OUTPUT, "output": [{"type": "input_file"}]}), "file inputs are not currently supported"),
    (RESPONSES, items({**FUNCTION_CALL, "arguments": "["}), "failed to parse function call arguments"),
    (RESPONSES, items({**FUNCTION_CALL, "arguments": "[]"}), "failed to parse function call arguments"),
    (RESPONSES, {"reasoning": {"effort": "some"}}, "invalid reasoning value"),
    (RESPONSES, {"previous_response_id": "resp_1"}, "previous_response_id"),
    (RESPONSES, {"conversation": {"id": "c"}}, "conversation"),
    (RESPONSES, {"prompt": {"id": "p"}}, "prompt"),
    (RESPONSES, {"tools": [{"type": "mcp"}]}, '"mcp"'),
    (RESPONSES, {"tools": [{"type": "namespace", "tools": [{"type": "namespace", "name": "deeper"}]}]}, "namespace"),
    (RESPONSES, {"text": {"format": {"type": "grammar"}}}, '"grammar"'),
    (RESPONSES, {"text": {"format": {"type": "json_schema"}}}, "schema is missing"),
    (MESSAGES, {"model": ""}, "model is required"),
    (MESSAGES, {"max_tokens": 0}, "max_tokens is required"),
    (MESSAGES, {"messages": []}, "messages is required"),
    (MESSAGES, {"system": 5}, "system must be"),
    (MESSAGES, {"system": [{"type": "image"}]}, '"image"'),
    (MESSAGES, {"messages": [{"role": "user", "content": 5}]}, "invalid message content type"),
    (MESSAGES, content({"type": "document"}), '"document"'),
    (MESSAGES, content({"type": "image"}), "invalid image source"),
    (MESSAGES, content({"type": "image", "source": {"type": "url", "url": "u"}}), "Only base64 images are supported"),
    (MESSAGES, content({"type": "image", "source": {"type": "base64", "data": "%"}}), "invalid base64 image data"),
    (MESSAGES, content({**USE, "id": ""}, role="assistant"), "missing required 'id'"),
    (MESSAGES, content({**USE, "name": ""}, role="assistant"), "missing required 'name'"),
    (MESSAGES, content({**RESULT, "content": [{"type": "search_result"}]}), '"search_result"'),
    (MESSAGES, content({**RESULT, "content": [{"type": "image"}]}), "invalid tool_result image source"),
    (MESSAGES, content({"type": "web_search_tool_result", "content": [{"type": "odd"}]}), '"odd"'),
    (MESSAGES, {"output_config": {"format": {"type": "xml"}}}, "output_config.format"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "words"), REFUSED)
def test_a_case_is_refused_by_name(path: str, body: dict[str, Any], words: str) -> None:
    with pytest.raises(ApiError) as fault:
        native(path, body)
    assert fault.value.status == 400
    assert words in fault.value.message


@pytest.mark.parametrize("path", BASE)
def test_depth_is_bounded_wherever_it_stands(path: str) -> None:
    body = json.dumps(
        {"model": "m", **BASE[path], "tools": 1, "messages": 1, "input": 1, "metadata": 1}
    ).encode()
    deep = b"[" * 900 + b"]" * 900
    for field in (b'"tools": ', b'"messages": ', b'"input": ', b'"metadata": '):
        with pytest.raises(ApiError, match="exceeded max depth"):
            translate(path, body.replace(field + b"1", field + deep), STAMP)


def test_only_a_finished_answer_ends_in_tool_calls() -> None:
    exchange = translate(CHAT, json.dumps({"model": "m", **BASE[CHAT]}).encode(), STAMP)
    for reason, told in (("stop", "tool_calls"), ("length", "length")):
        answer = {"message": assistant("", NATIVE_CALL), "done": True, "done_reason": reason}
        assert json.loads(exchange.whole(answer).body)["choices"][0]["finish_reason"] == told
