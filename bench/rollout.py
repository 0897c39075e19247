"""`python -m bench.rollout --state-dir DIR`: rollouts on a running mesh, with real models and requests.

A healthy canary (a copy of the stable model), one that is much slower (a larger model), and one that
answers wrongly (random weights). For each: how long until it was at 100 % or rolled back, why, and how
many requests of users failed meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from bench.results import record, table
from bridge_core.cli.connection import access, admin, read_mesh
from bridge_core.errors import BridgeError
from bridge_core.http1 import Pool
from bridge_wire.v1 import registry_pb2 as wire

_WORKERS = 4
_LIMIT_S = 120.0
_DOCUMENTS = """\
apiVersion: bridge.deepseek.io/v1
kind: ModelRoute
metadata: {{name: bench-rollout}}
spec: {{backends: [{{model: {stable}, weight: 100}}, {{model: {canary}, weight: 0}}]}}
---
apiVersion: bridge.deepseek.io/v1
kind: Rollout
metadata: {{name: bench}}
spec:
  route: bench-rollout
  stable: {stable}
  canary: {canary}
  {more}
"""
_ASK = 'probe: {prompts: [{prompt: "What is the capital of France?", expect: Paris}]}'


@dataclass
class Users:
    """Clients that ask without end, each time as another conversation, at one node after another."""

    pools: list[Pool]
    numbers: Iterator[int]
    served: int = 0
    failed: int = 0

    async def ask(self) -> None:
        """One client."""
        while True:
            number = next(self.numbers)
            body = {
                "model": "bench-rollout",
                "messages": [{"role": "user", "content": f"Question {number}: who are you?"}],
                "options": {"num_predict": 16},
            }
            pool = self.pools[number % len(self.pools)]
            headers = [(b"content-type", b"application/json")]
            try:
                request = pool.request("POST", "/api/chat", headers, msgspec.json.encode(body))
                async with request as response:
                    answer = await response.read(1 << 20)
                    good = response.status == 200 and b'"done":true' in answer.rsplit(b"\n", 2)[-2]
            except BridgeError:
                good = False
            self.served += 1
            self.failed += not good


@contextlib.asynccontextmanager
async def _users(addresses: list[str]) -> AsyncIterator[Users]:
    async with contextlib.AsyncExitStack() as stack:
        pools = [Pool(("127.0.0.1", int(one.rpartition(":")[2]))) for one in addresses]
        for pool in pools:
            stack.push_async_callback(pool.close)
        users = Users(pools, itertools.count())
        tasks = [asyncio.create_task(users.ask()) for _ in range(_WORKERS)]
        try:
            yield users
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def case(state: Path, stub: Any, stable: str, canary: str, more: str) -> list[object]:
    """One rollout from its apply to its end."""
    text = _DOCUMENTS.format(stable=stable, canary=canary, more=more)
    await stub.Apply(_files(text.partition("---\n")[0]))
    await asyncio.sleep(1.0)  # until every agent knows the route: before that it is no model, 404
    began = time.monotonic()
    applied = await stub.Apply(_files(text))
    if applied.faults:
        raise SystemExit(str(applied.faults))
    mesh = read_mesh(state / "mesh.json")
    async with _users([one.http for one in mesh.agents]) as users:
        while True:
            await asyncio.sleep(0.2)
            (one,) = (await stub.Rollouts(wire.RolloutsRequest(name="bench"))).rollouts
            passed = time.monotonic() - began
            if one.phase not in {"progressing", "paused"} or passed > _LIMIT_S:
                return [one.phase, one.reason, f"{passed:.1f}", users.served, users.failed]


def _files(text: str) -> Any:
    return wire.ApplyRequest(files=[wire.ConfigFile(name="b.yaml", text=text)])


async def _post(address: str, path: str, body: dict[str, object], *more: tuple[bytes, bytes]) -> None:
    pool = Pool(("127.0.0.1", int(address.rpartition(":")[2])))
    try:
        headers = [(b"content-type", b"application/json"), *more]
        async with pool.request("POST", path, headers, msgspec.json.encode(body)) as response:
            await response.read(1 << 20)
    finally:
        await pool.close()


async def _prepare(state: Path) -> None:
    """A copy of `tiny` on every node, all models loaded, as before any rollout."""
    mesh = read_mesh(state / "mesh.json")
    copy = {"source": "tiny", "destination": "tiny-copy"}
    await _post(mesh.agents[0].http, "/api/copy", copy, (b"x-bridge-node", b"all"))
    for agent, model in itertools.product(mesh.agents, ("tiny", "tiny-copy", "smollm2:135m")):
        for number in range(6):  # conversations fall to all nodes
            ask = {"model": model, "prompt": f"{number}", "stream": False, "options": {"num_predict": 1}}
            await _post(agent.http, "/api/generate", ask)


async def measure(state: Path) -> list[list[object]]:
    """A row for each canary."""
    await _prepare(state)
    steps = "every: 3s\n  increment: 30\n  "
    rows = []
    async with admin(access(state, None, None, None, None)) as stub:
        for name, stable, canary, more in (
            ("healthy", "tiny", "tiny-copy", steps),
            ("slower", "tiny", "smollm2:135m", steps + "guards: {minRequests: 10}"),
            ("wrong answers", "smollm2:135m", "tiny", steps + _ASK),
        ):
            rows.append([name, *await case(state, stub, stable, canary, more)])
            await stub.Apply(wire.ApplyRequest(files=[], prune=True))
            await asyncio.sleep(2.0)  # until the controller has forgotten it
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state-dir", type=Path, required=True, help="of a mesh that `bridge up` started")
    arguments = parser.parse_args()
    rows = asyncio.run(measure(arguments.state_dir))
    text = table(["canary", "ended as", "why", "after s", "requests", "failed"], rows)
    print(text)
    record(
        "rollout",
        "Rollouts on a mesh of three nodes",
        "python -m bench.rollout --state-dir …",
        [f"xllamacpp {metadata.version('xllamacpp')}"],
        f"{_WORKERS} clients ask for 16 tokens each, one after the other. First step 10 %, then +30 % "
        f"every 3 s; a canary is judged from its 20th request on (the slower one from its 10th).\n\n{text}",
    )


if __name__ == "__main__":
    main()
