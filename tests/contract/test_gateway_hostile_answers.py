"""Answers that no engine should give: nothing of them is held without bound, and nothing breaks of them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bridge_agent.gateway.config import ResumePolicy
from bridge_core.http1 import Exchange
from bridge_core.snapshot import Backend, Route, RoutePolicy
from tests.contract.gateway_bed import mesh
from tests.fakes.recorded_engine import RecordedEngine
from tests.support import eventually

MODEL = "smollm2:135m"
RECORD = b'{"model":"smollm2:135m","created_at":"t","response":"x","done":false}\n'


@dataclass
class OddEngine(RecordedEngine):
    """Streams a record and then `line` again and again, never ending it; `odd` are a pull's records."""

    line: bytes = b""
    odd: bytes = b""
    written: int = 0

    async def _infer(self, exchange: Exchange, path: str, body: bytes) -> None:
        if not self.line:
            await super()._infer(exchange, path, body)
            return
        exchange.start(200, [(b"content-type", b"application/x-ndjson")])
        exchange.write(RECORD)
        while True:
            exchange.write(self.line)
            self.written += len(self.line)
            await exchange.drain()
            await asyncio.sleep(0)

    async def _progress(self, exchange: Exchange, stream: bool) -> None:
        if not self.odd:
            await super()._progress(exchange, stream)
            return
        exchange.start(200, [(b"content-type", b"application/x-ndjson")])
        exchange.finish(self.odd)

    def _json(self, exchange: Exchange, value: Any, status: int = 200, more: Any = ()) -> None:  # type: ignore[override]  # static there
        if self.odd and exchange.request.path == "/api/ps":
            exchange.respond(200, (), self.odd)
        else:
            super()._json(exchange, value, status, more)


@pytest.mark.parametrize("resume", [None, ResumePolicy()], ids=["alone", "resuming"])
@pytest.mark.parametrize("entry", ["a", "b"])
async def test_an_endless_line_ends_the_stream_with_an_error_and_the_engines_work(
    tmp_path: Path, entry: str, resume: ResumePolicy | None
) -> None:
    engine = OddEngine((MODEL,), line=b"y" * 65_536)
    async with mesh(tmp_path, {"a": RecordedEngine(("other",)), "b": engine}, resume=resume) as bed:
        answer = await asyncio.wait_for(bed[entry].infer("/api/generate", stream=True, prompt="x"), 60)
        assert answer.body.startswith(RECORD)
        assert "error" in json.loads(answer.body.rsplit(b"\n", 2)[1])
        assert len(answer.body) < 1000
        await eventually(lambda: engine.cancelled >= 1)
        assert bed[entry].gateway.in_flight == 0


async def test_an_error_without_end_is_held_within_bounds(tmp_path: Path) -> None:
    engine = OddEngine((MODEL,), line=b'{"error":"boom"}\n' + b"z" * 65_535 + b"\n")
    async with mesh(tmp_path, {"a": engine}, resume=ResumePolicy()) as bed:
        task = asyncio.create_task(bed["a"].infer("/api/generate", stream=True, prompt="x"))
        await eventually(lambda: engine.written > 8 << 20, 30)
        (request,) = bed["a"].gateway._state.keeper._requests  # type: ignore[union-attr]
        assert request.stream is not None
        assert request.stream.held < 3 << 20
        task.cancel()
        await eventually(lambda: engine.cancelled == 1)


async def test_a_renamed_answer_of_any_size_passes_as_it_comes(tmp_path: Path) -> None:
    @dataclass
    class Large(RecordedEngine):
        delivered: int = 0

        async def _infer(self, exchange: Exchange, path: str, body: bytes) -> None:
            exchange.start(200, [(b"content-type", b"application/json")])
            exchange.write(b'{"embeddings":[[0')
            for _ in range(64):
                exchange.write(b",0.25" * 13_107)
                await exchange.drain()
                self.delivered += 1
            await self.release.wait()
            exchange.finish(b']],"model":"smollm2:135m"}')

    engine = Large((MODEL,))
    async with mesh(tmp_path, {"a": engine}) as bed:
        engine.release.clear()
        bed.publish(route__chat=Route("chat", (Backend(MODEL),)))
        task = asyncio.create_task(bed["a"].infer("/api/embed", model="chat", input="x"))

        def delivered() -> int:
            current = [connection._current for connection in bed["a"].local.connections]
            return sum(exchange.sent for exchange in current if exchange is not None)

        await eventually(lambda: delivered() > 4_000_000, 30)  # although the answer is not whole
        engine.release.set()
        answer = await task
    assert answer.json()["model"] == "chat"
    assert len(answer.json()["embeddings"][0]) == 1 + 64 * 13_107


@pytest.mark.parametrize(
    "records",
    [
        b'[1]\n{"status":"success"}\n',
        b'"success"\n',
        b"7\n",
        b"[" * 5000 + b"\n",
        b'{"status":"\xff"}\n',
        b'{"status":"' + b"x" * (2 << 20) + b'"}\n{"status":"success"}\n',
    ],
    ids=["a list", "a text", "a number", "deep", "no UTF-8", "an endless line"],
)
async def test_a_mutation_of_all_nodes_names_the_one_whose_records_cannot_be_read(
    tmp_path: Path, records: bytes
) -> None:
    engines = {"a": RecordedEngine((MODEL,)), "b": OddEngine((MODEL,), odd=records)}
    async with mesh(tmp_path, engines) as bed:
        answer = await bed["a"].ask("POST", "/api/pull", {"model": "m"}, {"X-Bridge-Node": "all"})
    lines = [json.loads(line) for line in answer.body.splitlines()]
    assert lines[-1] == {"error": "failed on b"}
    assert any("error" in line and line.get("node") == "b" for line in lines[:-1])
    assert len(answer.body) < 10_000


@pytest.mark.parametrize(
    "body",
    [b'{"models":[1,"x",null]}', b'{"models":7}', b"[1]", b"[" * 5000, b'{"models":[{"name":"\xff"}]}'],
    ids=["no objects", "a number", "a list", "deep", "no UTF-8"],
)
async def test_a_list_of_loaded_models_leaves_out_what_cannot_be_read(tmp_path: Path, body: bytes) -> None:
    engines = {"a": RecordedEngine((MODEL,)), "b": OddEngine((MODEL,), odd=body)}
    async with mesh(tmp_path, engines) as bed:
        answer = await bed["a"].ask("GET", "/api/ps")
    assert answer.status == 200
    assert [entry["node"] for entry in answer.json()["models"]] == ["a"]


async def test_an_engine_that_answers_a_stream_whole_is_passed_on_where_keep_alives_are_sent(
    tmp_path: Path,
) -> None:
    @dataclass
    class Whole(RecordedEngine):
        async def _infer(self, exchange: Exchange, path: str, body: bytes) -> None:
            self._json(exchange, {"model": MODEL, "response": "all", "done": True})

    async with mesh(tmp_path, {"a": Whole((MODEL,))}, policy=RoutePolicy(keep_alive_bytes_s=5.0)) as bed:
        for _ in range(3):  # the first head is read, the others are known
            answer = await bed["a"].infer("/api/generate", stream=True, prompt="x")
            assert (answer.status, answer.json()["response"]) == (200, "all")
            assert bed["a"].gateway.records()[-1].bytes_out == len(answer.body)
