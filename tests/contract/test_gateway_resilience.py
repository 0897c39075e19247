"""Gateways under pressure: queues, priorities, clients that leave, peers that stop, policies obeyed."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridge_agent.gateway.attempt import Attempt
from bridge_agent.gateway.config import Outcome
from bridge_agent.gateway.explain import HopReport
from bridge_agent.gateway.request import RoutedRequest
from bridge_agent.routing.affinity import affinity_key
from bridge_agent.routing.choose import Load, choose
from bridge_agent.routing.pulse_rules import PulsePolicy
from bridge_agent.routing.request_rules import Phase
from bridge_agent.telemetry.tally import BackendTally
from bridge_core.http1 import Exchange, HttpExchange, Pool, coroutine_app, serve
from bridge_core.snapshot import Backend, Node, Route, RoutePolicy
from bridge_core.traffic import AdmissionPolicy, Outlier, Retries
from tests.contract.gateway_bed import Answer, Bed, Clock, mesh
from tests.contract.test_gateway_mesh import ALL, session_for
from tests.fakes.recorded_engine import Asked, Fault, RecordedEngine
from tests.support import eventually, within_some_time


@pytest.fixture
async def lone(tmp_path: Path) -> AsyncIterator[Bed]:
    """One node with one slot, held by a request that runs until the engine is released."""
    engine = RecordedEngine((ALL,), slots=1)
    async with mesh(tmp_path, {"a": engine}, suspect_s=0.3) as bed:
        yield bed


async def occupy(bed: Bed, node: str = "a", **fields: Any) -> asyncio.Task[Answer]:
    engine = bed[node].engine
    engine.release.clear()
    task = asyncio.create_task(bed[node].infer(**fields))
    await eventually(lambda: engine.running == 1)
    return task


def queued(bed: Bed, count: int, node: str = "a") -> bool:
    return bed[node].gateway.in_flight == count


async def test_an_engine_never_has_more_requests_than_slots(lone: Bed) -> None:
    engine, most = lone["a"].engine, 0
    first = await occupy(lone)
    others = [asyncio.create_task(lone["a"].infer()) for _ in range(8)]
    await eventually(lambda: queued(lone, 9))
    engine.release.set()
    while not all(one.done() for one in others):
        most = max(most, engine.running)
        await asyncio.sleep(0)
    assert most == 1
    assert {(await one).status for one in (first, *others)} == {200}
    assert lone["a"].gateway.in_flight == 0


async def test_the_more_urgent_goes_first_and_a_malformed_urgency_is_refused(lone: Bed) -> None:
    first = await occupy(lone)
    tasks = []
    for number, priority in enumerate(("low", "normal", "high")):
        fields = {"options": {"seed": number}}
        tasks.append(asyncio.create_task(lone["a"].infer(headers={"X-Bridge-Priority": priority}, **fields)))
        await eventually(lambda number=number: queued(lone, number + 2))
    assert (await lone["a"].infer(headers={"X-Bridge-Priority": "urgent"})).status == 400
    lone["a"].engine.release.set()
    await asyncio.gather(first, *tasks)
    seeds = [json.loads(one.body).get("options", {}).get("seed") for one in lone["a"].engine.inferences()]
    assert seeds == [None, 2, 1, 0]


async def test_a_full_queue_gives_way_to_the_more_urgent(tmp_path: Path) -> None:
    policy = RoutePolicy(admission=AdmissionPolicy(queue_per_slot=1))
    async with mesh(tmp_path, {"a": RecordedEngine((ALL,), slots=1)}, policy=policy) as bed:
        first = await occupy(bed)
        displaced = asyncio.create_task(bed["a"].infer(stream=False))
        await eventually(lambda: queued(bed, 2))
        urgent = asyncio.create_task(bed["a"].infer(headers={"X-Bridge-Priority": "high"}))
        assert (await displaced).status == 503
        assert queued(bed, 2)
        bed["a"].engine.release.set()
        assert {(await one).status for one in (first, urgent)} == {200}
        assert queued(bed, 0)


@pytest.mark.parametrize("entry", ["a", "b"])
async def test_a_routes_queue_is_as_long_and_as_patient_at_every_node(tmp_path: Path, entry: str) -> None:
    engines = {"a": RecordedEngine((ALL,), slots=1), "b": RecordedEngine(("other",))}
    async with mesh(tmp_path, engines) as bed:
        for name, admission in (
            ("none", AdmissionPolicy(queue_per_slot=0)),
            ("brief", AdmissionPolicy(max_wait_s=0.05)),
        ):
            policy = RoutePolicy(admission=admission)
            bed.publish(**{f"route__{name}": Route(name, (Backend(ALL),), policy)})
        first = await occupy(bed)
        for route in ("none", "brief"):
            refused = await bed[entry].infer(model=route)
            assert (refused.status, refused.headers.get(b"retry-after")) == (503, b"1")
        patient = asyncio.create_task(bed[entry].infer())
        await eventually(lambda: bed["a"].gateway.waiting() == {"a/0": 1})
        bed["a"].engine.release.set()
        assert {(await one).status for one in (first, patient)} == {200}


async def test_a_client_that_leaves_the_queue_never_reaches_the_engine(lone: Bed) -> None:
    first = await occupy(lone)
    waiting = asyncio.create_task(lone["a"].infer())
    await eventually(lambda: queued(lone, 2))
    waiting.cancel()
    await eventually(lambda: queued(lone, 1))
    lone["a"].engine.release.set()
    assert (await first).status == 200
    assert len(lone["a"].engine.inferences()) == 1


async def test_a_deadline_ends_the_wait(lone: Bed) -> None:
    first = await occupy(lone)
    late = await lone["a"].infer(headers={"X-Bridge-Timeout": "50ms"})
    assert late.status == 504
    assert queued(lone, 1)
    lone["a"].engine.release.set()
    assert (await first).status == 200
    assert lone["a"].gateway.ejections() == {}


async def test_who_waited_too_long_is_told_to_come_back(tmp_path: Path) -> None:
    policy = RoutePolicy(admission=AdmissionPolicy(max_wait_s=0.05))
    async with mesh(tmp_path, {"a": RecordedEngine((ALL,), slots=1)}, policy=policy) as bed:
        first = await occupy(bed)
        refused = await bed["a"].infer("/v1/messages", max_tokens=5)
        assert (refused.status, refused.headers.get(b"retry-after")) == (503, b"1")
        assert refused.json()["error"]["type"] == "overloaded_error"
        bed["a"].engine.release.set()
        assert (await first).status == 200


async def test_a_slot_is_free_at_once_when_a_stream_is_left_and_late_when_a_prefill_is(lone: Bed) -> None:
    engine = lone["a"].engine
    engine.faults.append(Fault("hang", after=2, times=1))
    stream = asyncio.create_task(lone["a"].infer(stream=True))
    await eventually(lambda: engine.running == 1)
    waiting = asyncio.create_task(lone["a"].infer())
    await eventually(lambda: queued(lone, 2))
    stream.cancel()
    assert (await waiting).status == 200
    left = await occupy(lone, stream=False)
    left_at = time.monotonic()
    left.cancel()
    await eventually(lambda: queued(lone, 0))
    engine.release.set()
    assert (await lone["a"].infer()).status == 200
    assert time.monotonic() - left_at >= 0.3


async def test_a_slot_is_free_when_its_engine_says_so_and_others_serve_meanwhile(tmp_path: Path) -> None:
    engines = {"a": RecordedEngine((ALL,), slots=1), "b": RecordedEngine((ALL,))}
    async with mesh(tmp_path, engines, suspect_s=0.0) as bed:  # time would free it at once
        headers = session_for(bed, "a", "a")
        engines["a"].busy = 1
        left = await occupy(bed, stream=False, headers=headers)
        left.cancel()
        await eventually(lambda: engines["a"].running == 0)
        for _ in range(3):
            answer = await bed["a"].infer(headers=headers)
            assert (answer.status, answer.headers.get(b"x-bridge-node")) == (200, b"b")
        assert len(engines["a"].inferences()) == 1
        engines["a"].release.set()
        engines["a"].busy = 0

        async def serves_again() -> bool:
            return (await bed["a"].infer(headers=headers)).headers.get(b"x-bridge-node") == b"a"

        await eventually(serves_again, 30)


async def test_what_waits_for_a_suspect_slot_gets_it_when_the_engine_is_done(tmp_path: Path) -> None:
    engine = RecordedEngine((ALL,), slots=1, busy=1)
    async with mesh(tmp_path, {"a": engine}, suspect_s=0.0) as bed:
        left = await occupy(bed, stream=False)
        left.cancel()
        await eventually(lambda: engine.running == 0)
        waiting = asyncio.create_task(bed["a"].infer())
        await eventually(lambda: bed["a"].gateway.waiting() == {"a/0": 1})
        asked = len(engine.asked)
        await eventually(lambda: len(engine.asked) > asked + 2, 30)  # it is asked again and again
        assert bed["a"].gateway.waiting() == {"a/0": 1}
        engine.release.set()
        engine.busy = 0
        assert (await waiting).status == 200


async def test_leaving_frees_the_slot_behind_a_hop_too(tmp_path: Path) -> None:
    engines = {"a": RecordedEngine(("other",)), "b": RecordedEngine((ALL,), slots=1)}
    async with mesh(tmp_path, engines, suspect_s=0.05) as bed:
        engines["b"].release.clear()
        running = asyncio.create_task(bed["a"].infer())
        await eventually(lambda: engines["b"].running == 1)
        waiting = asyncio.create_task(bed["a"].infer())
        await eventually(lambda: queued(bed, 2, "b"))
        waiting.cancel()
        await eventually(lambda: queued(bed, 1, "b"))
        running.cancel()
        await eventually(lambda: queued(bed, 0, "b") and engines["b"].cancelled == 1)
        engines["b"].release.set()
        assert (await bed["a"].infer()).status == 200


# -- peers


async def never_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await reader.read()
    finally:
        writer.close()


async def test_a_peer_that_stopped_is_passed_over_soon(tmp_path: Path) -> None:
    engines = {"a": RecordedEngine((ALL,)), "b": RecordedEngine((ALL,))}
    async with mesh(tmp_path, engines, pulse=PulsePolicy()) as bed:
        gateway = bed["a"].gateway
        assert gateway.ejections() == {}
        stopped = await asyncio.start_server(never_answers, "127.0.0.1", 0)
        headers = session_for(bed, "a", "b")
        bed.publish(node__b=Node("b", f"127.0.0.1:{stopped.sockets[0].getsockname()[1]}"))
        caught = await bed["a"].infer(headers=headers)  # it was on its way there
        assert (caught.status, caught.headers.get(b"x-bridge-node")) == (200, b"a")
        assert "b" in gateway.ejections()
        at_once = await bed["a"].infer(headers=headers)
        assert (at_once.headers.get(b"x-bridge-attempts"), at_once.status) == (b"1", 200)
        bed.enrol("b")

        async def serves_again() -> bool:
            return (await bed["a"].infer(headers=headers)).headers.get(b"x-bridge-node") == b"b"

        await eventually(serves_again, 30)
        stopped.close()
        await stopped.wait_closed()


async def test_load_that_owners_report_steers_the_others(tmp_path: Path) -> None:
    engines = {name: RecordedEngine((ALL,), slots=4) for name in "abc"}
    clock = Clock()
    policy = RoutePolicy(strategy="least_request")
    async with mesh(tmp_path, engines, policy=policy, now=clock) as bed:
        bed.publish(
            node__c=Node("c", f"127.0.0.1:{bed['c'].peer.port}", labels={"zone": "c"}),
            route__held=Route("held", (Backend(ALL, labels={"zone": "c"}),)),  # nobody else is ever busy
        )
        engines["c"].release.clear()
        held = [asyncio.create_task(bed["c"].infer(model="held")) for _ in range(12)]

        def owner_told() -> bool:
            clock.passes()  # only here: what an owner said does not grow old before the choice
            return bed["a"].gateway.known_work().get("c/0", 0) > 1

        await eventually(owner_told, 30)
        for _ in range(6):
            answer = await bed["a"].infer()
            assert answer.headers.get(b"x-bridge-node") != b"c"
        engines["c"].release.set()
        assert {(await one).status for one in held} == {200}


# -- policies


async def test_a_slow_try_is_made_again_elsewhere(tmp_path: Path) -> None:
    engines = {"a": RecordedEngine((ALL,)), "b": RecordedEngine((ALL,))}
    async with mesh(tmp_path, engines) as bed:
        engines["b"].release.clear()

        async def answered_elsewhere(per_try_s: float) -> bool:
            bed.govern(RoutePolicy(retries=Retries(per_try_timeout_s=per_try_s)))
            answer = await bed["a"].infer(headers=session_for(bed, "a", "b"), stream=False)
            assert answer.headers.get(b"x-bridge-node") != b"b"
            again = answer.headers.get(b"x-bridge-attempts") == b"2"
            return (answer.status, answer.headers.get(b"x-bridge-node"), again) == (200, b"a", True)

        await within_some_time(answered_elsewhere)
        engines["b"].release.set()


async def test_only_the_time_in_a_queue_counts_as_waited(tmp_path: Path) -> None:
    engines = {"a": RecordedEngine((ALL,), slots=1), "b": RecordedEngine((ALL,), slots=1)}
    async with mesh(tmp_path, engines) as bed:
        bed.publish(route__hasty=Route("hasty", (Backend(ALL),), RoutePolicy(retries=Retries(3, 1.0))))
        first = await occupy(bed, "a", headers=session_for(bed, "a", "a"))
        engines["b"].release.clear()
        # A try at b that takes too long, then the queue of a.
        on_b = next(number for number in range(99) if _first(bed, "hasty", number) == "b/0")
        answer = asyncio.create_task(
            bed["a"].infer(model="hasty", stream=False, headers={"X-Bridge-Session": str(on_b)})
        )
        await eventually(lambda: bed["a"].gateway.waiting() == {"a/0": 1})
        engines["a"].release.set()
        assert {(await one).status for one in (first, answer)} == {200}
        engines["b"].release.set()
        record = bed["a"].gateway.records()[-1]
        assert [one.instance for one in record.failed] == ["b/0"]
        assert record.sent - record.began - record.waited >= 1.0


def _first(bed: Bed, route: str, session: int) -> str:
    name = f"registry.ollama.ai/library/{route}:latest"
    key = affinity_key(name, {}, session=str(session).encode(), client=b"")
    index = bed["a"].view.index
    return choose(index, name, key, Load({"a/0": 1})).candidates[0].id


async def test_a_slow_short_call_is_hedged_and_the_first_answer_wins(tmp_path: Path) -> None:
    engines = {"a": RecordedEngine((ALL,)), "b": RecordedEngine((ALL,))}
    async with mesh(tmp_path, engines, policy=RoutePolicy(hedge_after_s=0.05), suspect_s=0.01) as bed:
        for slow, quick in (("b", "a"), ("a", "b")):
            engines[slow].release.clear()
            answer = await bed["a"].infer(headers=session_for(bed, "a", slow), stream=False)
            assert (answer.status, answer.headers.get(b"x-bridge-node")) == (200, quick.encode())
            assert answer.headers.get(b"x-bridge-attempts") == b"2"
            await eventually(lambda slow=slow: engines[slow].running == 0)
            engines[slow].release.set()
        bed.govern(RoutePolicy(hedge_after_s=60.0))  # longer than any machine takes
        quickly = await bed["a"].infer(headers=session_for(bed, "a", "b"), stream=False)
        assert quickly.headers.get(b"x-bridge-attempts") == b"1"
        bed.govern(RoutePolicy(hedge_after_s=0.05))
        counters = bed["a"].gateway.counters
        assert (counters.hedges, counters.hedges_won) == (2, 2)
        for engine in engines.values():
            engine.release.clear()
        streamed = asyncio.create_task(bed["a"].infer(headers=session_for(bed, "a", "b"), stream=True))
        both = asyncio.create_task(bed["a"].infer(headers=session_for(bed, "a", "b"), stream=False))
        await eventually(lambda: counters.hedges == 3)
        engines["b"].release.set()  # the first attempt is quicker after all
        assert {(await one).headers.get(b"x-bridge-node") for one in (streamed, both)} == {b"b"}
        await eventually(lambda: all(engine.running == 0 for engine in engines.values()))
        await eventually(lambda: queued(bed, 0) and queued(bed, 0, "b"))


@pytest.mark.parametrize("failing", ["first", "hedge"])
@pytest.mark.parametrize("how", ["close", "died"])
async def test_a_hedge_goes_on_when_the_other_try_fails(tmp_path: Path, failing: str, how: str) -> None:
    first, second = Fault(how, slow=True, times=1), Fault("", slow=True, times=1)
    faults = {"b": [first], "a": [second]} if failing == "first" else {"b": [second], "a": [first]}
    engines = {name: RecordedEngine((ALL,), faults=faults[name]) for name in "ab"}
    async with mesh(tmp_path, engines, policy=RoutePolicy(hedge_after_s=0.05), suspect_s=30.0) as bed:
        for engine in engines.values():
            engine.release.clear()
        answer = asyncio.create_task(bed["a"].infer(headers=session_for(bed, "a", "b"), stream=False))
        await eventually(lambda: engines["a"].running == engines["b"].running == 1)
        bad, good = ("b", "a") if failing == "first" else ("a", "b")
        engines[bad].release.set()
        await eventually(lambda: bed["a"].gateway.in_flight == 1)  # it has heard of the one that failed
        engines[good].release.set()
        told = await answer
        assert (told.status, told.headers.get(b"x-bridge-node")) == (200, good.encode())
        assert [len(engine.inferences()) for engine in engines.values()] == [1, 1]
        gateway = bed["a"].gateway
        assert (gateway.suspected(), gateway.in_flight) == ({}, 0)
        assert [one.instance for one in gateway.records()[-1].failed] == [f"{bad}/0"]


async def test_no_timer_and_no_slot_outlives_its_request(tmp_path: Path) -> None:
    engines = {"a": RecordedEngine((ALL,), slots=1), "b": RecordedEngine((ALL,), slots=1)}
    policy = RoutePolicy(
        deadline_s=300.0,
        hedge_after_s=0.02,
        retries=Retries(per_try_timeout_s=200.0),
        keep_alive_bytes_s=90.0,
    )
    async with mesh(tmp_path, engines, policy=policy, suspect_s=0.01) as bed:
        for engine in engines.values():
            engine.release.clear()
        running = [asyncio.create_task(bed["a"].infer(stream=bool(n % 2))) for n in range(8)]
        await eventually(lambda: all(engine.running == 1 for engine in engines.values()))
        requests = [one for one in gc.get_objects() if type(one) is RoutedRequest]
        attempts = [one for one in gc.get_objects() if type(one) is Attempt]
        assert requests
        assert attempts
        for task in running[:3]:
            task.cancel()
        for engine in engines.values():
            engine.release.set()
        assert {(await task).status for task in running[3:]} == {200}
        await eventually(lambda: bed["a"].gateway.in_flight == bed["b"].gateway.in_flight == 0)
        for request in requests:
            assert request.life.phase is Phase.SETTLED
            assert all(timer.cancelled() for timer in request._timers or ())
        assert all(one._timer is None or one._timer.cancelled() for one in attempts)
        for node in "ab":
            state = bed[node].gateway._state
            assert state.retrying == 0
            await eventually(lambda node=node: bed[node].gateway.suspected() == {})
            assert state.admission.work(f"{node}/0") == 0


async def test_what_is_over_is_freed_at_once_and_not_by_the_garbage_collector(tmp_path: Path) -> None:
    """Objects that hold one another would cost every request its share of the collector's time."""
    async with mesh(tmp_path, {"a": RecordedEngine((ALL,)), "b": RecordedEngine()}) as bed:
        gc.collect()
        gc.disable()
        try:
            for entry in "ab":
                for stream in (False, True):
                    assert (await bed[entry].infer(stream=stream)).status == 200
            await eventually(lambda: bed["a"].gateway.in_flight == bed["b"].gateway.in_flight == 0)
            kept = [
                type(one) for one in gc.get_objects() if type(one) in (RoutedRequest, Attempt, HttpExchange)
            ]
        finally:
            gc.enable()
    assert kept == []


