"""Client, relay, server in a row: what passes, what is dropped, who waits for whom, who hears of an end."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterable

import pytest

from bridge_core import http1
from tests.bare_relay import Relay
from tests.contract.http1_bed import (
    Script,
    ScriptedServer,
    on_uvloop,
    raw,
    read_request,
    scripted,
    serving,
    talk,
)
from tests.support import eventually

POST = b"POST /api/chat?x=1 HTTP/1.1\r\nHost: front\r\nContent-Length: 4\r\n\r\nbody"


@contextlib.asynccontextmanager
async def relayed(script: Script, relay: type[Relay] = Relay, **options: object):
    """A client connected to a relay in front of a scripted server."""
    async with scripted(script) as upstream:
        pool = http1.Pool(("127.0.0.1", upstream.port))
        async with (
            serving(lambda exchange: relay(exchange).forward(pool), **options) as server,
            raw(server.port) as client,
        ):
            yield client, upstream, pool, server
        await pool.close()


def once(answer: bytes) -> Script:
    async def script(
        state: ScriptedServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            state.requests.append(await read_request(reader))
            writer.write(answer)

    return script


@on_uvloop
async def test_bytes_pass_and_hop_by_hop_fields_do_not() -> None:
    answer = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n"
        b"Connection: keep-alive, X-Private\r\nKeep-Alive: timeout=5\r\nX-Private: 1\r\nSet-Cookie: a\r\n"
        b"Set-Cookie: b\r\nContent-Length: 2\r\n\r\nok"
    )
    request = (
        b"POST /api/chat?x=1 HTTP/1.1\r\nHost: front\r\nConnection: keep-alive, x-mine\r\nX-Mine: 1\r\n"
        b"Keep-Alive: 1\r\nTE: trailers\r\nProxy-Authorization: secret\r\nUpgrade: h2c\r\nX-Yours: 2\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n"
    )
    async with relayed(once(answer)) as (client, upstream, _, _):
        client.send(request)
        head = await client.until(b"\r\n\r\n")
        assert await client.exactly(2) == b"ok"
        assert upstream.requests == [
            b"POST /api/chat?x=1 HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nx-yours: 2\r\n" % upstream.port
            + b"content-length: 4\r\n\r\nbody"
        ]
    assert head == (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ndate: Mon, 01 Jan 2024 00:00:00 GMT\r\n"
        b"set-cookie: a\r\nset-cookie: b\r\ncontent-length: 2\r\n\r\n"
    )


@on_uvloop
async def test_repeated_exchanges_pass_what_belongs_to_them() -> None:
    async def script(
        state: ScriptedServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            body = (await read_request(reader))[-4:]
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + body)

    async with relayed(script) as (client, upstream, pool, _):
        for n in range(50):
            client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n%04d" % n)
            assert (await client.answer())[2] == b"%04d" % n
        assert upstream.connections == 1
        assert pool.idle == 1


@on_uvloop
async def test_repeated_heads_with_bodies_of_other_lengths_pass_whole() -> None:
    async def script(
        state: ScriptedServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            request = await read_request(reader)
            state.requests.append(request)
            body = request.partition(b"\r\n\r\n")[2][::-1] * 3
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-Same: 1\r\n\r\n%b" % (len(body), body))

    async with relayed(script) as (client, upstream, _, _):
        for body in (b"one", b"two", b"three", b"x" * 70_000, b"seven", b"", b"12"):
            client.send(
                b"POST / HTTP/1.1\r\nHost: front\r\nContent-Length: %d\r\nX: y\r\n\r\n" % len(body) + body
            )
            status, fields, got = await client.answer()
            assert (status, got, fields["x-same"]) == (200, body[::-1] * 3, "1")
            assert upstream.requests[-1].endswith(b"content-length: %d\r\n\r\n%b" % (len(body), body))
        assert upstream.connections == 1


@on_uvloop
async def test_one_read_from_the_server_is_one_chunk_to_the_client_and_nothing_waits() -> None:
    more = asyncio.Event()

    async def script(
        state: ScriptedServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await more.wait()
        more.clear()
        writer.write(b"1\r\na\r\n2\r\nbc\r\n")
        await more.wait()
        writer.write(b"1\r\nd\r\n0\r\n\r\n")
        await reader.read()

    async with relayed(script) as (client, _, pool, _):
        client.send(POST)
        assert b"transfer-encoding: chunked" in await client.until(b"\r\n\r\n")
        more.set()
        assert await client.exactly(8) == b"3\r\nabc\r\n"
        more.set()
        assert await client.exactly(11) == b"1\r\nd\r\n0\r\n\r\n"
        assert pool.idle == 1


@pytest.mark.parametrize("framing", [b"Content-Length: 9\r\n", b"Transfer-Encoding: chunked\r\n"])
@on_uvloop
async def test_answer_cut_by_the_server_is_cut_to_the_client(framing: bytes) -> None:
    async def script(
        state: ScriptedServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await read_request(reader)
        body = b"3\r\nabc\r\n" if b"chunked" in framing else b"abc"
        writer.write(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n" + body)
        await writer.drain()

    async with relayed(script) as (client, _, _, _):
        client.send(POST)
        answer = await client.all()
    assert b"abc" in answer
    assert not answer.endswith(b"0\r\n\r\n")


async def test_server_that_is_not_there_is_a_502() -> None:
    async with relayed(once(b"garbage\r\n\r\n")) as (client, _, _, _):
        client.send(POST)
        status, _, body = await client.answer()
        assert status == 502
        assert "malformed answer" in json.loads(body)["error"]


@on_uvloop
async def test_client_that_leaves_cancels_the_server() -> None:
    ended = asyncio.Event()

    async def script(
        state: ScriptedServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        state.requests.append(await read_request(reader))
        with contextlib.suppress(ConnectionError):
            await reader.read()
        ended.set()

    gone: list[Relay] = []

    class Watching(Relay):
        def client_gone(self) -> None:
            gone.append(self)

    async with relayed(script, Watching) as (client, upstream, pool, _):
        client.send(POST)
        await eventually(lambda: upstream.requests)
        client.reset()
        async with asyncio.timeout(30):
            await ended.wait()
        assert len(gone) == 1
        await eventually(lambda: pool.size == 0)


@on_uvloop
async def test_slow_client_pauses_the_server_and_loses_nothing() -> None:
    sent = 0
    size = 48 << 20

    async def script(
        state: ScriptedServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size >> 16):
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    async with relayed(script) as (client, _, _, _):
        client.writer.transport.pause_reading()
        client.send(POST)
        seen = -1
        while seen != sent or not sent:
            seen = sent
            await asyncio.sleep(0.05)
        assert sent < size
        client.writer.transport.resume_reading()
        await client.until(b"\r\n\r\n")
        received = 0
        while part := await client.reader.read(min(1 << 20, size - received)):
            received += len(part)
        assert received == size


@on_uvloop
async def test_upload_streams_through_and_a_slow_server_pauses_the_client() -> None:
    size = 48 << 20
    go = asyncio.Event()

    async def script(
        state: ScriptedServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        state.requests.append(await reader.readuntil(b"\r\n\r\n"))
        await go.wait()
        left = size
        while left:
            left -= len(await reader.readexactly(min(left, 1 << 16)))
        writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")

    async with relayed(script, stream_body=lambda head: True) as (client, upstream, _, _):
        client.send(b"POST /blobs HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
        client.send(b"x" * size)
        await eventually(lambda: upstream.requests)
        await asyncio.sleep(0.1)
        assert client.writer.transport.get_write_buffer_size() > 0
        go.set()
        assert (await client.answer())[0] == 201
    assert b"content-length: %d" % size in upstream.requests[0]


async def test_chunked_upload_passes_as_chunks() -> None:
    async def script(
        state: ScriptedServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        state.requests.append(await reader.readuntil(b"0\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with relayed(script, stream_body=lambda head: True) as (client, upstream, _, _):
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.send(b"3\r\nabc\r\n")
        await asyncio.sleep(0)
        client.send(b"2\r\nde\r\n0\r\n\r\n")
        assert (await client.answer())[0] == 200
    head, _, body = upstream.requests[0].partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    assert body.replace(b"3\r\nabc\r\n2\r\nde\r\n", b"5\r\nabcde\r\n") == b"5\r\nabcde\r\n0\r\n\r\n"


async def test_head_answers_pass_with_their_length_and_without_a_body() -> None:
    async with relayed(once(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")) as (client, upstream, _, _):
        for _ in range(2):
            client.send(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"content-length: 99\r\n" in await client.until(b"\r\n\r\n")
        assert upstream.connections == 1


async def test_chunked_answer_reaches_an_http_1_0_client_unchunked() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n"
    async with relayed(once(chunked)) as (_, _, _, server):
        answer = await talk(server.port, b"GET / HTTP/1.0\r\n\r\n")
    assert answer.endswith(b"\r\n\r\nab")
    assert b"chunked" not in answer


async def test_hooks_change_what_passes() -> None:
    class Shouting(Relay):
        rewrites = True

        def response_head(self, head: http1.ResponseHead) -> Iterable[http1.Pair]:
            return [*head.headers.end_to_end(), (b"x-bridge-node", b"n1")]

        def response_data(self, data: bytes) -> bytes:
            return data.upper() + b"!"

        def response_end(self) -> bytes:
            return b" (end)"

    async with relayed(once(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), Shouting) as (
        client,
        _,
        _,
        _,
    ):
        client.send(POST)
        status, fields, body = await client.answer()
    assert (status, body) == (200, b"OK! (end)")
    assert fields["x-bridge-node"] == "n1"
    assert "content-length" not in fields


async def test_attempt_dropped_at_its_head_or_failed_before_it_leaves_room_for_another() -> None:
    async with (
        scripted(once(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")) as busy,
        scripted(once(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")) as good,
    ):
        pools = [
            http1.Pool(("127.0.0.1", port), limits=http1.PoolLimits(connect_s=1))
            for port in (1, busy.port, good.port)
        ]

        class Trying(Relay):
            left: Iterable[http1.Pool]

            def response_head(self, head: http1.ResponseHead) -> bytes | None:
                if head.status == 503:
                    self.again()
                    return None
                return head.headers.block()

            def failed(self, error: http1.UpstreamError) -> None:
                self.again()

            def again(self) -> None:
                relay = Trying(self.exchange)
                first, *relay.left = self.left
                relay.forward(first)

        def app(exchange: http1.Exchange) -> None:
            start = Trying(exchange)
            start.left = pools
            start.again()

        async with serving(app) as server, raw(server.port) as client:
            client.send(POST)
            assert (await client.answer())[::2] == (200, b"ok")
        for pool in pools:
            await pool.close()


async def test_stream_continued_from_another_server_is_one_answer() -> None:
    async def cut(state: ScriptedServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await writer.drain()

    async with (
        scripted(cut) as first,
        scripted(once(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo")) as second,
    ):
        pools = [http1.Pool(("127.0.0.1", server.port)) for server in (first, second)]

        class Rest(http1.ResponseSink):
            def __init__(self, exchange: http1.Exchange) -> None:
                self.exchange = exchange

            def on_data(self, data: bytes) -> None:
                self.exchange.write(data)

            def on_end(self) -> None:
                self.exchange.finish()

        class Resuming(Relay):
            def failed(self, error: http1.UpstreamError) -> None:
                assert self.exchange.started
                pools[1].send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", Rest(self.exchange))

        async with (
            serving(lambda exchange: Resuming(exchange).forward(pools[0])) as server,
            raw(server.port) as client,
        ):
            client.send(POST)
            assert (await client.answer())[::2] == (200, b"onetwo")
        for pool in pools:
            await pool.close()


async def test_fault_in_a_hook_ends_the_exchange_and_nothing_else() -> None:
    class Faulty(Relay):
        def response_data(self, data: bytes) -> bytes:
            raise KeyError("bug")

    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with relayed(once(answer), Faulty) as (client, _, pool, server):
        client.send(POST)
        assert (await client.answer())[0] == 502
        assert (await talk(server.port, b"BAD\r\n\r\n")).startswith(b"HTTP/1.1 400")
        await eventually(lambda: pool.size == 0)


@on_uvloop
async def test_many_clients_come_and_go_and_nothing_is_left() -> None:
    async def script(
        state: ScriptedServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(5):
                writer.write(b"5\r\ntoken\r\n")
                await asyncio.sleep(0)
            writer.write(b"0\r\n\r\n")

    async def visit(port: int, n: int) -> None:
        async with raw(port) as client:
            for _ in range(3):
                client.send(POST)
                if n % 3 == 0:
                    return  # leaves in the middle
                assert (await client.answer())[2] == b"token" * 5

    async with relayed(script) as (_, _, pool, server):
        await asyncio.gather(*(visit(server.port, n) for n in range(60)))
        await eventually(lambda: len(server.connections) == 1)
        await eventually(lambda: pool.size == pool.idle and pool.waiting == 0)
