"""`python -m bench.detection`: rounds on several meshes side by side, and the table of them."""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np

import bench.detection as package
from bench.detection.bed import Bed, loaded
from bench.detection.fault import Fault
from bench.detection.faults import FAULTS
from bench.detection.faults.slow import LEARN_S
from bench.detection.plan import Share, shares
from bench.detection.rounds import Round, Rounds
from bench.results import record, table

_TAIL = 1500  # characters of a log of a mesh that failed


class Run:
    """All meshes; collects what they found.

    Args:
        rounds: Of each fault, at the most.
        until: When no further round begins, monotonic seconds.
    """

    def __init__(self, rounds: int, until: float) -> None:
        self._left = dict.fromkeys(FAULTS, rounds)
        self._until = until
        self.found: list[Round] = []
        self.missing: dict[str, str] = {}

    async def mesh(self, number: int, share: Share, folder: Path, cache: Path) -> None:
        """One mesh from its start to its end."""
        try:
            bed = Bed(folder / f"m{number}", cache, number=number, failing=share.kind.failing)
            opened = bed.open()
            await asyncio.to_thread(opened.__enter__)
            try:
                self.missing |= bed.missing
                await loaded(bed)
                await self._rounds(number, bed, share)
            except Exception:
                for name, text in bed.mesh.logs().items():
                    print(f"-- {name}\n{text[-_TAIL:]}", flush=True)
                raise
            finally:
                await asyncio.to_thread(opened.__exit__, None, None, None)
        except Exception:  # noqa: BLE001 - one mesh that fails leaves the others to go on
            print(f"mesh {number} ended early", flush=True)
            traceback.print_exc()

    async def _rounds(self, number: int, bed: Bed, share: Share) -> None:
        def say(one: Round) -> None:
            self.found.append(one)
            print(number, f"{time.monotonic() - began:.0f}", msgspec.json.encode(one).decode(), flush=True)

        began, rounds = time.monotonic(), Rounds(bed, share.kind.rate, say)
        async with rounds.watched():
            await rounds.well()
            learnt = began + LEARN_S
            print(number, f"ready {time.monotonic() - began:.0f}", share.faults, share.after, flush=True)
            while time.monotonic() < self._until:
                late = bool(share.after) and (time.monotonic() >= learnt or not share.faults)
                if not await self._turn(rounds, bed, share.after if late else share.faults):
                    if not share.after or late:
                        return
                    await asyncio.sleep(max(0.1, learnt - time.monotonic()))

    async def _turn(self, rounds: Rounds, bed: Bed, names: Sequence[str]) -> bool:
        """A round of each; whether there was any to make."""
        made = False
        for name in names:
            if name in bed.missing or not self._left[name] or time.monotonic() > self._until:
                continue
            self._left[name] -= 1
            await rounds.one(FAULTS[name])
            made = True
        return made


async def _run(run: Run, wanted: list[str], meshes: int, folder: Path) -> None:
    async with asyncio.TaskGroup() as group:
        for number, share in enumerate(shares(wanted, meshes)):
            group.create_task(run.mesh(number, share, folder, folder / "cache"))


def _said(times: list[float]) -> str:
    there = [one for one in times if one < math.inf]
    if not there:
        return "-"
    missed = f", {len(times) - len(there)} not" if len(there) < len(times) else ""
    return f"{np.quantile(there, 0.5):.2f} / {np.quantile(there, 0.99):.2f}{missed}"


def _row(fault: Fault, found: list[Round]) -> tuple[object, ...]:
    fixed = [one.fixed_s for one in found]
    there = [one for one in fixed if one < math.inf]
    least = f"{np.median(there):.0f}" if 2 * len(there) > len(fixed) else "never"
    says = "-" if fault.fixed is None else fault.fixed.says
    bar_in, bar_out = fault.bars
    return (
        fault.what,
        len(found),
        _said([one.in_s for one in found]) if fault.in_band else "-",
        "" if bar_in is None else f"{bar_in:g}",
        _said([one.out_s for one in found]),
        f"{bar_out:g}",
        says,
        least,
    )


HEAD = (
    "node3",
    "rounds",
    "in band p50 / p99 s",
    "bar",
    "out of band p50 / p99 s",
    "bar",
    "a fixed threshold",
    "it fires after, s",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.detection", description=package.__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="of each fault")
    parser.add_argument("--meshes", type=int, default=max(1, (os.cpu_count() or 1) // 2))
    parser.add_argument("--seconds", type=float, default=540.0, help="after which no round begins")
    parser.add_argument("--fault", action="append", choices=list(FAULTS), help="only this; may be repeated")
    parser.add_argument("--save", type=Path, help="where the rounds are written, as JSON")
    parser.add_argument("--record", action="store_true", help="put the table into bench/RESULTS.md")
    given = parser.parse_args()
    wanted = given.fault or list(FAULTS)
    run = Run(given.rounds, time.monotonic() + given.seconds)
    with tempfile.TemporaryDirectory(prefix="bridge-detection-", ignore_cleanup_errors=True) as name:
        asyncio.run(_run(run, wanted, given.meshes, Path(name)))
    if given.save:
        given.save.write_bytes(msgspec.json.encode(run.found))
    rows = [_row(FAULTS[one], [round_ for round_ in run.found if round_.fault == one]) for one in wanted]
    missing = "".join(f"\nNot made: {what}, as {why}.\n" for what, why in run.missing.items())
    text = f"{package.__doc__}\n{table(HEAD, [row for row in rows if row[1]])}\n{missing}"
    print(text)
    if given.record:
        command = f"python -m bench.detection --rounds {given.rounds} --meshes {given.meshes}"
        versions = [f"uvloop {metadata.version('uvloop')}"]
        record("detection", "Nine faults of a node, found in a real mesh", command, versions, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
