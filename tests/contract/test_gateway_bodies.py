"""Bodies at the gateway: what is refused and how, and that the engine sees what was decided on."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.gateway_bed import Bed, mesh
from tests.fakes.recorded_engine import RecordedEngine, recording

# Refusals of the gateway itself: their wording is the recorded one.
OURS = (
    "not found",
    "missing request body",
    "unexpected EOF",
    "Go value of type",
    "GenerateRequest.model",
    "GenerateRequest.stream",
    "model is required",
    "invalid model name",
)


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    engine = RecordedEngine(("tiny-embed", "smollm2:135m", "tiny"))
    async with mesh(tmp_path, {"a": engine}) as bed:
        yield bed


def _refusals() -> list[Any]:
    found = []
    for file in ("generate", "chat", "embed", "openai", "anthropic", "show"):
        for entry in recording(file):
            text = "".join(entry.get("chunks", ()))
            if " 40" in entry["status"] and any(mark in text for mark in OURS):
                found.append(pytest.param(entry, id=f"{file}: {entry['case']}"))
    return found


def sent(body: Any) -> bytes | None:
    if isinstance(body, dict):
        return base64.b64decode(body["base64"]) if set(body) == {"base64"} else json.dumps(body).encode()
    return body.encode() if isinstance(body, str) else body


@pytest.mark.parametrize("entry", _refusals())
async def test_refusal_as_recorded(bed: Bed, entry: dict[str, Any]) -> None:
    request = entry["request"]
    answer = await bed["a"].ask(request["method"], request["path"], sent(request.get("body")))
    assert answer.status == int(entry["status"].split()[1])
    assert (answer.headers.get(b"content-type") or b"").decode() == entry["headers"]["Content-Type"]
    text = "".join(entry["chunks"])
    theirs = json.loads(text)
    ours = answer.json()
    for shape in (theirs, ours):
        shape.pop("request_id", None)
    assert ours == theirs
    assert answer.body.endswith(b"\n") == text.endswith("\n")
    assert bed["a"].engine.inferences() == []


PROMPT = b'"prompt":"x","stream":false'
AMBIGUOUS = {
    "twice": b'{"model":"nope","model":"tiny",' + PROMPT + b"}",
    "twice with spaces": b'{"model": "nope", "model": "tiny", "prompt": "x"}',
    "second is null": b'{"model":"tiny","model":null,' + PROMPT + b"}",
    "other case": b'{"Model":"tiny",' + PROMPT + b"}",
    "both cases": b'{"model":"tiny","MODEL":"nope",' + PROMPT + b"}",
    "escaped key": b'{"\\u006dodel":"tiny",' + PROMPT + b"}",
    "escaped and plain": b'{"model":"tiny","m\\u006Fdel":"nope",' + PROMPT + b"}",
    "folded by long s": '{"model":"tiny","\u017ftream":true,"prompt":"x"}'.encode(),
    "escaped long s": b'{"model":"tiny","\\u017ftream":true,"prompt":"x"}',
    "folded by Kelvin sign": '{"model":"tiny","\u212aeep_alive":0,"prompt":"x"}'.encode(),
    "prompt twice": b'{"model":"tiny","prompt":"x","prompt":""}',
    "stream in other case": b'{"model":"tiny","prompt":"x","Stream":false}',
    "options twice": b'{"model":"tiny","prompt":"x","options":{"seed":1},"options":{"seed":2}}',
    "text after": b'{"model":"tiny",' + PROMPT + b"} trailing",
    "second object after": b'{"model":"tiny",' + PROMPT + b'}{"model":"nope"}',
    "NUL after": b'{"model":"tiny",' + PROMPT + b"}\x00",
    "invalid UTF-8 in the name": b'{"model":"ti\xffny",' + PROMPT + b"}",
    "invalid UTF-8 in a key": b'{"model":"tiny","\xff":1}',
    "lone surrogate in the name": b'{"model":"tiny\\ud800",' + PROMPT + b"}",
    "byte order mark": b'\xef\xbb\xbf{"model":"tiny"}',
    "very deep": b'{"model":"tiny","x":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "duplicate padded to the spaced length": b'{"model":"nope","model":"tiny","a":1,"b":2,"c":3}',
}


@pytest.mark.parametrize("body", AMBIGUOUS.values(), ids=AMBIGUOUS)
async def test_a_body_that_can_be_read_in_two_ways_is_refused(bed: Bed, body: bytes) -> None:
    answer = await bed["a"].ask("POST", "/api/generate", body)
    assert answer.status == 400
    assert list(answer.json()) == ["error"]
    assert "Traceback" not in answer.json()["error"]
    assert bed["a"].engine.asked == []


PASSED = {
    "compact": b'{"model":"tiny",' + PROMPT + b"}",
    "spaced": b' {"model" : "tiny" , "prompt" : "x" , "stream" : false}\r\n ',
    "unknown fields": b'{"no_such":{"a":[1,{}]},"model":"tiny","prompt":"x","stream":false,"no_such":2}',
    "nested decision keys": b'{"model":"tiny","prompt":"x","options":{"model":"n","stream":1}}',
    "key in the text": b'{"model":"tiny","prompt":"\\"model\\":\\"nope\\"", "stream":false}',
    "escaped letters in the text": b'{"model":"tiny","prompt":"\\u006dodel \\u4f60", "stream":false}',
    "escaped name": b'{"model":"t\\u0069ny","prompt":"x","stream":false}',
    "invalid UTF-8 in the prompt": b'{"model":"tiny","prompt":"\xff\xfe","stream":false}',
    "other spelling": b'{"model":"Library/TINY:latest","prompt":"x","stream":false}',
    "with host": b'{"model":"registry.ollama.ai/library/tiny","prompt":"x","stream":false}',
    "null stream": b'{"model":"tiny","prompt":"x","stream":null}',
}


@pytest.mark.parametrize("body", PASSED.values(), ids=PASSED)
async def test_the_engine_sees_the_body_byte_for_byte(bed: Bed, body: bytes) -> None:
    engine = bed["a"].engine
    answer = await bed["a"].ask("POST", "/api/generate", body)
    (asked,) = engine.asked
    assert asked.body == body
    # The fake is stricter than Go about invalid UTF-8; that it was handed over is what counts here.
    assert answer.status == 200 or b"\xff" in body


async def test_credentials_and_origins_do_not_reach_the_engine(bed: Bed) -> None:
    secret = {"Authorization": "Bearer s", "Cookie": "c=1", "Origin": "http://localhost", "X-Bridge-Hop": "z"}
    answer = await bed["a"].infer(headers={**secret, "Content-Type": "text/plain", "Host": "localhost"})
    assert answer.status == 200
    (asked,) = bed["a"].engine.asked
    assert asked.headers[b"host"] == b"127.0.0.1:%d" % bed["a"].engine.server.port
    assert asked.headers[b"content-type"] == b"text/plain"
    assert not {b"authorization", b"cookie", b"origin", b"x-bridge-hop"} & asked.headers.keys()


@pytest.mark.parametrize("given", ["soon", "-1", "0", "1e9", ""])
async def test_a_malformed_timeout_is_refused(bed: Bed, given: str) -> None:
    assert (await bed["a"].infer(headers={"X-Bridge-Timeout": given})).status == 400


async def test_the_model_of_an_audio_form_decides(bed: Bed) -> None:
    def form(*models: str) -> bytes:
        parts = [f'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n{m}\r\n' for m in models]
        return "".join([*parts, "--b--\r\n"]).encode()

    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    ask = bed["a"].ask
    assert (await ask("POST", "/v1/audio/transcriptions", form("nope"), kind)).status == 404
    assert (await ask("POST", "/v1/audio/transcriptions", form("tiny", "nope"), kind)).status == 400
    assert (await ask("POST", "/v1/audio/transcriptions", form(), kind)).status == 400
