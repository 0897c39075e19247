"""What is measured, each a process: `python -m bench.grpc.subjects NAME …`.

agent PORT UPSTREAM FOLDER   one agent's gRPC listener and gateway with everything on, its engine at UPSTREAM
relay PORT UPSTREAM FOLDER   a relay of nothing but grpc.aio
whole PORT                   a gRPC upstream that answers at once
tokens PORT COUNT EVERY_MS   a gRPC upstream that streams COUNT messages, one every EVERY_MS
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import uvloop

from bench import configs
from bench.subjects import LAST, TOKEN, compose, forever
from bridge_agent.gateway.config import ListenerKind
from bridge_agent.gateway.grpc_adapter.application import GrpcApplication
from bridge_agent.gateway.grpc_adapter.calls import Calls
from bridge_agent.gateway.grpc_adapter.listener import GrpcListener
from bridge_agent.gateway.grpc_adapter.serving import Serving
from bridge_core.clients import Client
from bridge_core.snapshot import encode_entry
from bridge_core.tls import TlsIdentity
from bridge_wire.v1.inference_pb2 import InferenceResponse
from tests import raw_http2 as h2

SERVICE = "/bridge.v1.ModelInference/"
CLIENT = {"client/client": encode_entry(Client("client"))}
_CREDIT = 1 << 16  # bytes of requests after which a client is let send as many more


async def agent(port: int, upstream: int, folder: Path) -> None:
    """The gRPC side of an agent, composed as it composes it."""
    tls = TlsIdentity(folder / "owner.pem", folder / "owner.key", folder / "ca.pem")
    async with asyncio.TaskGroup() as group:
        made = await compose("agent", folder, group, upstream=upstream, tls=tls, entries=CLIENT)
        pipeline = made.gateway.http_app(ListenerKind.TLS)
        application = GrpcApplication(
            pipeline,
            Serving(),
            refusal=lambda request, _: made.gateway.refusal(request),
            calls=Calls(),
        )
        listener = GrpcListener(
            application,
            socket.create_server(("127.0.0.1", port), backlog=256),
            cert=tls.cert,
            key=tls.key,
            ca=tls.ca,
            group=group,
        )
        await listener.start()
        await forever()


async def relay(port: int, upstream: int, folder: Path) -> None:
    """Bytes in, bytes out: what grpc.aio costs by itself."""
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{upstream}")
    whole = channel.unary_unary(f"{SERVICE}Predict")
    stream = channel.unary_stream(f"{SERVICE}PredictStream")

    async def predict(request: bytes, _context: Any) -> bytes:
        return await whole(request)

    async def predict_stream(request: bytes, _context: Any) -> AsyncIterator[bytes]:
        async for message in stream(request):
            yield message

    handlers = {
        "Predict": grpc.unary_unary_rpc_method_handler(predict),
        "PredictStream": grpc.unary_stream_rpc_method_handler(predict_stream),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("bridge.v1.ModelInference", handlers),)
    )
    pair = (folder / "owner.key").read_bytes(), (folder / "owner.pem").read_bytes()
    credentials = grpc.ssl_server_credentials([pair], (folder / "ca.pem").read_bytes(), True)
    server.add_secure_port(f"127.0.0.1:{port}", credentials)
    await server.start()
    await forever()


class Upstream(asyncio.Protocol):
    """A server of frames by hand, which answers every stream that a client ends.

    It heeds no windows: what is under way to one client is less than any.
    """

    def __init__(self, answer: Callable[[Any, int], None]) -> None:
        self._answer = answer
        self._transport: Any = None
        self._buffer = bytearray()
        self._preface = True
        self._took = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(h2.settings({h2.MAX_CONCURRENT_STREAMS: 100_000}))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._preface:
            if len(self._buffer) < len(h2.PREFACE):
                return
            del self._buffer[: len(h2.PREFACE)]
            self._preface = False
        for kind, flags, stream, payload in h2.frames(self._buffer):
            if kind == h2.DATA:
                self._took += len(payload)
            if kind <= h2.HEADERS and flags & h2.END_STREAM:
                self._answer(self._transport, stream)
            elif kind == h2.SETTINGS and not flags & h2.ACK:
                self._transport.write(h2.frame(h2.SETTINGS, h2.ACK, 0))
            elif kind == h2.PING and not flags & h2.ACK:
                self._transport.write(h2.frame(h2.PING, h2.ACK, 0, payload))
        if self._took > _CREDIT // 2:
            self._transport.write(h2.frame(h2.WINDOW_UPDATE, 0, 0, self._took.to_bytes(4, "big")))
            self._took = 0


_HEAD = b"\x88" + h2.field(b"content-type", b"application/grpc")
_END = h2.field(b"grpc-status", b"0")


def _data(stream: int, output: bytes, *, done: bool) -> bytes:
    sent = InferenceResponse(output_data=output, done=done).SerializeToString()
    return h2.frame(h2.DATA, 0, stream, h2.message(sent))


def _begin(stream: int) -> bytes:
    return h2.frame(h2.HEADERS, h2.END_HEADERS, stream, _HEAD)


def _end(stream: int) -> bytes:
    return h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, stream, _END)


async def whole(port: int) -> None:
    sent = InferenceResponse(output_data=configs.BODY.encode(), done=True).SerializeToString()
    framed = h2.message(sent)

    def answer(transport: Any, stream: int) -> None:
        transport.write(_begin(stream) + h2.frame(h2.DATA, 0, stream, framed) + _end(stream))

    await _serve(port, answer)


async def tokens(port: int, count: int, every_ms: float) -> None:
    """One timer writes to all streams, so that the upstream stays cheap."""
    streams: dict[tuple[Any, int], int] = {}

    def answer(transport: Any, stream: int) -> None:
        transport.write(_begin(stream) + _data(stream, TOKEN, done=False))
        streams[transport, stream] = count - 1

    def tick() -> None:
        asyncio.get_running_loop().call_later(every_ms / 1000, tick)
        for (transport, stream), left in list(streams.items()):
            if transport.is_closing():
                del streams[transport, stream]
            elif left > 1:
                transport.write(_data(stream, TOKEN, done=False))
                streams[transport, stream] = left - 1
            else:
                del streams[transport, stream]
                transport.write(_data(stream, LAST, done=True) + _end(stream))

    tick()
    await _serve(port, answer)


async def _serve(port: int, answer: Callable[[Any, int], None]) -> None:
    await asyncio.get_running_loop().create_server(lambda: Upstream(answer), "127.0.0.1", port)
    await forever()


def main(name: str, *arguments: str) -> None:
    if name == "agent":
        uvloop.run(agent(int(arguments[0]), int(arguments[1]), Path(arguments[2])))
    elif name == "relay":
        uvloop.run(relay(int(arguments[0]), int(arguments[1]), Path(arguments[2])))
    elif name == "whole":
        uvloop.run(whole(int(arguments[0])))
    else:
        uvloop.run(tokens(int(arguments[0]), int(arguments[1]), float(arguments[2])))


if __name__ == "__main__":
    main(*sys.argv[1:])
