"""Many clients with one short text each: each asked for alone, and gathered while they wait for a slot.

`python -m bench embeddings`; models are made here (random weights), as what they say does not matter.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench import results
from bench.affinity import started_engines
from bridge_agent.batching.batching_rules import BatchingPolicy
from bridge_agent.engines.view import LocalInstance
from bridge_core import http1
from bridge_core.model_store.layout import ModelStore
from bridge_core.names import ModelName
from bridge_core.snapshot import MemberModel
from bridge_engine import modelgen
from bridge_engine.store.create import create
from tests.lone_gateway import gateway_before

SHAPES = os.environ.get("BRIDGE_BENCH_EMBED_SHAPES", "tiny,15m").split(",")
CLIENTS = (1, 8, 32)
TURNS = 4
SLOTS = 4  # as an engine has by default
_WAYS = {"one by one": None, "gathered": BatchingPolicy()}
_WORDS = (
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "you",
    "that",
    "he",
    "was",
    "for",
    "on",
    "are",
    "with",
    "this",
)
_LENGTHS = {"2 to 4 words": (2, 4), "10 to 30 words": (10, 30)}


@dataclass
class Cell:
    """What one way gave, over all its turns."""

    rates: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)


def embeddings(folder: Path, seconds: float, versions: list[str], command: str) -> None:
    """The row `embeddings`."""
    rows = []
    for shape in SHAPES:
        models = folder / shape / "models"
        _make(models, shape)
        with started_engines(models, folder / shape / "engines", engines=1, slots=SLOTS) as ports:
            for words, clients in ((words, clients) for words in _LENGTHS for clients in CLIENTS):
                found = asyncio.run(_turns(ports[0], shape, _LENGTHS[words], clients, seconds))
                rows += _rows(shape, words, clients, found)
                print(rows[-2], rows[-1], sep="\n", flush=True)
    text = (
        f"One embedded engine of {SLOTS} slots behind one gateway; each client sends one text, waits for its "
        f"answer and sends the next, no two alike; {TURNS} turns of {seconds:g} s of each way, after one in "
        "which the gateway learns. Models of random weights, a token a byte. Rates are medians of the turns, "
        "and so are the ratios, beside the least and the greatest. CPU time is that of engine, gateway and "
        "clients together, which share this machine's cores with whatever else runs on it.\n\n"
        + results.table(
            (
                "model",
                "texts",
                "clients",
                "way",
                "a second",
                "p50 / p99 ms",
                "CPU ms each",
                "in a request",
                "rate, CPU against alone",
            ),
            rows,
        )
    )
    results.record("embeddings", "Embeddings of many clients, gathered", command, versions, text)


def _make(models: Path, shape: str) -> None:
    """An embedding model of this shape, named after it."""
    blobs = models / "blobs"
    blobs.mkdir(parents=True)
    file = models / "made.gguf"
    modelgen.generate(file, modelgen.PRESETS[shape], seed=7, pooling=1)
    digest = "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()
    file.rename(blobs / digest.replace(":", "-"))
    body = {"model": shape, "files": {"made.gguf": digest}}
    for _ in create(ModelStore(models), ModelName.parse(shape), body, lambda _: iter(())):
        pass


async def _turns(
    port: int, model: str, words: tuple[int, int], clients: int, seconds: float
) -> dict[str, Cell]:
    found = {way: Cell() for way in _WAYS}
    engine = LocalInstance("bench/0", "127.0.0.1", port, "ready", (MemberModel(model),), (), SLOTS)
    async with contextlib.AsyncExitStack() as stack:
        pools = {}
        for way, batching in _WAYS.items():
            before = gateway_before([engine], batching=batching)
            _, pools[way] = await stack.enter_async_context(before)
        for pool in pools.values():
            await _turn(pool, model, words, clients, seconds, Cell())  # what it learns in is not measured
        for turn in range(TURNS):
            for way in sorted(_WAYS, reverse=bool(turn % 2)):
                await _turn(pools[way], model, words, clients, seconds, found[way])
    return found


async def _turn(
    pool: http1.Pool, model: str, words: tuple[int, int], clients: int, seconds: float, cell: Cell
) -> None:
    draw = random.Random(f"{words}{clients}{len(cell.rates)}")
    end = time.monotonic() + seconds
    before = len(cell.took)

    async def client() -> None:
        while time.monotonic() < end:
            text = " ".join(draw.choice(_WORDS) for _ in range(draw.randint(*words)))
            began = time.monotonic()
            size = await _ask(pool, model, text)
            cell.took.append(time.monotonic() - began)
            cell.sizes.append(size)

    began, spent = time.monotonic(), _cpu_s()
    await asyncio.gather(*(client() for _ in range(clients)))
    answered = len(cell.took) - before
    cell.rates.append(answered / (time.monotonic() - began))
    cell.cpu.append((_cpu_s() - spent) / answered)


def _cpu_s() -> float:
    """CPU time of this process and all below it so far."""
    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return sum(one.user + one.system for one in times)


async def _ask(pool: http1.Pool, model: str, text: str) -> int:
    """Asks for one text; how many requests it went to the engine with."""
    body = json.dumps({"model": model, "input": text}).encode()
    async with pool.request("POST", "/api/embed", (), body) as response:
        answer = await response.read()
        if response.status != 200:
            raise RuntimeError(answer[:300])
        return int(response.headers.get(b"x-bridge-batch") or 1)


def _rows(shape: str, words: str, clients: int, found: dict[str, Cell]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    alone = found["one by one"]
    for way, cell in found.items():
        took = sorted(cell.took)
        against = f"{_ratios(cell.rates, alone.rates)}, {_ratios(cell.cpu, alone.cpu)}"
        rows.append(
            (
                shape,
                words,
                clients,
                way,
                f"{statistics.median(cell.rates):,.0f}",
                f"{statistics.median(took) * 1000:.1f} / {took[int(len(took) * 0.99)] * 1000:.1f}",
                f"{statistics.median(cell.cpu) * 1000:.1f}",
                f"{statistics.mean(cell.sizes):.1f}",
                "" if cell is alone else against,
            )
        )
    return rows


def _ratios(ones: list[float], others: list[float]) -> str:
    ratios = [one / other for one, other in zip(ones, others, strict=True)]
    return f"{statistics.median(ratios):.2f}× ({min(ratios):.2f}–{max(ratios):.2f})"
