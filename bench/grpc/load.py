"""Loads a gRPC server over TLS and says what came: `python -m bench.grpc.load PORT FOLDER …`.

C-core's clients reach some thousand calls a second, h2load sends one body again and again. This one frames by
hand, no two bodies alike, and spends less on a call than what it loads. It reads no header fields: a call is
answered when its stream has ended with as many bytes of messages as were to come, else it is an error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import time
from pathlib import Path
from typing import Any

import uvloop

from bench.load import PROMPT_BYTES, prompt
from bridge_wire.v1.inference_pb2 import InferenceRequest
from tests import raw_http2 as h2

_WINDOW = 2**31 - 1
_BODIES = 4096  # made before; by then what an earlier call left in any cache has long gone
_CLIENT_MESSAGE = 5  # a message's own head
_LATE_S = 10.0


class Calls:
    """The calls to make and what came of them."""

    def __init__(self, path: bytes, streams: int, least: int) -> None:
        self.streams = streams
        self.least = least
        self.answered = self.messages = self.errors = 0
        self.latencies: list[float] = []
        self.until = 0.0
        self.most: float = float("inf")
        self.begun = 0
        head = h2.call_head(path)
        self._head = h2.frame(h2.HEADERS, h2.END_HEADERS, 1, head)
        self._bodies = [h2.frame(h2.DATA, h2.END_STREAM, 1, h2.message(_ask(at))) for at in range(_BODIES)]

    def next(self, stream: int) -> tuple[bytes, int]:
        """The frames of the next call, and their bytes that flow control counts."""
        body = self._bodies[self.begun % _BODIES]
        self.begun += 1
        number = stream.to_bytes(4, "big")
        head = self._head
        return b"".join((head[:5], number, head[9:], body[:5], number, body[9:])), len(body) - h2.HEAD_BYTES

    @property
    def over(self) -> bool:
        return self.begun >= self.most or time.monotonic() >= self.until


def _ask(number: int) -> bytes:
    return InferenceRequest(model_name="tiny", input_data=prompt(number)).SerializeToString()


class Connection(asyncio.Protocol):
    """One connection, as many calls under way as it was told."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._transport: Any = None
        self._buffer = bytearray()
        self._open: dict[int, list[float]] = {}  # when each began, and the bytes that came
        self._stream = 1
        self._may_send = h2.FIRST_WINDOW
        self._took = 0
        self._heard = False
        self._most_open = calls.streams
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        told = h2.settings({h2.ENABLE_PUSH: 0, h2.INITIAL_WINDOW_SIZE: _WINDOW})
        more = h2.frame(h2.WINDOW_UPDATE, 0, 0, (_WINDOW - h2.FIRST_WINDOW).to_bytes(4, "big"))
        transport.write(h2.PREFACE + told + more)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        calls, open_ = self._calls, self._open
        for kind, flags, stream, payload in h2.frames(self._buffer):
            if kind == h2.DATA and (one := open_.get(stream)):
                self._took += len(payload)
                one[1] += len(payload)
                calls.messages += 1
            if kind <= h2.HEADERS and flags & h2.END_STREAM and stream in open_:
                began, got = open_.pop(stream)
                if got < calls.least:
                    calls.errors += 1
                else:
                    calls.answered += 1
                    calls.latencies.append(time.monotonic() - began)
            elif kind > h2.HEADERS:
                self._told(kind, flags, stream, payload)
        if self._heard:
            self._go_on()

    def _told(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """What is no answer."""
        if kind == h2.SETTINGS and not flags & h2.ACK:
            self._heard = True
            for at in range(0, len(payload), 6):
                if payload[at : at + 2] == h2.MAX_CONCURRENT_STREAMS.to_bytes(2, "big"):
                    most = int.from_bytes(payload[at + 2 : at + 6], "big")
                    self._most_open = min(most, self._calls.streams)
            self._transport.write(h2.frame(h2.SETTINGS, h2.ACK, 0))
        elif kind == h2.WINDOW_UPDATE and not stream:
            self._may_send += int.from_bytes(payload, "big")
        elif kind == h2.PING and not flags & h2.ACK:
            self._transport.write(h2.frame(h2.PING, h2.ACK, 0, payload))
        elif kind == h2.RST_STREAM and self._open.pop(stream, None) is not None:
            self._calls.errors += 1
        elif kind == h2.GOAWAY and not self.done.done():
            self.done.set_exception(RuntimeError(f"the server ends the connection: {payload!r}"))

    def _go_on(self) -> None:
        calls, parts = self._calls, []
        if self._took > 1 << 20:
            parts.append(h2.frame(h2.WINDOW_UPDATE, 0, 0, self._took.to_bytes(4, "big")))
            self._took = 0
        over = calls.over
        now = time.monotonic()
        while not over and len(self._open) < self._most_open and self._may_send > 2 * PROMPT_BYTES:
            part, size = calls.next(self._stream)
            parts.append(part)
            self._may_send -= size
            self._open[self._stream] = [now, 0]
            self._stream += 2
            over = calls.begun >= calls.most
        if parts:
            self._transport.write(b"".join(parts))
        if over and not self._open and not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError(f"the server hung up: {exc}"))


async def load(port: int, folder: Path, calls: Calls, connections: int, seconds: float) -> float:
    """Makes calls for so long, or so many; the seconds that it took."""
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.check_hostname = False  # a node's certificate names the node
    context.load_cert_chain(folder / "client.pem", folder / "client.key")
    context.set_alpn_protocols(["h2"])
    loop = asyncio.get_running_loop()
    began = time.monotonic()
    calls.until = began + seconds
    made = [
        await loop.create_connection(lambda: Connection(calls), "127.0.0.1", port, ssl=context)
        for _ in range(connections)
    ]
    await asyncio.wait_for(asyncio.gather(*(one.done for _, one in made)), seconds + _LATE_S)
    took = time.monotonic() - began
    for transport, _ in made:
        transport.close()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.grpc.load", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("folder", type=Path, help="where ca.pem, client.pem and client.key are")
    parser.add_argument("--method", default="Predict")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--streams", type=int, default=8, help="calls under way on each connection")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--calls", type=int, help="so many in all, however long it takes")
    parser.add_argument("--least", type=int, default=1, help="bytes without which an answer is an error")
    given = parser.parse_args()
    calls = Calls(f"/bridge.v1.ModelInference/{given.method}".encode(), given.streams, given.least)
    seconds = given.seconds
    if given.calls is not None:
        calls.most, seconds = given.calls, 600.0
    took = uvloop.run(load(given.port, given.folder, calls, given.connections, seconds))
    latencies = sorted(calls.latencies) or [0.0]
    print(
        json.dumps(
            {
                "answered": calls.answered,
                "messages": calls.messages,
                "errors": calls.errors,
                "seconds": took,
                "p50_ms": latencies[len(latencies) // 2] * 1000,
                "p99_ms": latencies[len(latencies) * 99 // 100] * 1000,
            }
        )
    )


if __name__ == "__main__":
    main()