@pytest.mark.parametrize("given", ["2562047h", "999999999h", "99999999999999999s", "5e9s"])
@pytest.mark.parametrize("entry", ["a", "b"])
async def test_a_time_that_no_clock_reaches_is_as_good_as_none(
    tmp_path: Path, entry: str, given: str
) -> None:
    engines = {"a": RecordedEngine(("other",)), "b": RecordedEngine((ALL,))}
    async with mesh(tmp_path, engines) as bed:
        answer = await bed[entry].infer(headers={"X-Bridge-Timeout": given})
        assert answer.status == (400 if "e" in given else 200)


@pytest.mark.parametrize("given", ["%ff%fe", "%E2%82%AC", "a%0d%0ab", "x" * 5000, "a%20b", "%00"])
async def test_explain_of_what_is_no_id_is_refused_in_words(tmp_path: Path, given: str) -> None:
    engines = {"a": RecordedEngine((ALL,)), "b": RecordedEngine((ALL,))}
    async with mesh(tmp_path, engines) as bed, asyncio.TaskGroup() as group:
        page = await serve(coroutine_app(bed["a"].gateway.explain, group), name="admin")
        pool = Pool(("127.0.0.1", page.port))
        async with pool.request("GET", f"/explain?id={given}") as response:
            assert response.status == 400
            assert "request id" in msgspec.json.decode(await response.read())["error"]
        await pool.close()
        await page.close()


