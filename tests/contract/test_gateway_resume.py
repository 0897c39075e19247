"""Streams whose owner dies in the middle: the client gets the whole text, in its own protocol."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from bridge_agent.gateway.config import ResumePolicy
from bridge_agent.routing.health_rules import Failure
from bridge_core.snapshot import Backend, Route
from tests.contract.gateway_bed import Bed, mesh
from tests.contract.resume_bed import PROMPT, TEXT, WORDS, TalkingEngine
from tests.fakes.recorded_engine import Fault
from tests.support import eventually

ALL = "smollm2:135m"
STREAMS: dict[str, dict[str, Any]] = {
    "/api/generate": {"prompt": "hi"},
    "/api/chat": {},
    "/v1/chat/completions": {"stream_options": {"include_usage": True}},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"max_tokens": 99},
}
# A stall of the machine is not to be taken for one of an engine, but where that is what a test is about.
PATIENT = ResumePolicy(stall_floor=60, patience=60.0)
FINDS_STALLS = ResumePolicy(stall_floor=1, patience=60.0)
AVOIDED_S = 2.0  # for which an instance that died is not asked: where the machine stalls it is over at once
GIVES_UP = ResumePolicy(stall_floor=60, patience=3.0)


@pytest.fixture
async def bed(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Bed]:
    """Three nodes with one model; a test may ask for another policy than PATIENT by `resuming`."""
    engines = {"a": TalkingEngine((ALL, "solo")), "b": TalkingEngine((ALL,)), "c": TalkingEngine((ALL,))}
    async with mesh(tmp_path, engines, resume=getattr(request, "param", PATIENT)) as bed:  # type: ignore[arg-type]
        yield bed


def resuming(policy: ResumePolicy) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("bed", [policy], ids=[""], indirect=True)


def die_first(bed: Bed, kind: str, after: int = 3, deaths: int = 1) -> None:
    """The first `deaths` streams die, wherever they are."""
    faults = [Fault(kind, after, deaths)]
    for node in bed.nodes.values():
        node.engine.faults = faults


def text_of(path: str, body: bytes) -> str:
    found = ""
    for line in body.splitlines():
        record = line.removeprefix(b"data: ")
        if not record.startswith(b"{"):
            continue
        value = json.loads(record)
        if path == "/api/chat":
            found += value["message"]["content"]
        elif path == "/api/generate":
            found += value["response"]
        elif value.get("choices"):
            choice = value["choices"][0]
            found += choice.get("text") or choice.get("delta", {}).get("content") or ""
        elif value.get("type") == "response.output_text.delta":
            found += value["delta"]
        elif value.get("type") == "content_block_delta":
            found += value["delta"]["text"]
    return found


def marks(body: bytes) -> list[bytes]:
    """What of the terminal records of all protocols a body holds."""
    ends = (b"[DONE]", b"message_stop", b"response.completed", b'"done":true')
    return [end for end in ends if end in body]


def idle(bed: Bed) -> bool:
    return all(node.gateway.in_flight == 0 and node.engine.running == 0 for node in bed.nodes.values())


@pytest.mark.parametrize("kind", ["cut", "silent", "torn", "error"])
@pytest.mark.parametrize("path", STREAMS)
async def test_a_stream_that_dies_goes_on_elsewhere(bed: Bed, path: str, kind: str) -> None:
    die_first(bed, kind)
    began = time.monotonic()
    answer = await bed["a"].infer(path, stream=True, **STREAMS[path])
    stalled = time.monotonic() - began > AVOIDED_S
    assert answer.status == 200
    assert answer.whole
    assert text_of(path, answer.body) == TEXT
    assert b'"bridge":{"resumed":1}' in answer.body
    assert b'"error":{' not in answer.body
    assert b'"error":"' not in answer.body
    assert sum(bed["a"].gateway.counters.streams_resumed.values()) == 1
    (record,) = bed["a"].gateway.records()
    assert record.outcome.value == "ok"
    assert len(record.failed) == 1
    assert stalled or record.instance != record.failed[0].instance
    await eventually(lambda: idle(bed), 30)


# How a stall is found does not depend on the protocol, and takes a second.
@resuming(FINDS_STALLS)
async def test_a_stream_that_falls_silent_goes_on_elsewhere(bed: Bed) -> None:
    die_first(bed, "hang")
    answer = await bed["a"].infer("/api/chat")
    assert text_of("/api/chat", answer.body) == TEXT
    (record,) = bed["a"].gateway.records()
    assert record.outcome.value == "ok"
    assert record.failed  # where the machine stalls, too, an engine that goes on may count as another one
    await eventually(lambda: idle(bed), 30)


@pytest.mark.parametrize("path", STREAMS)
async def test_a_stream_may_die_again_and_again(bed: Bed, path: str) -> None:
    die_first(bed, "cut", after=2, deaths=4)
    answer = await bed["a"].infer(path, stream=True, **STREAMS[path])
    assert text_of(path, answer.body) == TEXT
    assert b'"bridge":{"resumed":4}' in answer.body
    (record,) = bed["a"].gateway.records()
    assert [one.failure for one in record.failed] == [Failure.CUT] * 4
    assert record.instance in {"a/0", "b/0", "c/0"}


async def test_the_counters_are_those_of_the_whole_answer(bed: Bed) -> None:
    die_first(bed, "cut")
    answer = await bed["a"].infer("/api/chat")
    last = json.loads(answer.body.splitlines()[-1])
    assert (last["prompt_eval_count"], last["eval_count"]) == (PROMPT, len(WORDS))
    assert (last["done"], last["done_reason"]) == (True, "stop")
    assert last["total_duration"] > last["eval_duration"] > 0


async def test_a_stream_of_which_nothing_came_is_asked_again(bed: Bed) -> None:
    die_first(bed, "cut", after=0)
    answer = await bed["a"].infer("/api/chat", tools=[{"type": "function", "function": {"name": "f"}}])
    assert text_of("/api/chat", answer.body) == TEXT


async def test_the_only_instance_goes_on_once_it_is_back(bed: Bed) -> None:
    die_first(bed, "cut")
    for entry in "ab":
        bed["a"].engine.faults[0].times = 1
        answer = await bed[entry].infer("/api/generate", model="solo", prompt="hi")
        assert text_of("/api/generate", answer.body) == TEXT


async def test_a_route_keeps_its_name_in_the_stream(bed: Bed) -> None:
    bed.publish(route__alias=Route("alias", (Backend(ALL),)))
    die_first(bed, "cut")
    answer = await bed["a"].infer("/v1/chat/completions", model="alias", stream=True)
    assert text_of("/v1/chat/completions", answer.body) == TEXT
    records = [json.loads(line[6:]) for line in answer.body.splitlines() if line.startswith(b"data: {")]
    assert {record["model"] for record in records} == {"alias"}


async def test_the_rest_stays_within_the_backend(bed: Bed) -> None:
    bed.publish(route__alias=Route("alias", (Backend(ALL, instances=("a/0", "b/0")),)))
    for number in range(6):
        die_first(bed, "cut")
        answer = await bed["c"].infer(model="alias", options={"seed": number})
        assert text_of("/api/chat", answer.body) == TEXT
        (record,) = bed["c"].gateway.records()[-1:]
        assert {record.instance, record.failed[0].instance} == {"a/0", "b/0"}
    assert bed["c"].engine.inferences() == []


@resuming(FINDS_STALLS)
async def test_nothing_comes_twice_from_an_engine_that_wakes_after_the_rest_began(bed: Bed) -> None:
    die_first(bed, "freeze", deaths=2)
    for node in bed.nodes.values():
        node.engine.pause_s = 0.05
    streams = [asyncio.create_task(bed[entry].infer("/api/chat")) for entry in "ab"]
    resumed = [bed[entry].gateway.counters.streams_resumed for entry in "ab"]
    await eventually(lambda: all(sum(one.values()) >= 1 for one in resumed), 30)
    for node in bed.nodes.values():
        node.engine.thaw.set()
    for stream in streams:
        assert text_of("/api/chat", (await stream).body) == TEXT
    assert all(one["stalled"] >= 1 for one in resumed)
    await eventually(lambda: idle(bed), 30)


async def test_a_rest_that_waits_for_a_slot_goes_where_one_is_free(tmp_path: Path) -> None:
    """The engine that died is back, while the other one's only slot is taken for long."""
    engines = {name: TalkingEngine((ALL, f"solo-{name}"), slots=1) for name in "ab"}
    async with mesh(tmp_path, engines, resume=ResumePolicy()) as bed:  # type: ignore[arg-type]
        die_first(bed, "doomed")
        stream = asyncio.create_task(bed["a"].infer("/api/chat"))
        await eventually(lambda: any(engine.words_said == 3 for engine in engines.values()), 30)
        owner, other = sorted("ab", key=lambda name: -engines[name].words_said)
        engines[other].pause_s = 1000.0
        hold = asyncio.create_task(bed[other].infer("/api/chat", model=f"solo-{other}"))
        await eventually(lambda: engines[other].words_said == 1, 30)
        engines[owner].thaw.set()
        answer = await asyncio.wait_for(stream, 30)
        assert text_of("/api/chat", answer.body) == TEXT
        (record,) = (one for one in bed["a"].gateway.records() if not one.model.endswith(f"solo-{other}"))
        assert (record.failed[0].instance, record.instance) == (f"{owner}/0", f"{owner}/0")
        hold.cancel()
        await eventually(lambda: idle(bed), 30)


