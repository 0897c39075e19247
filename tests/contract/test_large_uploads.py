"""Uploads of blobs that the engine has: the answer comes first, and the client may send all the same."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import msgspec
import pytest

from tests.contract.gateway_bed import Bed, mesh
from tests.contract.http1_bed import ScriptedServer, scripted
from tests.contract.ollama_target import Engine, ask, engine, seeded
from tests.fakes.recorded_engine import RecordedEngine

SIZE = 92 << 20
PIECE = bytes(1 << 20)


def _upload(host: str, port: int, digest: str, headers: dict[str, str] | None = None) -> int:
    """As many clients do: the whole body first, then the answer is read."""
    connection = http.client.HTTPConnection(host, port, timeout=60)
    with contextlib.closing(connection):
        fields = {"Content-Length": str(SIZE), **(headers or {})}
        parts = (PIECE for _ in range(SIZE // len(PIECE)))
        connection.request("POST", f"/api/blobs/{digest}", parts, fields)
        return connection.getresponse().status


@pytest.fixture(scope="module")
def running(tmp_path_factory: Any) -> Any:
    with engine(seeded(tmp_path_factory, "uploads", "tiny")) as started:
        yield started


@pytest.mark.llamacpp
def test_the_engine_takes_a_large_blob_again_and_again(running: Engine) -> None:
    digest = f"sha256:{hashlib.sha256(bytes(SIZE)).hexdigest()}"
    where = urlsplit(running.base)
    statuses = [_upload(where.hostname or "", where.port or 0, digest) for _ in range(5)]
    assert statuses == [201, 200, 200, 200, 200]


@pytest.mark.llamacpp
def test_the_engine_calls_for_a_body_that_waits_for_it(running: Engine) -> None:
    data = b"x" * 1000
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    where = urlsplit(running.base)
    with socket.create_connection((where.hostname, where.port), timeout=30) as client:
        head = f"POST /api/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
        client.sendall(f"{head}Connection: close\r\nExpect: 100-continue\r\n\r\n".encode())
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(data)
        assert client.recv(100).startswith(b"HTTP/1.1 201 ")
    assert ask(running.base, "HEAD", f"/api/blobs/{digest}").status == 200


async def _hasty(_: ScriptedServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As Ollama's own server: it answers, ends its side, and half a second later resets the connection."""
    head = await reader.readuntil(b"\r\n\r\n")
    close = b"connection: close\r\n" if head.startswith(b"POST") else b""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n%b\r\n" % close)
    writer.write_eof()
    await asyncio.sleep(0.5)
    writer.transport.abort()


class HastyEngine(RecordedEngine):
    """An engine behind another port."""

    port: ClassVar[int] = 0

    def instance(self, id_: str, state: str = "ready") -> Any:
        return msgspec.structs.replace(super().instance(id_, state), port=self.port)


@pytest.fixture(params=["patient", "hasty"])
async def bed(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bed]:
    engines = {name: HastyEngine(blobs={"sha256:1": b"known"}) for name in "ab"}
    if request.param == "patient":
        engines = {name: RecordedEngine(blobs={"sha256:1": b"known"}) for name in "ab"}
    async with scripted(_hasty) as server:
        HastyEngine.port = server.port
        async with mesh(tmp_path, engines) as made:
            yield made


@pytest.mark.parametrize("where", [None, "b"], ids=["here", "at a peer"])
async def test_through_the_mesh_as_well(bed: Bed, where: str | None) -> None:
    named = {"X-Bridge-Node": where} if where else {}
    port = bed["a"].local.port
    for _ in range(3):
        status = await asyncio.to_thread(_upload, "127.0.0.1", port, "sha256:1", named)
        assert status == 200
