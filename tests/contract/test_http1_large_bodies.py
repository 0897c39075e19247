"""Bodies of megabytes: put together off the loop, written in pieces, and otherwise as any other."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from bridge_core import http1
from bridge_core.http1.reading import joined
from tests.contract.http1_bed import ScriptedServer, on_uvloop, raw, read_request, scripted, serving
from tests.support import eventually

MiB = 1 << 20
LARGE = bytes(range(256)) * (3 * MiB // 256)


class Threads(ThreadPoolExecutor):
    """Remembers what it was given to do, and does it once it may."""

    def __init__(self) -> None:
        super().__init__(1)
        self.given: list[Callable[..., Any]] = []
        self.may = asyncio.Event()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.given.append(fn)
        if self.may.is_set():
            return super().submit(fn, *args, **kwargs)
        promised: Future[Any] = Future()
        promised.set_running_or_notify_cancel()
        loop = asyncio.get_running_loop()

        async def later() -> None:
            await self.may.wait()
            inner = super(Threads, self).submit(fn, *args, **kwargs)
            promised.set_result(await asyncio.wrap_future(inner))

        self._later = loop.create_task(later())
        return promised


@pytest.fixture
async def threads() -> AsyncIterator[Threads]:
    threads = Threads()
    asyncio.get_running_loop().set_default_executor(threads)
    yield threads
    threads.shutdown()


class Kept:
    """An application that remembers the bodies and answers their lengths."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def __call__(self, exchange: http1.Exchange) -> None:
        self.bodies.append(exchange.request.body)
        exchange.respond(200, (), b"%d" % len(exchange.request.body))


def post(body: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def in_chunks(body: bytes) -> bytes:
    size = MiB // 2
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize("framed", [post, in_chunks])
async def test_a_large_body_is_put_together_in_a_thread_while_others_are_answered(
    threads: Threads, framed: Callable[[bytes], bytes]
) -> None:
    app = Kept()
    async with serving(app) as server, raw(server.port) as large, raw(server.port) as small:
        large.send(framed(LARGE))
        await eventually(lambda: threads.given == [joined])
        small.send(post(b"small"))
        assert (await small.answer())[2] == b"5"
        assert app.bodies == [b"small"]
        threads.may.set()
        assert (await large.answer())[2] == b"%d" % len(LARGE)
        assert app.bodies[1] == LARGE


async def test_a_small_body_in_parts_needs_no_thread(threads: Threads) -> None:
    app = Kept()
    async with serving(app) as server, raw(server.port) as client:
        client.send(in_chunks(LARGE[: MiB // 2 + 5]))
        assert (await client.answer())[2] == b"%d" % (MiB // 2 + 5)
    assert threads.given == []


async def test_requests_behind_a_large_body_wait_their_turn(threads: Threads) -> None:
    app = Kept()
    async with serving(app) as server, raw(server.port) as client:
        client.send(post(b"one") + post(LARGE) + post(b"three") + post(LARGE))
        assert (await client.answer())[2] == b"3"
        await eventually(lambda: threads.given)
        assert app.bodies == [b"one"]
        threads.may.set()
        sizes = [int((await client.answer())[2]) for _ in range(3)]
        assert sizes == [len(LARGE), 5, len(LARGE)]
    assert app.bodies == [b"one", LARGE, b"three", LARGE]


async def test_a_client_that_leaves_while_its_body_is_put_together_is_not_answered(threads: Threads) -> None:
    app = Kept()
    async with serving(app) as server:
        async with raw(server.port) as client:
            client.send(post(LARGE))
            await eventually(lambda: threads.given)
        await eventually(lambda: not server.connections)
        threads.may.set()
        await threads._later
        async with raw(server.port) as other:
            other.send(post(b"other"))
            assert (await other.answer())[2] == b"5"
    assert app.bodies == [b"other"]


async def test_a_server_that_closes_answers_a_body_that_is_being_put_together(threads: Threads) -> None:
    app = Kept()
    async with serving(app) as server, raw(server.port) as client:
        client.send(post(LARGE))
        await eventually(lambda: threads.given)
        closing = asyncio.create_task(server.close(30.0))
        await asyncio.sleep(0)
        threads.may.set()
        assert (await client.answer())[2] == b"%d" % len(LARGE)
        await closing


@on_uvloop
async def test_another_connection_has_its_turn_between_two_reads_of_a_large_body() -> None:
    """Both are there before the loop looks: libuv alone would read all of the large one first."""
    order: list[str] = []

    def app(exchange: http1.Exchange) -> None:
        stream = exchange.request.stream
        if stream is None:
            order.append("other")
            exchange.respond(200)
        else:
            stream.attach(lambda _: order.append("read"), partial(exchange.respond, 200), pytest.fail)

    listening = socket.create_server(("127.0.0.1", 0))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 * len(LARGE))
    async with (
        serving(app, sock=listening, stream_body=lambda request: request.path == "/large") as server,
        raw(server.port) as large,
        raw(server.port) as other,
    ):
        sockets = []
        for client in (large, other):
            client.send(post(b"first"))
            assert (await client.answer())[0] == 200
            sockets.append(client.writer.get_extra_info("socket"))
        sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * len(LARGE))
        order.clear()
        large.send(post(LARGE).replace(b"/", b"/large", 1))
        other.send(post(b"x"))
        assert (await large.answer())[0] == (await other.answer())[0] == 200
    assert "read" in order[order.index("other") :], order


@on_uvloop
async def test_a_large_request_is_retried_whole_after_a_lost_keep_alive_race() -> None:
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    async def script(
        state: ScriptedServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        state.requests.append(await read_request(reader))
        writer.write(ok)
        if state.connections == 1:
            state.requests.append(await read_request(reader))
            return  # closes without an answer
        await reader.read()

    async with scripted(script) as server:
        pool = http1.Pool(("127.0.0.1", server.port), limits=http1.PoolLimits(race_s=60.0))
        for body in (LARGE, LARGE[::-1]):
            async with pool.request("POST", "/", (), body) as response:
                assert await response.read() == b"ok"
        assert [request.partition(b"\r\n\r\n")[2] for request in server.requests] == [
            LARGE,
            LARGE[::-1],
            LARGE[::-1],
        ]
        await pool.close()
