"""gRPC through the real pipeline: two nodes, the model behind a peer, the engine's own failures."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from bridge_agent.gateway.config import ListenerKind
from bridge_agent.quotas.meter import Meter
from bridge_core.quotas import Quota
from bridge_wire.v1.inference_pb2 import InferenceRequest
from tests.contract.gateway_bed import Bed, mesh
from tests.contract.grpc_bed import stub_of
from tests.fakes.recorded_engine import Fault, RecordedEngine
from tests.support import eventually, within_some_time

MODEL = "smollm2:135m"


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    (tmp_path / "mesh").mkdir()
    engines = {"a": RecordedEngine(models=()), "b": RecordedEngine(models=(MODEL,))}
    async with mesh(tmp_path / "mesh", engines) as bed:
        yield bed


@pytest.fixture
async def stub(bed: Bed, tmp_path: Path) -> AsyncIterator[Any]:
    """A client of node a, which has no model of its own."""
    async with stub_of(bed["a"].gateway.http_app(ListenerKind.TLS), tmp_path / "grpc") as stub:
        yield stub


def ask(data: Any = "hi", model: str = MODEL, **metadata: str) -> InferenceRequest:
    encoded = data if isinstance(data, str) else json.dumps(data)
    return InferenceRequest(model_name=model, input_data=encoded.encode(), metadata=metadata)


CHAT = {"messages": [{"role": "user", "content": "hi"}]}


async def test_a_model_behind_a_peer_answers(stub: Any) -> None:
    answer = await stub.Predict(ask(), timeout=60)
    assert json.loads(answer.output_data)["done"] is True
    assert answer.metadata["x-bridge-node"] == "b"
    assert answer.metadata["x-bridge-attempts"] == "1"
    assert answer.metadata["x-request-id"]


async def test_a_model_that_may_turn_up_is_asked_for_again(bed: Bed, stub: Any) -> None:
    bed.publish(instance__b=None)
    with pytest.raises(grpc.aio.AioRpcError, match="node b is not there yet") as refused:
        await stub.Predict(ask(), timeout=60)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert ("retry-after", "1") in list(refused.value.trailing_metadata() or ())


async def test_a_stream_ends_with_its_terminal_record(stub: Any) -> None:
    answers = [answer async for answer in stub.PredictStream(ask(CHAT, api="chat"))]
    assert [answer.done for answer in answers] == [False] * (len(answers) - 1) + [True]
    assert len(answers) > 2
    assert answers[0].metadata["x-bridge-node"] == "b"


async def test_embeddings(stub: Any) -> None:
    answer = await stub.Predict(ask({"input": "hi"}, api="embed"))
    assert json.loads(answer.output_data)["embeddings"]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (ask(model="nobody-has-it"), grpc.StatusCode.NOT_FOUND),
        (ask({"Model": "other", "prompt": "y"}), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_the_pipelines_refusals(stub: Any, request_: InferenceRequest, code: grpc.StatusCode) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Predict(request_)
    assert caught.value.code() is code
    assert caught.value.details()


@pytest.mark.parametrize("kind", ["silent", "cut", "error"])
async def test_a_stream_that_dies_is_a_failure(bed: Bed, stub: Any, kind: str) -> None:
    bed["b"].engine.faults.append(Fault(kind))
    call, seen = stub.PredictStream(ask(CHAT, api="chat")), []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_into(seen, call)
    assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL}
    assert seen
    assert not any(answer.done for answer in seen)


async def read_into(seen: list[Any], call: Any) -> None:
    while (answer := await call.read()) is not grpc.aio.EOF:
        seen.append(answer)


async def test_cancelling_reaches_the_engine_behind_the_peer(bed: Bed, stub: Any) -> None:
    bed["b"].engine.faults.append(Fault("hang"))
    call = stub.PredictStream(ask())
    await call.read()
    call.cancel()
    await eventually(lambda: bed["b"].engine.cancelled == 1, 30)


@pytest.mark.parametrize("seconds", [2_000_000 * 3600, 1_000_000_000, 40 * 365 * 86_400])
async def test_a_deadline_that_no_clock_reaches_is_taken(stub: Any, seconds: float) -> None:
    assert (await stub.Predict(ask(), timeout=seconds)).done
    answers = [answer async for answer in stub.PredictStream(ask(CHAT, api="chat"), timeout=seconds)]
    assert answers[-1].done


async def test_a_quota_that_is_used_up_is_an_exhausted_resource(tmp_path: Path) -> None:
    (tmp_path / "mesh").mkdir()
    meters: dict[str, Meter] = {}
    async with mesh(tmp_path / "mesh", {"a": RecordedEngine(models=(MODEL,))}, meters=meters) as bed:
        pipeline = bed["a"].gateway.http_app(ListenerKind.TLS)
        async with stub_of(pipeline, tmp_path / "grpc") as stub:
            await stub.Predict(ask(), timeout=60)  # without quotas, who is known is counted all the same
            bed.publish(quota__q=Quota("q", requests=2, window_s=3600.0))
            await stub.Predict(ask(), timeout=60)
            assert [answer async for answer in stub.PredictStream(ask(CHAT, api="chat"))]
            for call in (stub.Predict(ask(), timeout=60), read_into([], stub.PredictStream(ask()))):
                with pytest.raises(grpc.aio.AioRpcError, match="quota q is used up") as over:
                    await call
                assert over.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                hints = dict(over.value.trailing_metadata() or ())
                assert int(hints["grpc-retry-pushback-ms"]) == int(hints["retry-after"]) * 1000 > 0
        (use,) = meters["a"].usage.uses.values()
        assert (use.requests, use.refused) == (3, 2)
        assert [key.principal.partition("://")[0] for key in meters["a"].usage.uses] == ["spiffe"]


async def test_a_deadline_reaches_the_engine_behind_the_peer(bed: Bed, stub: Any) -> None:
    bed["b"].engine.faults.append(Fault("hang", after=0))

    async def reaches_the_engine(timeout_s: float) -> bool:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Predict(ask(), timeout=timeout_s)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        return bool(bed["b"].engine.inferences())

    await within_some_time(reaches_the_engine)
    await eventually(lambda: bed["b"].engine.running == 0, 30)
