"""Embedding requests that wait for the one slot of an engine: one request there, each its own answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bridge_agent.batching.batching_rules import BatchingPolicy
from bridge_agent.quotas.meter import Meter
from bridge_core.http1 import Exchange
from bridge_core.quotas import Quota
from tests.contract.gateway_bed import Answer, Bed, mesh
from tests.fakes.recorded_engine import RecordedEngine
from tests.support import eventually, within_some_time

MODEL = "embedder"
EMBED, LEGACY, OPENAI = "/api/embed", "/api/embeddings", "/v1/embeddings"
NO_DELAY_IS_TOO_LONG = BatchingPolicy(max_delay_s=60.0)
PEERS_DO_NOT_MIND = {"batching": NO_DELAY_IS_TOO_LONG, "suspect_s": 0.3}


@dataclass
class Embedder(RecordedEngine):
    """An engine whose vectors and counts are of the texts: as many tokens as a text has characters.

    `poison` is a text that it refuses whole requests for, or dies of where `dies`.
    """

    models: tuple[str, ...] = (MODEL, "other")
    slots: int = 1
    counts: bool = True
    poison: str = ""
    dies: bool = False
    bodies: list[dict[str, Any]] = field(default_factory=list)

    async def _infer(self, exchange: Exchange, path: str, body: bytes) -> None:
        asked = json.loads(body)
        self.bodies.append(asked)
        await self.release.wait()
        given = asked.get("input", asked.get("prompt"))
        texts = [given] if isinstance(given, str) else given
        if self.poison and self.poison in texts:
            if self.dies:
                exchange.abort()
            else:
                self._json(exchange, {"error": f"cannot embed {self.poison}"}, 400)
            return
        vectors = [[len(text) / 8, 1.0] for text in texts]
        tokens = sum(map(len, texts))
        if path == LEGACY:
            answer: dict[str, Any] = {"embedding": vectors[0]}
        elif path == OPENAI:
            data = [{"object": "embedding", "embedding": one, "index": at} for at, one in enumerate(vectors)]
            usage = {"prompt_tokens": tokens, "total_tokens": tokens}
            answer = {"object": "list", "data": data, "model": asked["model"], "usage": usage}
        else:
            answer = {"model": asked["model"], "embeddings": vectors, "prompt_eval_count": tokens}
            answer |= {"total_duration": 5, "load_duration": 1}
            if self.counts and asked.get("prompt_eval_counts"):
                answer["prompt_eval_counts"] = [len(text) for text in texts]
        self._json(exchange, answer)

    def inputs(self) -> list[Any]:
        """What it was asked for, but for the request that has the slot first."""
        return [one.get("input", one.get("prompt")) for one in self.bodies[1:]]


def engine_of(bed: Bed, node: str = "a") -> Embedder:
    engine = bed[node].engine
    assert isinstance(engine, Embedder)
    return engine


@pytest.fixture
async def lone(tmp_path: Path) -> AsyncIterator[Bed]:
    async with mesh(tmp_path, {"a": Embedder()}, **PEERS_DO_NOT_MIND) as bed:
        yield bed


class Waiting:
    """Requests that came while the slot of node a was taken, each known to wait."""

    def __init__(self, bed: Bed, tasks: list[asyncio.Task[Answer]]) -> None:
        self.bed = bed
        self.tasks = tasks

    @classmethod
    async def behind_one(cls, bed: Bed) -> Waiting:
        """None yet; the slot is taken until `answers`."""
        engine = engine_of(bed)
        engine.release.clear()
        first = asyncio.create_task(bed["a"].ask("POST", EMBED, {"model": MODEL, "input": "first"}))
        await eventually(lambda: engine.running == 1)
        return cls(bed, [first])

    async def ask(
        self, path: str = EMBED, *, node: str = "a", headers: dict[str, str] | None = None, **fields: Any
    ) -> asyncio.Task[Answer]:
        body = {"model": MODEL, **fields}
        task = asyncio.create_task(self.bed[node].ask("POST", path, body, headers))
        before = self.bed["a"].gateway.in_flight
        self.tasks.append(task)
        await eventually(lambda: self.bed["a"].gateway.in_flight == before + 1)
        return task

    async def answers(self) -> list[Answer]:
        """Of those who wait, in the order that they came."""
        engine_of(self.bed).release.set()
        answered = await asyncio.gather(*self.tasks)
        assert answered[0].status == 200
        await eventually(lambda: self.bed["a"].gateway.in_flight == 0)
        return list(answered[1:])


def size(answer: Answer) -> bytes | None:
    return answer.headers.get(b"x-bridge-batch")


async def test_who_waits_is_asked_for_in_one_and_answered_as_alone(lone: Bed) -> None:
    asked: list[tuple[str, dict[str, Any]]] = [
        (EMBED, {"input": "one"}),
        (LEGACY, {"prompt": "three"}),
        (OPENAI, {"input": ["a", "bb"], "model": "Embedder:latest"}),
    ]
    waiting = await Waiting.behind_one(lone)
    for path, fields in asked:
        await waiting.ask(path, **fields)
    answers = await waiting.answers()
    assert engine_of(lone).inputs() == [["one", "three", "a", "bb"]]
    assert [size(one) for one in answers] == [b"3"] * 3
    for (path, fields), together in zip(asked, answers, strict=True):
        alone = await lone["a"].ask("POST", path, {"model": MODEL, **fields})
        assert (together.status, together.json()) == (200, alone.json())
        assert size(alone) is None
        for name in (b"x-bridge-node", b"x-bridge-attempts"):
            assert together.headers.get(name) == alone.headers.get(name)
        kind = b"application/json" if path == OPENAI else b"application/json; charset=utf-8"
        assert together.headers.get(b"content-type") == kind
    assert len({one.headers.get(b"x-request-id") for one in answers}) == 3


async def test_who_finds_a_slot_waits_for_nobody(lone: Bed) -> None:
    for _ in range(3):
        assert size(await lone["a"].ask("POST", EMBED, {"model": MODEL, "input": "x"})) is None
    assert engine_of(lone).bodies[0] == {"model": MODEL, "input": "x"}


async def test_who_asks_for_something_else_or_more_urgently_goes_apart(lone: Bed) -> None:
    waiting = await Waiting.behind_one(lone)
    await waiting.ask(input="a")
    await waiting.ask(input="b", truncate=False)
    await waiting.ask(input="c", model="other")
    await waiting.ask(input="d", headers={"X-Bridge-Priority": "high"})
    await waiting.ask(input="e")
    assert {one.status for one in await waiting.answers()} == {200}
    assert engine_of(lone).inputs() == ["d", ["a", "e"], "b", "c"]


@pytest.mark.parametrize("batching", [None, BatchingPolicy(max_size=1)])
async def test_it_can_be_switched_off(tmp_path: Path, batching: BatchingPolicy | None) -> None:
    async with mesh(tmp_path, {"a": Embedder()}, batching=batching) as bed:
        waiting = await Waiting.behind_one(bed)
        for text in ("a", "b"):
            await waiting.ask(input=text)
        assert [size(one) for one in await waiting.answers()] == [None, None]
        assert engine_of(bed).inputs() == ["a", "b"]


async def test_a_batch_has_no_more_texts_than_the_policy_says(tmp_path: Path) -> None:
    async with mesh(tmp_path, {"a": Embedder()}, batching=BatchingPolicy(max_size=3)) as bed:
        waiting = await Waiting.behind_one(bed)
        for number in range(5):
            await waiting.ask(input=f"{number}")
        assert [size(one) for one in await waiting.answers()] == [b"3"] * 3 + [b"2"] * 2
        assert engine_of(bed).inputs() == [["0", "1", "2"], ["3", "4"]]


async def test_one_bad_text_is_its_senders_alone(lone: Bed) -> None:
    engine_of(lone).poison = "bad"
    waiting = await Waiting.behind_one(lone)
    for text in ("a", "bad", "b"):
        await waiting.ask(input=text)
    answers = await waiting.answers()
    assert [one.status for one in answers] == [200, 400, 200]
    assert answers[1].json() == {"error": "cannot embed bad"}
    assert engine_of(lone).inputs() == [["a", "bad", "b"], "a", "bad", "b"]
    assert [size(one) for one in answers] == [None] * 3


async def test_an_engine_that_tells_a_sum_alone_is_asked_for_each(lone: Bed) -> None:
    engine = engine_of(lone)
    engine.counts = False
    for expected in ([["a", "bb"], "a", "bb"], ["a", "bb"]):
        engine.bodies.clear()
        waiting = await Waiting.behind_one(lone)
        for text in ("a", "bb"):
            await waiting.ask(input=text)
        assert [one.json()["prompt_eval_count"] for one in await waiting.answers()] == [1, 2]
        assert engine.inputs() == expected


async def batch_under_way(bed: Bed, texts: tuple[str, ...]) -> tuple[Waiting, list[asyncio.Task[Answer]]]:
    """A batch of these texts that the engine works on until it is released."""
    engine = engine_of(bed)
    waiting = await Waiting.behind_one(bed)
    tasks = [await waiting.ask(input=text) for text in texts]
    engine.release.set()
    engine.release.clear()  # the first goes on by itself; what comes after it waits
    await eventually(lambda: len(engine.bodies) == 2)
    return waiting, tasks


async def test_a_client_that_leaves_does_not_end_the_batch(lone: Bed) -> None:
    waiting, (first, gone, last) = await batch_under_way(lone, ("a", "b", "c"))
    gone.cancel()
    await eventually(lambda: lone["a"].gateway.in_flight == 2)
    engine_of(lone).release.set()
    assert [(await one).json()["prompt_eval_count"] for one in (first, last)] == [1, 1]
    assert engine_of(lone).cancelled == 0
    assert len(engine_of(lone).bodies) == 2
    assert waiting.tasks[0].done()


async def test_the_last_client_that_leaves_ends_it_and_the_slot_is_free_in_time(lone: Bed) -> None:
    _, tasks = await batch_under_way(lone, ("a", "b"))
    for task in tasks:
        task.cancel()
    await eventually(lambda: engine_of(lone).cancelled == 1 and lone["a"].gateway.in_flight == 0)
    engine_of(lone).release.set()
    assert (await lone["a"].ask("POST", EMBED, {"model": MODEL, "input": "x"})).status == 200


async def test_a_deadline_takes_its_own_request_out(lone: Bed) -> None:
    engine = engine_of(lone)

    async def met_before(limit_s: float) -> bool:
        """Whether the two met at the engine before the limit of one was over."""
        engine.bodies.clear()
        waiting = await Waiting.behind_one(lone)
        stays = await waiting.ask(input="a")
        limited = {"model": MODEL, "input": "b"}
        late = asyncio.create_task(
            lone["a"].ask("POST", EMBED, limited, {"X-Bridge-Timeout": f"{limit_s:g}s"})
        )
        await eventually(lambda: lone["a"].gateway.in_flight == 3 or late.done())
        engine.release.set()
        engine.release.clear()
        await eventually(lambda: len(engine.bodies) == 2)
        met = engine.inputs() == [["a", "b"]]
        assert (await late).status == 504
        engine.release.set()
        assert (await stays).status == 200
        await eventually(lambda: lone["a"].gateway.in_flight == 0)
        return met

    await within_some_time(met_before, 1.0)


async def test_what_an_engine_dies_of_meets_nobody_again(lone: Bed) -> None:
    engine = engine_of(lone)
    engine.poison, engine.dies = "bad", True
    waiting = await Waiting.behind_one(lone)
    for text in ("one", "bad", "two"):
        await waiting.ask(input=text)
    assert [one.status for one in await waiting.answers()] == [200, 502, 200]
    # Once more each where the connection had been used before: it might have been closed for that.
    inputs = engine.inputs()
    assert [now for before, now in pairwise([None, *inputs]) if now != before] == [
        ["one", "bad", "two"],
        "one",
        "bad",
        "two",
    ]
    # By the blank the next owner knows as well, should they have to go on to one.
    assert [one.body[:1] for one in engine.asked[1:]] == [
        b" " if isinstance(one, str) else b"{" for one in inputs
    ]


async def test_requests_of_several_nodes_meet_at_the_owner(tmp_path: Path) -> None:
    engines = {"a": Embedder(), "b": RecordedEngine(("third",)), "c": RecordedEngine(("third",))}
    async with mesh(tmp_path, engines, **PEERS_DO_NOT_MIND) as bed:
        waiting = await Waiting.behind_one(bed)
        for node in ("b", "c", "a"):
            await waiting.ask(node=node, input=node)
        answers = await waiting.answers()
        assert [(one.status, size(one)) for one in answers] == [(200, b"3")] * 3
        assert [one.headers.get(b"x-bridge-node") for one in answers] == [b"a"] * 3
        assert engine_of(bed).inputs() == [["b", "c", "a"]]


async def test_each_is_billed_what_its_own_text_came_to(tmp_path: Path) -> None:
    meters: dict[str, Meter] = {}
    async with mesh(tmp_path, {"a": Embedder()}, meters=meters, **PEERS_DO_NOT_MIND) as bed:
        bed.publish(quota__all=Quota("all", requests=99))
        waiting = await Waiting.behind_one(bed)
        for text in ("a", "bb", "ccc"):
            await waiting.ask(input=text)
        answers = await waiting.answers()
        assert [size(one) for one in answers] == [b"3"] * 3
        records = list(bed["a"].gateway.records())[-3:]
        assert sorted(one.prompt_tokens for one in records) == [1, 2, 3]
        assert all(one.waited > 0 and one.instance == "a/0" for one in records)
