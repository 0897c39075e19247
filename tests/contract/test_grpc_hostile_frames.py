"""Clients that abuse HTTP/2 itself at the gRPC port: what they hold is bounded, and others are served."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Final

import pytest

from bridge_core.tls import client_context
from bridge_wire.v1 import inference_pb2_grpc
from bridge_wire.v1.inference_pb2 import InferenceRequest
from tests import raw_http2 as h2
from tests.contract.grpc_bed import Bed, open_bed
from tests.support import eventually

STREAMS: Final = 1000  # that a client may have open, as the listener's SETTINGS say
_HEAD: Final = h2.call_head(b"/bridge.v1.ModelInference/Predict")
_ASK: Final = h2.message(InferenceRequest(model_name="forever", input_data=b"x").SerializeToString())
_CANCEL: Final = (8).to_bytes(4, "big")


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    async with open_bed(tmp_path) as bed:
        yield bed


class Hostile:
    """One connection that says what it likes, and what came back on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self.got: list[h2.Frame] = []
        self.ended = False

    async def listen(self) -> None:
        buffer = bytearray()
        with contextlib.suppress(ConnectionError):
            while data := await self._reader.read(1 << 16):
                buffer += data
                self.got += h2.frames(buffer)
        self.ended = True

    async def say(self, parts: Iterable[bytes]) -> None:
        """Sends all of it, or what is taken until the server hangs up."""
        with contextlib.suppress(ConnectionError):
            for part in parts:
                if self.ended:
                    return
                self.writer.write(part)
                await self.writer.drain()

    def count(self, kind: int) -> int:
        return sum(frame.kind == kind for frame in self.got)


@contextlib.asynccontextmanager
async def hostile(bed: Bed) -> AsyncIterator[Hostile]:
    context = client_context(bed.client.cert, bed.client.key, bed.client.ca)
    context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection("127.0.0.1", bed.listener.port, ssl=context)
    client = Hostile(reader, writer)
    writer.write(h2.PREFACE + h2.settings({h2.ENABLE_PUSH: 0}))
    listens = asyncio.create_task(client.listen())
    try:
        yield client
    finally:
        writer.transport.abort()
        await listens


async def others_are_served(bed: Bed) -> None:
    async with bed.channel() as channel:
        request = InferenceRequest(model_name="echo", input_data=b"hello")
        assert (await inference_pb2_grpc.ModelInferenceStub(channel).Predict(request)).done


def call(stream: int) -> bytes:
    head = h2.frame(h2.HEADERS, h2.END_HEADERS, stream, _HEAD)
    return head + h2.frame(h2.DATA, h2.END_STREAM, stream, _ASK)


async def test_who_resets_calls_as_fast_as_it_makes_them_leaves_nothing_behind(bed: Bed) -> None:
    async with hostile(bed) as client:
        await client.say(
            call(stream) + h2.frame(h2.RST_STREAM, 0, stream, _CANCEL) for stream in range(1, 4001, 2)
        )
        await others_are_served(bed)
        await eventually(lambda: bed.engine.cancelled == len(bed.engine.asked) - 1)


@pytest.mark.parametrize("rpc", [b"Predict", b"PredictStream"])
async def test_a_message_that_never_ends_is_given_up_at_the_calls_deadline(bed: Bed, rpc: bytes) -> None:
    head = h2.call_head(b"/bridge.v1.ModelInference/" + rpc, (b"grpc-timeout", b"50m"))
    async with hostile(bed) as client:
        await client.say([h2.frame(h2.HEADERS, h2.END_HEADERS, 1, head), h2.frame(h2.DATA, 0, 1, _ASK[:7])])
        await eventually(lambda: any(one.kind == h2.HEADERS and one.stream == 1 for one in client.got))
        await others_are_served(bed)
    assert len(bed.engine.asked) == 1


async def test_a_head_that_never_ends_is_given_up_at_its_bound(bed: Bed) -> None:
    def parts() -> Iterable[bytes]:
        yield h2.frame(h2.HEADERS, 0, 1, _HEAD)
        for number in range(10_000):
            yield h2.frame(h2.CONTINUATION, 0, 1, h2.field(b"x-%d" % number, b"y" * 100))

    async with hostile(bed) as client:
        await client.say(parts())
        await eventually(lambda: client.ended)  # its GOAWAY may be lost: unread bytes reset the connection
        await others_are_served(bed)
    assert len(bed.engine.asked) == 1


async def test_more_calls_at_once_than_are_allowed_are_refused_and_all_end_with_their_client(
    bed: Bed,
) -> None:
    more = 50
    async with hostile(bed) as client:
        await client.say(call(1 + 2 * number) for number in range(STREAMS + more))
        await eventually(lambda: client.count(h2.RST_STREAM) >= more)
        await eventually(lambda: len(bed.engine.asked) == STREAMS)
        await others_are_served(bed)
    await eventually(lambda: bed.engine.cancelled == STREAMS)


@pytest.mark.parametrize(
    "flood",
    [
        h2.frame(h2.PING, 0, 0, b"12345678"),
        h2.settings({h2.INITIAL_WINDOW_SIZE: h2.FIRST_WINDOW}),
        h2.frame(h2.WINDOW_UPDATE, 0, 0, (1).to_bytes(4, "big")),
    ],
    ids=["pings", "settings", "windows"],
)
async def test_others_are_served_beside_a_flood(bed: Bed, flood: bytes) -> None:
    async with hostile(bed) as client:
        await client.say(flood * 100 for _ in range(100))
        await others_are_served(bed)
        assert len(bed.engine.asked) == 1


@pytest.mark.parametrize(
    "frame",
    [
        h2.frame(h2.DATA, 0, 1, b"x" * (1 << 17)),
        h2.frame(h2.HEADERS, h2.END_HEADERS, 2, _HEAD),
        h2.frame(h2.CONTINUATION, h2.END_HEADERS, 1, b""),
        h2.frame(h2.HEADERS, h2.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"),
    ],
    ids=["frame-too-large", "even-stream", "continuation-of-nothing", "no-header-block"],
)
async def test_what_breaks_the_protocol_ends_its_connection_alone(bed: Bed, frame: bytes) -> None:
    async with hostile(bed) as client:
        await client.say([frame])
        await eventually(lambda: client.ended)
    await others_are_served(bed)
