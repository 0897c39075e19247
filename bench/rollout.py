"""`python -m bench.rollout [CASE …]`: rollouts on a real mesh with real engines, models and requests.

Three engines, a proxy before each that can make one model fail or answer late
(`bench.faulty_engine`), and a mesh of three that has the proxies for its engines. Then, one after the
other: a canary that is healthy, one that fails a fifth of its requests, one with three times the
stable side's time to the first byte, one that is much slower altogether, one that answers wrongly, and
blue and green switched and switched back.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import psutil

from bench.faulty_engine import NO_FAULT, Fault, FaultyEngines, Seen, in_front_of
from bench.results import record, table
from bridge_cli.connection import access, admin
from bridge_core.errors import BridgeError
from bridge_core.http1 import Pool
from bridge_engine import seed
from bridge_wire.v1 import registry_pb2 as wire
from tests.cluster.mesh_bed import NODES, Mesh

_WORKERS, _SLOTS = 4, 4
_LIMIT_S = 150.0
_MODELS = ("tiny", "tiny-solo", "smollm2:135m")
_STEPS = "every: 3s\n  increment: 30"
_ASK = 'probe: {prompts: [{prompt: "What is the capital of France?", expect: Paris}]}'
_ROUTE = """\
apiVersion: bridge.deepseek.io/v1
kind: ModelRoute
metadata: {{name: bench-rollout}}
spec: {{backends: [{{model: {stable}, weight: 100}}, {{model: {canary}, weight: 0}}]}}
"""
_ROLLOUT = """\
apiVersion: bridge.deepseek.io/v1
kind: Rollout
metadata: {{name: bench}}
spec:
  route: bench-rollout
  stable: {stable}
  canary: {canary}
  {more}