async def test_explain_finds_an_id_with_every_sign_that_one_may_have(tmp_path: Path) -> None:
    engines = {"a": RecordedEngine(("other",)), "b": RecordedEngine((ALL,))}
    async with mesh(tmp_path, engines) as bed, asyncio.TaskGroup() as group:
        assert (await bed["a"].infer(headers={"X-Request-Id": "a+b/c=d:e.f_g-h"})).status == 200
        page = await serve(coroutine_app(bed["a"].gateway.explain, group), name="admin")
        pool = Pool(("127.0.0.1", page.port))
        async with pool.request("GET", "/explain?id=a%2Bb%2Fc%3Dd:e.f_g-h") as response:
            hops = msgspec.json.decode(await response.read(), type=list[HopReport])
        await pool.close()
        await page.close()
    assert [hop.node for hop in hops] == ["a", "b"]


async def test_an_engine_that_asks_for_patience_is_left_alone_for_as_long(tmp_path: Path) -> None:
    engines = {"a": RecordedEngine((ALL, "solo")), "b": RecordedEngine((ALL,))}
    async with mesh(tmp_path, engines) as bed:
        engines["a"].faults.append(Fault("later", times=2))
        headers = session_for(bed, "a", "a")
        first = await bed["a"].infer(headers=headers)
        assert (first.status, first.headers.get(b"x-bridge-node")) == (200, b"b")
        assert 0 < bed["a"].gateway.ejections()["a/0"] <= 30
        for _ in range(3):
            again = await bed["a"].infer(headers=headers)
            assert (again.headers.get(b"x-bridge-node"), again.headers.get(b"x-bridge-attempts")) == (
                b"b",
                b"1",
            )
        assert len(engines["a"].inferences()) == 1
        # With nobody else to ask, the client is told when to come back.
        nobody = await bed["a"].infer(model="solo")
        assert (nobody.status, nobody.headers.get(b"retry-after")) == (503, b"30")


