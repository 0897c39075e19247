"""Traces through gateways: each node's span is the parent of the next one's; nothing malformed goes on."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge_agent.gateway.config import ListenerKind, RequestRecord, ResumePolicy
from bridge_agent.tracing.context_rules import Trace
from bridge_agent.tracing.tracer import Tracer
from bridge_core.http1 import Pool
from bridge_wire.v1.inference_pb2 import InferenceRequest
from tests.contract.gateway_bed import Bed, mesh
from tests.contract.grpc_bed import stub_of
from tests.contract.resume_bed import TEXT, TalkingEngine
from tests.fakes.recorded_engine import Asked, Fault, RecordedEngine
from tests.support import eventually

ALL, SOLO = "smollm2:135m", "solo"
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
BODY = b'{"model":"solo","messages":[{"role":"user","content":"hi"}],"stream":false}'


def tracers(*nodes: str, ratio: float = 0.0) -> dict[str, Tracer]:
    return {node: Tracer(ratio, 100.0, draw=random.Random(node).getrandbits) for node in nodes}


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    """Clients call a; b alone has `solo`."""
    engines = {"a": RecordedEngine((ALL,)), "b": RecordedEngine((ALL, SOLO))}
    async with mesh(tmp_path, engines, tracers=tracers("a", "b")) as bed:
        yield bed


def record(bed: Bed, node: str) -> RequestRecord:
    """Of its last request."""
    return bed[node].gateway.records()[-1]


async def over(bed: Bed) -> None:
    """Waits until every request is over, and so on record: a client may have its answer before."""
    await eventually(lambda: not any(node.gateway.in_flight for node in bed.nodes.values()))


async def trace(bed: Bed, node: str) -> Trace:
    """Of its last request."""
    await over(bed)
    found = record(bed, node).trace
    assert found is not None
    return found


def asked(bed: Bed, node: str) -> Asked:
    """What its engine was asked last."""
    return bed[node].engine.inferences()[-1]


async def test_the_span_of_the_entry_is_the_parent_of_the_owner_s(bed: Bed) -> None:
    answer = await bed["a"].infer(model=SOLO, headers={"traceparent": PARENT, "tracestate": "vendor=a"})
    assert answer.status == 200
    entry, owner = await trace(bed, "a"), await trace(bed, "b")
    assert entry == Trace(TRACE.encode(), entry.span_id, True, SPAN.encode(), b"vendor=a")
    assert owner == Trace(TRACE.encode(), owner.span_id, True, entry.span_id, b"vendor=a")
    assert entry.span_id != owner.span_id
    headers = asked(bed, "b").headers
    assert headers[b"traceparent"] == b"00-%b-%b-01" % (TRACE.encode(), owner.span_id)
    assert headers[b"tracestate"] == b"vendor=a"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"traceparent": PARENT.upper(), "tracestate": "vendor=raw"},
        {"traceparent": f"00-{'0' * 32}-{SPAN}-01", "tracestate": "vendor=raw"},
        {"tracestate": "vendor=raw"},
    ],
)
async def test_without_a_good_parent_the_entry_begins_the_trace(bed: Bed, given: dict[str, str]) -> None:
    assert (await bed["a"].infer(model=SOLO, headers=given)).status == 200
    entry, owner = await trace(bed, "a"), await trace(bed, "b")
    assert (entry.parent_id, entry.state, entry.sampled) == (b"", b"", False)
    assert (owner.parent_id, owner.trace_id) == (entry.span_id, entry.trace_id)
    headers = asked(bed, "b").headers
    assert headers[b"traceparent"] == b"00-%b-%b-00" % (entry.trace_id, owner.span_id)
    assert b"tracestate" not in headers


async def test_two_parents_are_none_and_neither_goes_on(bed: Bed) -> None:
    pairs = [(b"traceparent", PARENT.encode()), (b"traceparent", PARENT.encode())]
    async with bed["a"].pool.request("POST", "/api/chat", pairs, BODY) as response:
        assert response.status == 200
        await response.read()
    assert (await trace(bed, "a")).trace_id != TRACE.encode()
    assert asked(bed, "b").headers[b"traceparent"].split(b"-")[1] == (await trace(bed, "a")).trace_id


async def test_what_the_entry_decides_every_node_keeps_to(tmp_path: Path) -> None:
    engines = {"a": RecordedEngine(()), "b": RecordedEngine((SOLO,))}
    made = {**tracers("a", ratio=1.0), **tracers("b", ratio=0.0)}
    async with mesh(tmp_path, engines, tracers=made) as bed:
        await bed["a"].infer(model=SOLO)
        assert (await trace(bed, "a")).sampled
        assert (await trace(bed, "b")).sampled
        await bed["a"].infer(model=SOLO, headers={"traceparent": PARENT[:-1] + "0"})
        assert not (await trace(bed, "a")).sampled
        assert not (await trace(bed, "b")).sampled


async def test_requests_on_one_connection_have_traces_of_their_own(bed: Bed) -> None:
    pool = Pool(("127.0.0.1", bed["a"].local.port))
    try:
        for number in range(1, 6):
            # The third head is longer by a field, the fourth has a state: no two are known by the same one.
            pairs = [(b"traceparent", b"00-%032x-%016x-01" % (number, number))]
            pairs += [(b"x-other", b"1")] if number == 3 else []
            pairs += [(b"tracestate", b"n=%d" % number)] if number >= 4 else []
            async with pool.request("POST", "/api/chat", pairs, BODY) as response:
                await response.read()
            entry, owner = await trace(bed, "a"), await trace(bed, "b")
            assert (entry.trace_id, entry.parent_id) == (b"%032x" % number, b"%016x" % number)
            assert entry.state == owner.state == (b"n=%d" % number if number >= 4 else b"")
            assert (owner.trace_id, owner.parent_id) == (entry.trace_id, entry.span_id)
        assert pool.size == 1
    finally:
        await pool.close()
    spans = {
        one.trace.span_id for node in "ab" for one in bed[node].gateway.records() if one.trace is not None
    }
    assert len(spans) == 10


async def test_each_try_belongs_under_the_span_of_the_entry(tmp_path: Path) -> None:
    engines = {"a": RecordedEngine(()), "b": RecordedEngine((ALL,)), "c": RecordedEngine((ALL,))}
    for name in ("b", "c"):
        engines[name].faults.append(Fault("died", times=1))
    async with mesh(tmp_path, engines, tracers=tracers("a", "b", "c")) as bed:
        await bed["a"].infer(headers={"traceparent": PARENT})
        entry = await trace(bed, "a")
        failed = record(bed, "a").failed
        assert failed
        behind = [one.trace for node in "bc" for one in bed[node].gateway.records()]
        assert len(behind) >= 2
        assert {one.parent_id for one in behind if one is not None} == {entry.span_id}


async def test_the_rest_of_a_stream_that_died_belongs_to_its_trace(tmp_path: Path) -> None:
    engines = {"a": TalkingEngine(()), "b": TalkingEngine((ALL,)), "c": TalkingEngine((ALL,))}
    for name in ("b", "c"):
        engines[name].faults.append(Fault("cut", after=4, times=1))
    async with mesh(tmp_path, dict(engines), tracers=tracers("a", "b", "c"), resume=ResumePolicy()) as bed:
        answer = await bed["a"].ask(
            "POST", "/api/generate", {"model": ALL, "prompt": "hi"}, {"traceparent": PARENT}
        )
        assert answer.body.count(b'"done":true') + answer.body.count(b'"done": true') == 1
        assert TEXT[:4].encode() in answer.body
        entry = await trace(bed, "a")
        behind = [one for node in "bc" for one in bed[node].gateway.records()]
        assert len(behind) >= 2
        assert {one.trace.parent_id for one in behind if one.trace is not None} == {entry.span_id}
        assert {one.trace.trace_id for one in behind if one.trace is not None} == {TRACE.encode()}


async def test_what_is_refused_has_its_place_and_what_is_nobody_s_has_none(bed: Bed) -> None:
    assert (await bed["a"].infer(model="unheard-of", headers={"traceparent": PARENT})).status == 404
    assert (await trace(bed, "a")).parent_id == SPAN.encode()
    told: list[RequestRecord] = []
    bed["a"].gateway.on_record(lambda one, _body: told.append(one))
    answer = await bed["a"].ask("GET", "/api/tags", headers={"host": "evil.example", "traceparent": PARENT})
    assert answer.status == 403
    assert [one.trace for one in told] == [None]


async def test_a_grpc_call_brings_its_trace_among_its_metadata(bed: Bed, tmp_path: Path) -> None:
    async with stub_of(bed["a"].gateway.http_app(ListenerKind.TLS), tmp_path / "grpc") as stub:
        metadata = (("traceparent", PARENT), ("tracestate", "vendor=a"))
        request = InferenceRequest(model_name=SOLO, input_data=BODY, metadata={"api": "chat"})
        await stub.Predict(request, timeout=60, metadata=metadata)
        entry, owner = await trace(bed, "a"), await trace(bed, "b")
        assert (entry.trace_id, entry.parent_id, entry.state) == (TRACE.encode(), SPAN.encode(), b"vendor=a")
        assert owner.parent_id == entry.span_id
        answers = [one async for one in stub.PredictStream(request, timeout=60, metadata=metadata)]
        assert answers[-1].done
        assert (await trace(bed, "a")).trace_id == TRACE.encode()
        assert (await trace(bed, "a")).span_id != entry.span_id


async def test_a_node_that_makes_no_traces_passes_them_on_as_they_come(tmp_path: Path) -> None:
    engines = {"a": RecordedEngine((ALL,)), "b": RecordedEngine((SOLO,))}
    given = {"traceparent": PARENT, "tracestate": "vendor=a"}
    async with mesh(tmp_path, engines, tracers=tracers("a")) as bed:
        await bed["a"].infer(model=SOLO, headers=given)
        await over(bed)
        assert record(bed, "b").trace is None
        headers = asked(bed, "b").headers
        assert headers[b"traceparent"] == b"00-%b-%b-01" % (TRACE.encode(), (await trace(bed, "a")).span_id)
        await bed["b"].infer(model=ALL, headers=given)
        assert asked(bed, "a").headers[b"traceparent"].split(b"-")[2] == (await trace(bed, "a")).span_id
        assert (await trace(bed, "a")).parent_id == SPAN.encode()
