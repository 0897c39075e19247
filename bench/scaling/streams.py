"""`python -m bench scaling-streams`: one registry feeds 1,000 snapshot streams, each over its own TLS.

The registry is whole, over a store in memory, in a process of its own; 1,000 instances are in its snapshot,
on ten nodes. A hundred streams go with each node's certificate: to the registry it is all one.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import grpc.aio
import msgspec
import psutil

from bench.results import record, table
from bridge_core.registry_channel import open_channel
from bridge_core.snapshot import Instance, MemberModel, encode_entry
from bridge_core.store.api import Put
from bridge_wire.v1 import registry_pb2 as pb
from bridge_wire.v1 import registry_pb2_grpc as rpc
from tests.fakes.store import FakeEtcd, FakeStore
from tests.registry_bed import leading

STREAMS, NODES, CHANGES, EVERY_S = 1000, 10, 10, 2.0
_AT_ONCE: Final = 16


class _Where(msgspec.Struct):
    address: str
    ca: bytes
    nodes: list[tuple[bytes, bytes]]


def streams(folder: Path, _seconds: float, versions: Sequence[str], command: str) -> None:
    """Measures and writes the row."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    found = asyncio.run(_measure(folder))
    head = ["streams", "connected in s", "a change, p50 ms", "p99 ms", "slowest ms", "CPU s a change", "MiB"]
    text = (
        f"{CHANGES} changes of one instance, {EVERY_S:.0f} s apart, in a snapshot of 1,000 instances; from "
        "the write into the store (in memory) to the arrival at each stream. CPU and memory are the "
        f"registry's; the process that has the streams shares the machine.\n\n{table(head, [found])}"
    )
    record("scaling-streams", "One registry, a thousand snapshot streams", command, versions, text)


async def _measure(folder: Path) -> list[object]:
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.scaling.streams", str(folder),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        limit=1 << 20,
    )  # fmt: skip
    assert server.stdout is not None and server.stdin is not None  # noqa: PT018 - pipes
    try:
        while not (line := await server.stdout.readline()).startswith(b"{"):
            pass
        where = msgspec.json.decode(line, type=_Where)
        arrivals: list[list[tuple[float, int]]] = []
        turn = asyncio.Semaphore(_AT_ONCE)
        began, ready = time.monotonic(), asyncio.Queue[None]()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_follow(where, at % NODES, arrivals, turn, ready)) for at in range(STREAMS)
            ]
            for _ in range(STREAMS):
                await ready.get()
            connected = time.monotonic() - began
            for one in arrivals:
                one.clear()
            process = psutil.Process(server.pid)
            before = sum(process.cpu_times()[:2])
            written = []
            for _ in range(CHANGES):
                server.stdin.write(b"change\n")
                written.append(float(await server.stdout.readline()))
                await asyncio.sleep(EVERY_S)
            await asyncio.sleep(2 * EVERY_S)
            cpu = (sum(process.cpu_times()[:2]) - before) / CHANGES
            memory = process.memory_info().rss / (1 << 20)
            for task in tasks:
                task.cancel()
        # One that lags is sent several changes as one: it has a change when it has that one or a later one.
        took = [
            (min(came for came, number in one if number > at) - when) * 1000
            for one in arrivals
            for at, when in enumerate(written)
        ]
        cuts = statistics.quantiles(took, n=100)
        return [
            STREAMS, f"{connected:.1f}", f"{cuts[49]:.0f}", f"{cuts[98]:.0f}", f"{max(took):.0f}",
            f"{cpu:.2f}", f"{memory:.0f}",
        ]  # fmt: skip
    finally:
        server.terminate()
        await server.wait()


async def _follow(
    where: _Where,
    node: int,
    arrivals: list[list[tuple[float, int]]],
    turn: asyncio.Semaphore,
    ready: asyncio.Queue[None],
) -> None:
    cert, key = where.nodes[node]
    came: list[tuple[float, int]] = []
    async with contextlib.AsyncExitStack() as stack:
        async with turn:
            channel = await stack.enter_async_context(
                open_channel(where.address, where.ca, cert_pem=cert, key_pem=key)
            )
            call = rpc.MeshStub(channel).WatchSnapshot()
            await call.write(pb.SnapshotAck())
            update = await call.read()
            await call.write(pb.SnapshotAck(have=update.version))
        arrivals.append(came)
        ready.put_nowait(None)
        while (update := await call.read()) is not grpc.aio.EOF:
            now = time.monotonic()
            came += [
                (now, msgspec.json.decode(one.value, type=Instance).slots - 1)
                for one in update.entries
                if one.key == "instance/n0/0"
            ]
            await call.write(pb.SnapshotAck(have=update.version))


async def _serve(folder: Path) -> None:
    """Serves; each line on standard input changes an instance and is answered with the time of that."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    etcd = FakeEtcd()
    async with leading(folder, etcd) as bed:
        store: Any = FakeStore(etcd)
        nodes = [await bed.join(f"n{at}") for at in range(NODES)]
        for node in nodes:
            ids = [f"{node.name}/{at}" for at in range(STREAMS // NODES)]
            members = [Instance(one, node.name, models=(MemberModel("m"),)) for one in ids]
            await store.commit([Put(f"/bridge/v1/members/{one.id}", encode_entry(one)) for one in members])
        hub = bed.registry.publisher.hub
        while len(hub.current.instances) < STREAMS:
            await asyncio.sleep(0.1)
        found = _Where(bed.address, bed.ca_pem, [(one.cert_pem, one.key_pem) for one in nodes])
        print(msgspec.json.encode(found).decode(), flush=True)
        number = 0
        async for _ in _lines():
            number += 1
            changed = Instance("n0/0", "n0", models=(MemberModel("m"),), slots=number + 1)
            at = time.monotonic()
            await store.commit([Put("/bridge/v1/members/n0/0", encode_entry(changed))])
            print(at, flush=True)


async def _lines() -> AsyncIterator[bytes]:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield line


if __name__ == "__main__":
    import structlog

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asyncio.run(_serve(Path(sys.argv[1])))
