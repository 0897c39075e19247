"""Many engines on one GPU behind the agent's walls: time-sliced, under its MPS, with fewer threads each.

    python -m bench.gpu --llama-server PATH [--folder DIR] [--counts 1,2,4,8,16] [--tokens 200]

Prints a Markdown table, then what the walls gave up and what the faults did. Every engine is a
llama-server that the agent's launcher started in a cgroup and namespaces of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import socket
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from bridge_agent.embedded.modelgen import LlamaShape, generate
from bridge_agent.engine.logfile import LogFile
from bridge_agent.engine.process import EngineProcess, LaunchSpec
from bridge_agent.limits import mps_rules, nvml
from bridge_agent.limits.cgroup import Cgroups, find_hierarchy
from bridge_agent.limits.launcher import IsolatedLauncher, Placed
from bridge_agent.limits.mps import MpsDaemon
from bridge_core.backoff import Backoff
from bridge_core.node_class import Isolation, Limits, NodeClass

GIB = 1 << 30
WALLS = ("cgroup", "mount", "pid", "ipc", "uts", "capabilities", "no_new_privs")
SMALL = LlamaShape(
    layers=16, width=1024, heads=16, kv_heads=4, feed_forward=2816, vocabulary=32_000, context_length=8192
)
LARGE = LlamaShape(
    layers=22, width=2048, heads=32, kv_heads=4, feed_forward=5632, vocabulary=32_000, context_length=8192
)
MODELS = {"0.3B f16": (SMALL, "f16"), "0.3B q4_0": (SMALL, "q4_0"), "1.1B f16": (LARGE, "f16")}
# Beside the planner's own choice; the best depends on the number of neighbours.
SWEEP = {
    "1.1B f16": {2: (75,), 4: (75, 60), 8: (75, 40, 30)},
    "0.3B f16": {8: (40, 25)},
    "0.3B q4_0": {8: (40, 25)},
}


class Shared:
    """Gives every engine the same MPS server and share; none while `daemon` is None."""

    def __init__(self) -> None:
        self.daemon: MpsDaemon | None = None
        self.share = mps_rules.MpsShare()

    async def admit(self, _spec: LaunchSpec) -> Placed:
        if self.daemon is None:
            return Placed()
        pipe, log = str(self.daemon.pipe), str(self.daemon.log)
        environment = mps_rules.client_environment(pipe, log, self.share, 1)
        return Placed(environment=environment, shared=(pipe, log))


class Bed:
    """Starts engines and asks them for tokens."""

    def __init__(self, folder: Path, server: str) -> None:
        self.folder, self.server, self.shared = folder, server, Shared()
        state = folder / "state"
        state.mkdir(parents=True, exist_ok=True)
        hierarchy = find_hierarchy()
        limits = Limits(
            pids_max=512 if hierarchy.version_of("pids") else None,
            memory_max=16 * GIB if hierarchy.version_of("memory") else None,
        )
        print(f"- cgroup controllers below the agent's own group: {', '.join(hierarchy.trees) or 'none'}")
        node_class = NodeClass(isolation=Isolation(walls=WALLS), limits=limits)
        cgroups = Cgroups(hierarchy, "bench") if hierarchy.trees else None
        self.launcher = IsolatedLauncher(state, node_class=node_class, cgroups=cgroups, devices=self.shared)
        self.models: dict[str, Path] = {}

    def model(self, name: str) -> Path:
        if name not in self.models:
            shape, weights = MODELS[name]
            self.models[name] = self.folder / f"{name.replace(' ', '-')}.gguf"
            generate(self.models[name], shape, weights=weights)
        return self.models[name]

    async def start(self, number: int, model: str, *, slots: int = 1) -> Engine:
        folder = self.folder / "state" / "engines" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        (folder / "log").unlink(missing_ok=True)
        spec = LaunchSpec(
            argv=(
                *(self.server, "-m", str(self.model(model)), "--port", str(port), "-ngl", "99", "-t", "1"),
                *("-c", str(2048 * slots), "-np", str(slots), "--no-warmup"),
            ),
            env={
                name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "HOME") if name in os.environ
            },
            folder=folder,
            log=LogFile(folder / "log"),
            instance=f"bench/{number}",
            readable=(self.folder,),
        )
        return Engine(spec, await self.launcher.launch(spec), port)

    @contextlib.asynccontextmanager
    async def engines(self, count: int, model: str) -> AsyncIterator[list[Engine]]:
        started: list[Engine] = []
        try:
            for number in range(count):  # one after the other: a failure leaves those before to be ended
                started.append(await self.start(number, model))  # noqa: PERF401
            await asyncio.gather(*(engine.ready() for engine in started))
            yield started
        finally:
            for engine in started:
                await engine.process.end(2.0)
                await self.launcher.ended(engine.spec.instance)

    @contextlib.asynccontextmanager
    async def mps(self, faults: list[mps_rules.MpsFault]) -> AsyncIterator[None]:
        gpus = nvml.open_inventory()[0].read()
        daemon = MpsDaemon(gpus[0].uuid, self.folder / "mps", on_fault=faults.append)
        task = asyncio.create_task(daemon.run(Backoff(random.Random(1), first_s=0.1, most_s=1.0)))
        try:
            await asyncio.wait_for(daemon.ready(), 20)
            self.shared.daemon = daemon
            yield
        finally:
            self.shared.daemon = None
            self.shared.share = mps_rules.MpsShare()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


class Engine:
    """One llama-server."""

    def __init__(self, spec: LaunchSpec, process: EngineProcess, port: int) -> None:
        self.spec, self.process, self.port = spec, process, port

    async def ready(self, limit_s: float = 60.0) -> None:
        end = time.monotonic() + limit_s
        while True:
            with contextlib.suppress(OSError, ValueError):
                answer = await asyncio.to_thread(self._get, "/health")
                if answer.get("status") == "ok":
                    return
            if not self.process.family() or time.monotonic() > end:
                raise RuntimeError("\n".join(self.spec.log.tail(15)))
            await asyncio.sleep(0.05)

    async def generate(self, tokens: int) -> float:
        body = {"prompt": "hello there " * 8, "n_predict": tokens, "temperature": 0, "ignore_eos": True}
        answer = await asyncio.to_thread(self._get, "/completion", {**body, "cache_prompt": False})
        return float(answer["timings"]["predicted_n"])

    def _get(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=300) as response:
            return json.load(response)


async def rate(bed: Bed, model: str, count: int, tokens: int) -> float:
    """Tokens per second of `count` engines together."""
    async with bed.engines(count, model) as engines:
        await asyncio.gather(*(engine.generate(16) for engine in engines))
        began = time.monotonic()
        done = await asyncio.gather(*(engine.generate(tokens) for engine in engines))
        return sum(done) / (time.monotonic() - began)


async def table(bed: Bed, counts: list[int], tokens: int) -> None:
    print("| model | engines | time-sliced | under MPS | gain | with fewer threads each |")
    print("|---|---|---|---|---|---|")
    for model in MODELS:
        sliced = {count: await rate(bed, model, count, tokens) for count in counts}
        async with bed.mps([]):
            for count in counts:
                bed.shared.share = mps_rules.MpsShare()
                plain = await rate(bed, model, count, tokens)
                fewer = []
                for percentage in SWEEP.get(model, {}).get(count, ()):
                    bed.shared.share = mps_rules.MpsShare(thread_percentage=percentage)
                    fewer.append((await rate(bed, model, count, tokens), percentage))
                best = ", ".join(f"{each:,.0f} at {share} %" for each, share in sorted(fewer, reverse=True))
                gain = max([plain, *(each for each, _ in fewer)]) / sliced[count]
                row = f"| {model} | {count} | {sliced[count]:,.0f} | {plain:,.0f} | {gain:.2f}× | {best} |"
                print(row, flush=True)


async def slots_or_processes(bed: Bed, tokens: int) -> None:
    """One process with 8 slots against the table's 8 processes."""
    for model in MODELS:
        engine = await bed.start(0, model, slots=8)
        try:
            await engine.ready()
            await engine.generate(16)
            began = time.monotonic()
            done = await asyncio.gather(*(engine.generate(tokens) for _ in range(8)))
            print(f"- {model}, one process, 8 slots: {sum(done) / (time.monotonic() - began):,.0f} tokens/s")
        finally:
            await engine.process.end(2.0)
            await bed.launcher.ended(engine.spec.instance)


