"""Loads that survive their client: over real sockets, with engines that give loads up as Ollama does."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from bridge_agent.engines.view import LocalInstance
from bridge_agent.loading.load_options import LoadOptions
from bridge_agent.routing.health_rules import Failure
from bridge_core.names import canonical
from bridge_core.snapshot import MemberModel, RoutePolicy
from bridge_core.traffic import Retries
from tests.contract.gateway_bed import Answer, Clock
from tests.contract.loads_bed import MODEL, LoadsBed, loads_mesh
from tests.support import eventually

ROUNDS = 20


class ModelLoadWaiter:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def loaded(self) -> None:
        self.told.append("loaded")

    def load_failed(self, failure: Failure, _detail: str) -> None:
        self.told.append(failure.value)


async def waits(bed: LoadsBed, name: str, path: str = "/api/chat", **fields: object) -> asyncio.Task[Answer]:
    """A client's request, once its model's load has begun."""
    before = bed.begun()
    task = asyncio.create_task(bed[name].infer(path, **fields))
    await eventually(lambda: bed.begun() > before, 30)
    return task


async def leaves(task: asyncio.Task[Answer]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def test_in_20_rounds_a_client_leaves_and_its_load_is_done_once_for_the_next_one(
    tmp_path: Path,
) -> None:
    clock = Clock()
    async with loads_mesh(tmp_path, clock=clock) as bed:
        engine = bed.engine("a")
        for done in range(ROUNDS):
            clock.passes(10.0)  # the engine unloaded it long after the last load
            bed.unload()
            first = await waits(bed, "a")
            await leaves(first)
            await eventually(lambda: bed["a"].gateway.in_flight == 0, 30)
            assert engine.loading == 1
            following = asyncio.create_task(bed["a"].infer())
            await eventually(lambda: bed["a"].gateway.in_flight == 1, 30)
            engine.may_load.set()
            answer = await following
            assert answer.status == 200
            assert len(engine.begun) == 1
            assert answer.headers.get(b"x-bridge-loading", b"").startswith(b"waited=")
            assert bed.loads["a"].figures.done == done + 1
        assert engine.given_up == 0
        assert bed.loads["a"].figures.begun == ROUNDS


async def test_a_load_that_nobody_waits_for_any_more_is_done_all_the_same(tmp_path: Path) -> None:
    async with loads_mesh(tmp_path) as bed:
        engine = bed.engine("a")
        await leaves(await waits(bed, "a"))
        engine.may_load.set()
        await eventually(lambda: bed.loads["a"].figures.left_behind == 1, 30)
        assert engine.given_up == 0
        answer = await bed["a"].infer()
        assert answer.status == 200
        assert b"x-bridge-loading" not in answer.headers
        assert len(engine.begun) == 1


async def test_a_burst_at_every_node_loads_the_model_once_in_the_mesh(tmp_path: Path) -> None:
    async with loads_mesh(tmp_path, "abc") as bed:
        asked = [
            asyncio.create_task(
                bed[node].infer(messages=[{"role": "user", "content": f"question {number} at {node}"}])
            )
            for number in range(4)
            for node in "abc"
        ]
        await eventually(lambda: sum(bed[node].gateway.own_work for node in "abc") == len(asked), 30)
        await eventually(lambda: bed.begun() == 1, 30)
        for node in "abc":
            bed.engine(node).may_load.set()
        answers = await asyncio.gather(*asked)
        assert [answer.status for answer in answers] == [200] * len(asked)
        assert len({answer.headers.get(b"x-bridge-node") for answer in answers}) == 1
        assert bed.begun() == 1


async def test_who_comes_later_goes_where_it_is_being_loaded(tmp_path: Path) -> None:
    async with loads_mesh(tmp_path, "abc") as bed:
        first = await waits(bed, "a")
        (loading,) = [node for node in "abc" if bed.engine(node).loading]
        await eventually(
            lambda: all(
                bed[node].view.index.targets[f"{loading}/0"].load_of("registry.ollama.ai/library/" + MODEL)
                for node in "abc"
            ),
            30,
        )
        others = [
            asyncio.create_task(bed[node].infer(messages=[{"role": "user", "content": node}]))
            for node in "abc"
        ]
        await eventually(lambda: bed[loading].gateway.own_work == 4, 30)
        bed.engine(loading).may_load.set()
        for answer in await asyncio.gather(first, *others):
            assert answer.headers.get(b"x-bridge-node") == loading.encode()


@pytest.mark.parametrize(
    ("path", "fields", "loaded_by"),
    [
        ("/api/generate", {"prompt": "hi", "options": {"num_ctx": 512, "temperature": 0}}, "/api/generate"),
        ("/api/embed", {"input": "hi", "options": {"num_ctx": 512}}, "/api/embed"),
        ("/v1/chat/completions", {}, "/api/generate"),
        ("/v1/messages", {"max_tokens": 4}, "/api/generate"),
    ],
)
async def test_the_load_is_asked_for_with_what_would_load_it_for_the_request(
    tmp_path: Path, path: str, fields: dict[str, object], loaded_by: str
) -> None:
    async with loads_mesh(tmp_path) as bed:
        bed.engine("a").may_load.set()
        assert (await bed["a"].infer(path, **fields)).status == 200
        load, request = bed.engine("a").inferences()
        assert load.target.decode() == loaded_by
        said = json.loads(load.body)
        assert said.get("options") == ({"num_ctx": 512} if "options" in fields else None)
        assert not said.get("prompt")
        assert request.target.decode() == path


async def test_an_unload_waits_for_nothing(tmp_path: Path) -> None:
    async with loads_mesh(tmp_path) as bed:
        bed.engine("a").may_load.set()
        await bed["a"].ask("POST", "/api/generate", {"model": MODEL, "keep_alive": 0})
        assert bed.loads["a"].figures.begun == 0


async def test_what_is_unloaded_everywhere_is_waited_for_again(tmp_path: Path) -> None:
    async with loads_mesh(tmp_path, "ab") as bed:
        model = MemberModel(MODEL)
        for node in "ab":
            bed.engine(node).may_load.set()
            waiter = ModelLoadWaiter()
            assert bed.loads[node].wait(f"{node}/0", model, LoadOptions(), waiter)
            await eventually(lambda waiter=waiter: waiter.told == ["loaded"], 30)
        assert not bed.loads["a"].wait("a/0", model, LoadOptions(), ModelLoadWaiter())
        await bed["a"].ask("POST", "/api/generate", {"model": MODEL, "keep_alive": 0})
        assert not bed.engine("a").memory
        assert not bed.engine("b").memory
        for node in "ab":
            assert bed.loads[node].wait(f"{node}/0", model, LoadOptions(), ModelLoadWaiter())


async def test_an_engine_that_cannot_load_it_is_quoted_once_to_all(tmp_path: Path) -> None:
    async with loads_mesh(tmp_path) as bed:
        engine = bed.engine("a")
        engine.refuses = 500, "model requires more system memory"
        first = await waits(bed, "a")
        second = asyncio.create_task(bed["a"].infer())
        await eventually(lambda: bed["a"].gateway.own_work == 2, 30)
        engine.may_load.set()
        for answer in await asyncio.gather(first, second):
            assert answer.status == 500
            assert answer.json() == {"error": "model requires more system memory"}
        assert len(engine.begun) == 1


async def test_where_one_node_cannot_load_it_another_one_does(tmp_path: Path) -> None:
    async with loads_mesh(tmp_path, "ab") as bed:
        first = await waits(bed, "a")
        (bad,) = [node for node in "ab" if bed.engine(node).loading]
        (good,) = {"a", "b"} - {bad}
        bed.engine(bad).dies = True
        for node in "ab":
            bed.engine(node).may_load.set()
        answer = await first
        assert answer.status == 200
        assert answer.headers.get(b"x-bridge-node") == good.encode()


async def test_a_refusal_of_the_request_itself_is_the_engines_own(tmp_path: Path) -> None:
    async with loads_mesh(tmp_path) as bed:
        engine = bed.engine("a")
        engine.refuses = 400, '"smollm2:135m" does not support chat'
        engine.may_load.set()
        answer = await bed["a"].infer()
        assert (answer.status, answer.json()) == (400, {"error": engine.refuses[1]})
        assert bed.loads["a"]._loads["a/0"].expected_s("registry.ollama.ai/library/" + MODEL, 1) == 0.0


async def test_the_wait_is_bounded_and_the_load_goes_on(tmp_path: Path) -> None:
    async with loads_mesh(tmp_path, load_wait_s=1.0) as bed:  # in which a busy machine, too, begins the load
        engine = bed.engine("a")
        answer = await bed["a"].infer()
        assert answer.status == 503
        assert answer.headers.get(b"retry-after") is not None
        assert "its load at a/0 goes on" in answer.json()["error"]
        await eventually(lambda: engine.loading == 1, 30)
        engine.may_load.set()
        await eventually(lambda: bed.loads["a"].figures.done == 1, 30)
        assert (await bed["a"].infer()).status == 200


async def test_who_waited_for_a_turn_in_vain_is_not_told_that_its_load_goes_on(tmp_path: Path) -> None:
    async with loads_mesh(tmp_path, load_wait_s=0.05) as bed:
        stuck = ModelLoadWaiter()
        bed.loads["a"].wait("a/0", MemberModel("other:latest"), LoadOptions(), stuck)
        await eventually(lambda: bed.engine("a").loading == 1, 30)
        answer = await bed["a"].infer()
        assert answer.status == 503
        assert "did not begin" in answer.json()["error"]
        assert bed.begun() == 1


async def test_a_fault_in_one_load_leaves_the_others_of_its_instance_to_be_done(tmp_path: Path) -> None:
    async with loads_mesh(tmp_path) as bed:
        loads, engine = bed.loads["a"], bed.engine("a")
        real = loads._connect

        def broken(_instance: LocalInstance) -> Any:
            loads._connect = real
            raise RuntimeError("nobody thought of this")

        loads._connect = broken
        first, second = ModelLoadWaiter(), ModelLoadWaiter()
        for waiter, model in ((first, MODEL), (second, "other:latest")):
            assert loads.wait("a/0", MemberModel(model), LoadOptions(), waiter)
        engine.may_load.set()
        await eventually(lambda: first.told and second.told, 30)
        assert (first.told, second.told) == (["cut"], ["loaded"])
        assert not loads.busy


async def test_a_load_whose_beginning_cannot_be_told_is_no_load_that_goes_on_for_ever(tmp_path: Path) -> None:
    async with loads_mesh(tmp_path) as bed:
        loads, waiter = bed.loads["a"], ModelLoadWaiter()
        real = loads._changed

        def broken(_instance: str) -> None:
            loads._changed = real
            raise RuntimeError("nobody thought of this")

        loads._changed = broken
        assert loads.wait("a/0", MemberModel(MODEL), LoadOptions(), waiter)
        await eventually(lambda: waiter.told, 30)
        assert waiter.told == ["cut"]
        assert not loads.busy


async def test_a_limit_of_a_try_holds_for_its_load_too(tmp_path: Path) -> None:
    policy = RoutePolicy(retries=Retries(per_try_timeout_s=0.05))
    async with loads_mesh(tmp_path, policy=policy) as bed:
        assert (await bed["a"].infer()).status == 504
        await eventually(lambda: bed.engine("a").loading == 1, 30)


@pytest.mark.parametrize(("took_s", "status"), [(30.0, 200), (89.99, 504)])
async def test_what_a_load_took_of_a_trys_limit_is_gone(tmp_path: Path, took_s: float, status: int) -> None:
    clock, policy = Clock(), RoutePolicy(retries=Retries(per_try_timeout_s=90.0))
    async with loads_mesh(tmp_path, policy=policy, now=clock) as bed:
        engine = bed.engine("a")
        waiting = await waits(bed, "a", stream=False)
        clock.passes(took_s)
        if status == 504:
            engine.release.clear()
        engine.may_load.set()
        assert (await asyncio.wait_for(waiting, 60)).status == status
        engine.release.set()


async def test_a_hedge_has_no_second_copy_loaded(tmp_path: Path) -> None:
    async with loads_mesh(tmp_path, "ab", policy=RoutePolicy(hedge_after_s=0.02)) as bed:
        first = await waits(bed, "a", stream=False)
        (loading,) = [node for node in "ab" if bed.engine(node).loading]
        (entry,) = {"a", "b"} - {loading}
        second = asyncio.create_task(bed[entry].infer(stream=False))
        await eventually(lambda: bed[loading].gateway.own_work == 2, 30)
        await asyncio.sleep(0.05)  # then the hedge's time is over: a loop's timers come in their order
        assert bed[entry].gateway.counters.hedges == 0
        for node in "ab":
            bed.engine(node).may_load.set()
        assert [answer.status for answer in await asyncio.gather(first, second)] == [200, 200]
        assert bed.begun() == 1


async def test_who_left_holds_no_slot_for_an_engine_that_never_heard_of_it(tmp_path: Path) -> None:
    async with loads_mesh(tmp_path) as bed:
        await leaves(await waits(bed, "a"))
        await eventually(lambda: bed["a"].gateway.own_work == 0, 30)
        assert bed["a"].gateway.suspected() == {}
        (record,) = bed["a"].gateway.records()
        assert record.outcome.value == "cancelled"
        assert record.loading == record.waited > 0


async def test_a_stream_whose_model_is_in_memory_is_not_told_that_it_is_being_loaded(tmp_path: Path) -> None:
    async with loads_mesh(tmp_path, load_keep_alive_s=0.02) as bed:
        engine = bed.engine("a")
        asked = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        async with bed["a"].pool.request(
            "POST",
            "/v1/chat/completions",
            [(b"content-type", b"application/json")],
            json.dumps(asked).encode(),
        ) as answer:
            parts = aiter(answer)
            assert (await anext(parts)).startswith(b": loading")
            await eventually(lambda: bed.begun() == 1, 30)  # else the engine would answer at once
            engine.memory.add(canonical(MODEL))  # its answer is yet to begin
            bed.publish("a")
            async with asyncio.timeout(30):
                while not (await anext(parts)).endswith(b": keep-alive\n\n"):
                    pass
            engine.may_load.set()
            rest = b"".join([part async for part in parts])
            assert b"error" not in rest
            assert b": loading" not in rest


@pytest.mark.parametrize(
    ("path", "fields", "kept"),
    [
        ("/v1/chat/completions", {}, b": loading smollm2:135m\n\n"),
        ("/v1/messages", {"max_tokens": 4}, b'event: ping\ndata: {"type": "ping"}\n\n'),
        ("/api/chat", {}, b" "),
    ],
)
async def test_a_stream_is_kept_alive_while_its_model_is_loaded(
    tmp_path: Path, path: str, fields: dict[str, object], kept: bytes
) -> None:
    async with loads_mesh(tmp_path, "ab", load_keep_alive_s=0.02) as bed:
        for entry in "ab":  # at its own node, and from the other one
            bed.unload()
            async with bed[entry].pool.request(
                "POST",
                path,
                [(b"content-type", b"application/json")],
                json.dumps(
                    {
                        "model": MODEL,
                        "stream": True,
                        "messages": [{"role": "user", "content": "hi"}],
                        **fields,
                    }
                ).encode(),
            ) as answer:
                assert answer.status == 200
                assert answer.headers.get(b"x-bridge-loading").startswith(b"waited=")
                parts = aiter(answer)
                assert (await anext(parts)).startswith(kept)
                for node in "ab":
                    bed.engine(node).may_load.set()
                rest = b"".join([part async for part in parts])
                assert b"error" not in rest
                assert len(rest) > 100
            for loads in bed.loads.values():
                loads._loads.clear()  # as if it were long ago
