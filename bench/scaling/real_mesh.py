"""A real mesh for the autoscaler: walled engines with the model that speaks, and what the registry decides.

Each engine gets so much CPU time and no more (a NodeClass), so that instances do not slow one another down as
long as the machine has that much for all of them, as with a GPU each.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import msgspec

from bridge_agent.config import StateDir, load_config, save_config
from bridge_core.registry_channel import open_channel
from bridge_wire.v1 import scaling_pb2 as wire
from bridge_wire.v1.scaling_pb2_grpc import ScalingStub
from tests.cluster.mesh_bed import TALKER, Mesh
from tests.cluster.survival import PATHS, asked
from tests.cluster.up_bed import Bridge
from tests.support import eventually

POLICY = "talker"
CONTEXT = 1024
_WHOLE_S = 120.0
_PATIENCE_S = 180.0
_LOADED_S = 180.0


class Fleet(Mesh):
    """A mesh of as many nodes as are asked for."""

    def __init__(self, state: Path, nodes: int) -> None:
        Bridge.__init__(self, state, nodes)
        self.names = [f"node{number}" for number in range(1, nodes + 1)]

    async def complete(self) -> None:
        """Waits until every node sees every engine."""

        async def sees_all() -> bool:
            return await self.seen() == [self.nodes] * self.nodes

        await eventually(sees_all, _WHOLE_S)

    def apply(self, *documents: dict[str, Any]) -> None:
        """`bridgectl apply`; JSON is YAML."""
        path = self.state / "documents.yaml"
        path.write_text("\n---\n".join(map(json.dumps, documents)), encoding="utf-8")
        self.run("apply", "-f", str(path))


def document(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """One of mesh_config."""
    return {"apiVersion": "bridge.deepseek.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


@contextlib.contextmanager
def fleet_of(state: Path, nodes: int, *, slots: int, threads: int = 1, cpu: float | None) -> Iterator[Fleet]:
    """A mesh whose engines have so many slots and threads, and so much CPU time; None: what there is."""
    fleet = Fleet(state, nodes)
    try:
        fleet.up()
        fleet.run("down")
        for name in fleet.names:
            where = StateDir(state / name)
            settings = load_config(where)
            engines = tuple(
                msgspec.structs.replace(
                    one, num_parallel=slots, num_thread=threads, context_length=slots * CONTEXT
                )
                for one in settings.engines
            )
            save_config(where, msgspec.structs.replace(settings, engines=engines))
        fleet.up()
        if cpu is not None:
            fleet.apply(document("NodeClass", "walled", {"limits": {"cpuMax": cpu}}))
        yield fleet
    finally:
        fleet.run("down", check=False)
        fleet.kill_everything()


class Moment(msgspec.Struct, frozen=True):
    """What the registry said of the policy, by instance, at a monotonic time."""

    at: float
    wanted: int
    parts: dict[str, str]
    in_flight: dict[str, int]
    queued: dict[str, int]
    slots: dict[str, int]

    def of(self, part: str) -> set[str]:
        """The instances that are active, loading, warm or idle."""
        return {id_ for id_, own in self.parts.items() if own == part}

    @property
    def used(self) -> tuple[int, int]:
        """Of the active instances: slots in use, and slots."""
        active = self.of("active")
        return sum(min(self.in_flight[one], self.slots[one]) for one in active), sum(
            self.slots[one] for one in active
        )


@contextlib.asynccontextmanager
async def watching(fleet: Fleet) -> AsyncIterator[Callable[[], Any]]:
    """What asks the registry for a `Moment`; None: it does not know yet."""
    mesh = fleet.mesh()
    ca, cert, key = (Path(one).read_bytes() for one in fleet.client_files())
    async with open_channel(mesh["registry"]["grpc"], ca, cert_pem=cert, key_pem=key) as channel:
        desk = ScalingStub(channel)

        async def look() -> Moment | None:
            try:
                answer = await desk.Autoscaling(wire.AutoscalingRequest(policy=POLICY), timeout=15)
            except grpc.aio.AioRpcError as fault:
                if fault.code() in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAVAILABLE}:
                    return None  # it has only just been applied
                raise
            (one,) = answer.policies
            return Moment(
                time.monotonic(),
                one.wanted,
                {each.instance: each.part for each in one.instances},
                {each.instance: each.in_flight for each in one.instances},
                {each.instance: each.queued for each in one.instances},
                {each.instance: each.slots for each in one.instances},
            )

        yield look


async def all_active(look: Callable[[], Any], count: int) -> None:
    """Waits until so many instances are active, with their models loaded."""

    async def active() -> bool:
        found: Moment | None = await look()
        return found is not None and len(found.of("active")) == count

    await eventually(active, _LOADED_S)


class Asked(msgspec.Struct):
    """A request as its client saw it; times are monotonic seconds, 0: it never came to that."""

    began: float
    first: float = 0.0
    ended: float = 0.0
    fault: str = ""

    @property
    def cut(self) -> bool:
        """A stream that had begun did not come to its end."""
        return bool(self.fault) and self.first > 0


async def ask(client: httpx.AsyncClient, url: str, number: int, tokens: int) -> Asked:
    """Streams one answer, by each protocol in turn."""
    path = PATHS[number % len(PATHS)]
    body = asked(path, TALKER, f"Tell story number {number % 997} of a fox.", tokens)
    one = Asked(time.monotonic())
    whole = False
    try:
        async with client.stream("POST", url + path, json=body) as response:
            if response.status_code != 200:
                one.fault = f"{response.status_code} {(await response.aread()).decode()[:200]}"
            async for line in response.aiter_lines():
                one.first = one.first or time.monotonic()
                whole = whole or _is_last(line)
                if '"error"' in line:
                    one.fault = one.fault or line[:200]
    except httpx.HTTPError as fault:
        one.fault = one.fault or f"{fault!r}"
    if not whole:
        one.fault = one.fault or "the stream ended without its last record"
    one.ended = time.monotonic()
    return one


def _is_last(line: str) -> bool:
    return line == "data: [DONE]" or '"done":true' in line or '"message_stop"' in line


def clients() -> httpx.AsyncClient:
    """What asks, as patient as people are with an answer that they see coming."""
    return httpx.AsyncClient(timeout=_PATIENCE_S, limits=httpx.Limits(max_connections=None))


async def closed_loop(fleet: Fleet, count: int, seconds: float, tokens: int) -> tuple[float, list[Asked]]:
    """So many clients that ask again as soon as they are answered: answers a second, and each of them."""
    end, done = time.monotonic() + seconds, list[Asked]()

    async def one(number: int) -> None:
        while time.monotonic() < end:
            found = await ask(client, fleet.url(fleet.names[number % fleet.nodes]), number, tokens)
            done.append(found)
            number += count

    async with clients() as client, asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(one(number))
    return sum(one.ended <= end and not one.fault for one in done) / seconds, done
