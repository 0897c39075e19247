"""What the HTTP/1.1 suites share: a server in this loop, raw sockets, and a server with a script."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import uvloop

from bridge_core import http1


def on_uvloop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs a test on the loop that the product runs on; tests without it run on asyncio's own."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(test(*args, **kwargs))

    return run


class RawClient:
    """A socket that says exactly what a test wants said."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def all(self, deadline_s: float = 30.0) -> bytes:
        """Everything up to the end of the connection (a reset counts as the end)."""
        received = b""
        async with asyncio.timeout(deadline_s):
            with contextlib.suppress(ConnectionError):
                while part := await self.reader.read(65536):
                    received += part
        return received

    async def until(self, mark: bytes, deadline_s: float = 30.0) -> bytes:
        async with asyncio.timeout(deadline_s):
            return await self.reader.readuntil(mark)

    async def exactly(self, size: int, deadline_s: float = 30.0) -> bytes:
        async with asyncio.timeout(deadline_s):
            return await self.reader.readexactly(size)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """One answer with a Content-Length or a chunked body."""
        head = (await self.until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = dict(line.split(": ", 1) for line in head[1:] if line)
        if "content-length" in fields:
            body = await self.exactly(int(fields["content-length"]))
        elif "transfer-encoding" in fields:
            body = b""
            while size := int((await self.until(b"\r\n")).strip(), 16):
                body += (await self.exactly(size + 2))[:-2]
            await self.until(b"\r\n")
        else:
            body = b""
        return int(head[0].split(" ")[1]), fields, body

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def raw(port: int, first: bytes = b"") -> AsyncIterator[RawClient]:
    """A connection; what it says `first` is there when the server accepts it, however busy the machine is."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(first)
    reader, writer = await asyncio.open_connection(sock=sock)
    client = RawClient(reader, writer)
    try:
        yield client
    finally:
        client.reset()


async def talk(port: int, data: bytes) -> bytes:
    """Says `data` and returns all that comes until the server closes."""
    async with raw(port, data) as client:
        return await client.all()


@contextlib.asynccontextmanager
async def serving(app: http1.App, **options: object) -> AsyncIterator[http1.Server]:
    server = await http1.serve(app, name="test", **options)  # type: ignore[arg-type]
    try:
        yield server
    finally:
        await server.close()
        assert not server.connections


class ScriptedServer:
    """A TCP server whose connections each run a coroutine; what it saw is kept."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self.requests: list[bytes] = []
        self.ended = 0


Script = Callable[[ScriptedServer, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[ScriptedServer]:
    state = ScriptedServer()
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state.connections += 1
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await script(state, reader, writer)
            writer.close()  # after what it still has to send
            await writer.wait_closed()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            state.ended += 1
            running.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()
        for task in list(running):
            task.cancel()
        if running:
            await asyncio.wait(running)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """One request with a Content-Length, whole."""
    head = await reader.readuntil(b"\r\n\r\n")
    size = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            size = int(line.split(b":")[1])
    return head + (await reader.readexactly(size) if size else b"")
