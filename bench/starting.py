"""What starting a mesh costs: CPU time of `bridgectl up`, of what it runs and of what it leaves running.

`python -m bench starting` starts a mesh of three nodes, models and all, and ends it. CPU time, since tests
and people start meshes on machines that do other things; twice, since the first fills the cache of models.
Each process translates our sources anew where PYTHONDONTWRITEBYTECODE is set and nobody did it before.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import psutil

from bench import results
from tests.cluster.mesh_bed import NODES, Mesh

COMMANDS = "`bridgectl up` itself and the commands it runs"


def starting(folder: Path, _seconds: float, versions: list[str], command: str) -> None:
    """The row `starting`."""
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    first, second = (_cost(Mesh(folder / f"mesh{number}")) for number in (1, 2))
    rows = [(part, f"{first[part]:.2f}", f"{second[part]:.2f}") for part in second]
    rows.append(("all of it", f"{sum(first.values()):.2f}", f"{sum(second.values()):.2f}"))
    text = "A mesh of three (`bridgectl up`), CPU seconds in user and system mode until it is up.\n\n"
    text += results.table(("what", "the first", "the second, whose models are there"), rows)
    results.record("starting", "What starting a mesh costs", command, versions, text)


def _cost(mesh: Mesh) -> Counter[str]:
    """CPU seconds by part."""
    try:
        before = os.times()
        mesh.up()
        after = os.times()
        found = Counter(
            {
                COMMANDS: after.children_user
                + after.children_system
                - before.children_user
                - before.children_system
            }
        )
        for part in ("etcd", "guard", "registry"):
            found[part] = _used(mesh.pid(part))
        found["agents"] = sum(_used(mesh.pid(node)) for node in NODES)
        found["engines"] = sum(_used(mesh.engine_pid(node)) for node in NODES)
        mesh.run("down")
    finally:
        mesh.kill_everything()
    return found


def _used(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)
