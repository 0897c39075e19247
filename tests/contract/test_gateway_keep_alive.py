"""Bytes for clients that wait long: as each protocol's official client takes them, and what follows them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest

from bridge_core.snapshot import RoutePolicy
from tests.contract.gateway_bed import Answer, Bed, mesh
from tests.fakes.recorded_engine import DIED, Fault, RecordedEngine
from tests.support import eventually, within_some_time

MODEL = "smollm2:135m"
ASK = [{"role": "user", "content": "What is the capital of France?"}]
EVERY_S = 0.02
# Path, what more the body needs, a keep-alive.
PROTOCOLS = {
    "ollama": ("/api/chat", {}, b" "),
    "openai": ("/v1/chat/completions", {}, b": keep-alive\n\n"),
    "responses": ("/v1/responses", {"input": "hi"}, b": keep-alive\n\n"),
    "anthropic": ("/v1/messages", {"max_tokens": 12}, b'event: ping\ndata: {"type": "ping"}\n\n'),
}


@contextlib.asynccontextmanager
async def waiting_bed(folder: Path, *faults: Fault, policy: RoutePolicy | None = None) -> AsyncIterator[Bed]:
    """A node without the model and two with it; whichever is asked first has the faults."""
    shared = list(faults)
    engines = {name: RecordedEngine((MODEL,), faults=shared) for name in "bc"}
    policy = policy or RoutePolicy(keep_alive_bytes_s=EVERY_S)
    async with mesh(folder, {"a": RecordedEngine(("other",)), **engines}, policy=policy) as bed:
        for engine in engines.values():
            engine.release.clear()
        yield bed


def release(bed: Bed) -> None:
    for name in "bc":
        bed[name].engine.release.set()


def delivered(bed: Bed) -> int:
    """Bytes of body that clients of node a have had."""
    current = [connection._current for connection in bed["a"].local.connections]
    return sum(exchange.sent for exchange in current if exchange is not None)


async def after_some(bed: Bed, client: Any) -> Any:
    """Lets a client wait until it was sent several keep-alives, then lets the engines go on."""
    task = asyncio.create_task(client)
    await eventually(lambda: delivered(bed) >= 3, 30)
    release(bed)
    return await task


def kept_waiting(body: bytes, protocol: str) -> tuple[int, bytes]:
    """How many keep-alives lead a body, and what follows them (a busy machine may send some to anybody)."""
    keep_alive = PROTOCOLS[protocol][2]
    count = 0
    while body.startswith(keep_alive, count * len(keep_alive)):
        count += 1
    return count, body[count * len(keep_alive) :]


async def ask(bed: Bed, protocol: str) -> Answer:
    path, fields, _ = PROTOCOLS[protocol]
    return await bed["a"].infer(path, stream=True, **fields)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_the_stream_follows_the_keep_alives_unchanged(tmp_path: Path, protocol: str) -> None:
    async with waiting_bed(tmp_path, Fault("", slow=True, times=1)) as bed:
        kept = await after_some(bed, ask(bed, protocol))
        plain = await ask(bed, protocol)
        assert kept.status == 200
        assert kept.headers.get(b"content-type").startswith(plain.headers.get(b"content-type")[:17])
        assert kept.headers.get(b"x-request-id")
        count, answer = kept_waiting(kept.body, protocol)
        assert count > 0
        assert answer == kept_waiting(plain.body, protocol)[1]
        assert bed["a"].gateway.records()[0].outcome.value == "ok"


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_failure_after_keep_alives_is_tried_elsewhere(tmp_path: Path, protocol: str) -> None:
    async with waiting_bed(tmp_path, Fault("close", slow=True, times=1)) as bed:
        kept = await after_some(bed, ask(bed, protocol))
        plain = await ask(bed, protocol)
        assert kept_waiting(kept.body, protocol)[1] == kept_waiting(plain.body, protocol)[1]
        assert len(bed["a"].gateway.records()[0].failed) == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_an_error_after_keep_alives_is_told_in_the_stream(tmp_path: Path, protocol: str) -> None:
    async with waiting_bed(tmp_path, Fault("died", slow=True)) as bed:
        kept = await after_some(bed, ask(bed, protocol))
        assert kept.status == 200
        last = json.loads(kept.body.rstrip().rpartition(b"\n")[2].strip().removeprefix(b"data: "))
        told = last.get("error", last)
        assert DIED in (told if isinstance(told, str) else told["message"])
        assert kept.body.count(DIED.encode()) == 1
        assert bed["a"].gateway.records()[0].status == 500


async def test_a_deadline_after_keep_alives_is_told_in_the_stream(tmp_path: Path) -> None:
    async with waiting_bed(tmp_path, Fault("", slow=True)) as bed:

        async def sends_some(timeout_s: float) -> bool:
            path, fields, keep_alive = PROTOCOLS["openai"]
            headers = {"X-Bridge-Timeout": f"{timeout_s}s"}
            kept = await bed["a"].infer(path, stream=True, headers=headers, **fields)
            assert b"deadline exceeded" in kept.body
            assert kept.status == (200 if kept.body.startswith(keep_alive) else 504)
            return kept.status == 200

        await within_some_time(sends_some)


async def test_whole_answers_get_none_and_keep_their_status(tmp_path: Path) -> None:
    async with waiting_bed(tmp_path, Fault("died", slow=True)) as bed:
        task = asyncio.create_task(bed["a"].infer(stream=False))
        streamed = asyncio.create_task(ask(bed, "ollama"))
        await eventually(lambda: delivered(bed) >= 3, 30)  # as many intervals went by for both
        release(bed)
        assert ((await task).status, (await streamed).status) == (500, 200)


async def test_a_client_that_leaves_while_kept_waiting_cancels_the_engine(tmp_path: Path) -> None:
    async with waiting_bed(tmp_path, Fault("", slow=True)) as bed:
        task = asyncio.create_task(ask(bed, "openai"))
        # The first keep-alive may come while the link to the peer is still being made.
        await eventually(lambda: sum(bed[name].engine.running for name in "bc") == 1, 30)
        await eventually(lambda: delivered(bed) >= 3, 30)
        task.cancel()
        await eventually(lambda: sum(bed[name].engine.cancelled for name in "bc") == 1, 30)
        await eventually(lambda: bed["a"].gateway.in_flight == 0, 30)
        assert bed["a"].gateway.records()[0].outcome.value == "cancelled"


# -- the official clients


async def _ollama(url: str) -> str:
    client = ollama.AsyncClient(host=url)
    try:
        parts = [part async for part in await client.chat(MODEL, messages=ASK, stream=True)]
        return "".join(part.message.content for part in parts)
    finally:
        await client._client.aclose()


async def _openai(url: str) -> str:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
        stream = await client.chat.completions.create(model=MODEL, messages=ASK, stream=True)
        return "".join([part.choices[0].delta.content or "" async for part in stream])


async def _responses(url: str) -> str:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
        stream = await client.responses.create(model=MODEL, input="hi", stream=True)
        events = [event async for event in stream]
        if events[-1].type == "error":
            raise RuntimeError(events[-1].message)
        return events[-1].response.output_text


async def _anthropic(url: str) -> str:
    async with (
        anthropic.AsyncAnthropic(base_url=url, api_key="x", max_retries=0) as client,
        client.messages.stream(model=MODEL, messages=ASK, max_tokens=12) as stream,
    ):
        return await stream.get_final_text()


CLIENTS = {"ollama": _ollama, "openai": _openai, "responses": _responses, "anthropic": _anthropic}


@pytest.mark.parametrize("name", CLIENTS)
async def test_official_clients_pass_over_keep_alives(tmp_path: Path, name: str) -> None:
    async with waiting_bed(tmp_path, Fault("", slow=True)) as bed:
        assert await after_some(bed, CLIENTS[name](f"http://127.0.0.1:{bed['a'].local.port}"))


@pytest.mark.parametrize("name", CLIENTS)
async def test_official_clients_raise_an_error_that_follows_keep_alives(tmp_path: Path, name: str) -> None:
    async with waiting_bed(tmp_path, Fault("died", slow=True)) as bed:
        with pytest.raises(
            (ollama.ResponseError, openai.APIError, anthropic.APIError, RuntimeError), match="unexpected EOF"
        ):
            await after_some(bed, CLIENTS[name](f"http://127.0.0.1:{bed['a'].local.port}"))
