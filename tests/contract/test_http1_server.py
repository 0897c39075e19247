"""What an HTTP/1.1 listener does with honest clients: order, framing, streams, back-pressure, ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket

import pytest
import structlog
import trustme

from bridge_core import http1
from bridge_core.errors import Fatal
from tests.contract.http1_bed import on_uvloop, raw, serving, talk
from tests.support import eventually

GET = b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n"


def say_path(exchange: http1.Exchange) -> None:
    exchange.respond(200, [(b"content-type", b"text/plain")], exchange.request.path.encode())


class Held:
    """An application that keeps its exchanges until the test answers them."""

    def __init__(self) -> None:
        self.exchanges: list[http1.Exchange] = []

    def __call__(self, exchange: http1.Exchange) -> None:
        self.exchanges.append(exchange)


async def test_request_as_the_application_sees_it() -> None:
    held = Held()
    async with serving(held) as server, raw(server.port) as client:
        client.send(
            b"POST /a%20b/%C3%A9?x=1&y=%20 HTTP/1.1\r\nHost: x\r\nX-Two: a \r\nX-TWO: b\r\n"
            b"Content-Length: 3\r\n\r\nabc"
        )
        await eventually(lambda: held.exchanges)
        request = held.exchanges[0].request
        assert request.method == "POST"
        assert request.target == b"/a%20b/%C3%A9?x=1&y=%20"
        assert request.path == "/a b/é"
        assert request.query == "x=1&y=%20"
        assert request.headers.get(b"x-two") == b"a"
        assert request.headers.get_all(b"x-two") == [b"a", b"b"]
        assert request.body == b"abc"
        assert request.remote is not None
        assert request.remote[0] == "127.0.0.1"
        assert request.identity is None
        assert request.listener == "test"


@on_uvloop
async def test_pipelined_requests_start_one_after_the_other_and_are_answered_in_order() -> None:
    held = Held()
    async with serving(held) as server, raw(server.port) as client:
        client.send(b"".join(GET % str(n).encode() for n in range(5)))
        for n in range(5):
            await eventually(lambda n=n: len(held.exchanges) == n + 1)
            await asyncio.sleep(0)
            assert len(held.exchanges) == n + 1
            say_path(held.exchanges[n])
            assert (await client.answer())[2] == b"/%d" % n


@on_uvloop
async def test_long_pipeline_answered_at_once_does_not_recurse() -> None:
    async with serving(say_path) as server, raw(server.port) as client:
        client.send((GET % b"x") * 5000)
        for _ in range(5000):
            assert (await client.answer())[2] == b"/x"


async def test_repeated_head_with_another_body_is_another_request() -> None:
    def echo(exchange: http1.Exchange) -> None:
        exchange.respond(200, (), exchange.request.body)

    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
    async with serving(echo) as server, raw(server.port) as client:
        for body in (b"first", b"again", b"third"):
            client.send(head + body)
            assert (await client.answer())[2] == body
        # The same head, but its body comes apart, is pipelined, or is another request's head.
        client.send(head + b"ap")
        await asyncio.sleep(0)
        client.send(b"art" + head + b"close" + head)
        client.send(b"GET /")
        assert [(await client.answer())[2] for _ in range(3)] == [b"apart", b"close", b"GET /"]


async def test_head_and_bodiless_statuses_carry_no_body() -> None:
    def app(exchange: http1.Exchange) -> None:
        status = int(exchange.request.path[1:])
        exchange.respond(status, (), b"" if status == 204 else b"body")

    async with serving(app) as server, raw(server.port) as client:
        client.send(b"HEAD /200 HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await client.until(b"\r\n\r\n")
        assert b"content-length: 4\r\n" in head
        for status in (b"204", b"304"):
            client.send(GET % status)
            head = await client.until(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 " + status)
            assert b"content-length" not in head
            assert b"transfer-encoding" not in head
        client.send(GET % b"200")
        assert (await client.answer())[2] == b"body"


async def test_http_1_0_closes_or_keeps_alive_as_asked_and_is_never_sent_chunks() -> None:
    def app(exchange: http1.Exchange) -> None:
        if exchange.request.path == "/stream":
            exchange.start(200)
            exchange.write(b"one ")
            exchange.finish(b"two")
        else:
            say_path(exchange)

    async with serving(app) as server:
        assert (await talk(server.port, b"GET /a HTTP/1.0\r\n\r\n")).endswith(b"\r\n\r\n/a")
        answer = await talk(server.port, b"GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert answer.endswith(b"\r\n\r\none two")
        assert b"chunked" not in answer
        async with raw(server.port) as client:
            for path in (b"/a", b"/b"):
                client.send(b"GET %b HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" % path)
                _, fields, body = await client.answer()
                assert body == path
                assert fields["connection"] == "keep-alive"


async def test_absolute_target_counts_with_its_own_host() -> None:
    def app(exchange: http1.Exchange) -> None:
        request = exchange.request
        exchange.respond(200, (), request.target + b" " + b",".join(request.headers.get_all(b"host")))

    async with serving(app) as server, raw(server.port) as client:
        for target, seen in {
            b"http://real:1/a?b": b"/a?b real:1",
            b"HTTP://real": b"/ real",
            b"http://real?q": b"/?q real",
        }.items():
            client.send(b"GET %b HTTP/1.1\r\nHost: other\r\n\r\n" % target)
            assert (await client.answer())[2] == seen


async def test_continue_is_said_once_and_only_when_waited_for() -> None:
    def echo(exchange: http1.Exchange) -> None:
        exchange.respond(200, (), exchange.request.body)

    head = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    async with serving(echo) as server, raw(server.port) as client:
        client.send(head)
        assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"abc")
        assert (await client.answer())[2] == b"abc"
        client.send(head + b"def")
        assert (await client.answer())[::2] == (200, b"def")


@on_uvloop
async def test_upgrade_wishes_are_ignored_and_the_body_is_read() -> None:
    def echo(exchange: http1.Exchange) -> None:
        exchange.respond(200, (), exchange.request.body)

    wish = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    async with serving(echo) as server, raw(server.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\n" + wish + b"Content-Length: 3\r\n\r\nabc")
        assert (await client.answer())[2] == b"abc"
        client.send(
            b"POST / HTTP/1.1\r\nHost: x\r\n" + wish + b"Transfer-Encoding: chunked\r\n\r\n1\r\nd\r\n"
        )
        await asyncio.sleep(0)
        client.send(b"0\r\n\r\n" + b"GET / HTTP/1.1\r\nHost: x\r\n" + wish + b"\r\n" + GET % b"")
        assert [(await client.answer())[2] for _ in range(3)] == [b"d", b"", b""]


async def test_chunked_answer_keeps_its_parts_and_the_connection() -> None:
    def app(exchange: http1.Exchange) -> None:
        exchange.start(200, [(b"content-type", b"application/x-ndjson")])
        exchange.write(b"one")
        exchange.write(b"")
        exchange.write(b"two")
        exchange.finish()

    async with serving(app) as server, raw(server.port) as client:
        for _ in range(2):
            client.send(GET % b"")
            await client.until(b"\r\n\r\n")
            assert await client.until(b"0\r\n\r\n") == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"


async def test_answer_shorter_than_announced_is_cut_not_padded() -> None:
    def app(exchange: http1.Exchange) -> None:
        exchange.start(200, (), 10)
        exchange.finish(b"short")

    async with serving(app) as server:
        answer = await talk(server.port, GET % b"")
    assert b"content-length: 10" in answer
    assert answer.endswith(b"\r\n\r\nshort")


async def test_header_that_would_split_the_answer_is_never_written() -> None:
    def app(exchange: http1.Exchange) -> None:
        exchange.respond(200, [(b"x-evil", b"a\r\nset-cookie: b")], b"")

    async with serving(app) as server, raw(server.port) as client:
        client.send(GET % b"")
        status, fields, _ = await client.answer()
    assert status == 500
    assert "set-cookie" not in fields


async def test_failing_application_becomes_a_500_without_detail() -> None:
    def app(exchange: http1.Exchange) -> None:
        raise KeyError("secret")

    async with serving(app) as server, raw(server.port) as client:
        with structlog.testing.capture_logs() as logs:
            client.send(GET % b"")
            status, _, body = await client.answer()
    assert status == 500
    assert json.loads(body) == {"error": "internal error"}
    assert [entry["event"] for entry in logs] == ["http_app_failed"]


@pytest.mark.parametrize("end", ["close", "reset", "half-close"])
@on_uvloop
async def test_client_that_leaves_is_noticed(end: str) -> None:
    gone: list[http1.Exchange] = []

    def app(exchange: http1.Exchange) -> None:
        exchange.on_disconnect = lambda: gone.append(exchange)
        exchange.start(200)
        exchange.write(b"token")

    async with serving(app) as server, raw(server.port) as client:
        client.send(GET % b"")
        await client.until(b"token")
        if end == "reset":
            client.reset()
        elif end == "close":
            client.close()
        else:
            client.writer.write_eof()
        await eventually(lambda: gone, 30)
        assert gone[0].disconnected
        gone[0].write(b"nobody reads this")
        gone[0].finish()
        await eventually(lambda: not server.connections)
    assert len(gone) == 1


@on_uvloop
async def test_slow_reader_pauses_the_writer_and_memory_stays_bounded() -> None:
    states: list[bool] = []
    held = Held()
    async with serving(held) as server:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.port))
        await asyncio.get_running_loop().sock_sendall(sock, GET % b"")
        await eventually(lambda: held.exchanges)
        exchange = held.exchanges[0]
        exchange.on_writable = states.append
        exchange.start(200)
        written = 0
        async with asyncio.timeout(30):
            while not exchange.write_paused:
                exchange.write(b"x" * 65536)
                written += 65536
                await asyncio.sleep(0)
        assert states == [False]
        assert written < 16 * 1024 * 1024
        drained = asyncio.ensure_future(exchange.drain())
        await asyncio.sleep(0)
        assert not drained.done()
        while not drained.done():
            await asyncio.get_running_loop().sock_recv(sock, 65536)
        assert states == [False, True]
        sock.close()


async def test_client_that_never_reads_is_cut_in_the_end() -> None:
    held = Held()
    limits = http1.HttpLimits(write_stall_s=0.2, head_s=0.4)
    async with serving(held, limits=limits) as server, raw(server.port) as client:
        client.writer.transport.pause_reading()
        client.send(GET % b"")
        await eventually(lambda: held.exchanges)
        exchange = held.exchanges[0]
        exchange.start(200)
        async with asyncio.timeout(30):
            while not exchange.write_paused:
                exchange.write(b"x" * 65536)
                await asyncio.sleep(0)
        with pytest.raises(http1.Disconnected):
            await exchange.drain()


@on_uvloop
async def test_streamed_body_reaches_the_reader_as_it_comes_and_pauses_the_client() -> None:
    got: list[bytes] = []
    go = asyncio.Event()

    async def handler(exchange: http1.Exchange) -> None:
        await go.wait()
        async for part in exchange.request.body_parts():
            got.append(part)  # noqa: PERF401  # the test looks at it on the way
        exchange.respond(201, (), b"%d" % sum(map(len, got)))

    size = 8 * 1024 * 1024
    async with asyncio.TaskGroup() as group:
        app = http1.coroutine_app(handler, group)
        limits = http1.HttpLimits(body=1000)
        async with (
            serving(app, stream_body=lambda head: True, limits=limits) as server,
            raw(server.port) as client,
        ):
            client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
            client.send(b"x" * size)
            await asyncio.sleep(0.05)
            assert client.writer.transport.get_write_buffer_size() > 0  # the server does not read on
            go.set()
            assert (await client.answer())[::2] == (201, b"%d" % size)
            client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            got.clear()
            client.send(b"3\r\nabc\r\n")
            await eventually(lambda: got == [b"abc"])
            client.send(b"2\r\nde\r\n0\r\n\r\n")
            assert (await client.answer())[::2] == (201, b"5")


async def test_streamed_body_cut_off_fails_in_the_reader() -> None:
    failures: list[Exception] = []

    async def handler(exchange: http1.Exchange) -> None:
        try:
            async for _ in exchange.request.body_parts():
                pass
        except http1.BodyTimeout as failure:
            failures.append(failure)
            raise

    async with asyncio.TaskGroup() as group:
        app = http1.coroutine_app(handler, group)
        limits = http1.HttpLimits(body_idle_s=0.1, linger_s=0.1)
        async with serving(app, stream_body=lambda head: True, limits=limits) as server:
            answer = await talk(server.port, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert len(failures) == 1


UPLOAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


@pytest.mark.parametrize("status", [200, 403])
async def test_a_client_answered_before_its_body_was_read_can_send_all_of_it(status: int) -> None:
    def app(exchange: http1.Exchange) -> None:
        exchange.respond(status, (), b"known")

    size = 32 << 20
    async with serving(app, stream_body=lambda head: True) as server, raw(server.port) as client:
        client.send(UPLOAD % size)
        assert (await client.answer())[::2] == (status, b"known")
        for _ in range(32):
            client.send(b"x" * (1 << 20))
            async with asyncio.timeout(30):
                await client.writer.drain()
        for _ in range(2):
            client.send(UPLOAD % 3 + b"abc" + UPLOAD % 3 + b"def")
            for _ in range(2):
                assert (await client.answer())[::2] == (status, b"known"), "the connection is in order"


async def test_a_paused_upload_goes_on_once_it_was_answered() -> None:
    async def app(exchange: http1.Exchange) -> None:
        exchange.request.stream.attach(lambda data: None, lambda: None, lambda failure: None)
        exchange.request.stream.pause()
        await asyncio.sleep(0)
        exchange.respond(200)

    async with (
        asyncio.TaskGroup() as group,
        serving(http1.coroutine_app(app, group), stream_body=lambda head: True) as server,
        raw(server.port) as client,
    ):
        client.send(UPLOAD % (8 << 20) + b"x" * (8 << 20))
        assert (await client.answer())[0] == 200
        client.send(UPLOAD % 1 + b"x")
        assert (await client.answer())[0] == 200


async def test_a_refused_upload_without_end_is_cut_off() -> None:
    def app(exchange: http1.Exchange) -> None:
        exchange.respond(403, (), b"no")

    sent = 0
    limits = http1.HttpLimits(linger_s=0.1)
    async with (
        serving(app, stream_body=lambda head: True, limits=limits) as server,
        raw(server.port) as client,
    ):
        client.send(UPLOAD % (1 << 40))
        assert (await client.answer())[0] == 403
        with contextlib.suppress(ConnectionError):
            while sent < 4 << 30:
                client.send(b"x" * (1 << 20))
                async with asyncio.timeout(30):
                    await client.writer.drain()
                sent += 1 << 20
        assert 64 << 20 <= sent < 1 << 30


@pytest.mark.parametrize(
    ("rest", "idle_s"), [(b"", 0.1), (b"5\r\nhello\r\nnonsense", 60.0)], ids=["silence", "malformed"]
)
async def test_what_goes_wrong_with_a_body_after_its_answer_gets_no_second_one(
    rest: bytes, idle_s: float
) -> None:
    def app(exchange: http1.Exchange) -> None:
        exchange.respond(200, (), b"known")

    limits = http1.HttpLimits(body_idle_s=idle_s, linger_s=0.1)
    async with serving(app, stream_body=lambda head: True, limits=limits) as server:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        answer = await talk(server.port, head + b"3\r\nabc\r\n" + rest)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.endswith(b"known")


async def test_a_streamed_body_is_called_for_when_its_reader_begins() -> None:
    begin = asyncio.Event()

    async def handler(exchange: http1.Exchange) -> None:
        await begin.wait()
        data = [part async for part in exchange.request.body_parts()]
        exchange.respond(201, (), b"".join(data))

    async with asyncio.TaskGroup() as group:
        app = http1.coroutine_app(handler, group)
        async with serving(app, stream_body=lambda head: True) as server, raw(server.port) as client:
            expecting = (UPLOAD % 3).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
            client.send(expecting)
            await eventually(lambda: server.connections)
            begin.set()
            assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.send(b"abc")
            assert (await client.answer())[::2] == (201, b"abc")
            client.send(expecting)
            assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.send(b"def")
            assert (await client.answer())[::2] == (201, b"def")


async def test_a_body_that_is_not_wanted_is_not_called_for() -> None:
    def app(exchange: http1.Exchange) -> None:
        exchange.respond(200, (), b"known")

    async with serving(app, stream_body=lambda head: True) as server:
        expecting = (UPLOAD % 3).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
        answer = await talk(server.port, expecting)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in answer, "whether the body follows is not known"


async def test_coroutine_is_cancelled_when_the_client_leaves() -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def handler(exchange: http1.Exchange) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with (
        asyncio.TaskGroup() as group,
        serving(http1.coroutine_app(handler, group)) as server,
        raw(server.port) as client,
    ):
        client.send(GET % b"")
        await began.wait()
        client.close()
        async with asyncio.timeout(30):
            await cancelled.wait()


@pytest.mark.parametrize("started", [False, True])
async def test_coroutine_that_fails_or_forgets_is_answered(started: bool) -> None:
    async def handler(exchange: http1.Exchange) -> None:
        if started:
            exchange.start(200)
            exchange.write(b"half")
            await exchange.drain()
        if exchange.request.path == "/raise":
            raise KeyError("secret")

    with structlog.testing.capture_logs():
        async with asyncio.TaskGroup() as group, serving(http1.coroutine_app(handler, group)) as server:
            for path in (b"raise", b"return"):
                async with raw(server.port) as client:
                    client.send(GET % path)
                    if started:
                        answer = await client.all()
                        assert not answer.endswith(b"0\r\n\r\n")
                        assert b"secret" not in answer
                    else:
                        status, _, body = await client.answer()
                        assert (status, json.loads(body)) == (500, {"error": "internal error"})


@on_uvloop
async def test_close_lets_answers_finish_and_ends_idle_connections_at_once() -> None:
    held = Held()
    server = await http1.serve(held, name="test")
    async with raw(server.port) as idle, raw(server.port) as busy:
        busy.send(GET % b"")
        await eventually(lambda: len(held.exchanges) == 1)
        idle.send(GET % b"")
        await eventually(lambda: len(held.exchanges) == 2)
        held.exchanges[1].respond(200)
        await idle.answer()
        closing = asyncio.ensure_future(server.close(60))
        assert await idle.all() == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", server.port)
        assert not closing.done()
        held.exchanges[0].respond(200, (), b"done")
        answer = await busy.all()
        assert b"connection: close" in answer
        assert answer.endswith(b"done")
        await closing
    assert not server.connections


async def test_close_cuts_what_outlasts_its_grace() -> None:
    held = Held()
    server = await http1.serve(held, name="test")
    async with raw(server.port) as client:
        client.send(GET % b"")
        await eventually(lambda: held.exchanges)
        held.exchanges[0].start(200)
        held.exchanges[0].write(b"half")
        await server.close(0.05)
        assert not (await client.all()).endswith(b"0\r\n\r\n")
    assert held.exchanges[0].disconnected
    assert not server.connections


async def test_taken_port_is_named() -> None:
    async with serving(say_path) as server:
        with pytest.raises(Fatal, match=str(server.port)):
            await http1.serve(say_path, name="second", port=server.port)


@on_uvloop
async def test_mutual_tls_gives_the_clients_identity() -> None:
    authority = trustme.CA()
    server_context = _context(authority, "localhost", server=True)
    client_context = _context(authority, "client", server=False)
    identities: list[str | None] = []
    asked = 0

    def identify(ssl_object: object) -> str | None:
        nonlocal asked
        asked += 1
        names = ssl_object.getpeercert().get("subjectAltName", ())  # type: ignore[attr-defined]
        return dict(names).get("DNS")

    def app(exchange: http1.Exchange) -> None:
        identities.append(exchange.request.identity)
        say_path(exchange)

    async with serving(app, ssl=server_context, identify=identify) as server:
        pool = http1.Pool(("127.0.0.1", server.port), ssl=client_context, server_hostname="localhost")
        for _ in range(3):
            async with pool.request("GET", "/x") as response:
                assert await response.read() == b"/x"
        assert identities == ["client"] * 3
        assert asked == 1
        await pool.close()
        bare = _context(authority, None, server=False)
        pool = http1.Pool(("127.0.0.1", server.port), ssl=bare, server_hostname="localhost")
        with pytest.raises(http1.UpstreamError):
            async with pool.request("GET", "/x"):
                pass
        await pool.close()


def _context(authority: trustme.CA, name: str | None, *, server: bool):
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    authority.configure_trust(context)
    if name is not None:
        authority.issue_cert(name).configure_cert(context)
    if server:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def test_connections_leave_nothing_behind() -> None:
    before = len(asyncio.all_tasks())
    async with serving(say_path) as server:
        for _ in range(20):
            with contextlib.suppress(ConnectionError):
                await talk(server.port, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await eventually(lambda: not server.connections)
    assert len(asyncio.all_tasks()) == before


@pytest.mark.parametrize("seed", range(8))
@on_uvloop
async def test_answers_do_not_depend_on_how_the_requests_arrive(seed: int) -> None:
    """The same requests whole, glued together and torn apart: the paths through the parser agree."""
    chance = random.Random(seed)

    def echo(exchange: http1.Exchange) -> None:
        request = exchange.request
        exchange.respond(200, (), request.method.encode() + request.target + request.body)

    def request() -> tuple[bytes, bytes]:
        target = chance.choice([b"/", b"/a", b"/b?c"])
        body = chance.choice([b"", b"GET / HTTP/1.1\r\n\r\n", b"x" * 300, b"y" * 300])
        kind = chance.randrange(4)
        if kind == 0:
            return b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % target, b"GET" + target
        framed = b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        if kind == 1:
            half = len(body) // 2
            parts = b"".join(
                b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]) if part
            )
            framed = b"Transfer-Encoding: chunked\r\n\r\n" + parts + b"0\r\n\r\n"
        elif kind == 2:
            framed = b"Connection: upgrade\r\nUpgrade: h2c\r\n" + framed
        return b"POST %b HTTP/1.1\r\nHost: x\r\n%b" % (target, framed), b"POST" + target + body

    requests = [request() for _ in range(60)]
    async with serving(echo) as server, raw(server.port) as client:
        waiting: list[bytes] = []
        unsent = b""
        for data, answer in requests:
            waiting.append(answer)
            unsent += data
            while unsent and chance.random() < 0.7:
                size = len(unsent) if chance.random() < 0.6 else chance.randint(1, len(unsent))
                client.send(unsent[:size])
                unsent = unsent[size:]
                await asyncio.sleep(chance.choice([0, 0, 0.001]))
            while not unsent and waiting and chance.random() < 0.8:
                assert (await client.answer())[::2] == (200, waiting.pop(0))
        client.send(unsent)
        for answer in waiting:
            assert (await client.answer())[::2] == (200, answer)