"""


@dataclass(frozen=True)
class Case:
    """One rollout: what is wrong with the canary, and how the rollout is configured."""

    stable: str
    canary: str
    more: str = _STEPS
    fault: Fault = NO_FAULT


CASES = {
    "healthy": Case("tiny", "tiny-copy"),
    "20 % errors": Case("tiny", "tiny-copy", fault=Fault(errors=0.2)),
    "3x TTFT": Case("tiny", "tiny-copy", fault=Fault(slower=3.0)),
    "slower": Case("tiny", "smollm2:135m", f"{_STEPS}\n  guards: {{minRequests: 10}}"),
    "wrong answers": Case("smollm2:135m", "tiny", f"{_STEPS}\n  {_ASK}"),
}
_GREEN = Case(
    "tiny",
    "tiny-solo",  # other weights: a copy would share its runner, and be as warm as the old
    "strategy: blueGreen\n  baseline: 4s\n  keepWarm: 60s\n"
    "  guards: {minRequests: 0, ttftP50: null, ttftP95: null, tokensPerSecond: null}",
)
_BLUE_GREEN = "blue-green"


@dataclass
class Users:
    """Clients that ask without end, each time as another conversation, at one node after another."""

    pools: list[Pool]
    numbers: Iterator[int] = field(default_factory=itertools.count)
    served: int = 0
    failed: int = 0
    words: list[str] = field(default_factory=list)

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
            except BridgeError as fault:
                good, answer = False, str(fault).encode()
            self.served += 1
            if not good:
                self.failed += 1
                self.words.append(answer[-200:].decode(errors="replace"))


@contextlib.asynccontextmanager
async def _users(mesh: Mesh) -> AsyncIterator[Users]:
    async with contextlib.AsyncExitStack() as stack:
        pools = [Pool(mesh.address(node)) for node in NODES]
        for pool in pools:
            stack.push_async_callback(pool.close)
        users = Users(pools)
        tasks = [asyncio.create_task(users.ask()) for _ in range(_WORKERS)]
        try:
            yield users
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class Bench:
    """A running mesh, its faulty engines, and an admin."""

    def __init__(self, mesh: Mesh, engines: FaultyEngines, stub: Any) -> None:
        self.mesh, self.engines, self.stub = mesh, engines, stub

    async def status(self) -> Any:
        """The rollout's."""
        (one,) = (await self.stub.Rollouts(wire.RolloutsRequest(name="bench"))).rollouts
        return one

    async def apply(self, case: Case) -> float:
        """Applies a case's documents; returns when the Rollout was."""
        route = _ROUTE.format(**vars(case))
        await self.stub.Apply(_files(route))
        await asyncio.sleep(1.0)  # until every agent knows the route: before that it is no model, 404
        self.engines.forget()
        self.engines.faults[case.canary] = case.fault
        applied = await self.stub.Apply(_files(f"{route}---\n{_ROLLOUT.format(**vars(case))}"))
        if applied.faults:
            raise SystemExit(str(applied.faults))
        return time.monotonic()

    async def clear(self) -> None:
        """Removes the documents, and waits until the controller has forgotten them."""
        await self.stub.Apply(wire.ApplyRequest(files=[], prune=True))
        await asyncio.sleep(2.0)

    async def case(self, name: str, case: Case) -> list[object]:
        """One rollout from its apply to its end, as a row."""
        began = await self.apply(case)
        async with _users(self.mesh) as users:
            while (one := await self.status()).phase in {"progressing", "paused"}:
                if time.monotonic() - began > _LIMIT_S:
                    break
                await asyncio.sleep(0.1)
            verdict = time.monotonic()
            if one.phase == "rolled-back":
                await asyncio.sleep(2.0)  # what still fails once everybody knows
        _show(users)
        for event in one.events:
            print(f"  {event.what}", flush=True)
        side = one.canary
        print(f"  canary: {side.requests} requests, {side.error_rate:.1%} errors", flush=True)
        seen = self.engines.seen.get(case.canary, Seen())
        first = f"{verdict - seen.arrived[0]:.1f}" if seen.arrived else "before the first"
        share = f"{len(seen.arrived)}, {seen.failed} of them failed there"
        return [
            name,
            one.phase,
            one.reason,
            f"{verdict - began:.1f}",
            first,
            share,
            users.served,
            users.failed,
        ]

    async def blue_green(self) -> list[list[object]]:
        """A switch, the old side kept warm, and the switch back; rows of what was seen."""
        began = await self.apply(_GREEN)
        seen = self.engines.seen
        async with _users(self.mesh) as users:
            while (await self.status()).step == 0:
                await asyncio.sleep(0.02)
            switched = time.monotonic()
            await asyncio.sleep(15.0)
            warm = await self._loaded("tiny")
            before = users.served
            asked = time.monotonic()
            await self.stub.CommandRollout(wire.CommandRolloutRequest(name="bench", verb="abort"))
            await asyncio.sleep(5.0)
        _show(users)
        old, new = seen["tiny"].arrived, seen["tiny-solo"].arrived
        last_old = max(at for at in old if at < asked)
        back_from = min((at for at in old if at > asked), default=float("inf"))
        last_new = max(0.0, max(new) - asked)
        return [
            ["requests of users, failed", f"{users.served}, {users.failed}"],
            ["baseline until the switch", f"{switched - began:.1f} s"],
            ["last request that reached the old side, after the switch", _ms(max(0.0, last_old - switched))],
            ["nodes that still had the old model loaded 15 s after the switch", f"{warm} of {len(NODES)}"],
            ["requests that the new side served in those 15 s", sum(switched < at < asked for at in new)],
            ["`abort` until the first request back at the old side", _ms(back_from - asked)],
            ["`abort` until the last request that reached the new side", _ms(last_new)],
            ["requests of users after `abort`", users.served - before],
        ]

    async def _loaded(self, model: str) -> int:
        """On how many nodes a model is loaded."""
        found = 0
        for url in self.engines.urls:
            pool = Pool(("127.0.0.1", int(url.rpartition(":")[2])))
            async with pool.request("GET", "/api/ps", []) as response:
                found += f'"{model}:latest"'.encode() in await response.read(1 << 20)
            await pool.close()
        return found


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def _show(users: Users) -> None:
    for words in users.words[:5]:
        print(f"  failed: {words}", flush=True)


def _files(text: str) -> Any:
    return wire.ApplyRequest(files=[wire.ConfigFile(name="b.yaml", text=text)])


async def _post(port: int, path: str, body: dict[str, object]) -> None:
    pool = Pool(("127.0.0.1", port))
    try:
        headers = [(b"content-type", b"application/json")]
        async with pool.request("POST", path, headers, msgspec.json.encode(body)) as response:
            await response.read(1 << 20)
            if response.status != 200:
                raise SystemExit(f"{path}: {response.status}")
    finally:
        await pool.close()


