"""How soon what goes wrong at one node is found in a real mesh: `python -m bench.detection`.

A mesh of three nodes as `bridgectl up` makes it, under a steady load of short chats through node1. In each
round something happens to node3: its engine is killed, its runners are stopped (they hang), or they get a
third of the time (three times the latency). In band: node1 counts an attempt at node3's engine that failed,
or passes it over (`bridge_attempts_failed_total`, `bridge_ejected_seconds`), or node3 itself knows that its
engine is not ready (`bridge_engine_ready`). Out of band: the registry says
that it is not well, or off the ring (`Health.Instances`); of slowness, its alert. Polled every 50 ms, so a
time is at most that much too long.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np

from bench.results import record, table
from bridge_cli.access import access_of
from bridge_cli.connection import ask
from bridge_cli.layout import MeshFile
from bridge_core.decoding import decode_json
from bridge_wire.v1 import health_pb2
from bridge_wire.v1.health_pb2_grpc import HealthStub
from tests.cluster.mesh_bed import Mesh, call, open_mesh
from tests.cluster.survival import kill_engine, runners, stop_runner
from tests.support import eventually

NODE, INSTANCE = "node3", "node3/0"
LEARN_S: Final = 420.0
LIMITS_S: Final = {"killed": 60.0, "hung": 120.0, "slow": 180.0}
_POLL_S: Final = 0.05
_CLIENTS: Final = 6
_SHARE: Final = (0.02, 0.04)  # seconds that a slowed runner runs, and stands
_FAILED: Final = re.compile(rb'^bridge_attempts_failed_total\{.*"node3/0".*\} ([0-9.e+-]+)$', re.MULTILINE)
_EJECTED: Final = re.compile(rb'^bridge_ejected_seconds\{subject="node3.*"\} ([0-9.e+-]+)$', re.MULTILINE)
_READY: Final = re.compile(rb"^bridge_engine_ready(?:\{.*\})? ([0-9.e+-]+)$", re.MULTILINE)
_ROUTE: Final = """apiVersion: bridge.deepseek.io/v1
kind: ModelRoute
metadata: {name: spread}
spec: {strategy: round_robin, backends: [{model: tiny}]}
"""


class Sight:
    """What is said of node3 now, in band and out of band; polled by a task each."""

    def __init__(self) -> None:
        self.ejected = self.unwell = self.told_slow = False
        self.failures = 0.0

    async def in_band(self, mesh: Mesh) -> None:
        """Reads node1's metrics and node3's for ever."""
        while True:
            page = (await asyncio.to_thread(call, mesh.address("node1", "admin"), "GET", "/metrics"))[2]
            self.failures = sum(map(float, _FAILED.findall(page)))
            own = (await asyncio.to_thread(call, mesh.address(NODE, "admin"), "GET", "/metrics"))[2]
            passed_over = any(float(one) > 0.0 for one in _EJECTED.findall(page))
            self.ejected = passed_over or any(float(one) == 0.0 for one in _READY.findall(own))
            await asyncio.sleep(_POLL_S)

    async def out_of_band(self, stub: Any) -> None:
        """Asks the registry for ever."""
        health = HealthStub(stub.channel)  # type: ignore[no-untyped-call]  # generated
        while True:
            answer = await health.Instances(health_pb2.InstancesRequest())
            levels = {one.instance: one.level for one in answer.instances}
            self.unwell = levels.get(INSTANCE, "gone") != "ok"
            alerts = await health.Alerts(health_pb2.AlertsRequest())
            self.told_slow = any(
                one.instance == INSTANCE and one.name.startswith("slow-") for one in alerts.alerts
            )
            await asyncio.sleep(_POLL_S)


async def _client(url: str, number: int) -> None:
    body = {"model": "spread", "stream": True, "options": {"num_predict": 12, "temperature": 0}}
    async with httpx.AsyncClient(timeout=60) as client:
        while True:
            words = {"messages": [{"role": "user", "content": f"Tell story number {number} of a fox."}]}
            with contextlib.suppress(httpx.HTTPError):
                await client.post(f"{url}/api/chat", json=body | words)
            await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def _slowed(mesh: Mesh) -> AsyncIterator[None]:
    """Node3's runners run a third of the time."""
    pids = runners(mesh, NODE)

    def tell(what: signal.Signals) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, what)

    async def turns() -> None:
        while True:
            tell(signal.SIGCONT)
            await asyncio.sleep(_SHARE[0])
            tell(signal.SIGSTOP)
            await asyncio.sleep(_SHARE[1])

    task = asyncio.create_task(turns())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        tell(signal.SIGCONT)