async def test_round_robin_and_a_backends_labels_are_obeyed(tmp_path: Path) -> None:
    engines = {name: RecordedEngine((ALL,)) for name in "abc"}
    async with mesh(tmp_path, engines) as bed:
        even = RoutePolicy(strategy="round_robin", affinity="none")
        bed.publish(
            route__even=Route("even", (Backend(ALL),), policy=even),
            route__gpu=Route("gpu", (Backend(ALL, labels={"zone": "x"}),), policy=even),
            node__b=Node("b", f"127.0.0.1:{bed['b'].peer.port}", labels={"zone": "x"}),
        )
        for _ in range(6):
            await bed["a"].infer(model="even")
        assert [len(engine.inferences()) for engine in engines.values()] == [2, 2, 2]
        for _ in range(4):
            assert (await bed["a"].infer(model="gpu")).headers.get(b"x-bridge-node") == b"b"


async def test_explain_says_it_all_hop_by_hop(tmp_path: Path) -> None:
    engines = {"a": RecordedEngine((ALL,)), "b": RecordedEngine((ALL,)), "c": RecordedEngine((ALL,))}
    policy = RoutePolicy(outlier=Outlier(consecutive_failures=1))
    async with mesh(tmp_path, engines, policy=policy) as bed, asyncio.TaskGroup() as group:
        engines["b"].faults.append(Fault("close", times=2))
        headers = {**session_for(bed, "a", "b"), "X-Request-Id": "why-1"}
        assert (await bed["a"].infer(headers=headers)).status == 200
        page = await serve(coroutine_app(bed["c"].gateway.explain, group), name="admin")
        pool = Pool(("127.0.0.1", page.port))
        async with pool.request("GET", "/explain?id=why-1") as response:
            hops = msgspec.json.decode(await response.read(), type=list[HopReport])
        await pool.close()
        await page.close()
    entry = hops[0]
    assert (entry.node, entry.via, entry.strategy) == ("a", "", "ring_hash")
    assert entry.candidates[0].instance == "b/0"
    assert [one.instance for one in entry.failed] == ["b/0"]
    assert entry.instance in {"a/0", "c/0"}
    assert 0 <= entry.sent_ms <= entry.first_byte_ms <= entry.ended_ms
    assert {hop.via for hop in hops[1:]} == {"a"}


