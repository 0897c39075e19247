"""What no good client sends, at a real node: refused in the protocol's shape, and the node serves on.

The parser's own suite is tests/contract/test_http1_bad_input.py; here it is the whole node's turn.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cluster.mesh_bed import SOLO, Mesh, call, raw
from tests.cluster.strangers import stranger

pytestmark = [pytest.mark.cluster, pytest.mark.etcd, pytest.mark.llamacpp]

HOST = b"Host: localhost\r\n"
BODY = json.dumps({"model": SOLO, "prompt": "x", "stream": False, "options": {"num_predict": 1}}).encode()
REFUSED = [
    pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01", 400, id="tls-in-the-clear"),
    pytest.param(b"NONSENSE\r\n\r\n", 400, id="no-request-line"),
    pytest.param(b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414, id="long-line"),
    pytest.param(
        b"GET /api/tags HTTP/1.1\r\n" + HOST + b"X-Flood: yes\r\n" * 6000 + b"\r\n", 431, id="header-flood"
    ),
    pytest.param(
        b"POST /api/generate HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        400,
        id="two-lengths",
    ),
    pytest.param(
        b"POST /api/generate HTTP/1.1\r\n"
        + HOST
        + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        id="length-and-chunked",
    ),
    pytest.param(
        b"POST /api/generate HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        501,
        id="unknown-coding",
    ),
    pytest.param(
        b"POST /api/generate HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n",
        400,
        id="bad-chunk",
    ),
    pytest.param(
        b"POST /api/generate HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % (1 << 40), 413, id="huge"
    ),
    pytest.param(b"GET /api/tags HTTP/1.1\r\n" + HOST + b"A b: c\r\n\r\n", 400, id="bad-header-name"),
]


@pytest.fixture
async def address(mesh: Mesh) -> AsyncIterator[tuple[str, int]]:
    """Node 1, which must answer for another node's model afterwards as well."""
    address = mesh.address("node1")
    yield address
    status, _, body = await asyncio.to_thread(call, address, "POST", "/api/generate", BODY)
    assert (status, json.loads(body)["done"]) == (200, True)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize(("sent", "status"), REFUSED)
async def test_bad_framing_is_refused_with_a_sentence(
    address: tuple[str, int], sent: bytes, status: int
) -> None:
    async with raw(address) as (reader, writer):
        writer.write(sent)
        answer = await asyncio.wait_for(reader.read(), 60)
    assert status_of(answer) == status, answer
    assert len(json.loads(answer.partition(b"\r\n\r\n")[2])["error"]) > 5


async def test_a_truncated_body_is_nobody_s_request(address: tuple[str, int]) -> None:
    async with raw(address) as (reader, writer):
        head = b"POST /api/generate HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(BODY)
        writer.write(head + BODY[:-9])
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 60)
    assert answer == b"" or status_of(answer) == 400


async def test_pipelined_requests_are_answered_in_their_order(address: tuple[str, int]) -> None:
    generate = b"POST /api/generate HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    version = b"GET /api/version HTTP/1.1\r\n" + HOST
    async with raw(address) as (reader, writer):
        writer.write(generate + version + b"\r\n" + generate + version + b"Connection: close\r\n\r\n")
        answers = (await asyncio.wait_for(reader.read(), 30)).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"200"] * 4
    assert [b'"version"' in answer for answer in answers] == [False, True, False, True]


async def test_what_is_smuggled_behind_a_body_is_not_a_request(address: tuple[str, int]) -> None:
    inner = b"DELETE /api/delete HTTP/1.1\r\n" + HOST + b"\r\n"
    head = b"POST /api/generate HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"
    async with raw(address) as (reader, writer):
        writer.write(head + b"\r\n0\r\n\r\n" + inner)
        answer = await asyncio.wait_for(reader.read(), 60)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert status_of(answer) == 400


