"""What one client sends must cost the engine's other clients nothing."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bridge_engine.app import EngineCall
from bridge_engine.bodies import LARGE
from bridge_engine.generation import Generation
from bridge_engine.pools import Pools
from tests.contract.ollama_target import Engine, Received, ask, engine, seeded
from tests.support import eventually

pytestmark = [pytest.mark.llamacpp]

ONE_TOKEN = {"model": "tiny", "prompt": "x", "stream": False, "options": {"num_predict": 1}}


@pytest.fixture(scope="module")
def running(tmp_path_factory: Any) -> Iterator[Engine]:
    with engine(seeded(tmp_path_factory, "attacked", "tiny", "tiny-embed"), "--num-parallel", "2") as started:
        yield started


def _post(running: Engine, path: str, body: Any) -> Received:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ask(running.base, "POST", path, data)


@pytest.mark.parametrize("depth", [900, 100_000])
@pytest.mark.parametrize(
    ("path", "head"),
    [
        ("/api/generate", b'{"model":"tiny","prompt":"x","stream":false,"format":'),
        ("/api/chat", b'{"model":"tiny","messages":[{"role":"user","content":"x"}],"tools":'),
        ("/api/embed", b'{"model":"tiny-embed","input":'),
        ("/api/create", b'{"model":"x","from":"tiny","parameters":'),
        ("/v1/chat/completions", b'{"model":"tiny","messages":'),
        ("/v1/messages", b'{"model":"tiny","max_tokens":1,"messages":'),
        ("/v1/responses", b'{"model":"tiny","input":'),
    ],
)
def test_a_body_that_is_nested_too_deep_is_refused(
    running: Engine, path: str, head: bytes, depth: int
) -> None:
    received = _post(running, path, head + b"[" * depth + b"]" * depth + b"}")
    assert received.status == 400
    error = received.json()["error"]
    message = error["message"] if path.startswith("/v1") else error
    assert "nested deeper than 128 levels" in message
    assert "Traceback" not in running.log.read_text()


@pytest.mark.parametrize(
    "options",
    [
        {"num_ctx": 10**12}, {"seed": 10**30}, {"repeat_last_n": 2**31 - 1}, {"num_thread": 10**6},
        {"num_batch": -7}, {"stop": ["x"] * 100_000}, {"top_k": 2**40}, {"num_keep": -(2**31)},
        {"num_gpu": 2**31 - 1}, {"mirostat": 2}, {"temperature": 1e308},
    ],
    ids=str,
)  # fmt: skip
def test_no_option_ends_a_runner(running: Engine, options: dict[str, Any]) -> None:
    received = _post(running, "/api/generate", {**ONE_TOKEN, "options": {"num_predict": 1, **options}})
    refused = received.status == 500 and "must be of type" in received.json()["error"]
    assert refused or received.status in (200, 400), received.body
    assert _post(running, "/api/generate", ONE_TOKEN).status == 200
    assert "SIG" not in running.log.read_text()


@pytest.mark.parametrize(
    "body",
    [
        {"context": [10**9]}, {"context": [-1]}, {"keep_alive": 10**400}, {"top_logprobs": 10**400},
        {"images": ["YWJj"] * 300}, {"prompt": "word " * 1_000_000}, {"keep_alive": "9" * 400 + "h"},
    ],
    ids=lambda body: next(iter(body)),
)  # fmt: skip
def test_no_field_ends_a_runner(running: Engine, body: dict[str, Any]) -> None:
    received = _post(running, "/api/generate", {**ONE_TOKEN, **body})
    assert received.status in (200, 400), received.body
    assert _post(running, "/api/generate", ONE_TOKEN).status == 200
    assert "Traceback" not in running.log.read_text()


def test_many_inputs_are_embedded_in_batches_and_too_many_refused(running: Engine) -> None:
    texts = [f"text {number}" for number in range(300)]
    received = _post(running, "/api/embed", {"model": "tiny-embed", "input": texts})
    found = received.json()["embeddings"]
    assert len(found) == 300
    alone = _post(running, "/api/embed", {"model": "tiny-embed", "input": texts[299]}).json()["embeddings"][0]
    assert found[299] == pytest.approx(alone, abs=1e-3)
    assert _post(running, "/api/embed", {"model": "tiny-embed", "input": ["x"] * 5000}).status == 400


async def test_pulls_that_stall_hold_up_nothing_that_needs_no_network(running: Engine) -> None:
    silent = socket.create_server(("127.0.0.1", 0), backlog=64)
    name = f"127.0.0.1:{silent.getsockname()[1]}/library/x"
    body = json.dumps({"model": name, "insecure": True}).encode()
    pulls = [threading.Thread(target=_ask_and_leave, args=(running, body)) for _ in range(40)]
    for pull in pulls:
        pull.start()
    try:
        held: list[socket.socket] = []
        silent.settimeout(20)
        while len(held) < 16:
            held.append(await asyncio.to_thread(lambda: silent.accept()[0]))
        created = await asyncio.to_thread(_post, running, "/api/create", {"model": "made", "from": "tiny"})
        assert json.loads(created.chunks[-1]) == {"status": "success"}
        assert (await asyncio.to_thread(_post, running, "/api/show", {"model": "made"})).status == 200
        assert (await asyncio.to_thread(ask, running.base, "GET", "/api/tags")).status == 200
    finally:
        silent.close()
        for connection in held:
            connection.close()
        for pull in pulls:
            pull.join()
    await eventually(lambda: ask(running.base, "GET", "/api/version").status == 200)


def _ask_and_leave(running: Engine, body: bytes) -> None:
    ask(running.base, "POST", "/api/pull", body, timeout_s=60)


async def test_what_is_large_is_read_in_a_thread() -> None:
    """A body of 20 MiB stopped the loop for half a second, for everybody's streams."""
    pools = Pools()
    call = EngineCall(None, None, "", pools.decode)
    threads = [await call.off_loop(size, threading.current_thread) for size in (1000, LARGE)]
    assert [thread.name.startswith("engine-decode") for thread in threads] == [False, True]
    body = {"images": [base64.b64encode(bytes(LARGE)).decode()]}
    loop_thread = threading.get_ident()
    seen: list[int] = []
    body["messages"] = _Noting(seen)
    await Generation(None, None, pools.decode)._settle_images(body)
    assert seen[-1] != loop_thread
    pools.close()


class _Noting(list[Any]):
    """A list that notes who reads it."""

    def __init__(self, seen: list[int]) -> None:
        super().__init__([{}])
        self._seen = seen

    def __iter__(self) -> Iterator[Any]:
        self._seen.append(threading.get_ident())
        return super().__iter__()
