"""A gRPC listener over a scripted pipeline, with a mesh's certificates around it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from bridge_agent.authentication.refusal import Refused
from bridge_agent.gateway.grpc_adapter.application import GrpcApplication
from bridge_agent.gateway.grpc_adapter.calls import Calls
from bridge_agent.gateway.grpc_adapter.listener import GrpcListener
from bridge_agent.gateway.grpc_adapter.serving import Serving
from bridge_core.http1 import App, Exchange, Request, coroutine_app
from bridge_core.identity import SpiffeId
from bridge_core.identity.certificates import (
    Authority,
    create_authority,
    generate_key,
    issue,
    key_to_pem,
    to_pem,
)
from bridge_wire.v1 import inference_pb2_grpc
from tests.contract.gateway_bed import AUTHORITY

HEAD = ((b"content-type", b"application/json"), (b"x-request-id", b"r-1"), (b"x-bridge-node", b"node9"))
TRUST_DOMAIN = "bed.local"


class Engine:
    """The pipeline's stand-in: what it answers depends on the model; it remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any], Exchange]] = []
        self.cancelled = 0
        self.written = 0

    async def handle(self, exchange: Exchange) -> None:
        body = json.loads(exchange.request.body)
        self.asked.append((exchange.request.path, body, exchange))
        model = body["model"].split(":")[0]
        behaviour: Callable[[Exchange, dict[str, Any]], Awaitable[None]] = getattr(
            self, f"_{model}", self._echo
        )
        try:
            await behaviour(exchange, body)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def _echo(self, exchange: Exchange, body: dict[str, Any]) -> None:
        text = body.get("prompt", "")
        if not body.get("stream"):
            exchange.respond(200, HEAD, json.dumps({"response": text, "done": True}).encode())
            return
        exchange.start(200, HEAD)
        for word in text.split() or [text]:
            exchange.write(json.dumps({"response": word, "done": False}).encode() + b"\n")
            await exchange.drain()
        exchange.write(b'{"response":"","done":true,"done_reason":"stop"}\n')
        exchange.finish()

    async def _status(self, exchange: Exchange, body: dict[str, Any]) -> None:
        status = int(body["prompt"])
        head = [*HEAD, (b"retry-after", b"7")] if status == 503 else HEAD
        exchange.respond(status, head, json.dumps({"error": f"this is a {status}"}).encode())

    async def _forever(self, exchange: Exchange, body: dict[str, Any]) -> None:
        if body.get("stream"):
            exchange.start(200, HEAD)
            exchange.write(b'{"response":"first","done":false}\n')
        await asyncio.Event().wait()

    async def _flood(self, exchange: Exchange, body: dict[str, Any]) -> None:
        exchange.start(200, HEAD)
        record = json.dumps({"response": "x" * 60_000, "done": False}).encode() + b"\n"
        for _ in range(int(body["prompt"])):
            exchange.write(record)
            self.written += 1
            await exchange.drain()
        exchange.write(b'{"response":"","done":true}\n')
        exchange.finish()

    async def _silent(self, exchange: Exchange, body: dict[str, Any]) -> None:
        exchange.start(200, HEAD)
        exchange.write(b'{"response":"half","done":false}\n')
        exchange.finish()

    async def _cut(self, exchange: Exchange, body: dict[str, Any]) -> None:
        exchange.start(200, HEAD)
        exchange.write(b'{"response":"half","done":false}\n')
        exchange.abort()

    async def _dies(self, exchange: Exchange, body: dict[str, Any]) -> None:
        exchange.start(200, HEAD)
        exchange.write(b'{"response":"half","done":false}\n{"error":"the runner died"}\n')
        exchange.finish()

    async def _slow(self, exchange: Exchange, body: dict[str, Any]) -> None:
        """Writes a record in parts that cut it anywhere."""
        exchange.start(200, HEAD)
        for byte in b'{"response":"\xc3\xa9","done":false}\n{"done":true}\n':
            exchange.write(bytes([byte]))
            await asyncio.sleep(0)
        exchange.finish()

    async def _lingers(self, exchange: Exchange, body: dict[str, Any]) -> None:
        """Ends apart from its last record, as engines do."""
        exchange.start(200, HEAD)
        exchange.write(b'{"response":"all","done":false}\n{"response":"","done":true}\n')
        for _ in range(100):
            await asyncio.sleep(0)
        exchange.finish()


