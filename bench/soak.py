"""A mesh at work while its engines and agents die and its configuration changes: does anything grow?

`python -m bench soak` runs ten minutes and records them; `--seconds` names another length, of a minute at
least.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil

from bench import results
from bench.survive import mesh_of
from tests.cluster.mesh_bed import NODES, Mesh, call
from tests.cluster.survival import DEATHS, OF_A_NODE, PATHS, SPARED, Seen, asked, one_stream

SECONDS, LEAST = 600.0, 60.0
SLOTS = 4
CLIENTS = round(0.7 * SLOTS * len(NODES))  # each asks again once it is answered: so many slots are taken
TOKENS = 40
MODELS = ("tiny", "soak")  # one by its own name, one by a route that changes meanwhile
KILLED = ("agent", "engine", "runner")
BETWEEN_KILLS_S = (10.0, 30.0)  # from one that is made good to the next
BETWEEN_CHANGES_S = (5.0, 15.0)
SAMPLED_S = 2.0
_NOT_USED = ("wrk", "nginx", "Envoy")
PARTS = (SPARED, "registry", "guard", "etcd")  # nobody kills these, so that what they hold can be followed

_DOCUMENTS: tuple[str, ...] = (
    *(
        f"apiVersion: bridge.deepseek.io/v1\nkind: ModelRoute\nmetadata: {{name: soak}}\n"
        f"spec: {{backends: [{{model: tiny, weight: 100}}], strategy: {strategy}}}\n"
        for strategy in ("ring_hash", "least_request", "round_robin", "residency")
    ),
    *(
        f"apiVersion: bridge.deepseek.io/v1\nkind: Quota\nmetadata: {{name: soak}}\n"
        f"spec: {{window: 1m, requests: {amount}, outputTokens: 1000000000}}\n"
        for amount in (1_000_000, 2_000_000)
    ),
)


class Held(NamedTuple):
    """What a process holds at a moment; tasks of the spared agent alone."""

    memory_mib: float
    sockets: int
    files: int
    threads: int
    tasks: int


@dataclass
class Soak:
    """What is seen of a run; times are monotonic seconds.

    Attributes:
        answered: Requests that were answered whole, by path.
        resumed: Of these, streams that were continued.
        errors: When each that failed began and ended, and what it was told.
        kills: What was killed, when, and when the mesh was whole again.
        changes: Documents applied.
        held: What each part held, sample by sample.
    """

    answered: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    errors: list[tuple[float, float, str]] = field(default_factory=list)
    kills: list[tuple[str, float, float]] = field(default_factory=list)
    changes: int = 0
    held: dict[str, list[Held]] = field(default_factory=lambda: {part: [] for part in PARTS})

    def unexplained(self) -> list[str]:
        """What clients were told while nothing was killed or being made good."""
        return [
            said
            for began, ended, said in self.errors
            if not any(began <= whole and ended >= killed for _, killed, whole in self.kills)
        ]


def soak(folder: Path, seconds: float, versions: list[str], command: str) -> None:
    """The row `soak`."""
    length = seconds if seconds >= LEAST else SECONDS
    seen = asyncio.run(_run(folder, length))
    kept = [one for one in versions if not one.startswith(_NOT_USED)]
    said = command if length == SECONDS else f"{command} --seconds {length:.0f}"
    results.record("soak", "A soak: kills and changes under load", said, kept, _told(seen, length))


def _told(seen: Soak, length: float) -> str:
    """The section's text."""
    unexplained, killed = seen.unexplained(), Counter(what for what, _, _ in seen.kills)
    down = sum(whole - began for _, began, whole in seen.kills)
    what = ", ".join(f"{count} × {name}" for name, count in sorted(killed.items()))
    words = (
        f"A mesh of three nodes as `bridgectl up` makes it, {SLOTS} slots an engine, for {length:.0f} s; "
        f"{CLIENTS} clients of {SPARED}, which take 70 % of the slots, ask for {TOKENS} tokens again and "
        f"again, by {', '.join(PATHS)}, of a model and of a route. Killed with SIGKILL: {what}; the "
        f"mesh lacked something for {down:.0f} s. Documents applied: {seen.changes}.\n\nAnswered whole: "
        f"{seen.answered.total():,}, of which {seen.resumed} streams were continued. Failed while something "
        f"was killed or being made good: {len(seen.errors) - len(unexplained)}; **failed otherwise: "
        f"{len(unexplained)}**.\n\n"
    )
    told = Counter(said[:100] for _, _, said in seen.errors)
    if told:
        words += "Told: " + "; ".join(f"{count} × `{one}`" for one, count in told.most_common(5)) + ".\n\n"
    words += (
        "Held by what nobody killed: the median of the second and of the last fifth of the run, the most."
    )
    rows = [
        (part, *(_grown([getattr(one, name) for one in samples]) for name in Held._fields))
        for part, samples in seen.held.items()
    ]
    head = ("process", "resident MiB", "sockets", "open files", "threads", "tasks")
    return f"{words}\n\n{results.table(head, rows)}"


