"""Ten times too many requests, and clients that leave: what a gateway does under pressure."""

from __future__ import annotations

import asyncio
import collections
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench import results
from bench.hops import certificates, ours
from bench.processes import LOAD_CORE, SUBJECT_CORE, free_port, pinned, resident_kib
from bench.subjects import QUEUE_PER_SLOT, SLOTS
from bridge_core import http1
from bridge_core.http1.limits import PoolLimits

SERVICE_MS = 100.0
OVERLOAD_S, TIMES = 60.0, 10
_HIGH_EVERY = 20  # of so many requests one is urgent
_BODY = b'{"model":"tiny","prompt":"hi","stream":false}'
_STREAM = b'{"model":"tiny","prompt":"hi"}'
_JSON = [(b"content-type", b"application/json")]


@dataclass
class Side:
    """What became of one kind of requests; seconds."""

    sent: int = 0
    refused: int = 0
    failed: int = 0
    took: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)

    def quantile(self, share: float) -> float:
        """Of the times of those answered."""
        ordered = sorted(self.took)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def overload(folder: Path, _seconds: float, versions: list[str], command: str) -> None:
    """One node of ten slots, offered ten times what it can do, for a minute."""
    certificates(folder)
    target, port = free_port(), free_port()
    with (
        pinned(ours("paced", target, SERVICE_MS), target, core=LOAD_CORE, log=folder / "paced.log"),
        pinned(
            ours("narrow", port, target, folder), port, core=SUBJECT_CORE, log=folder / "narrow.log"
        ) as process,
    ):
        calm, _ = asyncio.run(_offer(port, 0.5, 5.0, lambda: 0))
        before = resident_kib(process)
        sides, memory = asyncio.run(_offer(port, TIMES, OVERLOAD_S, lambda: resident_kib(process)))
    capacity = SLOTS / (SERVICE_MS / 1000)
    good = sum(len(side.took) for side in sides.values()) / OVERLOAD_S
    half = len(memory) // 2
    rows = [
        ("capacity of the engine", f"{capacity:.0f}/s"),
        ("offered", f"{sum(side.sent for side in sides.values()) / OVERLOAD_S:.0f}/s"),
        ("answered (goodput)", f"{good:.1f}/s, {good / capacity:.1%} of capacity"),
        ("failed otherwise than by 503", str(sum(side.failed for side in sides.values()))),
    ]
    for name, side in (*sides.items(), ("normal, at half the capacity", calm["normal"])):
        refused = statistics.median(side.refusals) * 1000 if side.refusals else 0.0
        rows.append(
            (
                name,
                (
                    f"{len(side.took)} answered, {side.refused} refused (503 after {refused:.1f} ms); "
                    f"p50 {side.quantile(0.5) * 1000:.0f} ms, p99 {side.quantile(0.99) * 1000:.0f} ms"
                ),
            )
        )
    rows += [
        ("memory before", f"{before / 1024:.1f} MiB"),
        (
            "median of the first and of the last half",
            (
                f"{statistics.median(memory[:half]) / 1024:.1f}, "
                f"{statistics.median(memory[half:]) / 1024:.1f} MiB; most {max(memory) / 1024:.1f} MiB"
            ),
        ),
    ]
    text = (
        f"An engine of {SLOTS} slots that takes {SERVICE_MS:g} ms a request; {QUEUE_PER_SLOT} may wait for "
        f"each slot; {TIMES} times its capacity offered for {OVERLOAD_S:g} s at an even pace, every "
        f"{_HIGH_EVERY}th request with X-Bridge-Priority: high, the others normal.\n\n"
        + results.table(("what", "measured"), rows)
    )
    print(text, flush=True)
    results.record("overload", "Overload", command, versions, text)


async def _offer(port: int, times: float, seconds: float, look) -> tuple[dict[str, Side], list[int]]:
    """Sends at `times` the capacity, whatever comes back."""
    rate = times * SLOTS / (SERVICE_MS / 1000)
    sides = {"high": Side(), "normal": Side()}
    pool = http1.Pool(("127.0.0.1", port), limits=PoolLimits(connections=4096, idle=4096))
    memory: list[int] = []

    async def one(kind: str) -> None:
        side, began = sides[kind], time.monotonic()
        side.sent += 1
        try:
            pairs = [*_JSON, (b"x-bridge-priority", kind.encode())]
            async with pool.request("POST", "/api/generate", pairs, _BODY) as response:
                await response.read()
        except http1.UpstreamError:
            side.failed += 1
            return
        took = time.monotonic() - began
        if response.status == 200:
            side.took.append(took)
        elif response.status == 503:
            side.refused += 1
            side.refusals.append(took)
        else:
            side.failed += 1

    began, sent, looked = time.monotonic(), 0, 0.0
    async with asyncio.TaskGroup() as group:
        while (now := time.monotonic() - began) < seconds:
            while sent < now * rate:
                group.create_task(one("high" if sent % _HIGH_EVERY == 0 else "normal"))
                sent += 1
            if now - looked >= 1.0:
                looked = now
                memory.append(look())
            await asyncio.sleep(0.005)
    await pool.close()
    return sides, memory


def cancel(folder: Path, _seconds: float, versions: list[str], command: str) -> None:
    """From the client's FIN until its slot is another's, queued and decoding, here and behind a hop."""
    certificates(folder)
    target, front, back, here = (free_port() for _ in range(4))
    rows = []
    with (
        pinned(ours("tokens", target, 1_000_000, 5), target, core=LOAD_CORE, log=folder / "tokens.log"),
        pinned(ours("single", back, target, folder), back, core=SUBJECT_CORE, log=folder / "single.log"),
        pinned(ours("entry", front, back, folder), front, core=SUBJECT_CORE, log=folder / "entry.log"),
        pinned(ours("lone", here, target, folder), here, core=SUBJECT_CORE, log=folder / "lone.log"),
    ):
        for name, port in (("at its own node", here), ("behind a hop", front)):
            rows += asyncio.run(_cancels(name, port))
    text = (
        "One slot, held by a stream. Decoding: the stream's client closes its connection; measured until "
        "the request that waited for the slot has its first byte. Queued: a waiting client closes its "
        "connection, then the stream's; measured until the one that waited behind it has its first "
        "byte, which it could not have if the one that left had kept its turn.\n\n"
        + results.table(("where", "what the client did", "times", "median ms", "most ms"), rows)
    )
    print(text, flush=True)
    results.record("cancel", "From a client's FIN to the next one's first byte", command, versions, text)


async def _cancels(where: str, port: int, rounds: int = 30) -> list[tuple[object, ...]]:
    took: dict[str, list[float]] = collections.defaultdict(list)
    for number in range(rounds):
        kind = "decoding" if number % 2 else "queued"
        holder = await _stream(port)
        await holder[0].readuntil(b"token")
        waiting = []
        if kind == "queued":
            waiting.append(await _stream(port))
            await asyncio.sleep(0.03)
        follower = await _stream(port)
        await asyncio.sleep(0.03)
        for _, writer in waiting:
            writer.close()
        began = time.monotonic()
        holder[1].close()
        async with asyncio.timeout(10):
            await follower[0].readuntil(b"token")
        took[kind].append(time.monotonic() - began)
        follower[1].close()
        await asyncio.sleep(0.05)
    return [
        (where, kind, len(values), f"{statistics.median(values) * 1000:.1f}", f"{max(values) * 1000:.1f}")
        for kind, values in sorted(took.items())
    ]


async def _stream(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    writer.write(head + b"Content-Length: %d\r\n\r\n" % len(_STREAM) + _STREAM)
    return reader, writer