class Credentials:
    """A certificate on disk and in memory."""

    def __init__(self, folder: Path, authority: Authority, identity: SpiffeId) -> None:
        folder.mkdir()
        key = generate_key()
        leaf = issue(
            authority,
            key.public_key(),
            identity,
            now=time.time(),
            ttl_s=3600,
            dns_names=["localhost"],
            addresses=["127.0.0.1"],
        )
        self.cert, self.key, self.ca = folder / "cert.pem", folder / "key.pem", folder / "ca.pem"
        self.cert.write_bytes(to_pem(leaf))
        self.key.write_bytes(key_to_pem(key))
        self.ca.write_bytes(authority.pem)
        self.identity = str(identity)
        self.serial = f"{leaf.serial_number:x}"

    def channel(self, ca: bytes | None = None) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(
            ca or self.ca.read_bytes(), self.key.read_bytes(), self.cert.read_bytes()
        )


class Bed:
    """Everything of one listener."""

    def __init__(self, folder: Path, authority: Authority | None = None) -> None:
        authority = authority or create_authority(TRUST_DOMAIN, now=time.time(), ttl_s=86_400)
        foreign = create_authority("foreign.local", now=time.time(), ttl_s=86_400)
        make = SpiffeId.make
        self.node = Credentials(folder / "node", authority, make(TRUST_DOMAIN, "node", "node1"))
        self.client = Credentials(folder / "client", authority, make(TRUST_DOMAIN, "client", "alice"))
        self.stranger = Credentials(folder / "stranger", foreign, make("foreign.local", "client", "alice"))
        self.authority = authority
        self.folder = folder
        self.engine = Engine()
        self.refused: set[str] = set()
        self.listener: GrpcListener
        self.serving: Serving
        self.group: asyncio.TaskGroup

    def refusal(self, request: Request, serial: str) -> Refused | None:
        known = request.identity is not None and serial not in self.refused
        return None if known else Refused(401, "a valid client certificate of this mesh is needed")

    @property
    def target(self) -> str:
        return f"localhost:{self.listener.port}"

    def channel(self, credentials: Credentials | None = None, **options: Any) -> grpc.aio.Channel:
        chosen = (credentials or self.client).channel(self.node.ca.read_bytes())
        pairs = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", -1)]
        return grpc.aio.secure_channel(self.target, chosen, options=pairs + list(options.items()))


@contextlib.asynccontextmanager
async def open_bed(
    folder: Path, pipeline: App | None = None, authority: Authority | None = None
) -> AsyncIterator[Bed]:
    """A listener over `pipeline`, with certificates of `authority`; the bed's own where none is given."""
    bed = Bed(folder, authority)
    async with asyncio.TaskGroup() as group:
        bed.group = group
        bed.serving = Serving()
        application = GrpcApplication(
            pipeline or coroutine_app(bed.engine.handle, group),
            bed.serving,
            refusal=bed.refusal,
            calls=Calls(),
        )
        sock = socket.create_server(("127.0.0.1", 0))
        bed.listener = GrpcListener(
            application, sock, cert=bed.node.cert, key=bed.node.key, ca=bed.node.ca, group=group, grace_s=20.0
        )
        await bed.listener.start()
        try:
            yield bed
        finally:
            await bed.listener.close(2.0)


@contextlib.asynccontextmanager
async def stub_of(pipeline: App, folder: Path) -> AsyncIterator[Any]:
    """A client of a gRPC listener over `pipeline`; its certificate is of the gateways' mesh."""
    folder.mkdir()
    async with open_bed(folder, pipeline, AUTHORITY) as listener, listener.channel() as channel:
        yield inference_pb2_grpc.ModelInferenceStub(channel)
