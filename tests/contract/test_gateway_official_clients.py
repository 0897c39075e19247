"""The official clients, unchanged, against a node that does not have the model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import anthropic
import ollama
import openai
import pytest

from tests.contract.gateway_bed import Bed, mesh
from tests.fakes.recorded_engine import Fault, RecordedEngine

MODEL = "smollm2:135m"
ASK = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    engines = {"a": RecordedEngine(("other",)), "b": RecordedEngine((MODEL, "tiny-embed"))}
    async with mesh(tmp_path, engines) as bed:
        yield bed


@pytest.fixture
def url(bed: Bed) -> str:
    return f"http://127.0.0.1:{bed['a'].local.port}"


async def test_ollama(bed: Bed, url: str) -> None:
    client = ollama.AsyncClient(host=url)
    listed = await client.list()
    assert MODEL in {model.model for model in listed.models}
    assert (await client.show(MODEL)).details.format == "gguf"
    answer = await client.chat(MODEL, messages=ASK)
    assert "Paris" in answer.message.content
    parts = [part async for part in await client.chat(MODEL, messages=ASK, stream=True)]
    assert "Paris" in "".join(part.message.content for part in parts)
    assert parts[-1].done
    generated = await client.generate(MODEL, prompt="The capital of France is")
    assert "Paris" in generated.response
    assert len((await client.embed("tiny-embed", input="hello")).embeddings) == 1
    assert (await client.ps()).models
    with pytest.raises(ollama.ResponseError) as missing:
        await client.chat("nope", messages=ASK)
    assert (missing.value.status_code, missing.value.error) == (404, "model 'nope' not found")
    bed["b"].engine.faults.append(Fault("silent"))
    with pytest.raises(ollama.ResponseError):
        async for _ in await client.chat(MODEL, messages=ASK, stream=True):
            pass
    await client._client.aclose()


async def test_openai(bed: Bed, url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
        assert MODEL in {model.id async for model in client.models.list()}
        assert (await client.models.retrieve(MODEL)).id == MODEL
        answer = await client.chat.completions.create(model=MODEL, messages=ASK)
        assert "Paris" in answer.choices[0].message.content
        stream = await client.chat.completions.create(model=MODEL, messages=ASK, stream=True)
        assert "Paris" in "".join([part.choices[0].delta.content or "" async for part in stream])
        assert (await client.embeddings.create(model="tiny-embed", input="hello")).data
        assert (await client.responses.create(model=MODEL, input="Say hi")).output_text
        with pytest.raises(openai.NotFoundError, match="model 'nope' not found"):
            await client.chat.completions.create(model="nope", messages=ASK)
        bed["b"].engine.faults.append(Fault("silent"))
        with pytest.raises(openai.APIError, match="answer"):
            async for _ in await client.chat.completions.create(model=MODEL, messages=ASK, stream=True):
                pass
        events = [
            event async for event in await client.responses.create(model=MODEL, input="hi", stream=True)
        ]
        assert events[-1].type == "error"
        assert events[-1].sequence_number == events[-2].sequence_number + 1


async def test_anthropic(bed: Bed, url: str) -> None:
    async with anthropic.AsyncAnthropic(base_url=url, api_key="x", max_retries=0) as client:
        ask = {"model": MODEL, "messages": ASK, "max_tokens": 12}
        answer = await client.messages.create(**ask)
        assert "Paris" in answer.content[0].text
        async with client.messages.stream(**ask) as stream:
            assert "Paris" in await stream.get_final_text()
        with pytest.raises(anthropic.NotFoundError, match="model 'nope' not found"):
            await client.messages.create(**{**ask, "model": "nope"})
        bed["b"].engine.faults.append(Fault("silent", after=3))
        with pytest.raises(anthropic.APIStatusError, match="answer"):
            async with client.messages.stream(**ask) as stream:
                await stream.get_final_text()


@pytest.mark.parametrize(
    ("path", "field"), [("/api/chat", "error"), ("/v1/chat/completions", "error"), ("/v1/messages", "type")]
)
async def test_what_the_listener_refuses_has_the_protocols_shape(bed: Bed, path: str, field: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", bed["a"].local.port)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {1 << 40}\r\n\r\n"
    writer.write(head.encode())
    answer = await reader.readuntil(b"\r\n\r\n") + await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 413 ")
    body = answer.partition(b"\r\n\r\n")[2]
    assert field in json.loads(body)