@pytest.mark.parametrize(
    ("path", "body", "status", "word"),
    [
        ("/api/generate", b"", 400, "missing request body"),
        ("/api/generate", b"{", 400, ""),
        ("/api/generate", b'{"model": 5}', 400, ""),
        ("/api/chat", b'{"model": "tiny-solo", "messages": "x"}', 400, ""),
        ("/api/chat", b'{"messages": []}', 400, "model"),
        ("/api/generate", b'{"model": "nope", "prompt": "x"}', 404, "model 'nope' not found"),
        ("/api/embed", b'{"model": "nope", "input": "x"}', 404, "nope"),
        ("/api/show", b'{"model": "nope"}', 404, "nope"),
        ("/api/generate", b'{"model": "tiny-solo", "model": "tiny", "prompt": "x"}', 400, "model"),
        ("/api/generate", b'{"model": "tiny-solo", "Model": "tiny", "prompt": "x"}', 400, ""),
        ("/api/generate", b'{"model": "../../etc/passwd", "prompt": "x"}', 400, ""),
        ("/api/generate", b'{"model": "tiny-solo", "prompt": "x"} {"model": "tiny"}', 400, ""),
        ("/api/generate", b"[" * 100_000, 400, ""),
    ],
)
async def test_bad_bodies_are_refused_as_ollama_refuses_them(
    address: tuple[str, int], path: str, body: bytes, status: int, word: str
) -> None:
    got, head, answer = await asyncio.to_thread(call, address, "POST", path, body)
    assert got == status, answer
    assert head["content-type"].startswith("application/json")
    assert word in json.loads(answer)["error"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"])
@pytest.mark.parametrize(("body", "status"), [(b"{", 400), (b'{"model": "nope"}', 404)])
async def test_other_protocols_are_refused_in_their_own_shape(
    address: tuple[str, int], path: str, body: bytes, status: int
) -> None:
    if body != b"{":
        body = json.dumps(
            {"model": "nope", "messages": [{"role": "user", "content": "x"}], "input": "x", "max_tokens": 3}
        ).encode()
    got, _, answer = await asyncio.to_thread(call, address, "POST", path, body)
    error = json.loads(answer)
    assert got == status, answer
    assert error["error"]["message"]
    assert (error.get("type") == "error") == (path == "/v1/messages")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/generate", 405),
        ("PUT", "/api/chat", 405),
        ("DELETE", "/api/tags", 405),
        ("GET", "/x", 404),
    ],
)
async def test_wrong_methods_and_paths(address: tuple[str, int], method: str, path: str, status: int) -> None:
    got, _, _ = await asyncio.to_thread(call, address, method, path)
    assert got == status


async def test_a_slow_head_is_cut_and_holds_nobody_up(address: tuple[str, int]) -> None:
    """The time limit itself is shown in the parser's suite; here: others are served meanwhile."""
    async with raw(address) as (_, slow):
        slow.write(b"POST /api/generate HTTP/1.1\r\nHost: loc")
        await slow.drain()
        began = time.monotonic()
        status, _, _ = await asyncio.to_thread(call, address, "POST", "/api/generate", BODY)
        assert status == 200
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("listener", ["https", "peer"])
async def test_only_the_mesh_s_own_certificates_are_let_in(mesh: Mesh, listener: str, tmp_path: Path) -> None:
    address = mesh.address("node1", listener)
    ca, cert, key = mesh.client_files()
    _, foreign_cert, foreign_key = await asyncio.to_thread(stranger, tmp_path)

    def tls(files: tuple[str, str] | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=ca)
        context.check_hostname = False
        if files is not None:
            context.load_cert_chain(*files)
        return context

    for files in (None, (foreign_cert, foreign_key)):
        try:
            status, _, body = await asyncio.to_thread(
                call, address, "GET", "/api/tags", None, None, tls(files)
            )
        except (ssl.SSLError, ConnectionError):
            continue
        assert listener == "https"
        assert (status, "error" in json.loads(body)) == (401, True)
    status, _, body = await asyncio.to_thread(call, address, "GET", "/api/tags", None, None, tls((cert, key)))
    # A client is not a node: the peer listener is for nodes alone.
    assert (status == 200) == (listener == "https"), body
