"""The fields of answers: which route and backend, how a stream is to be passed on, whose numbers count."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bridge_agent.audit.rendering import audited
from bridge_core.http1 import Exchange
from bridge_core.snapshot import Backend, Route
from tests.contract.gateway_bed import mesh
from tests.fakes.recorded_engine import RecordedEngine
from tests.support import eventually

MODEL = "smollm2:135m"


@dataclass
class Saying(RecordedEngine):
    """An engine that answers with these fields, or with this status."""

    pairs: list[tuple[bytes, bytes]] = field(default_factory=list)
    status: int = 200
    kind: bytes = b"application/x-ndjson"

    async def _infer(self, exchange: Exchange, path: str, body: bytes) -> None:
        answer = json.dumps({"model": MODEL, "done": True}).encode() + b"\n"
        exchange.start(self.status, [(b"content-type", self.kind), *self.pairs], None)
        exchange.write(answer)
        exchange.finish()


@pytest.mark.parametrize("entry", ["a", "b"])
@pytest.mark.parametrize("said", [(), ((b"x-accel-buffering", b"no"),), ((b"x-accel-buffering", b"yes"),)])
async def test_a_stream_says_once_that_it_is_not_to_be_buffered(
    tmp_path: Path, entry: str, said: tuple[tuple[bytes, bytes], ...]
) -> None:
    engine = Saying((MODEL,), pairs=list(said))
    async with mesh(tmp_path, {"a": RecordedEngine(("other",)), "b": engine}) as bed:
        answer = await bed[entry].infer("/api/generate", stream=True, prompt="x")
        given = [value for name, value in answer.headers.pairs if name == b"x-accel-buffering"]
        assert given == [said[0][1] if said else b"no"]
        engine.kind = b"application/json"
        answer = await bed[entry].infer("/api/generate", stream=False, prompt="x")
        assert [one for one in answer.headers.pairs if one[0] == b"x-accel-buffering"] == list(said)


async def test_an_instance_that_cannot_read_a_model_is_passed_over_for_one_that_can(tmp_path: Path) -> None:
    cannot = Saying((MODEL,), status=501, kind=b"application/json")
    can = RecordedEngine((MODEL,))
    async with mesh(tmp_path, {"a": cannot, "b": can}) as bed:
        for entry in ("a", "b"):
            for _ in range(6):
                assert (await bed[entry].infer()).status == 200
        assert not bed["a"].gateway.ejections()
    alone = Saying((MODEL,), status=501, kind=b"application/json")
    async with mesh(tmp_path, {"a": RecordedEngine(("other",)), "b": alone}) as bed:
        for entry in ("a", "b"):
            assert (await bed[entry].infer()).status == 501


@pytest.mark.parametrize("entry", ["a", "b"])
async def test_a_route_and_its_backend_are_named_in_header_metric_audit_and_explanation(
    tmp_path: Path, entry: str
) -> None:
    lies = [(b"x-bridge-route", b"forged"), (b"x-bridge-backend", b"forged")]
    engine = Saying((MODEL,), pairs=lies)
    async with mesh(tmp_path, {"a": RecordedEngine(("other",)), "b": engine}) as bed:
        node = bed[entry]
        records: list[object] = []
        node.gateway.on_record(lambda record, _: records.append(audited(record, 0.0)))
        plain = await node.infer()
        assert not {b"x-bridge-route", b"x-bridge-backend"} & {name for name, _ in plain.headers.pairs}
        bed.publish(route__chat=Route("chat", (Backend(MODEL),)))
        answer = await node.infer(model="chat", headers={"X-Request-Id": "by-route"})
        key = Backend(MODEL).key
        assert answer.headers.get(b"x-bridge-route") == b"chat"
        assert answer.headers.get(b"x-bridge-backend") == key.encode()
        await eventually(lambda: len(records) == 2)
        assert (records[1].route, records[1].backend) == ("chat", key)  # type: ignore[attr-defined]
        assert (records[0].route, records[0].backend) == ("", "")  # type: ignore[attr-defined]
        assert dict(node.gateway.counters.by_backend) == {("chat", key, 200): 1}
        bed.publish(route__dead=Route("dead", (Backend("nope"),)))
        refused = await node.infer(model="dead")
        assert refused.status == 404
        assert refused.headers.get(b"x-bridge-route") in (None, b"dead")
        bed.publish(route__chat=None, route__dead=None)
        assert not node.gateway.counters.by_backend


@pytest.mark.parametrize("said", [b"1000001", b"9" * 40, b"-1", b"1e3", b"", b"7 "])
async def test_numbers_of_a_peers_answer_are_bounded(tmp_path: Path, said: bytes) -> None:
    engine = Saying((MODEL,))
    async with mesh(tmp_path, {"a": RecordedEngine(("other",)), "b": engine}, pulse=None) as bed:
        target = bed["a"].view.index.targets["b/0"]
        pool = bed["a"].upstreams.pool(target)
        assert pool is not None
        engine.pairs = [(b"x-bridge-load", said), (b"x-bridge-overhead-us", said), (b"retry-after", said)]
        answer = await bed["a"].infer()
        assert answer.status == 200
        assert int(answer.headers.get(b"x-bridge-overhead-us") or b"") < 60_000_000
        assert bed["a"].gateway.known_work().get("b/0", 0) < 10
        engine.status = 503
        refused = await bed["a"].infer()
        assert refused.status == 503
        after = refused.headers.get(b"retry-after")
        assert after is None or after == said or int(after) <= 3600
