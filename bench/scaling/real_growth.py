"""What one, two and more real instances of a real mesh serve, where there is always more to do.

    python -m bench.scaling.real_growth --engines 1 2 4 --cores-each 3
    python -m bench.scaling.real_growth --engines 1 2 4 --cpu 0.2

With `--cores-each` every engine has cores of its own, and everything else of the mesh, and the clients, share
those that are left: for machines with many. With `--cpu` every engine gets so much CPU time and no more, on
whatever core: then the sum has to be well below the machine's. Needs root. Writes bench/RESULTS.md.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from bench.processes import versions
from bench.results import quantiles, record, table
from bench.scaling.real_mesh import (
    POLICY,
    Fleet,
    all_active,
    closed_loop,
    document,
    fleet_of,
    watching,
)
from tests.cluster.mesh_bed import TALKER

SLOTS, TOKENS = 4, 32
_CLIENTS = 2  # for each slot
_WARM_S = 5.0


class Given(NamedTuple):
    """How it is run."""

    engines: tuple[int, ...]
    cores_each: int | None
    cpu: float | None
    seconds: float


class Served(NamedTuple):
    """What so many engines did."""

    engines: int
    answers_s: float
    failed: int
    first: str


def main() -> int:
    """Runs every size, prints and records them."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling.real_growth", description=__doc__)
    parser.add_argument("--engines", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=40.0)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--cores-each", type=int)
    how.add_argument("--cpu", type=float)
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the mesh is ended with it
    given = Given(tuple(asked.engines), asked.cores_each, asked.cpu, asked.seconds)
    fault = unfit(given, len(os.sched_getaffinity(0)))
    if fault:
        parser.error(fault)
    with tempfile.TemporaryDirectory(prefix="bridge-growth-") as folder:
        found = [_serve(Path(folder) / str(count), count, given) for count in given.engines]
    way = f"--cores-each {given.cores_each}" if given.cores_each else f"--cpu {given.cpu}"
    sizes = " ".join(map(str, given.engines))
    command = f"python -m bench.scaling.real_growth --engines {sizes} {way} --seconds {given.seconds:.0f}"
    text = told(found, given)
    print(text, flush=True)
    record("scaling-growth-real", "Growth with real instances", command, versions(tools=()), text)
    return 0


def unfit(given: Given, cores: int) -> str:
    """Why this machine is too small; empty: it is not."""
    most = max(given.engines)
    if given.cores_each is not None and most * given.cores_each >= cores:
        return f"{most} engines of {given.cores_each} cores leave none of {cores} for agents and clients"
    if given.cpu is not None and most * given.cpu > 0.6 * cores:
        return f"{most} engines of {given.cpu} CPUs leave too little of {cores} for agents and clients"
    return ""


def _serve(state: Path, count: int, given: Given) -> Served:
    threads = given.cores_each or 1
    with fleet_of(state, count, slots=SLOTS, threads=threads, cpu=given.cpu) as fleet:
        if given.cores_each is None:
            return asyncio.run(_measure(fleet, count, given.seconds))
        with pinned(fleet, given.cores_each):
            return asyncio.run(_measure(fleet, count, given.seconds))


@contextmanager
def pinned(fleet: Fleet, cores_each: int) -> Iterator[None]:
    """Engines on cores of their own, which the runners that they start inherit; all else on the others."""
    before = os.sched_getaffinity(0)
    cores = sorted(before)
    own = [cores[at * cores_each : (at + 1) * cores_each] for at in range(fleet.nodes)]
    rest = set(cores[fleet.nodes * cores_each :])
    engines = [fleet.engine_pid(name) for name in fleet.names]
    for process in fleet.processes():
        for one in [process, *process.children(recursive=True)]:
            os.sched_setaffinity(one.pid, rest)
    for pid, part in zip(engines, own, strict=True):
        for one in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            os.sched_setaffinity(one.pid, part)
    os.sched_setaffinity(0, rest)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


async def _measure(fleet: Fleet, count: int, seconds: float) -> Served:
    await fleet.complete()
    spec = {"model": TALKER, "min": count, "max": count}
    await asyncio.to_thread(fleet.apply, document("AutoscalePolicy", POLICY, spec))
    async with watching(fleet) as look:
        await all_active(look, count)
    clients = _CLIENTS * SLOTS * count
    await closed_loop(fleet, clients, _WARM_S, TOKENS)
    rate, answers = await closed_loop(fleet, clients, seconds, TOKENS)
    first = quantiles([one.first - one.began for one in answers])
    found = Served(count, rate, sum(bool(one.fault) for one in answers), first)
    print(found, flush=True)
    return found


def told(found: Sequence[Served], given: Given) -> str:
    """The section's text."""
    walls = (
        f"each pinned to {given.cores_each} cores of its own"
        if given.cores_each
        else f"each walled to {given.cpu} of a core"
    )
    text = (
        f"`bridgectl up` with as many nodes as engines, real engines ({TALKER}, {SLOTS} slots), {walls}; "
        f"{_CLIENTS} clients a slot for {given.seconds:.0f} s, through every node in turn, answers of "
        f"{TOKENS} tokens, streamed.\n\n"
    )
    least = found[0]
    rows = [
        [
            one.engines,
            f"{one.answers_s:.2f}",
            f"{one.answers_s * least.engines / (one.engines * least.answers_s):.1%}",
            one.failed,
            one.first,
        ]
        for one in found
        if least.answers_s
    ]
    share = f"of those of {least.engines}, for each"
    return text + table(
        ["engines", "answers a second", share, "failed", "first byte p50 / p95 / p99 s"], rows
    )


if __name__ == "__main__":
    raise SystemExit(main())