async def faults(bed: Bed) -> None:
    heard: list[mps_rules.MpsFault] = []
    async with bed.mps(heard):
        async with bed.engines(3, "1.1B f16") as engines:
            standing = bed.launcher.standing(engines[0].spec.instance)
            print(f"- walls under MPS: {', '.join(standing.walls)}; missing: {dict(standing.missing)}")
            gpu = nvml.open_inventory()[0].read()[0]
            query = "--query-gpu=memory.total,memory.used,uuid"
            smi = subprocess.check_output(["nvidia-smi", query, "--format=csv,noheader"], text=True).strip()
            used = (gpu.memory_bytes - gpu.free_bytes) >> 20
            print(f"- NVML: {gpu.memory_bytes >> 20} MiB, {used} MiB in use, {gpu.uuid}; nvidia-smi: {smi}")
            running = [asyncio.create_task(engine.generate(1500)) for engine in engines]
            await asyncio.sleep(0.8)
            await engines[0].process.end(0.0)
            ends = await asyncio.gather(*running, return_exceptions=True)
            print(f"- one of three killed while decoding: the others gave {list(ends[1:])}")
        bed.shared.share = mps_rules.MpsShare(memory_bytes=1 * GIB)
        engine = await bed.start(0, "1.1B f16")
        try:
            await engine.ready(30)
            print("- 2.2 GB of weights under a pinned limit of 1 GiB: STARTED, the limit did not hold")
        except RuntimeError as fault:
            told = [
                line
                for line in str(fault).splitlines()
                if "memory" in line.lower() or "alloc" in line.lower()
            ]
            print(f"- 2.2 GB of weights under a pinned limit of 1 GiB: refused: {(told or [''])[0][:160]}")
        finally:
            await engine.process.end(2.0)
            await bed.launcher.ended(engine.spec.instance)
    print(f"- MPS logged: {[(one.kind, one.text[:80]) for one in heard]}")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llama-server", required=True)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp/bridge-gpu"))
    parser.add_argument("--counts", default="1,2,4,8,16")
    parser.add_argument("--tokens", type=int, default=200)
    arguments = parser.parse_args()
    bed = Bed(arguments.folder, arguments.llama_server)
    await faults(bed)
    await table(bed, [int(count) for count in arguments.counts.split(",")], arguments.tokens)
    await slots_or_processes(bed, arguments.tokens)


if __name__ == "__main__":
    asyncio.run(main())
