"""One large model to every node of a mesh: what comes from outside, and how long it takes.

`python -m bench models` starts a mesh of eight nodes as `bridgectl up` does, and a registry beside it.
`BRIDGE_BENCH_MODEL_MIB` and `BRIDGE_BENCH_NODES` make it another size, `BRIDGE_BENCH_TURNS` repeats all;
TMPDIR says on which disk all lies.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from bench import results
from tests.cluster.up_bed import Bridge
from tests.contract.models_bed import offer
from tests.fakes.oci_registry import OciRegistry, oci_registry

NODES = int(os.environ.get("BRIDGE_BENCH_NODES", "8"))
MIB = int(os.environ.get("BRIDGE_BENCH_MODEL_MIB", "1024"))
TURNS = int(os.environ.get("BRIDGE_BENCH_TURNS", "1"))
_HEAD = (
    "what",
    "seconds",
    "against one copy",
    "bytes from outside",
    "copies a second",
    "CPU s of the agents",
)
ALONE = """
import sys
from pathlib import Path
from bridge_core.model_store.layout import ModelStore
from bridge_core.model_store.registry import Registry
from bridge_core.names import ModelName
from bridge_engine.store.pull import pull
name = ModelName.parse(sys.argv[2])
for _ in pull(ModelStore(Path(sys.argv[1])), name, Registry(name, insecure=True)): pass
"""


@dataclass(frozen=True)
class Copied:
    """One row, measured."""

    what: str
    seconds: float
    sent: int
    copies: int
    cpu_s: float | None = None


def models(folder: Path, _seconds: float, versions: list[str], command: str) -> None:
    """The row `models`."""
    mesh = Bridge(folder / "mesh", NODES)
    with oci_registry() as registry:
        try:
            mesh.up()
            turns = [_through_the_mesh(mesh, registry) for _ in range(TURNS)]
            mesh.run("down")
        finally:
            mesh.kill_everything()
        alone = _by_engines(folder, registry)
    text = (
        f"A model of {MIB} MiB (random bytes) from a registry on this machine to {NODES} agents of a mesh "
        f"that `bridgectl up` made, all on this machine's cores and one disk ({_filesystem(folder)}), which "
        "the copies share: what a transfer costs is processor time here (TLS at both ends, each byte hashed "
        "by who takes it, as a piece and as part of the whole). The last row is what the embedded engines do "
        "by themselves, without TLS between nodes.\n\n"
    )
    rows = [_row([turn[at] for turn in turns], [turn[0] for turn in turns]) for at in range(len(turns[0]))]
    text += results.table(_HEAD, [*rows, _row([alone], [turns[0][0]])])
    if TURNS > 1:
        text += f"\nOf {TURNS} turns, one after the other: medians, and beside each its least and greatest.\n"
    results.record("models", "A model to eight nodes", command, versions, text)


def _through_the_mesh(mesh: Bridge, registry: OciRegistry) -> list[Copied]:
    nodes = [agent["http"] for agent in mesh.mesh()["agents"]]
    stores = [mesh.state / f"node{number + 1}" / "models" for number in range(NODES)]
    agents = [psutil.Process(mesh.pid(f"node{number + 1}")) for number in range(NODES)]
    found: list[Copied] = []
    name = _offered(registry, 0)
    for what, who in (
        ("one node pulls", nodes[:1]),
        (f"the other {NODES - 1} pull what it has", nodes[1:]),
        (f"{NODES} nodes pull at once what nobody has", nodes),
    ):
        registry.sent, before = 0, _cpu_s(agents)
        began = time.monotonic()
        asyncio.run(_pull_all(who, name))
        took = time.monotonic() - began
        found.append(_told(Copied(what, took, registry.sent, len(who), _cpu_s(agents) - before)))
        _check(registry, stores if len(who) > 1 else stores[:1])
        if len(who) > 1:
            for store in stores:
                for blob in registry.blobs:
                    (store / "blobs" / blob.replace(":", "-")).unlink(missing_ok=True)
    return found


def _by_engines(folder: Path, registry: OciRegistry) -> Copied:
    name = _offered(registry, 0)
    registry.sent = 0
    stores = [folder / f"alone{number}" for number in range(NODES)]
    began = time.monotonic()
    pulls = [subprocess.Popen([sys.executable, "-c", ALONE, str(store), name]) for store in stores]
    if sum(pull.wait() for pull in pulls):
        raise RuntimeError("a pull failed")
    took = time.monotonic() - began
    for store in stores:
        shutil.rmtree(store)
    return _told(Copied(f"{NODES} engines pull each by itself", took, registry.sent, NODES))


def _told(one: Copied) -> Copied:
    """Says it at once, too: a run that is cut has said something."""
    print(f"{one.what}: {one.seconds:.1f} s, CPU {one.cpu_s} s", flush=True)
    return one


def _row(turns: list[Copied], firsts: list[Copied]) -> tuple[str, ...]:
    what, copies = turns[0].what, turns[0].copies
    shares = [one.sent / (MIB << 20) for one in turns]
    ratios = [one.seconds / first.seconds for one, first in zip(turns, firsts, strict=True)]
    ratio = "" if turns == firsts else _spread(ratios, "{:.2f}×")
    cpu = "" if turns[0].cpu_s is None else _spread([one.cpu_s or 0.0 for one in turns], "{:.1f}")
    outside = f"{statistics.median(shares):.2f} × the model"
    rate = f"{copies / statistics.median(one.seconds for one in turns):.2f}"
    return what, _spread([one.seconds for one in turns], "{:.1f}"), ratio, outside, rate, cpu


def _spread(values: list[float], form: str) -> str:
    said = form.format(statistics.median(values))
    if len(values) > 1:
        said += f" ({form.format(min(values))} to {form.format(max(values))})"
    return said


def _cpu_s(agents: list[psutil.Process]) -> float:
    return sum(sum(one.cpu_times()[:2]) for one in agents)


def _filesystem(folder: Path) -> str:
    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    return next(mounts[str(at)] for at in (folder, *folder.parents) if str(at) in mounts)


def _offered(registry: OciRegistry, seed: int) -> str:
    if f"team/m{seed}:v1" in registry.manifests:
        return f"{registry.host}/team/m{seed}:v1"
    offer(registry, f"team/m{seed}:v1", np.random.default_rng(seed).bytes(MIB << 20))
    return f"{registry.host}/team/m{seed}:v1"


def _check(registry: OciRegistry, stores: list[Path]) -> None:
    def digest(path: Path) -> str:
        with path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"

    wanted = {store / "blobs" / blob.replace(":", "-"): blob for store in stores for blob in registry.blobs}
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for path, found in zip(wanted, threads.map(digest, wanted), strict=True):
            if found != wanted[path]:
                raise RuntimeError(f"{path} is not what was pulled")


async def _pull_all(nodes: list[str], name: str) -> None:
    await asyncio.gather(*(asyncio.to_thread(_pull, node, name) for node in nodes))


def _pull(address: str, name: str) -> None:
    connection = http.client.HTTPConnection(address, timeout=900)
    try:
        body: dict[str, Any] = {"model": name, "insecure": True}
        connection.request("POST", "/api/pull", json.dumps(body))
        last = connection.getresponse().read().splitlines()[-1]
    finally:
        connection.close()
    if json.loads(last) != {"status": "success"}:
        raise RuntimeError(f"{address}: {last!r}")
