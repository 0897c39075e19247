"""Token streams: what a chunk costs, and what an open stream takes of memory."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from pathlib import Path

from bench import configs, load, results
from bench.hops import certificates, envoy_command, ours
from bench.processes import LOAD_CORE, SUBJECT_CORE, cpu_seconds, envoy, free_port, pinned, resident_kib

CHUNKS, EVERY_MS, STREAMS = 129, 2.5, 64
OPEN_STREAMS = 500
_REQUEST = (
    b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b'Content-Length: 32\r\n\r\n{"model": "tiny","prompt": "hi"}'
)


def relay(folder: Path, seconds: float, versions: list[str], command: str) -> None:
    """CPU time per relayed chunk, for nginx, Envoy, the bare relay and the gateway."""
    certificates(folder)
    target, rows = free_port(), []
    with pinned(ours("tokens", target, CHUNKS, EVERY_MS), target, core=LOAD_CORE, log=folder / "tokens.log"):
        lua = load.script(folder)
        yardstick: dict[str, float] = {}
        for name, make in _subjects(folder, target):
            port = free_port()
            with pinned(make(port), port, core=SUBJECT_CORE, log=folder / f"{port}.log") as process:
                load.wrk(port, lua, [], connections=STREAMS, seconds=1)
                before = cpu_seconds(process)
                got = load.wrk(port, lua, [process], connections=STREAMS, seconds=seconds)
                spent = cpu_seconds(process) - before
            chunks = got.per_second * seconds * CHUNKS
            each = spent / max(chunks, 1) * 1e6
            yardstick[name] = each
            ratios = ", ".join(
                f"{each / yardstick[peer]:.2f}× {peer}" for peer in ("Envoy", "nginx") if peer in yardstick
            )
            rows.append((name, f"{chunks / seconds:,.0f}", f"{spent:.2f}", f"{each:.1f}", ratios, got.errors))
            print(f"{name}: {each:.1f} µs CPU a chunk", flush=True)
    head = ("what", "chunks/s", f"CPU s in {seconds:g} s", "CPU µs a chunk", "against", "errors")
    text = (
        f"{STREAMS} streams of {CHUNKS} chunks, one chunk of each every {EVERY_MS} ms.\n\n"
        + results.table(head, rows)
    )
    results.record("tokens", "Token relay", command, versions, text)


def _subjects(folder: Path, target: int):  # pairs of a name and a command maker
    proxy = envoy()
    if proxy is not None:
        yield "Envoy", lambda port: envoy_command(proxy, configs.envoy(folder, port, target))
    if shutil.which("nginx"):
        yield "nginx", lambda port: ["nginx", "-c", str(configs.nginx(folder, port, target))]
    yield "ours, bare relay", lambda port: ours("relay", port, target)
    yield "ours, local hop with everything on", lambda port: ours("agent", port, target, folder)


def memory(folder: Path, seconds: float, versions: list[str], command: str) -> None:
    """Resident memory of one gateway process, idle and with many streams open."""
    certificates(folder)
    target, port = free_port(), free_port()
    with (
        pinned(ours("tokens", target, 100_000, 1000), target, core=LOAD_CORE, log=folder / "slow.log"),
        pinned(
            ours("agent", port, target, folder), port, core=SUBJECT_CORE, log=folder / "mem.log"
        ) as process,
    ):
        asyncio.run(_open(port, 8, lambda: None))  # what the first requests import and keep
        idle = resident_kib(process)
        open_kib = asyncio.run(_open(port, OPEN_STREAMS, lambda: resident_kib(process)))
        after = resident_kib(process)
    each = ((open_kib or idle) - idle) / OPEN_STREAMS
    rows = [
        ("idle", f"{idle / 1024:.1f} MiB"),
        (f"with {OPEN_STREAMS} open streams", f"{(open_kib or 0) / 1024:.1f} MiB"),
        ("each open stream", f"{each:.1f} KiB"),
        ("after they ended", f"{after / 1024:.1f} MiB"),
    ]
    print(rows, flush=True)
    text = (
        "The gateway process with audit and metrics, without control plane clients (etcd, registry).\n\n"
        + results.table(("state", "resident"), rows)
    )
    results.record("memory", "Memory of a gateway", command, versions, text)


async def _open(port: int, count: int, look):  # what `look` returns
    """Opens `count` streams, waits for the first chunk of each, and looks."""
    writers = []
    try:
        for _ in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writers.append(writer)
            writer.write(_REQUEST)
            async with asyncio.timeout(10):
                await reader.readuntil(b"token")
        return look()
    finally:
        for writer in writers:
            writer.close()
        for writer in writers:
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
