"""gRPC streams whose owner dies in the middle: the client gets the whole text and one terminal message."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from bridge_agent.gateway.config import ListenerKind, ResumePolicy
from bridge_wire.v1.inference_pb2 import InferenceRequest, InferenceResponse
from tests.contract.gateway_bed import Bed, mesh
from tests.contract.grpc_bed import stub_of
from tests.contract.resume_bed import TEXT, WORDS, TalkingEngine
from tests.fakes.recorded_engine import Fault
from tests.support import eventually

MODEL = "smollm2:135m"
# A stall of the machine is not to be taken for one of an engine: that is found as test_gateway_resume shows.
PATIENT = ResumePolicy(stall_floor=60, patience=60.0)
CHAT = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    (tmp_path / "mesh").mkdir()
    engines = {"a": TalkingEngine(()), "b": TalkingEngine((MODEL,)), "c": TalkingEngine((MODEL,))}
    async with mesh(tmp_path / "mesh", engines, resume=PATIENT) as bed:  # type: ignore[arg-type]
        yield bed


@pytest.fixture
async def stub(bed: Bed, tmp_path: Path) -> AsyncIterator[Any]:
    """A client of node a, which has no model of its own."""
    async with stub_of(bed["a"].gateway.http_app(ListenerKind.TLS), tmp_path / "grpc") as stub:
        yield stub


def die_first(bed: Bed, kind: str, deaths: int = 1) -> None:
    faults = [Fault(kind, 3, deaths)]
    for node in bed.nodes.values():
        node.engine.faults = faults


def ask(api: str, **more: Any) -> InferenceRequest:
    body = {**(CHAT if api == "chat" else {"prompt": "hi"}), **more}
    return InferenceRequest(model_name=MODEL, input_data=json.dumps(body).encode(), metadata={"api": api})


def text_of(answers: list[InferenceResponse]) -> str:
    records = [json.loads(answer.output_data) for answer in answers]
    return "".join(one["message"]["content"] if "message" in one else one["response"] for one in records)


@pytest.mark.parametrize("api", ["generate", "chat"])
@pytest.mark.parametrize("kind", ["cut", "silent", "torn", "error"])
async def test_a_predicted_stream_goes_on_elsewhere(bed: Bed, stub: Any, api: str, kind: str) -> None:
    die_first(bed, kind)
    answers = [answer async for answer in stub.PredictStream(ask(api), timeout=100)]
    assert text_of(answers) == TEXT
    assert [answer.done for answer in answers] == [False] * (len(answers) - 1) + [True]
    last = json.loads(answers[-1].output_data)
    assert (last["bridge"], last["eval_count"]) == ({"resumed": 1}, len(WORDS))
    (record,) = bed["a"].gateway.records()
    assert {record.instance, record.failed[0].instance} == {"b/0", "c/0"}
    await eventually(lambda: bed["a"].gateway.in_flight == 0, 30)


async def test_every_turn_of_a_conversation_survives_its_own_deaths(bed: Bed, stub: Any) -> None:
    die_first(bed, "cut", deaths=3)
    call = stub.Converse(timeout=100)
    for _ in range(2):
        await call.write(ask("chat"))
        answers: list[InferenceResponse] = []
        while not answers or not answers[-1].done:
            answers.append(await call.read())
        assert text_of(answers) == TEXT
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert sum(bed["a"].gateway.counters.streams_resumed.values()) == 3


async def test_a_stream_that_nobody_can_continue_ends_with_a_status(bed: Bed, stub: Any) -> None:
    die_first(bed, "cut")
    call, seen = stub.PredictStream(ask("chat", format="json"), timeout=100), []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_into(seen, call)
    assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL}
    assert text_of(seen) == "".join(WORDS[:3])
    assert not any(answer.done for answer in seen)


async def read_into(seen: list[InferenceResponse], call: Any) -> None:
    while (answer := await call.read()) is not grpc.aio.EOF:
        seen.append(answer)
