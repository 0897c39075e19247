"""One large model to every node of a mesh: what comes from outside, and how long it takes.

`python -m bench models` starts a mesh of eight nodes as `bridgectl up` does, and a registry beside it.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench import results
from tests.cluster.up_bed import Bridge
from tests.contract.models_bed import digest_of, offer
from tests.fakes.oci_registry import OciRegistry, oci_registry

NODES = 8
MIB = int(os.environ.get("BRIDGE_BENCH_MODEL_MIB", "1024"))
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


def models(folder: Path, _seconds: float, versions: list[str], command: str) -> None:
    """The row `models`."""
    mesh = Bridge(folder / "mesh", NODES)
    with oci_registry() as registry:
        try:
            mesh.up()
            rows = [*_through_the_mesh(mesh, registry), _by_engines(folder, registry)]
            mesh.run("down")
        finally:
            mesh.kill_everything()
    text = (
        f"A model of {MIB} MiB (random bytes) from a registry on this machine to {NODES} agents of a mesh "
        "that `bridgectl up` made, all on this machine's disk and cores, which the copies share: what a "
        "transfer costs is processor time here (TLS at both ends, each byte hashed by who sends a piece and "
        "twice by who takes it). The last row is what the embedded engines do by themselves, without TLS "
        "between nodes.\n\n"
    )
    text += results.table(("what", "seconds", "bytes from outside", "copies a second"), rows)
    results.record("models", "A model to eight nodes", command, versions, text)


def _through_the_mesh(mesh: Bridge, registry: OciRegistry) -> list[tuple[str, ...]]:
    nodes = [agent["http"] for agent in mesh.mesh()["agents"]]
    stores = [mesh.state / f"node{number + 1}" / "models" for number in range(NODES)]
    rows = []
    for what, who in (
        ("one node pulls", nodes[:1]),
        (f"the other {NODES - 1} pull what it has", nodes[1:]),
        (f"{NODES} nodes pull at once what nobody has", nodes),
    ):
        if len(who) != NODES - 1:
            name = _offered(registry, len(rows))
        registry.sent = 0
        began = time.monotonic()
        asyncio.run(_pull_all(who, name))
        took = time.monotonic() - began
        _check(registry, stores if len(who) > 1 else stores[:1])
        rows.append(_row(what, took, registry, len(who)))
        if len(who) > 1:
            for store in stores:
                for blob in registry.blobs:
                    (store / "blobs" / blob.replace(":", "-")).unlink(missing_ok=True)
    return rows


def _by_engines(folder: Path, registry: OciRegistry) -> tuple[str, ...]:
    name = _offered(registry, 9)
    registry.sent = 0
    stores = [folder / f"alone{number}" for number in range(NODES)]
    began = time.monotonic()
    pulls = [subprocess.Popen([sys.executable, "-c", ALONE, str(store), name]) for store in stores]
    if sum(pull.wait() for pull in pulls):
        raise RuntimeError("a pull failed")
    took = time.monotonic() - began
    for store in stores:
        shutil.rmtree(store)
    return _row(f"{NODES} engines pull each by itself", took, registry, NODES)


def _row(what: str, took: float, registry: OciRegistry, copies: int) -> tuple[str, ...]:
    share = registry.sent / (MIB << 20)
    return what, f"{took:.1f}", f"{share:.2f} × the model", f"{copies / took:.2f}"


def _offered(registry: OciRegistry, seed: int) -> str:
    registry.blobs.clear()
    draw = random.Random(seed)
    offer(registry, f"team/m{seed}:v1", b"".join(draw.randbytes(1 << 20) for _ in range(MIB)))
    return f"{registry.host}/team/m{seed}:v1"


def _check(registry: OciRegistry, stores: list[Path]) -> None:
    for store in stores:
        for digest, data in registry.blobs.items():
            path = store / "blobs" / digest.replace(":", "-")
            if path.stat().st_size != len(data) or digest_of(path.read_bytes()) != digest:
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
