"""More engines behind one agent, beside one engine: what they give together, in turns.

`python -m bench engine-growth` starts as many `bridge-engine serve` as it has cores for, each kept on its
own, and a mesh of one node for each number of them. BRIDGE_BENCH_ENGINE_CORES says which cores (`2-4,5-7,…`),
BRIDGE_BENCH_CORES those of the agent and of the clients, BRIDGE_BENCH_SHAPE the model's shape,
BRIDGE_TEST_LLAMA_SERVER a llama-server to run in place of the wheel's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import psutil

from bench import results
from bench.processes import LOAD_CORE, SUBJECT_CORE, free_port, pinned
from bridge_core.http1 import Pool
from bridge_engine.modelgen.shapes import PRESETS
from tests.cluster.up_bed import Bridge
from tests.gpu.agent_bed import make_store

SHAPE: Final = os.environ.get("BRIDGE_BENCH_SHAPE", "15m")
CORES: Final = os.environ.get("BRIDGE_BENCH_ENGINE_CORES", "0,1").split(",")
SLOTS, TOKENS, TURNS = 4, 64, 5
_WORDS: Final = ("river", "stone", "green", "under", "quick", "seven", "paper", "light", "north", "cloud")
_HEAD = (
    "engines",
    "tokens/s through one agent",
    "of one engine's, for each",
    "tokens/s without an agent",
    "of one engine's, for each",
    "through the agent against without",
)


def growth(folder: Path, seconds: float, versions: list[str], command: str) -> None:
    """The row `engine-growth`."""
    counts = [count for count in (1, 2, 3, 4, 8) if count <= len(CORES)]
    store = make_store(folder / "store", "m", PRESETS[SHAPE], "q4_0")
    with contextlib.ExitStack() as stack:
        ports = [_engine(stack, folder, store, number) for number in range(len(CORES))]
        meshes = {count: _mesh(stack, folder, ports[:count]) for count in counts}
        psutil.Process().cpu_affinity([int(LOAD_CORE)])
        found = asyncio.run(_turns(meshes, ports, seconds))
        for mesh, _ in meshes.values():
            mesh.run("down")
    text = (
        f"Engines (`bridge-engine serve`, {SLOTS} slots, a model of the shape {SHAPE} with random weights in "
        f"Q4_0) on the cores {', '.join(CORES)} of this machine, one each; the agent on core {SUBJECT_CORE}, "
        f"the clients on core {LOAD_CORE}. {SLOTS} clients for each engine, each asks for {TOKENS} tokens as "
        f"a stream, with words of its own, and again; counted are the records of {seconds:g} s. Medians of "
        f"{TURNS} turns of all rows; ratios are the medians of each turn's, and the least and the greatest. "
        "Without an agent each client asks one engine itself: what these cores give.\n\n"
    )
    results.record(
        "engine-growth",
        "Real engines behind one agent",
        command,
        versions,
        text + results.table(_HEAD, _rows(counts, found)),
    )


def _engine(stack: contextlib.ExitStack, folder: Path, store: Path, number: int) -> int:
    port, first_last = free_port(), CORES[number].partition("-")
    threads = int(first_last[2] or first_last[0]) - int(first_last[0]) + 1
    command = [sys.executable, "-m", "bridge_engine.cli", "serve", "--models", str(store)]
    command += ["--listen", f"127.0.0.1:{port}", "--num-parallel", str(SLOTS), "--threads", str(threads)]
    command += ["--keep-alive", "-1", "--context-length", "2048"]
    if server := os.environ.get("BRIDGE_TEST_LLAMA_SERVER"):
        command += ["--llama-server", server]
    stack.enter_context(pinned(command, port, core=CORES[number], log=folder / f"engine-{number}.log"))
    return port


def _mesh(stack: contextlib.ExitStack, folder: Path, ports: Sequence[int]) -> tuple[Bridge, tuple[str, int]]:
    """A mesh of one node whose agent has these engines, and where that listens."""
    mesh = Bridge(folder / f"mesh-{len(ports)}", 1)
    stack.callback(mesh.kill_everything)
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    mesh.up("--engine", f"ollama={urls[0]}")
    mesh.run("down")  # `up` gives each node one engine: the others are put beside it
    file = mesh.state / "node1" / "agent.json"
    about = msgspec.json.decode(file.read_bytes())
    about["engines"] = [
        {**about["engines"][0], "index": at, "attach": url, "num_parallel": SLOTS}
        for at, url in enumerate(urls)
    ]
    file.write_bytes(msgspec.json.encode(about))
    mesh.up()
    agent = mesh.pid("node1")
    for thread in Path(f"/proc/{agent}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {int(SUBJECT_CORE)})
    host, _, port = mesh.mesh()["agents"][0]["http"].rpartition(":")
    return mesh, (host, int(port))


async def _turns(
    meshes: dict[int, tuple[Bridge, tuple[str, int]]], ports: Sequence[int], seconds: float
) -> dict[tuple[int, bool], list[float]]:
    """Tokens a second by how many engines, and whether through an agent."""
    found: dict[tuple[int, bool], list[float]] = {}
    for turn in range(TURNS + 1):
        for count, (_, address) in meshes.items():
            for agent in (True, False):
                direct = [("127.0.0.1", port) for port in ports[:count]]
                rate = await _load([address] if agent else direct, count * SLOTS, seconds)
                print(
                    f"{turn}: {count} engines{', agent' if agent else ''}: {rate:,.0f} tokens/s", flush=True
                )
                if turn:  # the first one loads the models
                    found.setdefault((count, agent), []).append(rate)
    return found


async def _load(addresses: Sequence[tuple[str, int]], clients: int, seconds: float) -> float:
    pools = [Pool(address) for address in addresses]
    counted = [0]
    tasks = [asyncio.create_task(_client(pools[at % len(pools)], at, counted)) for at in range(clients)]
    try:
        await _all_stream(counted, tasks)
        before, began = counted[0], time.monotonic()
        await asyncio.sleep(seconds)
        got, took = counted[0] - before, time.monotonic() - began
        _raise_faults(tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for pool in pools:
            await pool.close()
    return got / took


async def _all_stream(counted: list[int], tasks: Sequence[asyncio.Task[None]]) -> None:
    """Until all of them are on their way: a round of theirs."""
    end = time.monotonic() + 60
    while counted[0] < len(tasks) * TOKENS and time.monotonic() < end:
        await asyncio.sleep(0.05)
        _raise_faults(tasks)


def _raise_faults(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        if task.done():
            task.result()


async def _client(pool: Pool, number: int, counted: list[int]) -> None:
    rng = random.Random(number)
    while True:
        body = {
            "model": "m",
            "prompt": " ".join(rng.choices(_WORDS, k=12)),
            "options": {"num_predict": TOKENS, "temperature": 0},
        }
        async with pool.request(
            "POST", "/api/generate", [(b"content-type", b"application/json")], msgspec.json.encode(body)
        ) as answer:
            if answer.status != 200:
                raise RuntimeError(f"{answer.status}: {await answer.read()!r}")
            async for part in answer:
                counted[0] += part.count(b"\n")


def _rows(counts: Sequence[int], found: dict[tuple[int, bool], list[float]]) -> list[tuple[str, ...]]:
    rows = []
    for count in counts:
        cells = [str(count)]
        for agent in (True, False):
            here, one = found[count, agent], found[1, agent]
            cells.append(f"{statistics.median(here):,.0f}")
            cells.append(_ratio([a / b / count for a, b in zip(here, one, strict=True)]))
        cells.append(_ratio([a / b for a, b in zip(found[count, True], found[count, False], strict=True)]))
        rows.append(tuple(cells))
    return rows


def _ratio(turns: Sequence[float]) -> str:
    return f"{statistics.median(turns):.1%} ({min(turns):.1%}–{max(turns):.1%})"
