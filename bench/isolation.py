"""Engines that misbehave, and what the one beside them feels of it: memory, CPU, forks, disk.

    python -m bench.isolation [--seconds N]

Prints a section for bench/RESULTS.md (`python -m bench isolation` writes it there). Every stand-in
for an engine is a process that the agent's launcher started in groups of its own. Needs root or a
delegated cgroup subtree, and nothing but the agent's own imports.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from bench import results
from bridge_agent.engines.process import EngineProcess
from bridge_agent.limits.cgroup import LimitsRefused, device_of, open_cgroups
from bridge_agent.limits.cgroup_rules import NODE_SHARE
from bridge_agent.limits.isolation import probe
from bridge_agent.limits.launcher import IsolatedLauncher
from bridge_core.node_class import IoLimit, Isolation, NodeClass, ResourceLimits
from tests.inside import stand_in

MIB = 1 << 20
HOGS = 8  # busy processes of a hog, a CPU
LIMIT_S = 60.0

WAIT = "import signal\nsignal.pause()\n"
EAT = "kept = []\nwhile True: kept.append(b'x' * (1 << 20))\n"
BUSY = (
    "import os, sys\nfor _ in range(int(sys.argv[1]) - 1):\n    if not os.fork(): break\nwhile True: pass\n"
)
BOMB = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n"
FLOOD = """
import mmap, os, signal, sys, time
path, flags, mib = sys.argv[1], getattr(os, sys.argv[2], 0), int(sys.argv[3])
page = mmap.mmap(-1, 1 << 20)
file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | flags)
began, done = time.monotonic(), 0
try:
    for done in range(1, mib + 1): os.write(file, page)
except OSError as fault:
    done = -done
with open(sys.argv[4] + ".part", "w") as told: told.write(f"{done} {time.monotonic() - began}")
os.rename(sys.argv[4] + ".part", sys.argv[4])
signal.pause()
"""


class Bed:
    """Starts stand-ins for engines."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        cgroups, why = open_cgroups(f"bench-{os.getpid()}")
        if cgroups is None:
            raise SystemExit(f"nothing to measure: {why}")
        self.cgroups = cgroups
        self.cpus = len(os.sched_getaffinity(0))

    @property
    def version(self) -> str:
        """How the controllers are mounted, in words."""
        versions = {self.cgroups.hierarchy.version_of(name) for name in self.cgroups.hierarchy.controllers}
        return " and ".join(f"v{version}" for version in sorted(versions))

    def has(self, *controllers: str) -> bool:
        return all(name in self.cgroups.hierarchy.trees for name in controllers)

    def launcher(self, *walls: str, **limits: object) -> IsolatedLauncher:
        isolation = Isolation(walls=walls or ("cgroup",), tmp_bytes=64 * MIB)
        node_class = NodeClass(limits=ResourceLimits(**limits), isolation=isolation)  # type: ignore[arg-type]
        return IsolatedLauncher(self.folder / "state", node_class=node_class, cgroups=self.cgroups)

    def used(self, number: int) -> float:
        return self.cgroups.usage(f"bench/{number}").cpu_seconds or 0.0

    def running(
        self, it: IsolatedLauncher, number: int, script: str, *arguments: object
    ) -> AbstractAsyncContextManager[EngineProcess]:
        argv = (sys.executable, "-I", "-S", "-c", script, *map(str, arguments))
        return stand_in(it, self.folder / "state" / "engines" / str(number), f"bench/{number}", argv)

    @contextlib.contextmanager
    def favoured(self) -> Iterator[None]:
        """Has this machine's other work wait: what counts is how the groups share among themselves."""
        tree = self.cgroups.hierarchy.trees["cpu"]
        parent = Path(tree.own, self.cgroups.group("bench/0")).parent
        file, most = ("cpu.shares", "65536") if tree.version == 1 else ("cpu.weight", "6400")
        usual = (parent / file).read_text()
        (parent / file).write_text(most)
        try:
            yield
        finally:
            (parent / file).write_text(usual)

    async def told(self, flood: EngineProcess, file: Path) -> tuple[int, float, str]:
        """MiB that a flood wrote, in how many seconds, and what ended it before its time."""
        end = asyncio.create_task(flood.wait())
        until = time.monotonic() + LIMIT_S
        while not file.exists() and not end.done() and time.monotonic() < until:
            await asyncio.sleep(0.05)
        if not file.exists():
            how = end.result() if end.done() else f"not done in {LIMIT_S:.0f} s"
            end.cancel()
            return 0, 0.0, how
        end.cancel()
        done, seconds = file.read_text().split()
        file.unlink()
        return abs(int(done)), float(seconds), "no space left" if int(done) < 0 else ""