async def test_a_peer_that_stops_with_its_links_open_is_passed_over_soon(tmp_path: Path) -> None:
    engines = {"a": RecordedEngine((ALL,)), "b": RecordedEngine((ALL,))}
    async with mesh(tmp_path, engines, pulse=PulsePolicy()) as bed:
        headers = session_for(bed, "a", "b")
        assert (await bed["a"].infer(headers=headers)).headers.get(b"x-bridge-node") == b"b"
        links = list(bed["b"].peer.connections)
        assert links
        for link in links:
            link._transport.pause_reading()  # as of a process that stopped
        await eventually(lambda: "b" in bed["a"].gateway.ejections(), 30)
        answer = await bed["a"].infer(headers=headers)
        assert answer.status == 200
        assert answer.headers.get(b"x-bridge-node") == b"a" or "b" not in bed["a"].gateway.ejections()
        # The old link is dropped in time and the node, which does answer on a new one, is back.
        await eventually(lambda: "b" not in bed["a"].gateway.ejections(), 30)


@pytest.mark.parametrize("kind", ["died", "close"])
async def test_what_another_instance_made_good_is_still_a_failure_of_the_backend(
    tmp_path: Path, kind: str
) -> None:
    """A canary whose failures are all retried elsewhere must not look healthy to its rollout."""
    engines = {"a": RecordedEngine((ALL,)), "b": RecordedEngine((ALL,))}
    async with mesh(tmp_path, engines) as bed:
        even = RoutePolicy(strategy="round_robin", affinity="none")
        bed.publish(route__even=Route("even", (Backend(ALL, name="canary"),), policy=even))
        engines["a"].faults.append(Fault(kind, times=1))
        engines["b"].faults.append(Fault(kind, times=1))
        tally = BackendTally()
        for _ in range(6):
            assert (await bed["a"].infer(model="even")).status in {200, 500, 502}
        await eventually(lambda: len(bed["a"].gateway.records()) == 6)
        for record in bed["a"].gateway.records():
            tally.take(record)
        counts = tally.counts["even", "canary"]
        assert counts.requests == 6
        assert 1 <= counts.errors <= 2  # both faults may have hit one request