_TOOL = {"name": "f", "description": "d", "input_schema": {"type": "object"}}
_SCHEMA = {"type": "json_schema", "name": "s", "schema": {"type": "object"}}
NOT_RESUMABLE: dict[str, dict[str, Any]] = {
    "/api/generate": {"prompt": "hi", "format": "json"},
    "/api/chat": {"format": "json"},
    "/v1/chat/completions": {"response_format": {"type": "json_object"}},
    "/v1/responses": {"input": "hi", "text": {"format": _SCHEMA}},
    "/v1/messages": {"max_tokens": 99, "tools": [_TOOL]},
}


@pytest.mark.parametrize("kind", ["cut", "silent", "error"])
@pytest.mark.parametrize("path", NOT_RESUMABLE)
async def test_what_cannot_be_continued_ends_with_an_error_in_the_stream(
    bed: Bed, path: str, kind: str
) -> None:
    die_first(bed, kind)
    answer = await bed["a"].infer(path, stream=True, **NOT_RESUMABLE[path])
    assert (answer.status, answer.whole) == (200, True)
    last = json.loads(answer.body.strip().splitlines()[-1].removeprefix(b"data: "))
    assert last.get("error") or last.get("type") == "error" or last["response"]["error"], last
    assert marks(answer.body) == [], "never as if it were complete"
    assert sum(bed["a"].gateway.counters.streams_not_resumed.values()) == 1
    (record,) = bed["a"].gateway.records()
    assert record.outcome.value in ("broken", "engine_error")
    await eventually(lambda: idle(bed), 30)


