"""`python -m bench.config_latency --state-dir DIR`: from an apply to every agent of a running mesh."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import time
from importlib import metadata
from pathlib import Path

import msgspec

from bench.results import record, table
from bridge_cli.connection import access, admin, read_mesh
from bridge_core.http1 import Pool
from bridge_wire.v1 import registry_pb2 as wire

_ROUTE = """\
apiVersion: bridge.deepseek.io/v1
kind: ModelRoute
metadata: {{name: bench-config-latency}}
spec: {{backends: [{{model: tiny, weight: {weight}}}], deadline: {deadline}s}}
"""


class _Snapshot(msgspec.Struct):
    epoch: int
    revision: int


class _Status(msgspec.Struct):
    snapshot: _Snapshot


async def measure(state: Path, count: int) -> tuple[list[float], list[float]]:
    """Seconds from asking to the last agent, and of these those after the registry's answer."""
    mesh = read_mesh(state / "mesh.json")
    whole: list[float] = []
    after: list[float] = []
    async with contextlib.AsyncExitStack() as stack:
        pools = [Pool(("127.0.0.1", int(one.admin.rpartition(":")[2]))) for one in mesh.agents]
        for pool in pools:
            stack.push_async_callback(pool.close)
        stub = await stack.enter_async_context(admin(access(state, None, None, None, None)))
        for at in range(count):
            before = [await _version(pool) for pool in pools]
            request = wire.ApplyRequest(
                files=[
                    wire.ConfigFile(name="b.yaml", text=_ROUTE.format(weight=1 + at % 2, deadline=60 + at))
                ]
            )
            began = time.perf_counter()
            waiting = [
                asyncio.create_task(_until_newer(pool, old)) for pool, old in zip(pools, before, strict=True)
            ]
            await stub.Apply(request)
            answered = time.perf_counter()
            last = max(await asyncio.gather(*waiting))
            whole.append(last - began)
            after.append(max(0.0, last - answered))
            await asyncio.sleep(0.05)
    return whole, after


async def _version(pool: Pool) -> tuple[int, int]:
    async with pool.request("GET", "/status", []) as response:
        found = msgspec.json.decode(await response.read(1 << 20), type=_Status).snapshot
    return found.epoch, found.revision


async def _until_newer(pool: Pool, old: tuple[int, int]) -> float:
    while await _version(pool) <= old:
        await asyncio.sleep(0.001)
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state-dir", type=Path, required=True, help="of a mesh that `bridgectl up` started")
    parser.add_argument("--count", type=int, default=100)
    arguments = parser.parse_args()
    whole, after = asyncio.run(measure(arguments.state_dir, arguments.count))
    rows = [
        [what, *_figures(values)] for what, values in (("from asking", whole), ("from the answer", after))
    ]
    text = table(["live on every agent", "p50 ms", "p99 ms", "slowest ms"], rows)
    print(text)
    record(
        "config-latency",
        "A changed route, live on every agent",
        f"python -m bench.config_latency --state-dir … --count {arguments.count}",
        [f"grpcio {metadata.version('grpcio')}"],
        f"{arguments.count} applies one after the other to a mesh of three nodes, all of it and the "
        f"polling of the agents on this machine. Budget: p99 250 ms.\n\n{text}",
    )


def _figures(values: list[float]) -> list[str]:
    cuts = statistics.quantiles(values, n=100)
    return [f"{value * 1000:.1f}" for value in (cuts[49], cuts[98], max(values))]


if __name__ == "__main__":
    main()