@pytest.mark.parametrize("kind", ["died", "close"])
@pytest.mark.parametrize("streams", [True, False])
async def test_what_a_backend_on_trial_fails_the_stable_one_makes_good(
    tmp_path: Path, kind: str, streams: bool
) -> None:
    """Every one of the canary's instances fails, and no client sees it; its rollout does."""
    broken = [Fault(kind)]
    engines = {name: RecordedEngine(("canary",), faults=broken) for name in "bc"}
    engines |= {"a": RecordedEngine(("other",)), "d": RecordedEngine((ALL,))}
    async with mesh(tmp_path, engines) as bed:
        trial = Backend("canary", 1000, on_trial=True)
        bed.publish(route__all=Route("all", (trial, Backend(ALL, 1)), policy=RoutePolicy()))
        answer = await bed["a"].infer(model="all", stream=streams)
        assert answer.status == 200
        assert answer.headers.get(b"x-bridge-node") == b"d"
        assert answer.headers.get(b"x-bridge-attempts") == b"2"
        assert b'"model":"all"' in answer.body
        assert json.loads(bed["d"].engine.inferences()[0].body)["model"] == ALL
        await eventually(lambda: bool(bed["a"].gateway.records()))
        tally = BackendTally()
        tally.take(bed["a"].gateway.records()[0])
        assert {key: counts.errors for key, counts in tally.counts.items()} == {("all", "canary"): 1}