Rows = list[tuple[str, str, str]]


async def memory(bed: Bed) -> Rows:
    it = bed.launcher(memory_max=256 * MIB)
    async with bed.running(bed.launcher(), 1, WAIT) as neighbour:
        async with bed.running(it, 0, EAT) as hog:
            began = time.monotonic()
            how = await asyncio.wait_for(hog.wait(), LIMIT_S)
            took = time.monotonic() - began
            (report,) = it.reports()
        began = time.monotonic()
        async with bed.running(it, 0, WAIT):
            again = time.monotonic() - began
        alive = bool(neighbour.family())
    peak = report.usage.memory_peak_bytes
    reached = "" if peak is None else f", at most {peak / MIB:.0f} MiB taken"
    return [
        ("memory hog, limit 256 MiB", f"{how} after {took:.1f} s{reached}", f"OOM kills {report.oom_kills}"),
        ("started again in its limits", f"{again * 1000:.0f} ms", "the start alone"),
        ("neighbour of the memory hog", "runs on" if alive else "DIED", ""),
    ]


async def shares(bed: Bed, seconds: float) -> Rows:
    rows: Rows = []
    for title, own in (("as many busy processes as CPUs", bed.cpus), ("one busy process", 1)):
        fair = min(own, bed.cpus / 2)
        async with (
            bed.running(bed.launcher(), 0, BUSY, HOGS * bed.cpus),
            bed.running(bed.launcher(), 1, BUSY, own),
        ):
            await asyncio.sleep(0.5)
            with bed.favoured():
                before, began = (bed.used(0), bed.used(1)), time.monotonic()
                await asyncio.sleep(seconds)
                wall = time.monotonic() - began
                hog, neighbour = bed.used(0) - before[0], bed.used(1) - before[1]
        got = neighbour / wall
        # On a machine that does other things, too, the two together did not have all of it.
        there = min(fair, (hog + neighbour) / wall / 2)
        rows.append(
            (
                f"neighbour with {title} beside {HOGS * bed.cpus} of a hog",
                f"{got / there:.1%} of its fair share",
                f"{got:.2f} of {there:.2f} CPUs; a share by processes: {own / (own + HOGS * bed.cpus):.0%}",
            )
        )
    return rows


async def alone(bed: Bed, seconds: float) -> Rows:
    async with bed.running(bed.launcher(), 0, BUSY, HOGS * bed.cpus):
        await asyncio.sleep(0.5)
        with bed.favoured():
            before, began = bed.cgroups.usage("bench/0"), time.monotonic()
            await asyncio.sleep(seconds)
            after, wall = bed.cgroups.usage("bench/0"), time.monotonic() - began
    took = ((after.cpu_seconds or 0.0) - (before.cpu_seconds or 0.0)) / wall / bed.cpus
    withheld = (after.throttled_seconds or 0.0) - (before.throttled_seconds or 0.0)
    return [
        (
            "hog alone, nothing asked of its limits",
            f"{took:.1%} of the node",
            f"at most {NODE_SHARE:.0%}; throttled for {withheld:.1f} s in {wall:.1f} s",
        )
    ]


async def bomb(bed: Bed) -> Rows:
    it = bed.launcher(pids_max=64)
    async with bed.running(bed.launcher(), 1, WAIT), bed.running(it, 0, BOMB):
        await asyncio.sleep(2.0)
        usage, beside = bed.cgroups.usage("bench/0"), bed.cgroups.usage("bench/1")
        began = time.monotonic()
        await it.ended("bench/0")
        took, left = time.monotonic() - began, len(bed.cgroups.pids("bench/0"))
    return [
        (
            "fork bomb for 2 s, limit 64",
            f"{usage.pids} processes",
            f"{usage.pids_refused} forks refused; its neighbour's refused: {beside.pids_refused}",
        ),
        ("all of the bomb ended in", f"{took * 1000:.0f} ms", f"{left} left"),
    ]


