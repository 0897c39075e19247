"""A stream whose node dies ends with an error in its protocol's own shape, never as if complete."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import grpc.aio
import ollama
import openai
import pytest

from bridge_wire.v1.inference_pb2 import InferenceRequest
from bridge_wire.v1.inference_pb2_grpc import ModelInferenceStub
from tests.cluster.mesh_bed import TALKER, Mesh, call
from tests.support import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.etcd, pytest.mark.llamacpp]

STORY = "story"  # the model that talks, under a name that node3 alone knows
LONG = [{"role": "user", "content": "Write a very long story about a fox. Do not stop."}]


@pytest.fixture
async def mesh(harmed_mesh: Mesh) -> AsyncIterator[Mesh]:
    node3 = harmed_mesh.address("node3")
    status, _, body = await asyncio.to_thread(
        call, node3, "POST", "/api/copy", {"source": TALKER, "destination": STORY}
    )
    assert status == 200, body
    node1 = harmed_mesh.address("node1")

    async def known() -> bool:
        return (await asyncio.to_thread(call, node1, "POST", "/api/show", {"model": STORY}))[0] == 200

    await eventually(known)
    yield harmed_mesh
    await harmed_mesh.repair()
    await harmed_mesh.whole()


async def ollama_story(mesh: Mesh) -> AsyncIterator[Any]:
    client = ollama.AsyncClient(host=mesh.url("node1"), timeout=60)
    try:
        async for part in await client.chat(STORY, messages=LONG, stream=True, options={"num_predict": 2000}):
            yield part
    finally:
        await client.close()


async def openai_story(mesh: Mesh) -> AsyncIterator[Any]:
    url = f"{mesh.url('node1')}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model=STORY, messages=LONG, stream=True, max_tokens=2000
        )
        async for part in stream:
            yield part


async def anthropic_story(mesh: Mesh) -> AsyncIterator[Any]:
    url = mesh.url("node1")
    async with (
        anthropic.AsyncAnthropic(base_url=url, api_key="x", max_retries=0) as client,
        client.messages.stream(model=STORY, messages=LONG, max_tokens=2000) as stream,
    ):
        async for text in stream.text_stream:
            yield text


async def grpc_story(mesh: Mesh) -> AsyncIterator[Any]:
    host, port = mesh.address("node1", "grpc")
    ca, cert, key = (Path(path).read_bytes() for path in mesh.client_files())
    body = {"messages": LONG, "options": {"num_predict": 2000}}
    request = InferenceRequest(
        model_name=STORY, input_data=json.dumps(body).encode(), metadata={"api": "chat"}
    )
    credentials = grpc.ssl_channel_credentials(ca, key, cert)
    async with grpc.aio.secure_channel(f"{host}:{port}", credentials) as channel:
        async for answer in ModelInferenceStub(channel).PredictStream(request, timeout=60):
            yield answer


async def test_every_protocol_hears_that_the_node_died(mesh: Mesh) -> None:
    stories = [ollama_story(mesh), openai_story(mesh), anthropic_story(mesh), grpc_story(mesh)]
    await asyncio.gather(*(anext(story) for story in stories))
    await asyncio.to_thread(mesh.kill, "node3")

    async def rest(story: AsyncIterator[Any]) -> None:
        async for _ in story:
            pass

    ends = await asyncio.gather(*map(rest, stories), return_exceptions=True)
    kinds = (ollama.ResponseError, openai.APIError, anthropic.APIError, grpc.aio.AioRpcError)
    assert [type(end) for end in ends if end is None] == [], ends
    for end, kind in zip(ends, kinds, strict=True):
        assert isinstance(end, kind), end
        assert "Connection" not in type(end).__name__, "an error of the protocol, not a torn connection"
    assert isinstance(ends[3], grpc.aio.AioRpcError)
    assert ends[3].code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL}
