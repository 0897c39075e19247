"""What the HTTP/1.1 client pool does with servers that answer well, badly, late or not at all."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from bridge_core import http1
from bridge_core.errors import Reaction
from tests.contract.http1_bed import ScriptedServer, on_uvloop, read_request, scripted, serving
from tests.support import eventually

START = b"HTTP/1.1 200 OK\r\n"
OK = START + b"Content-Length: 2\r\n\r\nok"


def answering(*answers: bytes, close: bool = True):
    """A script that answers each request of a connection with the next of `answers`, then closes."""

    async def script(
        state: ScriptedServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        for answer in answers:
            state.requests.append(await read_request(reader))
            writer.write(answer)
            await writer.drain()
        if close:
            writer.close()
            await writer.wait_closed()
        else:
            await reader.read()

    return script


LATE = http1.PoolLimits(race_s=60.0)  # however late a busy machine sees that a connection has closed


async def ask(pool: http1.Pool, method: str = "GET", body: bytes | None = None) -> tuple[int, bytes]:
    async with pool.request(method, "/x", (), body, timeout_head=60) as response:
        return response.status, await response.read()


async def test_request_as_the_server_sees_it() -> None:
    async with scripted(answering(OK, OK, close=False)) as server:
        pool = http1.Pool(("127.0.0.1", server.port))
        async with pool.request("POST", "/a?b", [(b"x-y", b"z")], b"body") as response:
            assert response.status == 200
            assert response.headers.get(b"content-length") == b"2"
            assert await response.read() == b"ok"
        await ask(pool)
        assert server.requests == [
            b"POST /a?b HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nx-y: z\r\ncontent-length: 4\r\n\r\nbody"
            % server.port,
            b"GET /x HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n\r\n" % server.port,
        ]
        assert server.connections == 1
        assert (pool.size, pool.idle) == (1, 1)
        await pool.close()
        await eventually(lambda: server.ended == 1)


GOOD = {
    "length": (OK, b"ok"),
    "chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\nT: x\r\n\r\n",
        b"ok",
    ),
    "until close": (b"HTTP/1.1 200 OK\r\n\r\nok", b"ok"),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\nok", b"ok"),
    "after 100 and 103": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK, b"ok"),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    "nothing": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
}


@pytest.mark.parametrize("case", GOOD)
@on_uvloop
async def test_every_framing_is_read(case: str) -> None:
    answer, body = GOOD[case]
    async with scripted(answering(answer)) as server:
        pool = http1.Pool(("127.0.0.1", server.port))
        assert await ask(pool) == (200, body)
        await pool.close()


@on_uvloop
async def test_head_204_and_304_have_no_body_and_leave_the_connection_usable() -> None:
    answers = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
        OK,
    ]
    async with scripted(answering(*answers, close=False)) as server:
        pool = http1.Pool(("127.0.0.1", server.port))
        assert await ask(pool, "HEAD") == (200, b"")
        assert await ask(pool) == (204, b"")
        assert await ask(pool) == (304, b"")
        assert await ask(pool) == (200, b"ok")
        assert server.connections == 1
        await pool.close()


BAD = {
    "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "HTTP/2": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "length and coding": START + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
    "coding gzip": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nxx",
    "two codings": START + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "folded": b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n",
    "switching": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    "large header": b"HTTP/1.1 200 OK\r\nA: " + b"a" * 70_000,
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"Content-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("case", BAD)
@on_uvloop
async def test_malformed_answers_are_refused(case: str) -> None:
    async with scripted(answering(BAD[case], close=False)) as server:
        pool = http1.Pool(("127.0.0.1", server.port))
        with pytest.raises(http1.BadResponse) as caught:
            await ask(pool)
        assert caught.value.reaction is Reaction.ELSEWHERE
        assert str(server.port) in caught.value.message
        await eventually(lambda: pool.size == 0)
        await pool.close()


CUT = {
    "nothing": b"",
    "in the head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "before the body": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
    "in the body": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no",
    "between chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n",
    "before the last line": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n0\r\n",
}


@pytest.mark.parametrize("case", CUT)
@on_uvloop
async def test_truncated_answers_are_never_whole(case: str) -> None:
    async with scripted(answering(CUT[case])) as server:
        pool = http1.Pool(("127.0.0.1", server.port))
        with pytest.raises(http1.IncompleteResponse) as caught:
            await ask(pool)
        assert caught.value.seen is (case != "nothing")
        assert not caught.value.reused
        assert server.connections == 1
        await pool.close()


async def test_unasked_bytes_close_the_connection_instead_of_answering_the_next_request() -> None:
    poison = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
    async with scripted(answering(OK + poison, OK)) as server:
        pool = http1.Pool(("127.0.0.1", server.port))
        assert await ask(pool) == (200, b"ok")
        assert await ask(pool) == (200, b"ok")
        assert server.connections == 2
        await pool.close()


@on_uvloop
async def test_keep_alive_race_is_retried_once_on_a_fresh_connection() -> None:
    async def script(
        state: ScriptedServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        state.requests.append(await read_request(reader))
        writer.write(OK)
        if state.connections == 1:
            state.requests.append(await read_request(reader))
            return  # closes without an answer
        await reader.read()

    async with scripted(script) as server:
        pool = http1.Pool(("127.0.0.1", server.port), limits=LATE)
        assert await ask(pool, "POST", b"1") == (200, b"ok")
        assert await ask(pool, "POST", b"2") == (200, b"ok")
        assert [request[-1:] for request in server.requests] == [b"1", b"2", b"2"]
        await pool.close()


async def test_a_lost_race_is_not_run_again_on_another_used_connection() -> None:
    """Every connection answers once: the lost request waits for a new one past a used one set free."""
    busy, free, connect = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def script(
        state: ScriptedServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if (await read_request(reader)).endswith(b"slow"):
            busy.set()
            await free.wait()
        writer.write(OK)
        state.requests.append(await read_request(reader))  # and closes without an answer

    async with scripted(script) as server:
        opened = 0

        async def dial() -> socket.socket:
            nonlocal opened
            opened += 1
            if opened > 2:
                await connect.wait()
            sock = socket.create_connection(("127.0.0.1", server.port))
            sock.setblocking(False)
            return sock

        pool = http1.Pool(dial, limits=LATE)
        await ask(pool, "POST", b"first")
        async with asyncio.TaskGroup() as group:
            lost = group.create_task(ask(pool, "POST", b"lost"))
            await asyncio.sleep(0)  # it takes the used connection
            slow = group.create_task(ask(pool, "POST", b"slow"))
            await busy.wait()
            await eventually(lambda: opened == 3)
            free.set()
            assert await slow == (200, b"ok")
            connect.set()
            assert await lost == (200, b"ok")
        assert len(server.requests) == 1
        await pool.close()


@on_uvloop
async def test_retried_head_request_still_has_no_body() -> None:
    async def script(
        state: ScriptedServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            state.requests.append(await read_request(reader))
            if len(state.requests) == 2:
                return
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")

    async with scripted(script) as server:
        pool = http1.Pool(("127.0.0.1", server.port), limits=LATE)
        for _ in range(3):
            assert await ask(pool, "HEAD") == (200, b"")
        assert server.connections == 2
        await pool.close()


async def test_death_after_a_byte_or_after_the_race_window_is_reported_not_retried() -> None:
    def script_of(part: bytes):
        async def script(
            state: ScriptedServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            state.requests.append(await read_request(reader))
            writer.write(OK)
            state.requests.append(await read_request(reader))
            writer.write(part)
            await writer.drain()

        return script

    for part, race_s in ((b"HTTP/1.1 2", 1.0), (b"", 0.0)):
        async with scripted(script_of(part)) as server:
            pool = http1.Pool(("127.0.0.1", server.port), limits=http1.PoolLimits(race_s=race_s))
            await ask(pool)
            with pytest.raises(http1.IncompleteResponse) as caught:
                await ask(pool)
            assert caught.value.reused
            assert len(server.requests) == 2
            await pool.close()


async def test_refused_connection_is_named() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        pool = http1.Pool(("127.0.0.1", port))
        with pytest.raises(http1.ConnectFailed, match=f"127.0.0.1:{port}") as caught:
            await ask(pool)
        assert caught.value.reaction is Reaction.ELSEWHERE
        await pool.close()


@on_uvloop
async def test_connect_that_hangs_times_out() -> None:
    async def never() -> socket.socket:
        await asyncio.Event().wait()
        raise AssertionError

    pool = http1.Pool(never, label="engine", limits=http1.PoolLimits(connect_s=0.05))
    with pytest.raises(http1.ConnectFailed, match="engine took over"):
        await ask(pool)
    await pool.close()


@on_uvloop
async def test_the_kernel_is_told_to_notice_a_vanished_machine() -> None:
    async with scripted(answering(OK, close=False)) as server:
        pool = http1.Pool(("127.0.0.1", server.port), limits=http1.PoolLimits(silence_s=4))
        await ask(pool)
        (connection,) = pool._open
        sock = connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 4000
        await pool.close()


async def test_sockets_from_a_factory_and_unix_sockets(tmp_path) -> None:
    def app(exchange: http1.Exchange) -> None:
        exchange.respond(200, (), exchange.request.headers.get(b"host") or b"")

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    async with serving(app) as tcp, serving(app, sock=listener):

        async def connect() -> socket.socket:
            sock = socket.create_connection(("127.0.0.1", tcp.port))
            sock.setblocking(False)
            return sock

        for pool in (http1.Pool(connect, host=b"h:1"), http1.Pool(str(tmp_path / "s"), host=b"h:1")):
            assert await ask(pool) == (200, b"h:1")
            await pool.close()


@on_uvloop
async def test_head_time_out_cancels_the_request() -> None:
    async with scripted(answering(b"HTTP/1.1 200", close=False)) as server:
        pool = http1.Pool(("127.0.0.1", server.port))
        with pytest.raises(http1.ResponseTimeout):
            async with pool.request("GET", "/", timeout_head=0.05):
                pass
        await eventually(lambda: server.ended == 1, 30)
        assert pool.size == 0
        await pool.close()


@on_uvloop
async def test_leaving_an_answer_half_read_closes_its_connection() -> None:
    async def script(
        state: ScriptedServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await reader.read()

    async with scripted(script) as server:
        pool = http1.Pool(("127.0.0.1", server.port))
        async with pool.request("GET", "/") as response:
            async for part in response:
                assert part == b"a"
                break
        await eventually(lambda: server.ended == 1, 30)
        await pool.close()


@on_uvloop
async def test_slow_reader_pauses_the_server() -> None:
    sent = 0

    async def script(
        state: ScriptedServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 << 20))
        for _ in range(1024):
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    async with scripted(script) as server:
        pool = http1.Pool(("127.0.0.1", server.port))
        async with pool.request("GET", "/") as response:
            seen = -1
            while seen != sent:  # until the server has come to a stop
                seen = sent
                await asyncio.sleep(0.05)
            assert 0 < sent < 32 << 20
            assert len(await response.read()) == 64 << 20
        await pool.close()


async def test_too_large_an_answer_is_not_read_whole() -> None:
    async with scripted(answering(OK)) as server:
        pool = http1.Pool(("127.0.0.1", server.port))
        with pytest.raises(http1.ResponseTooLarge):
            async with pool.request("GET", "/") as response:
                await response.read(1)
        await pool.close()


@on_uvloop
async def test_body_sent_in_parts() -> None:
    async def parts() -> AsyncIterator[bytes]:
        for part in (b"one", b"", b"two" * 100_000):
            yield part

    def app(exchange: http1.Exchange) -> None:
        exchange.respond(200, (), b"%d" % len(exchange.request.body))

    async def broken() -> AsyncIterator[bytes]:
        yield b"one"
        raise KeyError("source failed")

    async with serving(app) as server:
        pool = http1.Pool(("127.0.0.1", server.port))
        async with pool.request("POST", "/", (), parts()) as response:
            assert await response.read() == b"300003"
        with pytest.raises(KeyError):
            async with pool.request("POST", "/", (), broken()):
                pass
        await pool.close()


async def test_requests_beyond_the_bound_wait_and_beyond_that_are_refused() -> None:
    held: list[http1.Exchange] = []
    limits = http1.PoolLimits(connections=1, waiting=1)
    async with serving(held.append) as server:
        pool = http1.Pool(("127.0.0.1", server.port), limits=limits)
        first = asyncio.ensure_future(ask(pool))
        await eventually(lambda: held)
        second = asyncio.ensure_future(ask(pool))
        await eventually(lambda: pool.waiting == 1)
        with pytest.raises(http1.PoolBusy):
            await ask(pool)
        held[0].respond(200, (), b"1")
        assert await first == (200, b"1")
        await eventually(lambda: len(held) == 2)
        assert pool.size == 1
        held[1].respond(200, (), b"2")
        assert await second == (200, b"2")
        await pool.close()


async def test_cancelled_while_waiting_leaves_no_trace() -> None:
    held: list[http1.Exchange] = []
    async with serving(held.append) as server:
        pool = http1.Pool(("127.0.0.1", server.port), limits=http1.PoolLimits(connections=1))
        first = asyncio.ensure_future(ask(pool))
        await eventually(lambda: held)
        second = asyncio.ensure_future(ask(pool))
        await eventually(lambda: pool.waiting == 1)
        second.cancel()
        await eventually(lambda: pool.waiting == 0)
        held[0].respond(200, (), b"1")
        assert await first == (200, b"1")
        assert len(held) == 1
        await pool.close()


async def test_idle_connections_expire_and_closing_fails_what_runs() -> None:
    held: list[http1.Exchange] = []
    async with serving(held.append) as server:
        pool = http1.Pool(("127.0.0.1", server.port), limits=http1.PoolLimits(idle_s=0.1))
        first = asyncio.ensure_future(ask(pool))
        await eventually(lambda: held)
        held[0].respond(200)
        await first
        assert pool.idle == 1
        await eventually(lambda: pool.size == 0, 30)
        second = asyncio.ensure_future(ask(pool))
        await eventually(lambda: len(held) == 2)
        await pool.close()
        with pytest.raises(http1.PoolClosed):
            await second
        with pytest.raises(http1.PoolClosed):
            await ask(pool)
        await eventually(lambda: held[1].disconnected)


async def test_header_that_would_split_the_request_is_never_sent() -> None:
    pool = http1.Pool(("127.0.0.1", 1))
    for target, headers in (("/x", [(b"a", b"b\r\nc: d")]), ("/x y", ()), ("/x\r\nA: b", ()), ("", ())):
        with pytest.raises(http1.BadHeader):
            async with pool.request("GET", target, headers):
                pass
    await pool.close()


async def test_peer_that_is_somebody_else_is_refused() -> None:
    import ssl

    import trustme

    from bridge_core.errors import BridgeError

    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)

    def verify(ssl_object: ssl.SSLObject) -> None:
        assert ssl_object.getpeercert()
        raise BridgeError("not the node that was meant")

    async with serving(lambda exchange: exchange.respond(200), ssl=server_context) as server:
        pool = http1.Pool(
            ("127.0.0.1", server.port), ssl=client_context, server_hostname="localhost", verify_peer=verify
        )
        with pytest.raises(http1.ConnectFailed, match="not the node"):
            await ask(pool)
        await pool.close()
        untrusting = http1.Pool(("127.0.0.1", server.port), ssl=ssl.create_default_context())
        with pytest.raises(http1.ConnectFailed, match="certificate verify failed"):
            await ask(untrusting)
        await untrusting.close()
