"""The embedded engine when its runners die or hang, its clients leave, its disk is full, its store rots."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from tests.contract.ollama_target import Engine, Received, ask, engine, model_blob, seeded, upload
from tests.support import eventually

pytestmark = [pytest.mark.faults, pytest.mark.llamacpp]

LONG = {"model": "smollm2:135m", "options": {"temperature": 0, "num_predict": 600}}
STORY = {"role": "user", "content": "Write a very long story about a dragon."}
# Asked coldly: what is drawn by lot may be over before its runner is lost.
LONG_V1 = {"model": "smollm2:135m", "temperature": 0, "stream": True}
STREAMS = {
    "/api/generate": {**LONG, "prompt": STORY["content"]},
    "/api/chat": {**LONG, "messages": [STORY]},
    "/v1/chat/completions": {**LONG_V1, "messages": [STORY], "max_tokens": 600},
    "/v1/completions": {**LONG_V1, "prompt": "Once", "max_tokens": 600},
    "/v1/responses": {**LONG_V1, "input": STORY["content"], "max_output_tokens": 600},
    "/v1/messages": {**LONG_V1, "messages": [STORY], "max_tokens": 600},
}
ROUNDS = 6  # in one of which a runner is lost before its text is over, however busy the machine is
COMPLETE = (b'"done":true', b"[DONE]", b"message_stop", b"response.completed")


@pytest.fixture(scope="module")
def running(tmp_path_factory: Any) -> Iterator[Engine]:
    models = seeded(tmp_path_factory, "faults", "smollm2:135m", "tiny")
    with engine(models, "--hang-timeout", "3s") as started:
        yield started


class OpenStream:
    """A streamed request whose answer has begun."""

    def __init__(self, base: str, path: str, body: dict[str, Any]) -> None:
        where = urlsplit(base)
        self.socket = socket.create_connection((where.hostname or "", where.port or 0), timeout=60)
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Length: {len(data)}\r\n"
        self.socket.sendall(head.encode() + b"Connection: close\r\n\r\n" + data)
        self.seen = b""
        while self.seen.count(b'"') < 60:
            self.seen += self._receive()

    def _receive(self) -> bytes:
        data = self.socket.recv(65536)
        if not data:
            self.socket.close()
            raise AssertionError(f"the stream ended at once: {self.seen!r}")
        return data

    def rest(self) -> bytes:
        """Everything until the end."""
        while data := self.socket.recv(65536):
            self.seen += data
        self.socket.close()
        return self.seen


def runners(pid: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(pid).children() if child.status() != psutil.STATUS_ZOMBIE]


def post(running: Engine, path: str, body: dict[str, Any]) -> Received:
    return ask(running.base, "POST", path, json.dumps(body).encode())


def answers(running: Engine) -> bool:
    body = {"model": "smollm2:135m", "prompt": "Hi", "stream": False, "options": {"num_predict": 1}}
    return post(running, "/api/generate", body).status == 200


def slots(running: Engine) -> tuple[int, int]:
    """How many it works in, and how many requests run."""
    models = ask(running.base, "GET", "/bridge/slots").json()["models"]
    assert {(model["name"], model["slots"]) for model in models} <= {("smollm2:135m", 1)}
    return sum(model["busy"] for model in models), sum(model["running"] for model in models)


@pytest.mark.parametrize(
    ("fault", "path"),
    [(signal.SIGKILL, path) for path in STREAMS]
    + [(signal.SIGSTOP, path) for path in ("/api/chat", "/v1/chat/completions", "/v1/messages")],
)
def test_a_lost_runner_ends_a_stream_with_an_error(running: Engine, path: str, fault: signal.Signals) -> None:
    for _ in range(ROUNDS):
        stream = OpenStream(running.base, path, STREAMS[path])
        (runner,) = runners(running.pid)
        runner.send_signal(fault)
        ended = stream.rest()
        if not any(mark in ended for mark in COMPLETE):
            break
        with contextlib.suppress(psutil.NoSuchProcess):
            runner.send_signal(signal.SIGCONT)
        assert answers(running)
    assert not any(mark in ended for mark in COMPLETE)
    assert ended.endswith(b"0\r\n\r\n")
    last = ended.rsplit(b"\n{", 1)[-1] if path.startswith("/api/") else ended.rsplit(b"data: ", 1)[-1]
    assert b"error" in last, last
    assert b"an error was encountered while running the model" in last
    assert answers(running)


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/api/chat", ["error"]),
        ("/v1/chat/completions", ["error"]),
        ("/v1/messages", ["error", "request_id", "type"]),
    ],
)
async def test_a_lost_runner_fails_a_whole_answer(running: Engine, path: str, shape: list[str]) -> None:
    import asyncio

    for _ in range(ROUNDS):
        assert answers(running)
        body = {**STREAMS[path], "stream": False}
        asked = asyncio.create_task(asyncio.to_thread(post, running, path, body))
        await eventually(lambda asked=asked: asked.done() or slots(running)[0] > 0)
        (runner,) = runners(running.pid)
        runner.kill()
        received = await asked
        if received.status != 200:  # it was not over before
            break
    assert received.status == 500
    assert sorted(received.json()) == shape


async def test_runners_die_with_their_engine(tmp_path: Path, running: Engine) -> None:
    with contextlib.suppress(AssertionError), engine(running.models) as doomed:
        assert answers(doomed)
        (runner,) = runners(doomed.pid)
        os.kill(doomed.pid, signal.SIGKILL)
        await eventually(lambda: not runner.is_running() or runner.status() == psutil.STATUS_ZOMBIE)


async def test_a_client_that_leaves_frees_its_slot(running: Engine) -> None:
    body = {**STREAMS["/api/generate"], "options": {"temperature": 0, "num_predict": 4000, "num_ctx": 4096}}
    assert answers(running)
    stream = OpenStream(running.base, "/api/generate", body)
    stream.socket.close()
    await eventually(lambda: slots(running) == (0, 0), 30)  # the story would have taken longer
    assert answers(running)


async def test_an_engine_tells_which_slots_it_works_in_also_for_nobody(running: Engine) -> None:
    assert answers(running)
    await eventually(lambda: slots(running) == (0, 0), 60)
    words = " ".join(f"word{number}" for number in range(300))
    body = {"model": "smollm2:135m", "prompt": words, "raw": True, "options": {"num_batch": 32}}
    where = urlsplit(running.base)
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=60) as client:
        data = json.dumps(body).encode()
        head = f"POST /api/generate HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Length: {len(data)}\r\n\r\n"
        client.sendall(head.encode() + data)
        await eventually(lambda: slots(running) == (1, 1), 60)
    await eventually(lambda: slots(running)[1] == 0, 60)
    await eventually(lambda: slots(running) == (0, 0), 60)


def test_a_stream_is_finished_on_sigterm(running: Engine) -> None:
    with engine(running.models) as stopping:
        # Few enough for the engine's grace of ten seconds, however busy the machine is.
        body = {**STREAMS["/api/generate"], "options": {"temperature": 0, "num_predict": 20}}
        stream = OpenStream(stopping.base, "/api/generate", body)
        os.kill(stopping.pid, signal.SIGTERM)
        assert b'"done":true' in stream.rest()


def test_a_full_disk_refuses_uploads_and_creates_and_harms_nothing(running: Engine) -> None:
    with engine(running.models) as full:
        resource.prlimit(full.pid, resource.RLIMIT_FSIZE, (1 << 16, resource.RLIM_INFINITY))
        data = os.urandom(1 << 18)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        refused = ask(full.base, "POST", f"/api/blobs/{digest}", data)
        assert refused.status == 500
        assert "file too large" in refused.json()["error"]
        assert ask(full.base, "HEAD", f"/api/blobs/{digest}").status == 404
        create = {"model": "big", "from": "tiny", "system": "x" * (1 << 17), "stream": False}
        assert post(full, "/api/create", create).status == 500
        assert post(full, "/api/show", {"model": "big"}).status == 404
        assert post(full, "/api/show", {"model": "tiny"}).status == 200
    assert not list(running.models.glob("blobs/*partial*"))


def test_a_rotten_store_is_named_and_the_rest_works(running: Engine) -> None:
    manifests = running.models / "manifests/registry.ollama.ai/library"
    (manifests / "torn").mkdir(exist_ok=True)
    (manifests / "torn/latest").write_bytes(b'{"schemaVersion":2,"con')
    weights = model_blob(running.models, "tiny")
    rotten = upload(running.base, b"GGUF" + b"\xff" * 400)
    whole = (manifests / "tiny/latest").read_bytes()
    (manifests / "rotten").mkdir(exist_ok=True)
    (manifests / "rotten/latest").write_bytes(whole.replace(weights.encode(), rotten.encode()))
    (manifests / "gone").mkdir(exist_ok=True)
    (manifests / "gone/latest").write_bytes(whole.replace(weights.encode(), b"sha256:" + b"0" * 64))
    for name, said in (
        ("torn", "damaged manifest"),
        ("rotten", "weights are damaged"),
        ("gone", "weights are missing"),
    ):
        for path in ("/api/generate", "/api/show"):
            received = post(running, path, {"model": name, "prompt": "x"})
            assert received.status == 500
            assert said in received.json()["error"]
            assert "Traceback" not in received.body.decode()
    listed = [model["name"] for model in ask(running.base, "GET", "/api/tags").json()["models"]]
    assert "tiny:latest" in listed
    assert not {"torn:latest", "rotten:latest", "gone:latest"} & set(listed)
    for name in ("torn", "rotten", "gone"):
        (manifests / name / "latest").unlink()
