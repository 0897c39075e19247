"""Many engines on one GPU behind the agent's walls: time-sliced, under its MPS, with fewer threads each.

    python -m bench.gpu --llama-server PATH [--folder DIR] [--counts 1,2,4,8,16] [--tokens 200]
    python -m bench.gpu --llama-server PATH --gpus 2 [--counts 1,2,4,8]     # several beside one

Prints Markdown: the table, what the planner would choose beside what it would not, and how long a fault
domain takes to come back. Every engine is a llama-server that the agent's launcher started in a cgroup
and namespaces of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import socket
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from bridge_agent.engines.logfile import LogFile
from bridge_agent.engines.process import EngineProcess, LaunchSpec
from bridge_agent.limits import mps_rules, nvml
from bridge_agent.limits.cgroup import open_cgroups
from bridge_agent.limits.gpu import Gpu
from bridge_agent.limits.launcher import IsolatedLauncher, Placed
from bridge_agent.limits.mps import MpsDaemon
from bridge_agent.limits.placement_rules import thread_percentage
from bridge_core.backoff import Backoff
from bridge_core.node_class import GpuSharing, Isolation, NodeClass, ResourceLimits
from bridge_engine.modelgen import LlamaShape, generate
from tests.gpu.agent_bed import GpuAgent, faulty_engine, make_store, real_engine

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
    "1.1B f16": {2: (50,), 4: (60,), 8: (75, 30), 16: (40, 15)},
    "0.3B f16": {16: (15,)},
    "0.3B q4_0": {8: (25,), 16: (15,)},
}
MIX = ("0.3B f16", "0.3B q4_0", "1.1B f16") * 2


class Shared:
    """Gives engines the GPUs in turn, and the MPS server of each with one share for all.

    Attributes:
        gpus: Those in use.
        daemons: Of each under MPS; none: the engines are time-sliced.
        share: What each engine gets.
    """

    def __init__(self, gpus: Sequence[Gpu]) -> None:
        self.gpus = gpus
        self.daemons: dict[str, MpsDaemon] = {}
        self.share = mps_rules.MpsShare()

    async def admit(self, spec: LaunchSpec) -> Placed:
        gpu = self.gpus[int(spec.instance.rpartition("/")[2]) % len(self.gpus)]
        environment = {"CUDA_VISIBLE_DEVICES": gpu.uuid}
        daemon = self.daemons.get(gpu.uuid)
        if daemon is None:
            return Placed(environment, gpu.uuid, cpus=gpu.cpus)
        pipe, log = str(daemon.pipe), str(daemon.log)
        environment |= mps_rules.client_environment(pipe, log, self.share, 1)
        return Placed(environment, gpu.uuid, shared=(pipe, log), cpus=gpu.cpus)


class Bed:
    """Starts engines and asks them for tokens."""

    def __init__(self, folder: Path, server: str) -> None:
        self.gpus = nvml.open_inventory()[0].read()
        self.folder, self.server, self.shared = folder, server, Shared(self.gpus[:1])
        state = folder / "state"
        state.mkdir(parents=True, exist_ok=True)
        cgroups, without = open_cgroups("bench")
        limits = ResourceLimits() if cgroups is None else ResourceLimits(pids_max=512, memory_max=16 * GIB)
        node_class = NodeClass(isolation=Isolation(walls=WALLS), limits=limits)
        self.launcher = IsolatedLauncher(
            state, node_class=node_class, cgroups=cgroups, without=without, devices=self.shared
        )
        self.models: dict[str, Path] = {}
        self.busy = 0.0  # CPUs, while the last rate was measured

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
    async def engines(self, models: Sequence[str]) -> AsyncIterator[list[Engine]]:
        started: list[Engine] = []
        try:
            # One after the other: a failure leaves those before to be ended.
            for number, model in enumerate(models):
                started.append(await self.start(number, model))
            await asyncio.gather(*(engine.ready() for engine in started))
            yield started
        finally:
            for engine in started:
                await engine.process.end(2.0)
                await self.launcher.ended(engine.spec.instance)

    @contextlib.asynccontextmanager
    async def mps(self, faults: list[mps_rules.MpsFault]) -> AsyncIterator[None]:
        daemons = [
            MpsDaemon(gpu.uuid, self.folder / f"mps-{gpu.index}", on_fault=faults.append)
            for gpu in self.shared.gpus
        ]
        tasks = [
            asyncio.create_task(daemon.run(Backoff(random.Random(1), first_s=0.1, most_s=1.0)))
            for daemon in daemons
        ]
        try:
            await asyncio.wait_for(asyncio.gather(*(daemon.ready() for daemon in daemons)), 20)
            self.shared.daemons = {daemon.device: daemon for daemon in daemons}
            yield
        finally:
            self.shared.daemons = {}
            self.shared.share = mps_rules.MpsShare()
            for task in tasks:
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


async def rate(bed: Bed, models: Sequence[str], tokens: int) -> float:
    """Tokens per second of all engines together, one of each of `models`."""
    async with bed.engines(models) as engines:
        await asyncio.gather(*(engine.generate(16) for engine in engines))
        psutil.cpu_percent()
        began = time.monotonic()
        done = await asyncio.gather(*(engine.generate(tokens) for engine in engines))
        took_s = time.monotonic() - began
        bed.busy = psutil.cpu_percent() / 100 * (psutil.cpu_count() or 1)
        return sum(done) / took_s


async def slots_rate(bed: Bed, model: str, slots: int, tokens: int) -> float:
    """Tokens per second of one process with so many slots, all of them busy."""
    engine = await bed.start(0, model, slots=slots)
    try:
        await engine.ready()
        await engine.generate(16)
        began = time.monotonic()
        done = await asyncio.gather(*(engine.generate(tokens) for _ in range(slots)))
        return sum(done) / (time.monotonic() - began)
    finally:
        await engine.process.end(2.0)
        await bed.launcher.ended(engine.spec.instance)


async def table(bed: Bed, counts: list[int], tokens: int) -> None:
    """Copies of one model: time-sliced, under MPS with each share of threads, and as slots of one process."""
    print("| model | engines | time-sliced | MPS | MPS, the planner's share | other shares | gain | slots |")
    print("|---|---|---|---|---|---|---|---|")
    for model in MODELS:
        sliced = {count: await rate(bed, [model] * count, tokens) for count in counts}
        slots = {count: await slots_rate(bed, model, count, tokens) for count in counts if count > 1}
        async with bed.mps([]):
            for count in counts:
                bed.shared.share = mps_rules.MpsShare()
                plain = await rate(bed, [model] * count, tokens)
                planned = thread_percentage(count)
                shares = {}
                for percentage in (planned, *SWEEP.get(model, {}).get(count, ())):
                    if percentage < 100:
                        bed.shared.share = mps_rules.MpsShare(thread_percentage=percentage)
                        shares[percentage] = await rate(bed, [model] * count, tokens)
                chosen = shares.pop(planned, None)
                others = ", ".join(f"{each:,.0f} at {share} %" for share, each in shares.items())
                shown = "" if chosen is None else f"{chosen:,.0f} at {planned} %"
                gain = max(plain, chosen or 0, *shares.values()) / sliced[count]
                cells = (model, count, f"{sliced[count]:,.0f}", f"{plain:,.0f}", shown, others)
                print(
                    "|",
                    *(f"{cell} |" for cell in cells),
                    f"{gain:.2f}× | {slots.get(count, 0):,.0f} |",
                    flush=True,
                )


async def several_models(bed: Bed, tokens: int) -> None:
    """Different models on one GPU: no slots can join them."""
    sliced = await rate(bed, MIX, tokens)
    async with bed.mps([]):
        plain = await rate(bed, MIX, tokens)
        share = thread_percentage(len(MIX))
        bed.shared.share = mps_rules.MpsShare(thread_percentage=share)
        chosen = await rate(bed, MIX, tokens)
    print(
        f"\n- {len(MIX)} engines of three models ({', '.join(MODELS)}): time-sliced {sliced:,.0f} tokens/s,"
        f" under MPS {plain:,.0f}, with the planner's share of {share} % {chosen:,.0f}",
        flush=True,
    )


async def several_gpus(bed: Bed, gpus: int, counts: Sequence[int], tokens: int) -> None:
    """As many engines on each of several GPUs together as on one alone."""
    print(
        f"| model | engines a GPU | time-sliced, 1 GPU | {gpus} GPUs | of {gpus} × | MPS, 1 GPU | {gpus} GPUs"
        f" | of {gpus} × | CPUs busy with {gpus} GPUs |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for model in ("1.1B f16", "0.3B f16"):
        for count in counts:
            cells = [model, str(count)]
            for mps in (False, True):
                rates = []
                for used in (1, gpus):
                    bed.shared.gpus = bed.gpus[:used]
                    async with bed.mps([]) if mps else contextlib.nullcontext():
                        percentage = thread_percentage(count)
                        if mps and percentage < 100:
                            bed.shared.share = mps_rules.MpsShare(thread_percentage=percentage)
                        rates.append(await rate(bed, [model] * count * used, tokens))
                cells += [f"{rates[0]:,.0f}", f"{rates[1]:,.0f}", f"{rates[1] / rates[0] / gpus:.2f}"]
            print(
                "|",
                *(f"{cell} |" for cell in (*cells, f"{bed.busy:.1f} of {psutil.cpu_count()}")),
                flush=True,
            )
    bed.shared.gpus = bed.gpus[:1]


async def agent_of_several_gpus(folder: Path, store: Path, gpus: int, count: int, tokens: int) -> None:
    """The same through one whole agent: its own seats, MPS daemons, shares and `bridge-engine`."""
    per_s = []
    for used in (1, gpus):
        here = folder / f"agent-{used}"
        here.mkdir(parents=True, exist_ok=True)
        engines = range(count * used)
        sharing = GpuSharing(devices=tuple(map(str, range(used))), mps=True)
        agent = GpuAgent(here, [real_engine(here, n, store) for n in engines], sharing, walls=WALLS)
        async with agent.running():
            await agent.ready(*engines)
            await agent.back(engines, time.monotonic())
            began = time.monotonic()
            done = await asyncio.gather(*(agent.generate(n, tokens) for n in engines))
            per_s.append(sum(done) / (time.monotonic() - began))
            walls = agent.launcher.standing("n1/0").walls
    print(
        f"\n- {count} engines a GPU of one agent, 1.1B f16: {per_s[0]:,.0f} tokens/s on 1 GPU,"
        f" {per_s[1]:,.0f} on {gpus} ({per_s[1] / per_s[0] / gpus:.2f} of {gpus} ×),"
        f" behind {', '.join(walls)}",
        flush=True,
    )


async def threads_of_an_engine(folder: Path, store: Path, count: int, tokens: int) -> None:
    """Engines with other numbers of CPU threads: beside a GPU that has all layers they get in the way."""
    for threads in (None, 4, 2, 1):
        here = folder / f"threads-{threads}"
        here.mkdir(parents=True, exist_ok=True)
        configs = [real_engine(here, n, store, threads) for n in range(count)]
        agent = GpuAgent(here, configs, GpuSharing(mps=True, per_gpu=32))
        async with agent.running():
            await agent.ready(*range(count))
            await agent.back(range(count), time.monotonic())
            began = time.monotonic()
            done = await asyncio.gather(*(agent.generate(n, tokens) for n in range(count)))
            per_s = sum(done) / (time.monotonic() - began)
        print(
            f"- {count} engines of the agent, 1.1B f16, CPU threads {threads}: {per_s:,.0f} tokens/s",
            flush=True,
        )


async def whole_agent(folder: Path, store: Path, count: int, tokens: int) -> None:
    """Engines as the agent runs them: supervised, `bridge-engine`, the keeper's MPS and share of threads."""
    folder.mkdir(parents=True, exist_ok=True)
    configs = [*(real_engine(folder, n, store) for n in range(count)), faulty_engine(count)]
    agent = GpuAgent(folder, configs, GpuSharing(mps=True, per_gpu=32))
    async with agent.running():
        await agent.ready(*range(count + 1))
        load_s = await agent.back(range(count), time.monotonic())
        began = time.monotonic()
        done = await asyncio.gather(*(agent.generate(n, tokens) for n in range(count)))
        per_s = sum(done) / (time.monotonic() - began)
        print(f"- {count} engines of the agent, 1.1B f16: {per_s:,.0f} tokens/s")
        running = [asyncio.create_task(agent.generate(n, 1500)) for n in range(count)]
        await asyncio.sleep(0.5)
        began = time.monotonic()
        with contextlib.suppress(Exception):
            await agent.call(count, "/fault", {"cuda": "wild"})
        took_s = await agent.back(range(count), began)
        ends = await asyncio.gather(*running, return_exceptions=True)
        cut = sum(isinstance(end, BaseException) for end in ends)
        print(
            f"- a wild write beside {count} decoding engines: {cut} of {count} streams cut, all engines gave"
            f" tokens again {took_s:.2f} s after it; loading alone took {load_s:.2f} s"
        )
        print(f"- the agent says: {agent.keeper.domains()[0].last}", flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llama-server", required=True)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp/bridge-gpu"))
    parser.add_argument("--counts", default="1,2,4,8,16")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--gpus", type=int, default=1, help="measure this many together, beside one")
    parser.add_argument("--only-agent", action="store_true", help="leave out what no agent supervises")
    arguments = parser.parse_args()
    os.environ["BRIDGE_TEST_LLAMA_SERVER"] = arguments.llama_server
    arguments.folder.mkdir(parents=True, exist_ok=True)
    bed = Bed(arguments.folder, arguments.llama_server)
    if arguments.gpus > len(bed.gpus):
        parser.error(f"--gpus {arguments.gpus}: this machine has {len(bed.gpus)}")
    if arguments.gpus > 1:
        counts = [int(count) for count in arguments.counts.split(",")]
        await several_gpus(bed, arguments.gpus, counts, arguments.tokens)
        store = make_store(arguments.folder / "store", "m", LARGE)
        await agent_of_several_gpus(arguments.folder, store, arguments.gpus, max(counts), arguments.tokens)
        return
    if not arguments.only_agent:
        await table(bed, [int(count) for count in arguments.counts.split(",")], arguments.tokens)
        await several_models(bed, arguments.tokens)
    store = make_store(arguments.folder / "store", "m", LARGE)
    await threads_of_an_engine(arguments.folder, store, 8, arguments.tokens)
    for count in (4, 8):
        await whole_agent(arguments.folder / f"whole-{count}", store, count, arguments.tokens)


if __name__ == "__main__":
    asyncio.run(main())
