"""A listener that closes answers everybody who is connected already, and resets nobody."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import trustme

from bridge_agent.gateway.config import ListenerKind
from bridge_agent.gateway.grpc_adapter.calls import Calls
from bridge_agent.last_call import last_call
from bridge_agent.listening import Listening
from bridge_core import http1
from bridge_core.tls import TlsIdentity
from tests.contract.grpc_bed import open_bed
from tests.contract.http1_bed import on_uvloop, raw
from tests.support import eventually

ASK = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def hello(exchange: http1.Exchange) -> None:
    exchange.respond(200, (), b"hello")


class Plain:
    """Of a gateway, what a listener asks about beside its requests."""

    def unread(self, listener: ListenerKind) -> Callable[[http1.Request], bool]:
        return lambda _: False

    def handshake_refused(self, listener: ListenerKind) -> Callable[[str], None]:
        return lambda _: None

    def error_body(self, status: int, message: str, path: str) -> tuple[bytes, bytes]:
        return b"text/plain", message.encode()


def opened() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0), backlog=64)


@contextlib.contextmanager
def connected(port: int, count: int) -> Iterator[list[socket.socket]]:
    """Clients that have connected and asked before the server's loop could turn once."""
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(count):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            client.sendall(ASK)
            client.setblocking(False)
            clients.append(client)
        yield clients


async def answer_of(client: socket.socket) -> bytes:
    """What came until the end of the connection. Raises ConnectionResetError."""
    loop, received = asyncio.get_running_loop(), b""
    async with asyncio.timeout(60):
        while part := await loop.sock_recv(client, 65536):
            received += part
    return received


@contextlib.asynccontextmanager
async def listening(
    folder: Path, sockets: dict[str, socket.socket], shared: frozenset[str] = frozenset()
) -> AsyncIterator[Listening]:
    async with open_bed(folder) as bed:
        identity = TlsIdentity(bed.node.cert, bed.node.key, bed.node.ca)
        made = Listening(
            sockets,
            identity,
            lambda _: None,
            grpc=bed.listener,
            calls=Calls(),
            serving=bed.serving,
            shared=shared,
        )
        for name in sockets:
            await made.open_gateway(name, hello, Plain(), require_client=False if name == "https" else None)
        try:
            yield made
        finally:
            await made.release()


async def close(made: Listening) -> None:
    hurry = asyncio.create_task(asyncio.Event().wait())
    await made.close(60.0, hurry)  # type: ignore[arg-type]  # of which only that it is done matters
    hurry.cancel()


@on_uvloop
async def test_whoever_waits_in_the_queue_when_an_agents_listeners_close_is_answered(tmp_path: Path) -> None:
    sock = opened()
    async with listening(tmp_path, {"http": sock}) as made:
        with connected(sock.getsockname()[1], 12) as clients:
            answers = [asyncio.create_task(answer_of(client)) for client in clients]
            made.tell_draining()
            await close(made)
            for answer in await asyncio.gather(*answers):
                assert answer.startswith(b"HTTP/1.1 200")
                assert b"connection: close" in answer
                assert answer.endswith(b"hello")


async def test_a_shared_sockets_queue_is_left_to_whoever_holds_it_too(tmp_path: Path) -> None:
    shared, own = opened(), opened()
    kept = shared.dup()
    async with listening(tmp_path, {"http": shared, "https": own}, frozenset({"http"})) as made:
        made.retire()
        async with raw(own.getsockname()[1]):
            pass  # the next agent does not have this one: it is open until the end
        with connected(kept.getsockname()[1], 1) as clients:
            await close(made)
            kept.settimeout(60)
            with kept, kept.accept()[0] as accepted:
                assert accepted.recv(1000) == ASK
                accepted.sendall(b"the next one")
            assert await answer_of(clients[0]) == b"the next one"


async def test_who_begins_to_connect_after_the_last_call_is_not_let_in_to_be_thrown_out() -> None:
    with opened() as sock, socket.socket() as late:
        await last_call([sock], 60.0)
        late.setblocking(False)
        late.connect_ex(sock.getsockname())
        _, let_in, _ = select.select([], [late], [], 0.1)
        assert not let_in
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.accept()


async def test_the_last_call_waits_for_the_queue_but_not_for_ever() -> None:
    with opened() as sock, connected(sock.getsockname()[1], 2):
        await last_call([sock], 0.2)  # nobody accepts
        calling = asyncio.create_task(last_call([sock], 60.0))
        sock.accept()[0].close()
        done, _ = await asyncio.wait([calling], timeout=0.3)
        assert not done
        sock.accept()[0].close()
        async with asyncio.timeout(60):
            await calling


async def test_the_last_call_of_a_socket_that_is_closed_already_is_no_fault() -> None:
    sock = opened()
    sock.close()
    await last_call([sock], 60.0)


async def test_a_handshake_under_way_when_a_server_closes_ends_in_an_answer() -> None:
    authority = trustme.CA()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server_side)
    client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client_side)
    server = await http1.serve(hello, name="test", ssl=server_side)
    sock = socket.create_connection(("127.0.0.1", server.port))
    sock.setblocking(False)
    await eventually(lambda: server.strangers == 1)
    closing = asyncio.create_task(server.close(60.0))
    reader, writer = await asyncio.open_connection(sock=sock, ssl=client_side, server_hostname="localhost")
    writer.write(ASK)
    async with asyncio.timeout(60):
        assert (await reader.read()).endswith(b"hello")
    writer.close()
    await closing


async def test_a_server_that_leaves_answers_on_and_says_that_the_connection_ends() -> None:
    server = await http1.serve(hello, name="test")
    async with raw(server.port) as kept:
        kept.send(ASK)
        assert "connection" not in (await kept.answer())[1]
        server.leave()
        kept.send(ASK)
        status, fields, body = await kept.answer()
        assert (status, fields["connection"], body) == (200, "close", b"hello")
        assert await kept.all() == b""
    async with raw(server.port) as newcomer:
        newcomer.send(ASK)
        assert (await newcomer.answer())[1]["connection"] == "close"
    await server.close()