@contextlib.asynccontextmanager
async def _happens(mesh: Mesh, fault: str) -> AsyncIterator[None]:
    if fault == "slow":
        async with _slowed(mesh):
            yield
        return
    pids = runners(mesh, NODE)
    (kill_engine if fault == "killed" else stop_runner)(mesh, NODE)
    yield
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


async def _round(mesh: Mesh, sight: Sight, fault: str) -> tuple[float, float]:
    """Seconds until it was found in band and out of band; infinite: not before the limit."""
    await eventually(lambda: bool(runners(mesh, NODE)), 240)  # it has the model in memory again
    failures = sight.failures
    signs: dict[str, Callable[[], bool]] = {
        "in": lambda: sight.ejected or sight.failures > failures,
        "out": (lambda: sight.told_slow) if fault == "slow" else (lambda: sight.unwell),
    }
    found = dict.fromkeys(signs, math.inf)
    began = time.monotonic()
    async with _happens(mesh, fault):
        while (now := time.monotonic() - began) < LIMITS_S[fault]:
            for name, sign in signs.items():
                if found[name] == math.inf and sign():
                    found[name] = now
            if found["out"] < math.inf and (fault == "slow" or found["in"] < math.inf):
                break
            await asyncio.sleep(0.01)
    await eventually(lambda: not (sight.ejected or sight.unwell or sight.told_slow), 240)
    return found["in"], found["out"]


async def _measure(folder: Path, rounds: int, faults: list[str]) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {fault: [] for fault in faults}
    with contextlib.contextmanager(open_mesh)(folder / "state") as mesh:
        await mesh.whole(120)
        (folder / "spread.yaml").write_text(_ROUTE)
        await asyncio.to_thread(mesh.run, "apply", "-f", str(folder / "spread.yaml"))
        to, sight = access_of(decode_json((mesh.state / "mesh.json").read_bytes(), MeshFile)), Sight()
        tasks = [asyncio.create_task(_client(mesh.url("node1"), number)) for number in range(_CLIENTS)]
        tasks += [
            asyncio.create_task(sight.in_band(mesh)),
            asyncio.create_task(ask(to, sight.out_of_band)),
        ]
        try:
            await asyncio.sleep(LEARN_S if "slow" in faults else 20.0)
            for number in range(rounds):
                for fault in faults:
                    times = await _round(mesh, sight, fault)
                    found[fault].append(times)
                    print(
                        json.dumps({"round": number, "fault": fault, "in": times[0], "out": times[1]}),
                        flush=True,
                    )
                    await asyncio.sleep(15.0 if fault == "slow" else 5.0)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return found


def _said(times: list[float]) -> str:
    there = [one for one in times if one < math.inf]
    if not there:
        return "-"
    missed = f", {len(times) - len(there)} not" if len(there) < len(times) else ""
    return f"{np.quantile(there, 0.5):.2f} / {np.quantile(there, 0.99):.2f}{missed}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.detection", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--fault", action="append", choices=list(LIMITS_S), help="only this; may be repeated")
    parser.add_argument("--record", action="store_true", help="put the table into bench/RESULTS.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bridge-detection-") as name:
        found = asyncio.run(_measure(Path(name), given.rounds, given.fault or list(LIMITS_S)))
    rows = [
        (fault, len(times), _said([one[0] for one in times]), _said([one[1] for one in times]))
        for fault, times in found.items()
    ]
    text = f"{__doc__}\n{table(('node3', 'rounds', 'in band p50 / p99 s', 'out of band p50 / p99 s'), rows)}"
    print(text)
    if given.record:
        command = f"python -m bench.detection --rounds {given.rounds}"
        record(
            "detection", "Faults of a node, found", command, [f"uvloop {metadata.version('uvloop')}"], text
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
