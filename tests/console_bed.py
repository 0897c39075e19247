"""The console over a mesh that is made up: a listener in this process, and pictures of the test's choice."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

from bridge_core import http1
from bridge_core.counts import Counts
from bridge_core.http1 import App
from bridge_core.mesh_picture import (
    Backend,
    InstancePicture,
    MeshPicture,
    ModelPicture,
    NodePicture,
    RegistryPicture,
    RolloutPicture,
    RoutePicture,
)
from bridge_core.snapshot import Node
from bridge_registry.admin_http import AdminApp, Readiness
from bridge_registry.console.feed import PAINT_S, Feed
from bridge_registry.console.pages import ConsolePages
from bridge_registry.console.streams import Streams
from bridge_registry.console.traffic_rules import TrafficBook
from bridge_registry.records import RevisionRecord

BEGAN = int(time.time())  # once: nodes that are made later differ in nothing else
HOSTILE = '<img src=x onerror="document.title=1">\x1b[2J\n"/>'


def node(number: int, state: str = "serving", *, busy: int = 1, **more: Any) -> NodePicture:
    name = f"node{number}"
    loaded = ("smollm2:135m",) if busy else ()
    engine = InstancePicture(
        f"{name}/0", "ready", "llamacpp", 4, busy, 0, 100, ("smollm2:135m", "tiny:latest"), loaded
    )
    there = state not in {"away", "no engine"}
    return NodePicture(
        name=name,
        state=state,
        since_unix=BEGAN - 90_000,
        version="0.1.0",
        expires_unix=BEGAN + 70_000,
        address=f"{name}.example:11445",
        in_flight=busy,
        labels={"zone": "a"},
        instances=(engine,) if there else (),
        requests_per_s=busy * 1.4 if there else 0.0,
        **more,
    )


def picture(*nodes: NodePicture, **more: Any) -> MeshPicture:
    registry = RegistryPicture("lab.example", "registry1", "0.1.0", True, "registry1", "r1:11400", "", 3, 41)
    return MeshPicture(
        time.time(),
        more.pop("registry", registry),
        nodes,
        (
            ModelPicture("smollm2:135m", len(nodes), 2, 4.2, 0.0, 212.0, 0.11, 0.34),
            ModelPicture("tiny:latest", len(nodes), 1, 1.1, 0.05, 90.0, 0.02, 0.05),
        ),
        (
            RoutePicture(
                "chat",
                "residency",
                (Backend("stable", "smollm2:135m", 0.9), Backend("canary", "tiny:latest", 0.1)),
            ),
        ),
        (
            RolloutPicture(
                "chat-v2",
                "chat",
                "progressing",
                0,
                3,
                120.0,
                300.0,
                "",
                "stable",
                "canary",
                0.1,
                0.0,
                0.01,
                84,
            ),
        ),
        **more,
    )


class Console:
    """An open console: `show` changes the mesh."""

    def __init__(self, first: MeshPicture) -> None:
        self.seen = first
        self.feed = Feed(lambda: self.seen)
        self.streams = Streams(self.feed)
        self.feed.looked = lambda: self.streams.tell(time.monotonic())
        self.traffic = TrafficBook(0.0)
        self.port = 0
        self.ports: dict[str, int] = {}  # of nodes that answer

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/console/"

    def show(self, seen: MeshPicture) -> None:
        self.seen = seen
        self.feed.look()

    def busy_hour(self) -> None:
        """Requests in each of the last sixty minutes, some of which failed, and in hours before."""
        now, total = time.time(), 0
        for ago in range(59, -1, -1):
            total += (ago * 7) % 13 + 2
            counts = Counts(requests=total, errors=total // 40)
            wall = now - ago * 60
            self.traffic.take("node1", 1, {"smollm2:135m": counts}, {"smollm2:135m"}, now=wall, wall=wall)
            self.traffic.take("node2", 1, {"tiny:latest": counts}, {"tiny:latest"}, now=wall, wall=wall)
        self.traffic.hours.extendleft(
            (int(now // 3600) - ago, {("smollm2:135m", "node1"): (ago * 9, ago % 4 // 3)})
            for ago in range(2, 20)
        )


async def _history(_most: int) -> list[RevisionRecord]:
    diff = "--- ModelRoute/chat\n+++ ModelRoute/chat\n@@ -8,3 +8,3 @@\n-    weight: 100\n+    weight: 90\n"
    made = {"number": 7, "author": "spiffe://lab/admin/ann", "applied": time.time() - 600}
    return [
        msgspec.convert(
            {**made, "changed": ["ModelRoute/chat"], "diff": diff, "documents": {}}, RevisionRecord
        )
    ]


async def _ping(made: Console) -> None:
    """As a registry's feed does: a page that hears nothing takes the registry for gone."""
    while True:
        await asyncio.sleep(PAINT_S)
        made.streams.tell(time.monotonic())


@contextlib.asynccontextmanager
async def console(first: MeshPicture, answers: Mapping[str, App] | None = None) -> AsyncIterator[Console]:
    """A console that is served until the end of the block; `answers` are what nodes answer, by name."""
    made = Console(first)

    nodes, servers = dict[str, Node](), dict[str, http1.Server]()
    for name, answer in (answers or {}).items():
        servers[name] = await http1.serve(answer, name=name)
        nodes[name] = Node(name, f"127.0.0.1:{servers[name].port}")
    links = {name: http1.Pool(("127.0.0.1", one.port)) for name, one in servers.items()}
    pages = ConsolePages(made.streams, made.traffic, lambda: nodes, lambda node: links[node.name], _history)
    app = AdminApp((), lambda: Readiness(ready=True, reason="leading"), "host")
    async with asyncio.TaskGroup() as group:
        pinging = group.create_task(_ping(made))
        app.pages = pages.apps(group)
        made.ports = {name: one.port for name, one in servers.items()}
        server = await http1.serve(app, name="console")
        made.port = server.port
        made.feed.look()
        try:
            yield made
        finally:
            pinging.cancel()
            made.streams.close()
            await server.close(0.0)
            for name, one in servers.items():
                await links[name].close()
                await one.close(0.0)