@resuming(GIVES_UP)
async def test_a_request_that_kills_everybody_ends_with_an_error(bed: Bed) -> None:
    faults = [Fault("cut", 3, 1), Fault("died", 0)]
    for node in bed.nodes.values():
        node.engine.faults = faults
    answer = await bed["a"].infer("/api/chat")
    assert text_of("/api/chat", b"\n".join(answer.body.splitlines()[:-1])) == "".join(WORDS[:3])
    assert "error" in json.loads(answer.body.splitlines()[-1])
    await eventually(lambda: idle(bed), 30)


@pytest.mark.parametrize("entry", ["a", "b"])
async def test_an_engine_that_ends_what_repeats_itself_is_not_asked_for_ever(
    tmp_path: Path, entry: str
) -> None:
    """As Ollama does, without a last record; behind a hop it looks like a death."""
    engines = {name: TalkingEngine((ALL,), words=["ha"] * 1000) for name in "bc"}
    async with mesh(tmp_path, {"a": TalkingEngine(())} | engines, resume=GIVES_UP) as bed:  # type: ignore[arg-type]
        die_first(bed, "silent", after=31, deaths=1000)
        answer = await asyncio.wait_for(bed[entry].infer("/api/chat"), 60)
        assert "error" in json.loads(answer.body.splitlines()[-1])
        assert answer.body.count(b'"ha"') in (31, 62)
        await eventually(lambda: idle(bed), 30)


async def test_a_client_that_leaves_cancels_the_rest(bed: Bed) -> None:
    die_first(bed, "cut")
    for node in bed.nodes.values():
        node.engine.pause_s = 0.02
    body = {"model": ALL, "messages": [{"role": "user", "content": "hi"}]}
    async with bed["a"].pool.request("POST", "/api/chat", (), json.dumps(body).encode()) as response:
        async for chunk in response:
            if WORDS[4].encode() in chunk:
                break
    await eventually(lambda: idle(bed), 30)
    said = sum(node.engine.words_said for node in bed.nodes.values())
    assert said < len(WORDS)
    assert bed["a"].gateway.records()[-1].outcome.value == "cancelled"


async def test_a_whole_answer_whose_owner_dies_is_asked_again(bed: Bed) -> None:
    die_first(bed, "cut")
    answer = await bed["a"].infer("/api/generate", prompt="hi", stream=False)
    assert (answer.status, answer.json()["response"]) == (200, TEXT)


async def test_official_clients_read_continued_streams(bed: Bed) -> None:
    base = f"http://127.0.0.1:{bed['a'].local.port}"
    question: Any = [{"role": "user", "content": "hi"}]
    die_first(bed, "cut", deaths=1)
    async with openai.AsyncOpenAI(base_url=base + "/v1", api_key="x", max_retries=0) as client:
        chunks = [
            chunk
            async for chunk in await client.chat.completions.create(
                model=ALL, messages=question, stream=True, stream_options={"include_usage": True}
            )
        ]
        assert "".join(one.choices[0].delta.content or "" for one in chunks if one.choices) == TEXT
        assert len({one.id for one in chunks}) == 1
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == len(WORDS)
        die_first(bed, "cut", deaths=2)
        events = [event async for event in await client.responses.create(model=ALL, input="hi", stream=True)]
        assert events[-1].type == "response.completed"
        assert events[-1].response.output_text == TEXT
        assert [event.sequence_number for event in events] == list(range(len(events)))
    die_first(bed, "cut", deaths=2)
    async with anthropic.AsyncAnthropic(base_url=base, api_key="x", max_retries=0) as other:
        async with other.messages.stream(model=ALL, messages=question, max_tokens=99) as stream:
            message = await stream.get_final_message()
        assert message.content[0].text == TEXT  # type: ignore[union-attr]
        assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", len(WORDS))


async def test_many_streams_survive_the_death_of_their_owners(bed: Bed) -> None:
    die_first(bed, "cut", after=2, deaths=40)
    answers = await asyncio.gather(*(bed["abc"[n % 3]].infer("/api/chat") for n in range(24)))
    assert [text_of("/api/chat", answer.body) for answer in answers] == [TEXT] * 24
    await eventually(lambda: idle(bed), 30)