@pytest.mark.parametrize("entry", ["a", "b"])
@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/api/generate", {"keep_alive": 0}),
        ("/api/generate", {"keep_alive": "0s", "prompt": ""}),
        ("/api/chat", {"keep_alive": 0, "messages": []}),
    ],
)
async def test_a_model_is_unloaded_everywhere_also_where_all_slots_are_taken(
    tmp_path: Path, entry: str, path: str, fields: dict[str, Any]
) -> None:
    engines = {name: RecordedEngine((ALL,), slots=1) for name in "ab"}
    async with mesh(tmp_path, engines) as bed:
        running = await occupy(bed, "b", model=ALL, headers=session_for(bed, "b", "b"))
        bed["a"].engine.release.set()
        asked = {name: len(node.engine.inferences()) for name, node in bed.nodes.items()}
        answer = asyncio.create_task(bed[entry].ask("POST", path, {"model": ALL, "stream": False, **fields}))
        await eventually(
            lambda: all(len(node.engine.inferences()) == asked[name] + 1 for name, node in bed.nodes.items())
        )
        bed["b"].engine.release.set()
        assert (await answer).status == 200
        assert (await running).status == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("GET", "/api/ps", None), ("POST", "/api/generate", {"model": ALL, "keep_alive": 0})],
)
async def test_who_leaves_while_all_nodes_are_asked_is_on_record(
    tmp_path: Path, method: str, path: str, body: dict[str, Any] | None
) -> None:
    class Late(RecordedEngine):
        async def _handle(self, exchange: Exchange) -> None:
            self.asked.append(Asked(exchange.request.method, exchange.request.target, {}, b""))
            await asyncio.Event().wait()

    engines = {name: Late((ALL,)) for name in "ab"}
    async with mesh(tmp_path, engines) as bed:
        asked = asyncio.create_task(bed["a"].ask(method, path, body))
        await eventually(lambda: all(engine.asked for engine in engines.values()))
        asked.cancel()
        gateway = bed["a"].gateway
        await eventually(
            lambda: [(one.path, one.outcome) for one in gateway.records()] == [(path, Outcome.CANCELLED)]
        )


@pytest.mark.parametrize("fields", [{"keep_alive": "1m"}, {"keep_alive": 0, "prompt": "hi"}, {}])
async def test_whatever_else_is_asked_goes_to_one_instance(tmp_path: Path, fields: dict[str, Any]) -> None:
    engines = {name: RecordedEngine((ALL,)) for name in "ab"}
    async with mesh(tmp_path, engines) as bed:
        assert (await bed["a"].ask("POST", "/api/generate", {"model": ALL, **fields})).status == 200
        assert sum(len(node.engine.inferences()) for node in bed.nodes.values()) == 1
