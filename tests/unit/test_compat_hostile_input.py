# ruff: noqa: E501 - requests are easier to compare unbroken
"""Whatever a body holds, it is translated, or refused by an ApiError; and it can be rendered."""

import contextlib
import json

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_core import dialects
from bridge_core.dialects.errors import ApiError
from bridge_core.dialects.gojson import decode
from bridge_engine.requests import CHAT, EMBED, GENERATE
from bridge_engine.templates import KNOWN, Template, TemplateFault, Values

STAMP = dialects.Stamp(1795469785, "0123456789abcdef" * 4)
SHAPES = {"/api/chat": CHAT, "/api/generate": GENERATE, "/api/embed": EMBED}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SOURCE = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
BODIES = {
    "/v1/chat/completions": {
        "model": "m",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "x"}, PICTURE]},
            {"role": "assistant", "content": None, "reasoning": "r", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c", "content": "1"},
        ],
        "tools": [TOOL],
        "stop": ["a"],
        "stream_options": {"include_usage": True},
        "response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}},
        "reasoning": {"effort": "low"},
        "temperature": 1,
    },
    "/v1/completions": {"model": "m", "prompt": "x", "suffix": "y", "stop": "z", "logprobs": 2},
    "/v1/embeddings": {"model": "m", "input": ["a"], "encoding_format": "float", "dimensions": 3},
    "/v1/responses": {
        "model": "m",
        "instructions": "i",
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "q"}]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "t"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "1"}]},
        ],
        "tools": [{"type": "function", "name": "f", "parameters": SCHEMA}],
        "text": {"format": {"type": "json_schema", "schema": SCHEMA}},
        "reasoning": {"effort": "high"},
    },
    "/v1/messages": {
        "model": "m",
        "max_tokens": 5,
        "system": [{"type": "text", "text": "s"}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image", "source": SOURCE}]},
            {
                "role": "assistant",
                "content": [{"type": "thinking", "thinking": "t"}, {"type": "tool_use", "id": "c", "name": "f", "input": {}}],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "1"}]}]},
        ],
        "tools": [{"name": "f", "input_schema": SCHEMA}],
        "stop_sequences": ["E"],
        "thinking": {"type": "enabled"},
    },
}  # fmt: skip
ODD = st.sampled_from(
    [None, True, 0, -1, 1.5, "", "x", "{", [], ["x"], [[]], [None], [{}], {}, {"x": 1}, {"type": []}]
)


def places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def replaced(value, path, new):
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@st.composite
def bent(draw):
    """A good request with one or two of its values replaced by odd ones."""
    path = draw(st.sampled_from(sorted(BODIES)))
    body = BODIES[path]
    for _ in range(draw(st.integers(1, 2))):
        body = replaced(body, draw(st.sampled_from(list(places(body)))), draw(ODD))
    return path, body


TEMPLATE = Template(
    "{{ range .Tools }}{{ . }}{{ range $n, $p := .Function.Parameters.Properties }}{{ $p.Type }}"
    "{{ toTypeScriptType $p }}{{ end }}{{ end }}{{ range .Messages }}{{ .Content }}{{ .Thinking }}"
    "{{ range .ToolCalls }}{{ .Function.Arguments }}{{ end }}{{ end }}"
)


@settings(max_examples=400)
@given(bent())
def test_a_bent_request_is_translated_or_refused(bent_request):
    path, body = bent_request
    with contextlib.suppress(ApiError):
        exchange = dialects.translate(path, json.dumps(body).encode(), STAMP)
        exchange.failure(404, "x")
        native = decode(msgspec.json.encode(exchange.native), SHAPES[exchange.path])
        for template in (TEMPLATE, Template(KNOWN["chatml"].text)):
            with contextlib.suppress(TemplateFault):
                template.render(Values(messages=native.get("messages", ()), tools=native.get("tools", ())))


def test_the_good_requests_are_translated():
    for path, body in BODIES.items():
        assert dialects.translate(path, json.dumps(body).encode(), STAMP).native["model"] == "m"
