"""What the gateway answers to paths, methods, origins and hosts: as recorded from Ollama."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge_core.http_access import Origins
from tests.contract.gateway_bed import Bed, mesh
from tests.fakes.recorded_engine import RecordedEngine, recording

ADDED = {"connection", "date", "content-length", "x-request-id", "x-bridge-node", "x-bridge-attempts"}
CASES = [entry for entry in recording("meta") if entry["request"]["path"] != "/api/status"]


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    engine = RecordedEngine(("tiny-embed", "smollm2:135m", "tiny"))
    # Ollama takes every name under .internal and .local; here the admin names those that are the machine's.
    async with mesh(tmp_path, {"a": engine}, host_names=("x.internal",)) as bed:
        yield bed


@pytest.mark.parametrize("entry", CASES, ids=lambda entry: entry["case"])
async def test_meta_case_as_recorded(bed: Bed, entry: dict) -> None:
    request = entry["request"]
    headers = dict(request.get("headers") or {})
    if "host" in request:
        headers["Host"] = request["host"]
    answer = await bed["a"].ask(request["method"], request["path"], request.get("body"), headers)
    assert answer.status == int(entry["status"].split()[1])
    recorded = {name.lower(): value for name, value in entry["headers"].items()}
    for name in sorted(recorded.keys() - ADDED):
        assert (answer.headers.get(name.encode()) or b"").decode() == recorded[name], name
    text = "".join(entry["chunks"])
    if text.startswith("{"):
        theirs = json.loads(text)
        assert answer.json().keys() == theirs.keys()
        for key, value in theirs.items():
            if isinstance(value, list) and value:
                assert answer.json()[key][0].keys() >= value[0].keys() - {"capabilities"}
    else:
        assert answer.body.decode() == text


async def test_unknown_and_foreign_requests_reach_no_engine(bed: Bed) -> None:
    await bed["a"].ask("GET", "/nope")
    await bed["a"].ask("POST", "/api/chat", {"model": "tiny"}, {"Origin": "http://evil.example"})
    await bed["a"].ask("POST", "/api/chat", {"model": "tiny"}, {"Host": "evil.example"})
    assert bed["a"].engine.asked == []


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:11434", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:1", 200),
        ("192.168.1.5", 200),
        ("bed-host", 200),
        ("bed-host.local:80", 200),
        ("x.internal:80", 200),
        ("host.docker.internal:11434", 200),
        ("x.local", 403),
        ("y.internal:80", 403),
        ("8.8.8.8", 403),
        ("example.com", 403),
        ("localhost.example.com", 403),
    ],
)
async def test_host_rules(bed: Bed, host: str, status: int) -> None:
    assert (await bed["a"].ask("GET", "/", headers={"Host": host})).status == status


async def test_an_answer_to_an_allowed_origin_can_be_read_by_it(bed: Bed) -> None:
    origin = {"Origin": "http://localhost:3000"}
    for answer in (
        await bed["a"].infer(headers=origin),
        await bed["a"].infer(model="nope", headers=origin),
        await bed["a"].ask("GET", "/nope", headers=origin),
    ):
        assert answer.headers.get(b"access-control-allow-origin") == b"http://localhost:3000"


async def test_an_origin_that_the_configuration_allows_is_allowed(tmp_path: Path) -> None:
    page = {"Origin": "https://chat.example"}
    async with mesh(tmp_path, {"a": RecordedEngine()}, origins=Origins(("https://chat.example",))) as bed:
        answer = await bed["a"].infer(headers=page)
        assert (answer.status, answer.headers.get(b"access-control-allow-origin")) == (
            200,
            b"https://chat.example",
        )
        assert (await bed["a"].ask("OPTIONS", "/api/chat", headers=page)).status == 204
        other = await bed["a"].infer(headers={"Origin": "https://other.example"})
        assert (other.status, other.headers.get(b"access-control-allow-origin")) == (403, None)


async def test_a_page_of_the_called_host_is_no_foreign_origin(bed: Bed) -> None:
    for scheme in ("http", "https"):
        own = {"Host": "10.1.2.3:11434", "Origin": f"{scheme}://10.1.2.3:11434"}
        answer = await bed["a"].infer(headers=own)
        assert (answer.status, answer.headers.get(b"access-control-allow-origin")) == (200, None)
        assert (await bed["a"].ask("OPTIONS", "/api/chat", headers=own)).status == 405
    other = {"Host": "10.1.2.3:11434", "Origin": "http://10.1.2.3:3000"}
    assert (await bed["a"].infer(headers=other)).status == 403
    assert (await bed["a"].infer(headers={"Origin": ""})).status == 200


@pytest.mark.parametrize(
    ("method", "path", "origin", "status", "allow"),
    [
        ("OPTIONS", "/api/chat", "http://localhost:3000", 204, b"POST"),
        ("OPTIONS", "/nope", "http://localhost:3000", 204, None),
        ("OPTIONS", "/api/chat", "http://evil.example", 403, b"POST"),
        ("PUT", "/api/chat", "http://evil.example", 403, b"POST"),
        ("PUT", "/api/chat", "http://localhost:3000", 405, b"POST"),
        ("OPTIONS", "/api/chat", None, 405, b"POST"),
    ],
)
async def test_origins_come_before_methods(
    bed: Bed, method: str, path: str, origin: str | None, status: int, allow: bytes | None
) -> None:
    """As in Ollama, whose CORS rules run before its router looks at the method, preflight or not."""
    headers = {} if origin is None else {"Origin": origin}
    answer = await bed["a"].ask(method, path, headers=headers)
    assert (answer.status, answer.headers.get(b"allow")) == (status, allow)


@pytest.mark.parametrize(
    ("method", "path", "status", "field"),
    [
        ("GET", "/api/tags/", 301, "/api/tags"),
        ("GET", "/api/tags/?x=1", 301, "/api/tags?x=1"),
        ("POST", "/api/chat/", 307, "/api/chat"),
        ("GET", "//api/tags", 307, "/api/tags"),
        ("POST", "/api/./nope", 307, "/api/nope"),
        ("GET", "/v1/models/", 301, "/v1/models"),
        ("HEAD", "/api/blobs/sha256:ab/", 307, "/api/blobs/sha256:ab"),
        ("PUT", "/api/blobs/x", 405, "HEAD, POST"),
        ("GET", "/api/chat/", 404, None),
        ("OPTIONS", "/nope", 404, None),
    ],
)
async def test_nearly_a_route_is_answered_by_the_rules_that_engines_have(
    bed: Bed, method: str, path: str, status: int, field: str | None
) -> None:
    answer = await bed["a"].ask(method, path)
    said = answer.headers.get(b"location") or answer.headers.get(b"allow")
    assert (answer.status, said) == (status, None if field is None else field.encode())
    assert bool(answer.body) is (method == "GET" or status in {404, 405})


async def test_options_to_a_name_are_answered_before_the_router(bed: Bed) -> None:
    answer = await bed["a"].ask("OPTIONS", "/api/chat", headers={"Host": "localhost:11434"})
    assert (answer.status, answer.headers.get(b"allow"), answer.body) == (204, b"POST", b"")
