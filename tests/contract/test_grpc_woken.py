"""The gRPC listener sleeps until its first client, and wakes without that client noticing."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from bridge_agent.gateway.grpc_adapter.application import GrpcApplication
from bridge_agent.gateway.grpc_adapter.calls import Calls
from bridge_agent.gateway.grpc_adapter.listener import GrpcListener
from bridge_agent.gateway.grpc_adapter.serving import Serving
from bridge_agent.gateway.grpc_adapter.woken import WokenListener
from bridge_core.http1 import coroutine_app
from bridge_wire.v1 import inference_pb2_grpc
from bridge_wire.v1.inference_pb2 import InferenceRequest
from tests.contract.grpc_bed import Bed
from tests.support import eventually

ASK = InferenceRequest(model_name="echo", input_data=b"hello")


class Sleeper:
    """A listener that sleeps, and what it was made of."""

    def __init__(self, folder: Path, group: asyncio.TaskGroup) -> None:
        self.bed = Bed(folder, None)
        self.group = group
        self.made: list[GrpcListener] = []
        self.ended = 0
        self.may_be_made = threading.Event()
        self.may_be_made.set()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.listener = WokenListener(self.socket, self._make, group=group, ended=self._end)

    def _make(self) -> GrpcListener:
        self.may_be_made.wait(30)
        bed = self.bed
        application = GrpcApplication(
            coroutine_app(bed.engine.handle, self.group), Serving(), refusal=bed.refusal, calls=Calls()
        )
        files = {"cert": bed.node.cert, "key": bed.node.key, "ca": bed.node.ca}
        made = GrpcListener(application, self.socket, **files, group=self.group, grace_s=1.0)
        self.made.append(made)
        return made

    def _end(self) -> None:
        self.ended += 1

    def channel(self) -> grpc.aio.Channel:
        chosen = self.bed.client.channel(self.bed.node.ca.read_bytes())
        return grpc.aio.secure_channel(f"localhost:{self.port}", chosen)

    async def is_served(self) -> bool:
        async with self.channel() as channel:
            stub = inference_pb2_grpc.ModelInferenceStub(channel)
            answer = await stub.Predict(ASK, timeout=30, wait_for_ready=True)
        return bool(answer.done)

    def connected(self) -> socket.socket:
        """A client that is in the queue, and says nothing yet."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=5)


@pytest.fixture
async def sleeper(tmp_path: Path) -> AsyncIterator[Sleeper]:
    async with asyncio.TaskGroup() as group:
        one = Sleeper(tmp_path, group)
        await one.listener.start()
        try:
            yield one
        finally:
            await one.listener.close(5.0)


async def test_nothing_is_made_before_somebody_connects(sleeper: Sleeper) -> None:
    await sleeper.listener.renew()
    assert sleeper.made == []
    assert await sleeper.is_served()
    assert await sleeper.is_served()
    assert len(sleeper.made) == 1


async def test_the_first_client_meets_the_certificate_of_then(sleeper: Sleeper, tmp_path: Path) -> None:
    sleeper.bed.node.key.write_bytes(b"no key")
    (tmp_path / "fresh").mkdir()
    fresh = Bed(tmp_path / "fresh", sleeper.bed.authority).node
    for name in ("cert", "key"):
        getattr(sleeper.bed.node, name).write_bytes(getattr(fresh, name).read_bytes())
    assert await sleeper.is_served()
    assert sleeper.ended == 0


async def test_a_client_waits_until_a_listener_that_could_not_be_made_is(sleeper: Sleeper) -> None:
    key = sleeper.bed.node.key.read_bytes()
    sleeper.bed.node.key.write_bytes(b"no key")
    with sleeper.connected():
        await eventually(lambda: sleeper.ended == 1)
        sleeper.bed.node.key.write_bytes(key)
        await sleeper.listener.renew()  # as `Listening.follow_renewals` does after a while
        assert await sleeper.is_served()
    assert len(sleeper.made) == 2
    before = sleeper.made[1]._server
    await sleeper.listener.renew()
    assert sleeper.made[1]._server is not before, "one that serves takes up the files of now"


async def test_a_renewal_waits_for_one_that_is_being_made(sleeper: Sleeper) -> None:
    sleeper.may_be_made.clear()
    with sleeper.connected():
        await eventually(lambda: sleeper.listener._waking is not None)
        renewal = asyncio.create_task(sleeper.listener.renew())
        await asyncio.sleep(0)
        assert not renewal.done()
        sleeper.may_be_made.set()
        await renewal
        assert len(sleeper.made) == 1
        assert await sleeper.is_served()


async def test_one_that_retires_asleep_leaves_clients_to_the_next(sleeper: Sleeper) -> None:
    sleeper.listener.retire()
    await sleeper.listener.start()
    await sleeper.listener.renew()
    with sleeper.connected():
        heir = WokenListener(sleeper.socket, sleeper._make, group=sleeper.group, ended=sleeper._end)
        await heir.start()
        assert await sleeper.is_served()
        await heir.close(5.0)
    assert len(sleeper.made) == 1


@pytest.mark.parametrize("when", ["asleep", "while it wakes"])
async def test_one_that_closes_has_let_go_of_its_socket(sleeper: Sleeper, when: str) -> None:
    if when == "while it wakes":
        sleeper.may_be_made.clear()
        with sleeper.connected():
            await eventually(lambda: sleeper.listener._waking is not None)
            closing = asyncio.create_task(sleeper.listener.close(10.0))
            await asyncio.sleep(0)
            sleeper.may_be_made.set()
            await closing
    else:
        await sleeper.listener.close(1.0)
    assert sleeper.socket.fileno() == -1
    assert all(one._server is None for one in sleeper.made)
    assert sleeper.ended == 0
