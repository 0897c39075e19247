"""Servers that speak Ollama's API, started for tests, and a client that shows what was on the wire."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from bridge_engine.seed import seed
from tests.ports import free_port

_START_S = 30.0


@dataclass
class Received:
    """An answer as it arrived.

    Attributes:
        status: The status code; 0 where nothing came.
        headers: Fields by lower-case name.
        chunks: The body, an entry a transfer chunk (one for a body with a length).
        complete: The body ended as HTTP says that it does.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    complete: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    base: str,
    method: str,
    path: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    *,
    host: str = "",
    timeout_s: float = 60.0,
) -> Received:
    """Sends one request on a connection of its own and reads the answer chunk by chunk."""
    where = urlsplit(base)
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host or where.netloc}", "Connection: close"]
    fields = {"Content-Type": "application/json", **(headers or {})}
    lines += [f"{name}: {value}" for name, value in fields.items() if value is not None]
    if body or method in ("POST", "DELETE", "PUT"):
        lines.append(f"Content-Length: {len(body)}")
    with socket.create_connection((where.hostname or "", where.port or 80), timeout=timeout_s) as connection:
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        with connection.makefile("rb") as stream:
            return _read(stream, method)


def _read(stream: Any, method: str) -> Received:
    received = Received()
    line = stream.readline()
    if not line:
        return received
    received.status = int(line.split()[1])
    while (line := stream.readline().strip()) != b"":
        name, _, value = line.decode("latin-1").partition(":")
        received.headers[name.strip().lower()] = value.strip()
    if method == "HEAD" or received.status in (204, 304):
        received.complete = True
    elif received.headers.get("transfer-encoding") == "chunked":
        _read_chunks(stream, received)
    else:
        length = int(received.headers.get("content-length", "0"))
        data = stream.read(length)
        received.chunks = [data] if data else []
        received.complete = len(data) == length
    return received


def _read_chunks(stream: Any, received: Received) -> None:
    while line := stream.readline():
        size = int(line, 16)
        if size == 0:
            stream.readline()
            received.complete = True
            return
        data = stream.read(size)
        stream.readline()
        if data:
            received.chunks.append(data)


def seeded(factory: pytest.TempPathFactory, name: str, *models: str) -> Path:
    """A models folder below a new one of this name, with these models; a run makes each of them once."""
    folder = factory.mktemp(name) / "models"
    seed(folder, models, factory.getbasetemp() / "seed-cache")
    return folder


@dataclass
class Engine:
    """A running `bridge-engine`."""

    base: str
    pid: int
    models: Path
    log: Path


@contextlib.contextmanager
def engine(models: Path, *flags: str) -> Iterator[Engine]:
    """Runs `bridge-engine serve` on a free port; ends it afterwards and checks that it did."""
    ready, log = models.parent / f"ready-{time.monotonic_ns()}.json", models.parent / "engine.log"
    command = [sys.executable, "-m", "bridge_engine.cli", "serve", "--models", str(models)]
    command += ["--listen", "127.0.0.1:0", "--ready-file", str(ready), *flags]
    # No test may reach a registry on the Internet, and none may wait for a name server to say no.
    environment = {**os.environ, "HTTPS_PROXY": "http://127.0.0.1:1"}
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        end = time.monotonic() + _START_S
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"bridge-engine did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.02)
        where = json.loads(ready.read_bytes())
        yield Engine(f"http://{where['host']}:{where['port']}", where["pid"], models, log)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


@contextlib.contextmanager
def real_ollama(models: Path, binary: str) -> Iterator[str]:
    """Runs a real `ollama serve` on the same models directory."""
    port = free_port()
    environment = {
        **os.environ,
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_MODELS": str(models),
        "OLLAMA_NOPRUNE": "1",
        "OLLAMA_NO_CLOUD": "1",
        "HOME": str(models.parent),
    }
    with (models.parent / "ollama.log").open("wb") as out:
        process = subprocess.Popen([binary, "serve"], env=environment, stdout=out, stderr=out)
    try:
        base = f"http://127.0.0.1:{port}"
        end = time.monotonic() + _START_S
        while True:
            with contextlib.suppress(OSError):
                if ask(base, "GET", "/api/version").status == 200:
                    break
            if process.poll() is not None or time.monotonic() > end:
                raise AssertionError("ollama did not start")
            time.sleep(0.05)
        yield base
    finally:
        process.terminate()
        process.wait(15)


def model_blob(models: Path, name: str) -> str:
    """The digest of a stored model's weights."""
    manifest = json.loads((models / "manifests/registry.ollama.ai/library" / name / "latest").read_bytes())
    return next(one["digest"] for one in manifest["layers"] if one["mediaType"].endswith("image.model"))


def upload(base: str, data: bytes) -> str:
    """Uploads a blob; returns its digest."""
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert ask(base, "POST", f"/api/blobs/{digest}", data).status in (200, 201)
    return digest


def more_like_the_last(chunk: str) -> int:
    """How many chunks a recording left out at this place; 0 for a chunk that was kept."""
    found = re.fullmatch(r"\.\.\. (\d+) more like the last \.\.\.", chunk)
    return int(found[1]) if found else 0