@contextlib.contextmanager
def _engine(folder: Path) -> Iterator[int]:
    """A real engine's port."""
    folder.mkdir(parents=True)
    seed.seed(folder / "models", _MODELS, folder.parent / "cache")
    ready = folder / "ready.json"
    command = [str(Path(sys.executable).parent / "bridge-engine"), "serve", "--listen", "127.0.0.1:0"]
    command += ["--models", str(folder / "models"), "--ready-file", str(ready)]
    command += ["--num-parallel", str(_SLOTS)]
    with (folder / "log").open("wb") as log:
        process = psutil.Popen(command, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 60
        while not ready.exists():
            if time.monotonic() > end or process.poll() is not None:
                raise SystemExit(f"an engine did not start: {folder / 'log'}")
            time.sleep(0.05)
        yield int(json.loads(ready.read_text())["port"])
    finally:
        process.terminate()
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(20)
        if process.is_running():
            process.kill()
            process.wait()


@contextlib.asynccontextmanager
async def _bench(folder: Path) -> AsyncIterator[Bench]:
    async with contextlib.AsyncExitStack() as stack:
        ports = [stack.enter_context(_engine(folder / node)) for node in NODES]
        for port in ports:
            await _post(port, "/api/copy", {"source": "tiny", "destination": "tiny-copy"})
            for model in _MODELS:  # loaded, as before any rollout
                ask = {"model": model, "prompt": "a", "stream": False, "options": {"num_predict": 1}}
                await _post(port, "/api/generate", {**ask, "keep_alive": -1})
        engines = await stack.enter_async_context(in_front_of(ports))
        mesh = Mesh(folder / "mesh")
        stack.callback(mesh.kill_everything)
        await asyncio.to_thread(mesh.up, "--engine", f"ollama={','.join(engines.urls)}")
        await mesh.whole()
        stub = await stack.enter_async_context(admin(access(mesh.state, None, None, None, None)))
        yield Bench(mesh, engines, stub)
        await asyncio.to_thread(mesh.run, "down")


async def measure(names: list[str], folder: Path) -> tuple[list[list[object]], list[list[object]]]:
    """A row for each canary, and those of blue and green."""
    rows, switched = [], []
    async with _bench(folder) as bench:
        for name in names:
            if name == _BLUE_GREEN:
                switched = await bench.blue_green()
                print(switched, flush=True)
            else:
                rows.append(await bench.case(name, CASES[name]))
                print(rows[-1], flush=True)
            await bench.clear()
    return rows, switched


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    known = [*CASES, _BLUE_GREEN]
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(known)}; all by default")
    parser.add_argument("--rows", type=Path, help="keeps the rows of earlier runs: cases one at a time")
    given = parser.parse_args()
    names = given.cases
    # Ended by a time-out it still ends what it started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if strange := set(names) - set(known):
        parser.error(f"no such case: {', '.join(strange)}")
    with tempfile.TemporaryDirectory(prefix="bridge-rollout-") as folder:
        rows, switched = asyncio.run(measure(names or known, Path(folder)))
    if given.rows is not None:
        kept = json.loads(given.rows.read_text()) if given.rows.exists() else []
        kept = [row for row in kept if row[0] not in {new[0] for new in rows}]
        rows = sorted([*kept, *rows], key=lambda row: list(CASES).index(row[0]))
        given.rows.write_text(json.dumps(rows))
    versions = [f"xllamacpp {metadata.version('xllamacpp')}"]
    if rows:
        text = table(
            (
                "canary",
                "ended as",
                "why",
                "s from apply",
                "s from its 1st request",
                "requests to it",
                "users' requests",
                "failed",
            ),
            rows,
        )
        record(
            "rollout",
            "Rollouts on a mesh of three nodes",
            "python -m bench.rollout",
            versions,
            f"{_WORKERS} clients ask for 16 tokens each, one after the other, through all three nodes; the "
            "engines are real, with a proxy before each that injects the faults for the canary's model. "
            "First step 10 %, then +30 % every 3 s; a canary is judged from its 20th request on (the "
            "slower one from its 10th). Failed: requests of users, up to 2 s after the roll-back, that "
            f"did not end with a whole answer.\n\n{text}",
        )
    if switched:
        record(
            "blue-green",
            "Blue and green, and back",
            f"python -m bench.rollout {_BLUE_GREEN}",
            versions,
            f"The same mesh and clients; baseline 4 s, then everything goes to the new side, and 15 s "
            f"later an admin says `bridgectl rollout abort`.\n\n{table(['what', 'measured'], switched)}",
        )


if __name__ == "__main__":
    main()
