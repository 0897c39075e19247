"""What Ollama's router and handlers answer to odd requests, as its source has it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.contract.ollama_target import Engine, ask, engine, seeded

pytestmark = [pytest.mark.llamacpp]

MOVED = b'<a href="/api/tags?a=b">Moved Permanently</a>.\n\n'
LONG = "h" * 340 + "/n/m"
RELATIVE = "file path must be relative"


@pytest.fixture(scope="module")
def running(tmp_path_factory: Any) -> Iterator[Engine]:
    with engine(seeded(tmp_path_factory, "routes", "tiny")) as started:
        yield started


@pytest.mark.parametrize(
    ("method", "path", "status", "where", "body"),
    [
        (
            "GET",
            "/api/tags/?a=b",
            301,
            "/api/tags?a=b",
            b'<a href="/api/tags?a=b">Moved Permanently</a>.\n\n',
        ),
        ("POST", "/api/chat/", 307, "/api/chat", b""),
        ("POST", "//api/generate?x", 307, "/api/generate?x", b""),
        ("GET", "//nope%0d%0aX-Evil:1", 307, "/nope%0D%0AX-Evil:1", None),
        ("GET", "/api/chat/", 404, None, b"404 page not found"),
        ("PUT", "/api/blobs/x", 405, None, b"405 method not allowed"),
    ],
)
def test_paths(running: Engine, method: str, path: str, status: int, where: str | None, body: bytes) -> None:
    received = ask(running.base, method, path)
    assert received.status == status
    assert received.headers.get("location") == where
    assert body is None or received.body == body
    assert "x-evil" not in received.headers


@pytest.mark.parametrize(("host", "status"), [("localhost", 204), ("127.0.0.1", 405)])
def test_options_without_an_origin(running: Engine, host: str, status: int) -> None:
    port = urlsplit(running.base).port
    received = ask(running.base, "OPTIONS", "/api/chat", host=f"{host}:{port}")
    assert (received.status, received.headers["allow"]) == (status, "POST")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("DELETE", "/api/delete", {}, 400, "model is required"),
        ("DELETE", "/api/delete", {"name": "!!"}, 400, 'name "!!" is invalid'),
        ("POST", "/api/embeddings", {"prompt": "x"}, 400, "model is required"),
        ("POST", "/api/embed", {"input": "x"}, 404, "model '' not found"),
        ("POST", "/api/generate", {"prompt": "x"}, 404, "model '' not found"),
        ("POST", "/api/chat", {"messages": []}, 400, "model is required"),
        ("POST", "/api/show", {}, 400, "model is required"),
        ("POST", "/api/show", {"model": LONG}, 404, f"model '{LONG}:latest' not found"),
        ("POST", "/api/push", {}, 400, "model is required"),
        ("POST", "/api/pull", {}, 400, "invalid model name"),
        ("POST", "/api/create", {"from": "tiny"}, 400, "invalid model name"),
        ("POST", "/api/create", {"model": "x", "files": {"/a": "sha256:0"}}, 400, RELATIVE),
        ("POST", "/api/create", {"model": "x", "files": {"a/../b": ""}}, 400, RELATIVE),
        ("POST", "/api/create", {"model": "x", "files": {"a": ""}}, 400, "invalid digest format"),
        ("POST", "/api/copy", {"destination": "x"}, 400, 'source "" is invalid'),
    ],
)  # fmt: skip
def test_what_is_missing_or_wrong_is_named(
    running: Engine, method: str, path: str, body: dict[str, Any], status: int, message: str
) -> None:
    received = ask(running.base, method, path, json.dumps(body).encode())
    assert (received.status, received.json()) == (status, {"error": message})


def test_streams_are_not_held_back_by_a_proxy(running: Engine) -> None:
    options = {"num_predict": 2}
    for path, body in (
        ("/api/generate", {"model": "tiny", "prompt": "x", "options": options}),
        ("/api/create", {"model": "made", "from": "tiny"}),
        ("/v1/completions", {"model": "tiny", "prompt": "x", "max_tokens": 2, "stream": True}),
    ):
        received = ask(running.base, "POST", path, json.dumps(body).encode())
        assert received.headers["x-accel-buffering"] == "no", path
    whole = {"model": "tiny", "prompt": "x", "stream": False, "options": options}
    received = ask(running.base, "POST", "/api/generate", json.dumps(whole).encode())
    assert "x-accel-buffering" not in received.headers


def test_quantising_is_refused_with_the_way(running: Engine) -> None:
    received = ask(running.base, "POST", "/api/create", b'{"model":"x","from":"tiny","quantize":"q8_0"}')
    assert received.status == 400
    assert "llama-quantize" in received.json()["error"]
