"""What somebody who has not proven who it is can hold of a TLS listener: little, and not for long."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from bridge_core import http1
from bridge_core.addresses import source_of
from tests.contract.http1_bed import on_uvloop
from tests.support import eventually

AUTHORITY = trustme.CA()


def app(exchange: http1.Exchange) -> None:
    known = exchange.request.identity is not None
    exchange.request.keep_alive &= known
    exchange.respond(200 if known else 401, (), exchange.request.body)


def context(name: str | None, *, server: bool = False) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    AUTHORITY.configure_trust(made)
    if name is not None:
        AUTHORITY.issue_cert(name).configure_cert(made)
    made.check_hostname = False
    if server:
        made.verify_mode = ssl.CERT_OPTIONAL
    return made


def descriptors() -> list[int]:
    return [int(one.name) for one in Path("/proc/self/fd").iterdir()]


def identify(shown: ssl.SSLObject) -> str | None:
    return "client" if shown.getpeercert() else None


@contextlib.asynccontextmanager
async def listening(**limits: float) -> AsyncIterator[http1.Server]:
    server = await http1.serve(
        app,
        name="test",
        ssl=context("localhost", server=True),
        identify=identify,
        limits=http1.HttpLimits(**limits),  # type: ignore[arg-type]  # a test's own
        stream_body=lambda request: request.identity is None,
    )
    try:
        yield server
    finally:
        await server.close()
        assert server.strangers == 0


async def silent(port: int, source: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))


async def ends(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""


async def asks(port: int, name: str | None = "client", body: bytes = b"hi") -> int:
    """One request with a certificate or without; its status."""
    pool = http1.Pool(("127.0.0.1", port), ssl=context(name), server_hostname="localhost")
    try:
        async with pool.request("POST", "/", (), body) as response:
            return response.status
    finally:
        await pool.close()


@on_uvloop
async def test_of_an_addresss_silent_connections_the_oldest_goes_and_a_known_client_is_served() -> None:
    async with listening(strangers=100, strangers_each=4) as server:
        held = [await silent(server.port) for _ in range(4)]
        await eventually(lambda: server.strangers == 4)
        held.append(await silent(server.port))
        await ends(held[0][0])
        assert server.strangers == 4
        assert await asks(server.port) == 200
        for _, writer in held:
            writer.close()
        await eventually(lambda: server.strangers == 0)


@on_uvloop
async def test_the_silent_ones_of_all_addresses_are_bounded() -> None:
    async with listening(strangers=6, strangers_each=4) as server:
        held = [await silent(server.port, f"127.0.0.{2 + number}") for number in range(20)]
        await eventually(lambda: server.strangers == 6)
        await asyncio.gather(*(ends(reader) for reader, _ in held[:14]))
        assert server.strangers == 6
        assert await asks(server.port) == 200
        for _, writer in held:
            writer.close()


@on_uvloop
async def test_who_shows_no_certificate_stays_a_stranger_until_it_leaves() -> None:
    async with listening(strangers=100, strangers_each=2) as server:
        bare = [await asyncio.open_connection("127.0.0.1", server.port, ssl=context(None)) for _ in range(2)]
        await eventually(lambda: len(server.connections) == 2)
        assert server.strangers == 2
        more = await silent(server.port)
        await ends(bare[0][0])
        assert server.strangers == 2
        for _, writer in [*bare, more]:
            writer.transport.abort()
        await eventually(lambda: server.strangers == 0)


@on_uvloop
async def test_a_handshake_has_a_time_limit() -> None:
    async with listening(head_s=0.2) as server:
        reader, writer = await silent(server.port)
        writer.write(b"\x16\x03\x01")
        await ends(reader)
        assert server.strangers == 0
        writer.close()


@on_uvloop
async def test_handshakes_that_fail_are_forgotten_and_leave_no_descriptor() -> None:
    async with listening(strangers_each=8) as server:
        await asks(server.port)
        await eventually(lambda: not server.connections)
        before = len(descriptors())
        for _ in range(20):
            reader, writer = await silent(server.port)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        held = [await silent(server.port) for _ in range(30)]
        await eventually(lambda: server.strangers == 8)
        for _, writer in held:
            writer.transport.abort()
        await eventually(lambda: server.strangers == 0)
        await eventually(lambda: len(descriptors()) == before)


@on_uvloop
async def test_a_stranger_is_answered_from_its_head_and_nothing_of_its_body_is_kept() -> None:
    async with listening(refused_s=0.5) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context(None))
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 90000000\r\n\r\n")
        async with asyncio.timeout(60):
            assert b" 401 " in await reader.readuntil(b"\r\n\r\n")
            writer.write(b"x" * 1000)  # and then no more: it is not waited for
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        await eventually(lambda: not server.connections)
        writer.transport.abort()


@on_uvloop
async def test_a_listener_closes_while_strangers_are_in_its_door() -> None:
    async with listening() as server:
        reader, writer = await silent(server.port)
        await eventually(lambda: server.strangers == 1)
        await server.close()
        await ends(reader)
        writer.close()


@pytest.mark.parametrize(
    ("address", "source"),
    [
        (("10.1.2.3", 5), "10.1.2.3"),
        (("::ffff:10.1.2.3", 5, 0, 0), "10.1.2.3"),
        (("2001:db8:1:2:3:4:5:6", 5, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 5, 0, 2), "fe80::/64"),
        (("",), ""),
    ],
)
def test_a_host_of_ipv6_cannot_be_many_addresses(address: tuple[str, int], source: str) -> None:
    assert source_of(address[0]) == source


@on_uvloop
async def test_without_descriptors_the_listener_waits_and_goes_on() -> None:
    async with listening() as server:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        client = socket.create_connection(("127.0.0.1", server.port))
        used = max(descriptors())
        fillers = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 3, hard))
        try:
            with contextlib.suppress(OSError):
                while True:
                    fillers.append(os.open("/dev/null", os.O_RDONLY))
            late = client  # its place in the queue is accepted or waits; nothing breaks
            for _ in range(20):
                await asyncio.sleep(0)
        finally:
            for one in fillers:
                os.close(one)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        late.close()
        assert await asks(server.port) == 200