def _grown(samples: Sequence[float]) -> str:
    if not any(samples):
        return ""
    fifth = len(samples) // 5
    early, late = statistics.median(samples[fifth : 2 * fifth]), statistics.median(samples[-fifth:])
    return f"{early:.0f} → {late:.0f}, most {max(samples):.0f}"


async def _run(folder: Path, length: float) -> Soak:
    seen, chance = Soak(), random.Random(1)
    with mesh_of(folder / "state", SLOTS) as mesh:
        change = _changes(mesh, folder, seen)
        for document in _DOCUMENTS:
            await asyncio.to_thread(change, document)
        end = time.monotonic() + length
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=180, limits=limits) as client, asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(_ask_on(client, mesh, random.Random(number), end, seen))
            group.create_task(_kill_on(mesh, chance, end, seen))
            group.create_task(_change_on(change, random.Random(2), end))
            group.create_task(_sample_on(mesh, end, seen))
    return seen


async def _ask_on(
    client: httpx.AsyncClient, mesh: Mesh, chance: random.Random, end: float, seen: Soak
) -> None:
    """One client."""
    url = mesh.url(SPARED)
    while (began := time.monotonic()) < end:
        path, model = chance.choice(PATHS), chance.choice(MODELS)
        body = asked(path, model, f"Tell story number {chance.randrange(1000)} of a fox.", TOKENS)
        one = Seen()
        await one_stream(client, url, path, body, one)
        if one.complete and not one.error:
            seen.answered[path] += 1
            seen.resumed += bool(one.resumed)
        else:
            said = one.error or "its stream ended without its last record"
            seen.errors.append((began, time.monotonic(), said))
            await asyncio.sleep(0.1)  # one that is refused at once does not ask a thousand times


async def _kill_on(mesh: Mesh, chance: random.Random, end: float, seen: Soak) -> None:
    """Kills something at random, and has the mesh made whole again, until it is time."""
    while time.monotonic() + (pause := chance.uniform(*BETWEEN_KILLS_S)) < end:
        await asyncio.sleep(pause)
        what = chance.choice(KILLED)
        node = chance.choice([one for one in NODES if one != SPARED or what not in OF_A_NODE])
        began = time.monotonic()
        await asyncio.to_thread(DEATHS[what], mesh, node)
        await mesh.repair()
        await mesh.whole(120)
        seen.kills.append((what, began, time.monotonic()))
        whole = f"{what} of {node} killed, whole after {time.monotonic() - began:.1f} s"
        print(f"{whole}; {_count(seen)}", flush=True)


async def _change_on(change: Callable[[str], None], chance: random.Random, end: float) -> None:
    while time.monotonic() + (pause := chance.uniform(*BETWEEN_CHANGES_S)) < end:
        await asyncio.sleep(pause)
        await asyncio.to_thread(change, chance.choice(_DOCUMENTS))


def _changes(mesh: Mesh, folder: Path, seen: Soak) -> Callable[[str], None]:
    """What applies a document."""

    def change(document: str) -> None:
        path = folder / "change.yaml"
        path.write_text(document, encoding="utf-8")
        mesh.run("apply", "-f", str(path))
        seen.changes += 1

    return change


async def _sample_on(mesh: Mesh, end: float, seen: Soak) -> None:
    processes = {part: psutil.Process(mesh.pid(part)) for part in PARTS}
    while time.monotonic() < end:
        for part, process in processes.items():
            tasks = await asyncio.to_thread(_tasks, mesh) if part == SPARED else 0
            seen.held[part].append(_held(process, tasks))
        await asyncio.sleep(SAMPLED_S)


def _tasks(mesh: Mesh) -> int:
    page = call(mesh.address(SPARED, "admin"), "GET", "/debug/tasks")[2]
    return sum(line.startswith(b"# ") for line in page.splitlines())


def _held(process: psutil.Process, tasks: int) -> Held:
    """What it holds; one that has ended is a fault of the run, and raises."""
    sockets = files = 0
    for entry in os.scandir(f"/proc/{process.pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            files += 1
            sockets += Path(entry.path).readlink().name.startswith("socket:")
    return Held(process.memory_info().rss / (1 << 20), sockets, files, process.num_threads(), tasks)


def _count(seen: Soak) -> str:
    return f"{seen.answered.total()} answered, {len(seen.errors)} failed, {seen.changes} changes"