async def flood(bed: Bed) -> Rows:
    rows: Rows = []
    target, answer = bed.folder / "flood", bed.folder / "told"
    rate = 16 * MIB
    for title, flags, limits, mib in (
        ("direct writes, no limit", "O_DIRECT", (), 256),
        ("direct writes, limit 16 MiB/s", "O_DIRECT", (rate,), 256),
        # More than its memory holds: pages may wait there for the disk, and then it has to wait itself.
        ("buffered writes, limit 16 MiB/s, memory 256 MiB", "", (rate,), 640),
    ):
        io = tuple(IoLimit(str(bed.folder), write_bytes_per_s=limit) for limit in limits)
        it = bed.launcher(io=io, memory_max=256 * MIB)
        async with bed.running(it, 0, FLOOD, target, flags, mib, answer) as process:
            done, seconds, how = await bed.told(process, answer)
            written = bed.cgroups.usage("bench/0").io_written_bytes or 0
        target.unlink(missing_ok=True)
        seen = how or f"{done / seconds:.0f} MiB/s"
        charged = f"{written / MIB:.0f} of them charged to it by then"
        rows.append((f"disk flood, {title}", seen, f"{done} MiB in {seconds:.1f} s, {charged}"))
    return rows


async def private_tmp(bed: Bed) -> Rows:
    if impossible := await probe():
        return [("flood of its own /tmp", "not measured", f"{impossible}")]
    it = bed.launcher("cgroup", "mount", "pid")
    home = bed.folder / "state" / "engines" / "0" / "home"
    home.mkdir(parents=True, exist_ok=True)
    async with bed.running(it, 0, FLOOD, "/tmp/flood", "", 1024, home / "told") as process:
        done, _, how = await bed.told(process, home / "told")
    return [("flood of its own /tmp, size 64 MiB", f"{done} MiB", how or "NOT STOPPED")]


async def measure(bed: Bed, seconds: float) -> str:
    rows: Rows = []
    missing = []
    for controllers, part in (
        (("memory",), lambda: memory(bed)),
        (("cpu",), lambda: shares(bed, seconds)),
        (("cpu",), lambda: alone(bed, seconds)),
        (("pids",), lambda: bomb(bed)),
        (("io", "memory"), lambda: flood(bed)),
        ((), lambda: private_tmp(bed)),
    ):
        if not bed.has(*controllers):
            missing.append(f"no controller {' or '.join(controllers)}")
            continue
        try:
            found = await part()
        except LimitsRefused as fault:
            missing.append(str(fault))
            continue
        rows += found
        print(results.table(found[0], found[1:]), flush=True)  # should what comes next fail
    text = results.table(("what", "seen", "more"), rows)
    return text + "".join(f"\n\nNot measured: {one}." for one in dict.fromkeys(missing))


def isolation(folder: Path, seconds: float, versions: list[str], command: str) -> None:
    """The row of `python -m bench`: one section for each version of cgroups."""
    (folder / "state").mkdir()
    bed = Bed(folder)
    text = asyncio.run(measure(bed, seconds))
    title = f"Engines that misbehave, in their groups (cgroup {bed.version})"
    results.record(f"isolation-{bed.version.replace(' ', '-')}", title, command, versions, text)
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement of CPU time")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="on the disk to flood")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bridge-bench-", dir=arguments.folder) as name:
        folder = Path(name)
        (folder / "state").mkdir()
        with contextlib.suppress(LimitsRefused):
            print(f"flooded disk: {device_of(name)}")
        bed = Bed(folder)
        versions = [f"Linux {platform.release()}"]
        title = f"Engines that misbehave, in their groups (cgroup {bed.version})"
        text = asyncio.run(measure(bed, arguments.seconds))
        print(
            results.section(
                f"isolation-{bed.version.replace(' ', '-')}",
                title,
                "python -m bench.isolation",
                versions,
                text,
            )
        )


if __name__ == "__main__":
    main()
