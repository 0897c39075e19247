"""What an HTTP/1.1 listener does with input that is malformed, too large, too slow or dishonest."""

from __future__ import annotations

import asyncio
import json

import pytest

from bridge_core import http1
from tests.contract.http1_bed import RawClient, on_uvloop, raw, serving, talk
from tests.support import eventually, within_some_time


def echo(exchange: http1.Exchange) -> None:
    request = exchange.request
    report = {
        "method": request.method,
        "path": request.path,
        "host": (request.headers.get(b"host") or b"").decode(),
        "body": request.body.decode("latin-1"),
        "names": [name.decode() for name, _ in request.headers],
    }
    exchange.respond(200, [(b"content-type", b"application/json")], json.dumps(report).encode())


POST = b"POST /api/chat HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SMALL = http1.HttpLimits(request_line=100, head=1000, header_count=10, body=1000, linger_s=30.0)

REFUSED = {
    "not HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "no such method": (b"FETCH / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "method in lower case": (b"get / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 505),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/2.0 request line": (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\nHost: x\r\n\r\n", 400),
    "bare LF lines": (b"GET / HTTP/1.1\nHost: x\n\n", 400),
    "bare LF in a field": (b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", 400),
    "bare CR in a field": (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n", 400),
    "folded field": (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400),
    "NUL in a field": (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n", 400),
    "control character in a field": (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x01c\r\n\r\n", 400),
    "blank before the colon": (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
    "field without a name": (b"GET / HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n", 400),
    "field without a colon": (b"GET / HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n", 400),
    "control character in the target": (b"GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "target without a slash": (b"GET api HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "target of another scheme": (b"GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "target with user information": (b"GET http://a@b/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "star target without OPTIONS": (b"GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "CONNECT": (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 501),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400),
    "two different Hosts": (b"GET / HTTP/1.1\r\nHost: x\r\nhOST: y\r\n\r\n", 400),
    "Host with a path": (b"GET / HTTP/1.1\r\nHost: x/y\r\n\r\n", 400),
    "Host with a blank": (b"GET / HTTP/1.1\r\nHost: x y\r\n\r\n", 400),
    "two equal lengths": (POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na", 400),
    "two lengths": (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
    "list of lengths": (POST + b"Content-Length: 1, 1\r\n\r\na", 400),
    "signed length": (POST + b"Content-Length: +1\r\n\r\na", 400),
    "negative length": (POST + b"Content-Length: -1\r\n\r\na", 400),
    "hexadecimal length": (POST + b"Content-Length: 0x1\r\n\r\na", 400),
    "empty length": (POST + b"Content-Length: \r\n\r\na", 400),
    "enormous length": (POST + b"Content-Length: 99999999999999999999999\r\n\r\n", 400),
    "length and coding": (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "coding and length": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
    "two codings": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "gzip then chunked fields": (
        POST + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "coding gzip": (POST + b"Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n", 501),
    "coding gzip, chunked": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "coding xchunked": (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    "coding chunked twice": (POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
    "coding with a control character": (POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "coding in HTTP/1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunk size not a number": (CHUNKED + b"zz\r\nabc\r\n0\r\n\r\n", 400),
    "chunk size with 0x": (CHUNKED + b"0x1\r\na\r\n0\r\n\r\n", 400),
    "chunk size signed": (CHUNKED + b"+1\r\na\r\n0\r\n\r\n", 400),
    "chunk size with a blank": (CHUNKED + b"1 \r\na\r\n0\r\n\r\n", 400),
    "chunk size overflow": (CHUNKED + b"fffffffffffffffff\r\na\r\n", 400),
    "chunk line ended by LF": (CHUNKED + b"1\na\n0\n\n", 400),
    "chunk longer than its size": (CHUNKED + b"1\r\nabc\r\n0\r\n\r\n", 400),
    "unknown expectation": (POST + b"Content-Length: 1\r\nExpect: a-miracle\r\n\r\na", 417),
    "target too long": (b"GET /" + b"a" * 100 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    "target endless": (b"GET /" + b"a" * 5000, 414),
    "one header too large": (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 1000 + b"\r\n\r\n", 431),
    "one header endless": (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 5000, 431),
    "many headers": (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 10 + b"\r\n", 431),
    "headers too large together": (
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: %b\r\n" % (b"a" * 150) * 8 + b"\r\n",
        431,
    ),
    "body announced too large": (POST + b"Content-Length: 1001\r\n\r\n", 413),
    "body announced too large, waiting": (
        POST + b"Content-Length: 1001\r\nExpect: 100-continue\r\n\r\n",
        413,
    ),
    "chunked body too large": (CHUNKED + b"3e9\r\n" + b"a" * 1001 + b"\r\n0\r\n\r\n", 413),
}


@pytest.mark.parametrize("case", REFUSED)
@on_uvloop
async def test_refused_with_a_clear_status_and_closed(case: str) -> None:
    data, status = REFUSED[case]
    async with serving(echo, limits=SMALL) as server:
        answer = await talk(server.port, data)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer
    assert b"\r\nconnection: close" in head
    assert b"content-length: %d" % len(body) in head
    assert json.loads(body)["error"]
    assert b"Traceback" not in answer
    assert b"}HTTP/1.1" not in answer


@pytest.mark.parametrize("case", REFUSED)
@on_uvloop
async def test_refused_alike_when_it_comes_byte_by_byte_after_a_good_request(case: str) -> None:
    data, status = REFUSED[case]
    good = b"GET /good HTTP/1.1\r\nHost: x\r\n\r\n"
    async with serving(echo, limits=SMALL) as server, raw(server.port) as client:
        client.send(good)
        assert (await client.answer())[0] == 200
        for at in range(0, len(data), 61):
            client.send(data[at : at + 61])
            await asyncio.sleep(0)
        answer = await client.all()
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    assert b"}HTTP/1.1" not in answer


@pytest.mark.parametrize("cut", [b"GET / HT", POST + b"Content-Length: 10\r\n\r\nabc", CHUNKED + b"5\r\nab"])
async def test_truncated_request_is_told_so(cut: bytes) -> None:
    async with serving(echo) as server, raw(server.port) as client:
        client.send(cut)
        client.writer.write_eof()
        answer = await client.all()
    assert answer.startswith(b"HTTP/1.1 400 "), answer


@on_uvloop
async def test_no_request_smuggled_behind_a_refused_one() -> None:
    seen: list[str] = []

    def app(exchange: http1.Exchange) -> None:
        seen.append(exchange.request.path)
        echo(exchange)

    smuggled = b"GET /admin HTTP/1.1\r\nHost: x\r\n\r\n"
    attempts = [
        POST + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled,
        POST + b"Content-Length: 4\r\nContent-Length: 50\r\n\r\n0\r\n\r\n" + smuggled,
        POST + b"Transfer-Encoding: chunked\r\n\r\n1;\na\r\n0\r\n\r\n" + smuggled,
        POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + smuggled,
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" + smuggled,
    ]
    async with serving(app) as server:
        for attempt in attempts:
            await talk(server.port, attempt)
    assert seen == ["/"]


@on_uvloop
async def test_a_bad_request_is_answered_after_the_good_ones_before_it() -> None:
    async with serving(echo) as server:
        answer = await talk(
            server.port,
            b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\nBAD\r\n\r\n",
        )
    statuses = [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"200", b"400"]


@on_uvloop
async def test_error_body_takes_the_listeners_shape() -> None:
    def shape(status: int, message: str, path: str) -> tuple[bytes, bytes]:
        return b"text/plain", f"{status} {path}: {message}".encode()

    async with serving(echo, error_body=shape) as server:
        answer = await talk(server.port, b"GET /v1/models?a=b HTTP/1.1\r\n\r\n")
    assert answer.endswith(b"400 /v1/models: the Host header is missing")


@on_uvloop
async def test_client_reads_the_refusal_though_it_is_still_sending() -> None:
    async with serving(echo, limits=SMALL) as server, raw(server.port) as client:
        client.send(POST + b"Content-Length: 900000\r\n\r\n" + b"x" * 900000)
        assert (await client.answer())[0] == 413


FAST = http1.HttpLimits(head_s=0.4, body_idle_s=0.2, keep_alive_s=0.4, linger_s=0.2)


@pytest.mark.parametrize(
    "start", [b"GET / HTTP/1.1\r\nHo", POST + b"Content-Length: 10\r\n\r\nabc", CHUNKED + b"5\r\nab"]
)
@on_uvloop
async def test_stalled_request_times_out(start: bytes) -> None:
    async def is_told_so(limit_s: float) -> bool:
        limits = http1.HttpLimits(head_s=limit_s, body_idle_s=limit_s)
        async with serving(echo, limits=limits) as server:
            answer = await talk(server.port, start)
        assert not answer or answer.startswith(b"HTTP/1.1 408 "), answer
        return bool(answer)  # else its time was up before it was read

    await within_some_time(is_told_so)


async def dripped(client: RawClient) -> bytes:
    """What is answered while a byte comes every 20 ms, for six seconds at most."""
    reading = asyncio.ensure_future(client.all())
    for _ in range(300):
        if reading.done():
            break
        client.send(b"a")
        await asyncio.wait([reading], timeout=0.02)
    return await reading


@on_uvloop
async def test_dripping_head_times_out_however_steadily_it_drips() -> None:
    first = b"GET / HTTP/1.1\r\nHost: x\r\nA: "
    async with serving(echo, limits=FAST) as server, raw(server.port, first) as client:
        assert (await dripped(client)).startswith(b"HTTP/1.1 408 ")


@on_uvloop
async def test_dripping_body_times_out_however_steadily_it_drips() -> None:
    limits = http1.HttpLimits(body_idle_s=0.2, body_rate=1000, linger_s=0.2)
    async with serving(echo, limits=limits) as server, raw(server.port) as client:
        client.send(POST + b"Content-Length: 1000\r\n\r\n")
        assert (await dripped(client)).startswith(b"HTTP/1.1 408 ")


@on_uvloop
async def test_silent_and_idle_connections_are_closed_without_a_word() -> None:
    asked = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    async with (
        serving(echo, limits=FAST) as server,
        raw(server.port, asked) as idle,
        raw(server.port) as silent,
    ):
        assert (await idle.answer())[0] == 200
        assert await silent.all() == b""
        assert await idle.all() == b""


@on_uvloop
async def test_flood_of_chunk_extensions_is_cut() -> None:
    async with serving(echo) as server:
        answer = await talk(server.port, CHUNKED + b"1;" + b"a=b;" * 60_000 + b"\r\na\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")


@on_uvloop
async def test_trailer_fields_never_become_headers() -> None:
    body = b"1\r\na\r\n0\r\nX-Admin: yes\r\nHost: evil\r\n\r\n"
    async with serving(echo) as server, raw(server.port) as client:
        client.send(CHUNKED + body)
        status, _, answer = await client.answer()
    report = json.loads(answer)
    assert status == 200
    assert report["body"] == "a"
    assert report["host"] == "x"
    assert "x-admin" not in report["names"]


@on_uvloop
async def test_one_connection_too_many_is_told_so() -> None:
    async with serving(echo, limits=http1.HttpLimits(connections=1)) as server, raw(server.port) as first:
        first.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await first.answer())[0] == 200
        assert (await talk(server.port, b"")).startswith(b"HTTP/1.1 503 ")


def begun(size: int, sent: int) -> bytes:
    """A request for a body of `size`, and so many bytes of that."""
    return POST + b"Content-Length: %d\r\n\r\n" % size + b"x" * sent


@on_uvloop
async def test_all_bodies_on_their_way_together_have_a_bound() -> None:
    limits = http1.HttpLimits(bodies=1000)
    async with serving(echo, limits=limits) as server, raw(server.port) as first, raw(server.port) as leaves:
        first.send(begun(900, 600))
        leaves.send(begun(900, 300))
        await eventually(lambda: server.bodies_held == 900)
        for late in (begun(500, 101), CHUNKED + b"65\r\n" + b"x" * 101):
            said = (await talk(server.port, late)).decode()
            assert said.startswith("HTTP/1.1 503 ")
            assert "retry-after: 1" in said
            assert "too many large requests at once" in said
            await eventually(lambda: server.bodies_held == 900)
        async with raw(server.port) as small:  # what comes at once waits for nothing
            small.send(begun(500, 500))
            assert (await small.answer())[0] == 200
        leaves.reset()
        await eventually(lambda: server.bodies_held == 600)
        async with raw(server.port) as again:
            again.send(begun(500, 101))
            await eventually(lambda: server.bodies_held == 701)
            again.send(b"x" * 399)
            assert (await again.answer())[0] == 200
        first.send(b"x" * 300)
        assert (await first.answer())[0] == 200
        assert server.bodies_held == 0
        first.send(begun(900, 850))  # the connection goes on
        await eventually(lambda: server.bodies_held == 850)
        first.send(b"x" * 50)
        assert (await first.answer())[0] == 200
    assert server.bodies_held == 0


@on_uvloop
async def test_a_body_one_too_many_behind_a_request_that_is_answered_is_refused_in_its_turn() -> None:
    kept: list[http1.Exchange] = []
    async with (
        serving(kept.append, limits=http1.HttpLimits(bodies=100)) as server,
        raw(server.port) as client,
    ):
        client.send(begun(3, 3))
        await eventually(lambda: kept)
        client.send(begun(1000, 400))
        await eventually(lambda: any(one._refusal for one in server.connections))  # not said yet
        assert server.bodies_held == 0
        client.send(b"x" * 600)
        kept[0].respond(200, (), b"first")
        assert (await client.answer())[::2] == (200, b"first")
        assert (await client.answer())[0] == 503
        assert len(kept) == 1
