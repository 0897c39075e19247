"""Requests through one hop and through two, against nginx and Envoy in the same run."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import configs, load, results
from bench.processes import SUBJECT_CORE, UPSTREAM_CORE, envoy, free_port, pinned
from bench.subjects import DOMAIN
from bridge_core.identity import SpiffeId
from bridge_core.identity import certificates as x

HEAD = (
    "what",
    "requests/s, 32 connections",
    "p50 / p99 ms",
    "CPU µs a request",
    "p50 ms, 1 connection",
    "against Envoy: requests/s, CPU",
)

_AGAIN = ", the same request again"
_ALIKE = (
    "Every body has another length and other words, each compared with Envoy's same row, except where the "
    "same request comes again and again."
)


@dataclass(frozen=True)
class Cell:
    """One thing measured."""

    name: str
    busy: load.Load
    alone: load.Load


def ours(name: str, *arguments: object) -> list[str]:
    """The command of one of our subjects."""
    return [sys.executable, "-m", "bench.subjects", name, *map(str, arguments)]


@contextlib.contextmanager
def upstream(folder: Path) -> Iterator[int]:
    """The server that answers at once, beside the load generator where no core is named for it."""
    port = free_port()
    if shutil.which("nginx"):
        command = ["nginx", "-c", str(configs.nginx(folder, port, None))]
    else:
        command = ours("plain", port)
    with pinned(command, port, core=UPSTREAM_CORE, log=folder / "upstream.log"):
        yield port


def one_hop(folder: Path, seconds: float, versions: list[str], command: str) -> None:
    """Direct, nginx, Envoy, the bare relay, and an agent's gateway with everything on."""
    cells = []
    with upstream(folder) as target:
        varied = load.script(folder, vary=True)
        cells.append(_measure("none (straight to the upstream)", target, varied, [], seconds))
        for name, make in _one_hop_subjects(folder, target):
            port = free_port()
            with pinned(make(port), port, core=SUBJECT_CORE, log=folder / f"{port}.log") as process:
                cells += _both(name, port, folder, [process], seconds)
    text = (
        "One core for what is measured; load generator and upstream together on the other. "
        f"POST with a {load.PROMPT_BYTES}-byte prompt, a {len(configs.BODY)}-byte JSON answer, keep-alive. "
        "CPU is user and system time of what is measured. With everything on: body peeked, policy, "
        f"routing, audit record, metrics. {_ALIKE}\n\n" + _table(cells)
    )
    results.record("one-hop", "One hop, plain HTTP", command, versions, text)


def _one_hop_subjects(folder: Path, target: int):  # pairs of a name and a command maker
    proxy = envoy()
    if shutil.which("nginx"):
        yield "nginx", lambda port: ["nginx", "-c", str(configs.nginx(folder, port, target))]
    if proxy is not None:
        yield "Envoy", lambda port: envoy_command(proxy, configs.envoy(folder, port, target))
    yield "ours, bare relay", lambda port: ours("relay", port, target)
    certificates(folder)
    yield "ours, local hop with everything on", lambda port: ours("agent", port, target, folder)


def two_hops(folder: Path, seconds: float, versions: list[str], command: str) -> None:
    """Entry and owner over mutual TLS, both on one core; Envoy to Envoy beside it."""
    cells = []
    proxy = envoy()
    files = certificates(folder)
    with upstream(folder) as target:
        for name in ("Envoy to Envoy", "ours, entry to owner with everything on"):
            front, back = free_port(), free_port()
            if name.startswith("ours"):
                owner, entry = ours("owner", back, target, folder), ours("entry", front, back, folder)
            elif proxy is not None:
                owner = envoy_command(proxy, configs.envoy(folder, back, target, serve_tls=files["owner"]))
                entry = envoy_command(proxy, configs.envoy(folder, front, back, speak_tls=files["entry"]))
            else:
                continue
            with (
                pinned(owner, back, core=SUBJECT_CORE, log=folder / f"{back}.log") as second,
                pinned(entry, front, core=SUBJECT_CORE, log=folder / f"{front}.log") as first,
            ):
                cells += _both(name, front, folder, [first, second], seconds)
    text = (
        "Both proxies on one core, TLS 1.3 with client certificates, connections pooled; load generator "
        f"and upstream on the other core. {_ALIKE}\n\n" + _table(cells)
    )
    results.record("two-hops", "Two hops over mutual TLS", command, versions, text)


def certificates(folder: Path) -> dict[str, dict[str, str]]:
    """A CA, and the certificates of the two nodes and of a client, as files."""
    now = time.time()
    authority = x.create_authority(DOMAIN, now=now, ttl_s=86400)
    (folder / "ca.pem").write_bytes(authority.pem)
    files = {}
    for name, kind in (("entry", "node"), ("owner", "node"), ("client", "client")):
        key = x.generate_key()
        leaf = x.issue(
            authority,
            key.public_key(),
            SpiffeId.make(DOMAIN, kind, name),
            now=now,
            ttl_s=86400,
            dns_names=["localhost"],
        )
        (folder / f"{name}.pem").write_bytes(x.to_pem(leaf) + authority.pem)
        (folder / f"{name}.key").write_bytes(x.key_to_pem(key))
        (folder / f"{name}.key").chmod(0o600)
        names = {"cert": f"{name}.pem", "key": f"{name}.key", "ca": "ca.pem"}
        files[name] = {what: str(folder / file) for what, file in names.items()}
    return files


def envoy_command(binary: str, config: Path) -> list[str]:
    return [binary, "-c", str(config), "--concurrency", "1", "--use-dynamic-base-id", "-l", "error"]


def _both(name: str, port: int, folder: Path, processes: list, seconds: float) -> list[Cell]:
    """Requests of which no two are alike, which is what counts, and one that comes again and again."""
    return [
        _measure(name, port, load.script(folder, vary=True), processes, seconds),
        _measure(f"{name}{_AGAIN}", port, load.script(folder), processes, seconds),
    ]


def _measure(name: str, port: int, lua: Path, processes: list, seconds: float) -> Cell:
    load.wrk(port, lua, processes, connections=32, seconds=1)  # warm
    busy = load.wrk(port, lua, processes, connections=32, seconds=seconds)
    alone = load.wrk(port, lua, processes, connections=1, seconds=2)
    print(f"{name}: {busy.per_second:,.0f}/s, {busy.cpu_us:.1f} µs CPU, {busy.errors} errors", flush=True)
    return Cell(name, busy, alone)


def _table(cells: list[Cell]) -> str:
    envoys = {cell.name.endswith(_AGAIN): cell for cell in cells if cell.name.startswith("Envoy")}
    rows = []
    for cell in cells:
        busy = cell.busy
        ratio = ""
        if envoys and cell.name.startswith("ours"):
            yardstick = envoys[cell.name.endswith(_AGAIN)].busy
            ratio = f"{busy.per_second / yardstick.per_second:.2f}×, {busy.cpu_us / yardstick.cpu_us:.2f}×"
        failed = f" ({busy.errors} errors)" if busy.errors else ""
        cpu = f"{busy.cpu_us:.1f}" if busy.cpu_us else ""
        rows.append(
            (
                cell.name,
                f"{busy.per_second:,.0f}{failed}",
                f"{busy.p50_ms:.2f} / {busy.p99_ms:.2f}",
                cpu,
                f"{cell.alone.p50_ms:.3f}",
                ratio,
            )
        )
    return results.table(HEAD, rows)
