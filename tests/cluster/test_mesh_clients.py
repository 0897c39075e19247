"""The official clients, unchanged, at each node of a real mesh, for models here and elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import anthropic
import msgspec
import ollama
import openai
import pytest
from pydantic import BaseModel

from tests.cluster.mesh_bed import ASK, EMBEDDER, GREEDY, NODES, QUESTION, SOLO, TALKER, Mesh, call

pytestmark = [pytest.mark.cluster, pytest.mark.etcd, pytest.mark.llamacpp]

COLD = {"temperature": 0}  # the Anthropic client has no argument for it
SHORT = {"temperature": 0, "num_predict": 4}


class Country(BaseModel):
    capital: str


@pytest.fixture(params=NODES)
def node(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def native(mesh: Mesh, node: str) -> Iterator[ollama.Client]:
    with ollama.Client(host=mesh.url(node), timeout=60) as client:
        yield client


@pytest.fixture
def openai_client(mesh: Mesh, node: str) -> Iterator[openai.OpenAI]:
    url = f"{mesh.url(node)}/v1"
    with openai.OpenAI(base_url=url, api_key="unused", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
def anthropic_client(mesh: Mesh, node: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=mesh.url(node), api_key="unused", max_retries=0, timeout=60) as client:
        yield client


def test_ollama_knows_paris(native: ollama.Client) -> None:
    generated = native.generate(TALKER, prompt=QUESTION, options=GREEDY)
    assert "Paris" in generated.response
    assert "Paris" in native.chat(TALKER, messages=ASK, options=GREEDY).message.content
    parts = list(native.chat(TALKER, messages=ASK, options=GREEDY, stream=True))
    assert "Paris" in "".join(part.message.content for part in parts)
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]


def test_openai_knows_paris(openai_client: openai.OpenAI) -> None:
    ask = {"model": TALKER, "messages": ASK, "temperature": 0, "max_tokens": 24}
    answer = openai_client.chat.completions.create(**ask)
    assert "Paris" in answer.choices[0].message.content
    chunks = list(openai_client.chat.completions.create(**ask, stream=True))
    assert "Paris" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    completed = openai_client.completions.create(
        model=TALKER, prompt="The capital of France is", temperature=0, max_tokens=24
    )
    assert "Paris" in completed.choices[0].text
    respond = {"model": TALKER, "input": QUESTION, "temperature": 0, "max_output_tokens": 24}
    assert "Paris" in openai_client.responses.create(**respond).output_text
    with openai_client.responses.stream(**respond) as stream:
        assert "Paris" in "".join(event.delta for event in stream if event.type.endswith("text.delta"))


def test_anthropic_knows_paris(anthropic_client: anthropic.Anthropic) -> None:
    ask = {"model": TALKER, "max_tokens": 24, "messages": ASK, "extra_body": COLD}
    assert "Paris" in anthropic_client.messages.create(**ask).content[0].text
    with anthropic_client.messages.stream(**ask) as stream:
        assert "Paris" in "".join(stream.text_stream)


def test_lists_are_the_union_of_all_nodes(
    native: ollama.Client, openai_client: openai.OpenAI, node: str
) -> None:
    everything = {TALKER, "tiny:latest", f"{EMBEDDER}:latest", f"{SOLO}:latest"}
    assert {model.model for model in native.list().models} == everything
    assert everything >= {model.id for model in openai_client.models.list()} >= {TALKER}
    assert openai_client.models.retrieve(TALKER).id == TALKER


def test_a_model_of_another_node_is_shown_and_runs(
    native: ollama.Client, openai_client: openai.OpenAI, anthropic_client: anthropic.Anthropic
) -> None:
    assert native.show(SOLO).details.format == "gguf"
    assert native.chat(SOLO, messages=ASK, options=SHORT).done
    assert native.generate(SOLO, prompt="x", options=SHORT).done
    assert list(native.generate(SOLO, prompt="x", options=SHORT, stream=True))[-1].done
    assert f"{SOLO}:latest" in {model.model for model in native.ps().models}
    # Greedy: a model of random weights otherwise says now and then that it is at its end.
    ask = {"model": SOLO, "messages": ASK, "temperature": 0, "max_tokens": 4}
    answer = openai_client.chat.completions.create(**ask)
    assert answer.usage.completion_tokens == 4
    assert openai_client.models.retrieve(SOLO).id == SOLO
    stream = openai_client.chat.completions.create(**ask, stream=True)
    assert list(stream)[-1].choices[0].finish_reason == "length"
    message = anthropic_client.messages.create(model=SOLO, messages=ASK, max_tokens=4, extra_body=COLD)
    assert message.stop_reason == "max_tokens"


def test_embeddings_are_the_same_through_either_api(
    native: ollama.Client, openai_client: openai.OpenAI
) -> None:
    vectors = native.embed(EMBEDDER, input=["one", "two"]).embeddings
    assert [len(vector) for vector in vectors] == [64, 64]
    others = openai_client.embeddings.create(model=EMBEDDER, input=["one", "two"]).data
    assert others[1].embedding == pytest.approx(vectors[1], abs=1e-5)


def test_answers_keep_to_a_schema(native: ollama.Client, openai_client: openai.OpenAI) -> None:
    schema = Country.model_json_schema()
    answer = native.chat(TALKER, messages=ASK, format=schema, options={"temperature": 0})
    assert Country.model_validate_json(answer.message.content).capital
    parsed = openai_client.chat.completions.parse(
        model=TALKER, messages=ASK, temperature=0, response_format=Country
    )
    assert parsed.choices[0].message.parsed.capital


def test_a_missing_model_is_each_client_s_own_error(
    native: ollama.Client, openai_client: openai.OpenAI, anthropic_client: anthropic.Anthropic
) -> None:
    for ask in (native.chat, native.generate, native.embed, native.show):
        with pytest.raises(ollama.ResponseError, match="not found") as missing:
            ask("nope")
        assert missing.value.status_code == 404
    with pytest.raises(openai.NotFoundError, match="model 'nope' not found"):
        openai_client.chat.completions.create(model="nope", messages=ASK)
    with pytest.raises(openai.NotFoundError):
        openai_client.models.retrieve("nope")
    with pytest.raises(anthropic.NotFoundError, match="model 'nope' not found"):
        anthropic_client.messages.create(model="nope", max_tokens=4, messages=ASK)


def test_changing_the_api_reloads_no_model(mesh: Mesh) -> None:
    def ended() -> int:
        return sum(text.count("runner_ended") for name, text in mesh.logs().items() if "engine" in name)

    short = {"model": TALKER, "max_tokens": 4, "messages": ASK}
    asked = {"model": TALKER, "prompt": "x", "stream": False, "options": SHORT}
    for node in NODES:
        assert call(mesh.address(node), "POST", "/api/generate", asked)[0] == 200
    loaded = msgspec.json.decode(call(mesh.address("node1"), "GET", "/api/ps")[2])["models"]
    context = next(model["context_length"] for model in loaded if model["name"] == TALKER)
    before = ended()
    for path, body in (
        ("/v1/messages", short),
        ("/api/generate", asked),
        ("/v1/chat/completions", short),
        ("/v1/responses", {"model": TALKER, "input": "x", "max_output_tokens": 4}),
        ("/api/chat", {"model": TALKER, "messages": ASK, "stream": False, "options": SHORT}),
        ("/api/generate", {**asked, "options": {**SHORT, "num_ctx": context}}),  # as the prober asks
    ):
        assert call(mesh.address("node1"), "POST", path, body)[0] == 200, path
    assert ended() == before
