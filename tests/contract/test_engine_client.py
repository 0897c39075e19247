"""The engine client against what a real Ollama answered, and against answers that are none."""

from __future__ import annotations

import contextlib
import json
import math
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bridge_agent.engines.client import EngineClient, EngineFault, ResidentModel
from bridge_core.errors import BridgeError
from bridge_core.http1 import serve
from bridge_core.snapshot import ModelDetails

RECORDINGS = Path(__file__).parent / "recordings"


def recorded(file: str, method: str, path: str) -> bytes:
    for case in json.loads((RECORDINGS / file).read_text()):
        request = case.get("request", {})
        if (request.get("method"), request.get("path")) == (method, path) and " 200 " in case["status"]:
            return "".join(case["chunks"]).encode()
    raise LookupError(path)


@contextlib.asynccontextmanager
async def answering(status: int, body: bytes, asked: list | None = None):
    def app(exchange):
        if asked is not None:
            request = exchange.request
            asked.append((request.method, request.path, request.headers.get(b"host"), request.body))
        exchange.respond(status, [(b"content-type", b"application/json")], body)

    server = await serve(app, name="engine")
    client = EngineClient("127.0.0.1", server.port)
    try:
        yield client
    finally:
        await client.close()
        await server.close(1.0)


async def test_the_models_on_disk_as_recorded():
    asked = []
    async with answering(200, recorded("meta.json", "GET", "/api/tags"), asked) as client:
        models = {model.name: model for model in await client.models()}
    method, path, host, _ = asked[0]
    assert (method, path) == ("GET", "/api/tags")
    assert host.startswith(b"127.0.0.1:")
    assert models.keys() == {"tiny-embed:latest", "smol-tpl:latest", "smollm2:135m", "tiny:latest"}
    tiny = models["tiny-embed:latest"]
    assert tiny.capabilities == ("embedding",)
    assert tiny.digest == "eddcdbc71ea7afe4b62586e37a8c77a7f9108678f9c0a0975831bd5c57ff1c3b"
    assert (tiny.size, tiny.modified_at) == (237909, "2026-11-23T21:35:30.065954458Z")
    assert tiny.details == ModelDetails(
        format="gguf",
        family="llama",
        families=("llama",),
        parameter_size="116K",
        quantization_level="F16",
        context_length=2048,
        embedding_length=64,
    )


async def test_the_models_in_memory_as_recorded():
    async with answering(200, recorded("faults.json", "GET", "/api/ps")) as client:
        (resident,) = await client.loaded()
    assert (resident.name, resident.context_length) == ("smollm2:135m", 4096)
    assert (resident.size, resident.size_vram) == (209505483, 0)
    at = datetime(2026, 11, 23, 21, 47, 0, tzinfo=UTC)
    assert resident.expires_in_s(at) == pytest.approx(8.293226)


@pytest.mark.parametrize(
    ("expires_at", "expected"),
    [
        ("2318-03-05T00:00:00Z", math.inf),
        ("2026-11-23T22:00:10.5+01:00", 10.5),
        ("2026-11-23T21:00:10", 10.0),
        ("", math.inf),
        ("soon", math.inf),
    ],
)
def test_how_long_a_model_stays(expires_at, expected):
    now = datetime(2026, 11, 23, 21, 0, 0, tzinfo=UTC)
    assert ResidentModel("m", expires_at=expires_at).expires_in_s(now) == expected


@pytest.mark.parametrize("body", [b'{"models":[]}', b'{"models":null}', b"{}"])
async def test_an_empty_store_has_no_models(body):
    async with answering(200, body) as client:
        assert await client.models() == ()
        assert await client.loaded() == ()


async def test_a_probe_asks_for_one_token_with_the_context_that_is_loaded():
    asked = []
    async with answering(200, b'{"done":true}', asked) as client:
        await client.generate_one("m", context_length=8192)
        await client.generate_one("e", embedding=True)
        await client.load("m", keep_alive=0)
    assert [(path, json.loads(body)) for _, path, _, body in asked] == [
        (
            "/api/generate",
            {
                "model": "m",
                "prompt": "a",
                "raw": True,
                "stream": False,
                "options": {"num_ctx": 8192, "num_predict": 1},
            },
        ),
        ("/api/embed", {"model": "e", "input": "a", "options": {}}),
        ("/api/generate", {"model": "m", "stream": False, "keep_alive": 0}),
    ]


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (404, b'{"error":"model \'m\' not found"}', "answered 404: model 'm' not found"),
        (500, b"oops", "answered 500: oops"),
        (403, b"", "answered 403: nothing"),
        (200, b"<html>", "does not decode"),
        (200, b'{"models":7}', "does not decode"),
        (200, b'{"models":"\xff"}', "does not decode"),
        (200, b'{"models":' + b"[" * 100_000, "does not decode"),
    ],
)
async def test_an_answer_of_failure_or_of_something_else_is_named(status, body, message):
    async with answering(status, body) as client:
        with pytest.raises(EngineFault, match=message) as caught:
            await client.models()
    assert caught.value.status == status


async def test_a_model_that_no_mesh_takes_does_not_hide_the_others():
    family = "f" * 5000
    listed = b'{"models":[{"name":7},{"name":"m"},{"name":"n","details":{"family":"%b"}},{"name":"o"}]}'
    async with answering(200, listed % family.encode()) as client:
        assert [model.name for model in await client.models()] == ["m", "o"]


async def test_nobody_there_is_a_fault_of_ours():
    async with answering(200, b"{}") as gone:
        pass
    client = EngineClient("127.0.0.1", gone._pool.address[1])
    with pytest.raises(BridgeError, match="cannot connect"):
        await client.version()
    await client.close()
