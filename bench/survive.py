"""Streams that survive: rounds of a mesh under streams whose speaker dies, and a bare engine beside it.

`python -m bench.survive [--rounds 20] [--streams 100] [--model tiny] [--tokens 400]` prints its figures
as JSON; `--bare` measures what the same clients see without a mesh.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.cluster.mesh_bed import Mesh
from tests.cluster.survival import DEATHS, PATHS, SPARED, Seen, asked, one_stream, runners, survive

Bodies = Sequence[tuple[str, dict[str, Any]]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.survive", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bare", action="store_true", help="ask an engine without a mesh before it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bridge-survive-") as folder:
        mesh = Mesh(Path(folder) / "state")
        try:
            mesh.up()
            asyncio.run(_bare(mesh, arguments) if arguments.bare else _rounds(mesh, arguments))
        finally:
            mesh.run("down", check=False)
            mesh.kill_everything()
    return 0


def _bodies(arguments: argparse.Namespace) -> Bodies:
    return [
        (path, asked(path, arguments.model, f"Tell story number {number} of a fox.", arguments.tokens))
        for number, path in ((number, PATHS[number % len(PATHS)]) for number in range(arguments.streams))
    ]


async def _calm(url: str, bodies: Bodies) -> list[Seen]:
    seen = [Seen() for _ in bodies]
    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None)) as client:
        await asyncio.gather(
            *(
                one_stream(client, url, path, body, one)
                for (path, body), one in zip(bodies, seen, strict=True)
            )
        )
    return seen


async def _rounds(mesh: Mesh, arguments: argparse.Namespace) -> None:
    chance = random.Random(arguments.seed)
    bodies = _bodies(arguments)
    expected = await _calm(mesh.url(SPARED), bodies)
    deaths = list(DEATHS)
    for number in range(arguments.rounds):
        death = deaths[number % len(deaths)]
        seen = await survive(mesh, bodies, death, chance, share=chance.random() * 0.6)
        _report({"round": number, "death": death} | _summary(seen, expected))
        await mesh.repair()
        await mesh.whole()


async def _bare(mesh: Mesh, arguments: argparse.Namespace) -> None:
    """The same clients directly at one engine whose runner is killed."""
    bodies = _bodies(arguments)
    engine = psutil.Process(mesh.engine_pid(SPARED))
    port = next(one.laddr.port for one in engine.net_connections() if one.status == psutil.CONN_LISTEN)
    expected = await _calm(f"http://127.0.0.1:{port}", bodies)
    seen = [Seen() for _ in bodies]
    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None)) as client:
        jobs = [
            asyncio.create_task(one_stream(client, f"http://127.0.0.1:{port}", path, body, one))
            for (path, body), one in zip(bodies, seen, strict=True)
        ]
        while not any(one.begun for one in seen):
            await asyncio.sleep(0.01)
        for pid in runners(mesh, SPARED):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.wait(jobs)
    _report({"death": "runner", "bare": True} | _summary(seen, expected))


def _summary(seen: Sequence[Seen], expected: Sequence[Seen]) -> dict[str, Any]:
    resumed = [(one, calm) for one, calm in zip(seen, expected, strict=True) if one.resumed]
    return {
        "streams": len(seen),
        "complete": sum(one.complete and not one.error for one in seen),
        "told_an_error": sum(bool(one.error) for one in seen),
        "cut_silently": sum(not one.complete and not one.error for one in seen),
        "resumed": len(resumed),
        "equal": sum(one.text == calm.text for one, calm in zip(seen, expected, strict=True)),
        "resumed_equal": sum(one.text == calm.text for one, calm in resumed),
        "errors": dict(Counter(one.error[:120] for one in seen if one.error).most_common(3)),
    }


def _report(figures: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
