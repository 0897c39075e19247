"""What is said of node3 now, in band and out of band: signs, by name, polled by a task each."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import deque
from typing import Any, Final

import numpy as np

from bridge_core import http1
from bridge_core.errors import BridgeError
from bridge_wire.v1 import health_pb2
from bridge_wire.v1 import registry_pb2 as wire
from bridge_wire.v1.health_pb2_grpc import HealthStub
from tests.cluster.mesh_bed import Mesh

NODE, INSTANCE = "node3", "node3/0"
POLL_S: Final = 0.1
WINDOW_S: Final = 300.0  # of the fixed thresholds
_PATIENCE_S: Final = 2.0
_LINE: Final = re.compile(rb"^([a-z_]+)(?:\{([^}]*)\})? ([-+0-9.einfa]+)$", re.MULTILINE)

_BAD: Final = ("failed", "broken", "engine_error")

Page = list[tuple[str, str, float]]


class Sight:
    """See the module.

    Attributes:
        now: The signs there are at this moment.
        answers: Of clients: when, by which node, seconds to the first byte; 0: it failed.
        failures: Attempts at node3 that failed, by what they failed of.
        counts: What node3's engine did: when, requests, failed.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.now: set[str] = set()
        self.answers: deque[tuple[float, str, float]] = deque(maxlen=50_000)
        self.counts: deque[tuple[float, float, float]] = deque(maxlen=50_000)
        self.failures: dict[str, float] = {}
        self._failed_before: dict[str, float] = {}
        self._parts: dict[str, set[str]] = {}
        self._entry = http1.Pool(mesh.address("node1", "admin"))
        self._own = http1.Pool(mesh.address(NODE, "admin"))

    def begin(self) -> None:
        """A round begins: failures from now on count."""
        self._failed_before = dict(self.failures)

    async def in_band(self) -> None:
        """Reads node1's page and node3's for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read(self._entry, "entry", self._at_entry))
            group.create_task(self._read(self._own, "own", self._at_node))

    async def out_of_band(self, stub: Any) -> None:
        """Asks the registry for ever."""
        health = HealthStub(stub.channel)  # type: ignore[no-untyped-call]  # generated
        while True:
            found = set()
            answer = await health.Instances(health_pb2.InstancesRequest(node=NODE))
            here = [one for one in answer.instances if one.instance == INSTANCE]
            found |= {"registry:gone"} if not here else set()
            for one in here:
                found |= {f"registry:{one.level}"} if one.level != "ok" else set()
                found |= {"registry:out"} if one.out else set()
                found |= {f"registry:{reason.code}" for reason in one.reasons}
            alerts = await health.Alerts(health_pb2.AlertsRequest())
            found |= {f"alert:{one.name}" for one in alerts.alerts if one.node == NODE}
            status = await stub.Status(wire.StatusRequest())
            node = next((one for one in status.nodes if one.name == NODE), None)
            found |= {"registry:unreached"} if node is None or _is_cut(status) else set()
            self._tell("registry", found)
            await asyncio.sleep(POLL_S)

    def error_share(self) -> float:
        """Of node3's requests in the last window."""
        now = time.monotonic()
        counts = [one for one in self.counts if one[0] > now - WINDOW_S]
        if len(counts) < 2 or counts[-1][1] <= counts[0][1]:
            return 0.0
        return (counts[-1][2] - counts[0][2]) / (counts[-1][1] - counts[0][1])

    def is_slow(self, mark_s: float) -> bool:
        """Whether one in twenty first bytes of node3's answers in the last window came later than that."""
        now = time.monotonic()
        took = [one[2] for one in self.answers if one[1] == NODE and one[0] > now - WINDOW_S and one[2]]
        return bool(took) and float(np.quantile(took, 0.95)) > mark_s

    async def close(self) -> None:
        """Lets go of its connections."""
        await self._entry.close()
        await self._own.close()

    def _tell(self, part: str, found: set[str]) -> None:
        self._parts[part] = found
        self.now = set().union(*self._parts.values())

    async def _read(self, pool: http1.Pool, part: str, signs: Any) -> None:
        while True:
            page: Page = []
            with contextlib.suppress(BridgeError, TimeoutError):
                async with asyncio.timeout(_PATIENCE_S):
                    async with pool.request("GET", "/metrics", []) as answer:
                        text = await answer.read(4 << 20)
                for name, labels, value in _LINE.findall(text):
                    page.append((name.decode(), labels.decode(), float(value)))
            if page:
                self._tell(part, signs(page))
            await asyncio.sleep(POLL_S)

    def _at_entry(self, page: Page) -> set[str]:
        self.failures = {
            _label(labels, "failure"): value
            for name, labels, value in page
            if name == "bridge_attempts_failed_total" and INSTANCE in labels
        }
        more = {kind for kind, value in self.failures.items() if value > self._failed_before.get(kind, 0.0)}
        found = {"failed-attempt", *(f"failed:{kind}" for kind in more)} if more else set()
        if any(n == "bridge_ejected_seconds" and f'"{NODE}' in labels and v > 0.0 for n, labels, v in page):
            found.add("passed-over")
        return found

    def _at_node(self, page: Page) -> set[str]:
        found = set()
        for name, labels, value in page:
            if name == "bridge_engine_ready" and value == 0.0:
                found.add("not-ready")
            elif name == "bridge_instance_health" and value > 0.0:
                found.add(f"own:{_label(labels, 'aspect')}")
            elif name == "bridge_gpu_fault" and value > 0.0:
                found.add("gpu-fault")
            elif name == "bridge_link_up" and value == 0.0:
                found.add(f"link:{_label(labels, 'link')}")
        self.counts.append((time.monotonic(), *_counts(page)))
        return found


def _label(labels: str, name: str) -> str:
    return labels.partition(f'{name}="')[2].partition('"')[0]


def _is_cut(status: wire.StatusResponse) -> bool:
    return any(NODE in (peer.node for peer in node.silent_peers) for node in status.nodes)


def _counts(page: Page) -> tuple[float, float]:
    """Requests and failures that node3's agent saw at its own engine."""
    requests = sum(v for name, _, v in page if name == "bridge_outcomes_total")
    failed = sum(
        v
        for name, labels, v in page
        if name == "bridge_outcomes_total" and any(f'"{one}"' in labels for one in _BAD)
    )
    return requests, failed
