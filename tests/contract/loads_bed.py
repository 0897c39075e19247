"""A mesh whose agents hold loads, over engines that load, as a real Ollama does, while they are asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from bridge_agent.health.made import connect
from bridge_agent.loading.model_loads import ModelLoads
from bridge_core.http1 import Exchange
from bridge_core.names import canonical, display
from bridge_core.snapshot import Instance
from tests.contract.gateway_bed import Bed, BedNode, mesh
from tests.fakes.recorded_engine import RecordedEngine

MODEL = "smollm2:135m"


@dataclass
class LoadingEngine(RecordedEngine):
    """Loads a model before it answers, once `may_load`; who leaves meanwhile takes the load with them."""

    may_load: asyncio.Event = field(default_factory=asyncio.Event)
    memory: set[str] = field(default_factory=set)
    loading: int = 0
    begun: list[str] = field(default_factory=list)
    given_up: int = 0
    refuses: tuple[int, str] | None = None  # what it answers instead of loading
    dies: bool = False

    async def _infer(self, exchange: Exchange, path: str, body: bytes) -> None:
        asked = json.loads(body)
        model = canonical(asked["model"])
        if path != "/api/show" and model not in self.memory and not await self._load(exchange, model, asked):
            return
        if asked.get("keep_alive") == 0:
            self.memory.discard(model)
        empty = {"/api/generate": "prompt", "/api/chat": "messages", "/api/embed": "input"}.get(path, "model")
        if not asked.get(empty):
            self._json(exchange, {"model": asked["model"], "done": True, "done_reason": "load"})
            return
        await super()._infer(exchange, path, body)

    async def _load(self, exchange: Exchange, model: str, asked: dict[str, Any]) -> bool:
        self.begun.append(model)
        self.loading += 1
        try:
            await self.may_load.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        finally:
            self.loading -= 1
        if self.dies:
            exchange.abort()
            return False
        if self.refuses is not None:
            self._json(exchange, {"error": self.refuses[1]}, self.refuses[0])
            return False
        self.memory.add(model)
        return True


@dataclass
class LoadsBed:
    """The mesh, and who loads at each node."""

    bed: Bed
    loads: dict[str, ModelLoads] = field(default_factory=dict)

    def __getitem__(self, name: str) -> BedNode:
        return self.bed[name]

    def engine(self, name: str) -> LoadingEngine:
        engine = self.bed[name].engine
        assert isinstance(engine, LoadingEngine)
        return engine

    def publish(self, name: str) -> None:
        """Tells the whole mesh what a node has in memory, and what it is loading."""
        node, engine = self.bed[name], self.engine(name)
        loaded = tuple(map(display, engine.memory))
        local = msgspec.structs.replace(engine.instance(f"{name}/0"), loaded=loaded)
        (local,) = self.loads[name].shown((local,))
        node.view.publish_local((local,))
        record = Instance(
            local.id, name, models=local.models, slots=local.slots, loaded=loaded, loading=local.loading
        )
        self.bed.publish(**{f"instance__{name}": record})

    def begun(self) -> int:
        """Loads that any engine began."""
        return sum(len(self.engine(name).begun) for name in self.bed.nodes)

    def unload(self) -> None:
        """Nothing is in any memory, and what is remembered of loads is old."""
        for name in self.bed.nodes:
            engine = self.engine(name)
            engine.memory.clear()
            engine.begun.clear()
            engine.may_load.clear()
            self.publish(name)


@contextlib.asynccontextmanager
async def loads_mesh(
    folder: Path, names: str = "a", *, clock: Any = time.monotonic, **more: Any
) -> AsyncIterator[LoadsBed]:
    """One node a letter; `clock` is that of the loads."""
    engines: dict[str, RecordedEngine] = {name: LoadingEngine((MODEL,), slots=8) for name in names}
    async with mesh(folder, engines, **more) as bed, asyncio.TaskGroup() as group:
        found = LoadsBed(bed)
        tasks = []
        for name, node in bed.nodes.items():

            def changed(_instance: str, name: str = name) -> None:
                found.publish(name)

            def instances(node: BedNode = node) -> list[Any]:
                return [node.engine.instance(f"{node.name}/0")]

            loads = ModelLoads(instances, connect, changed=changed, now=clock, wall=time.time)
            found.loads[name] = loads
            node.gateway.load_with(loads)
            tasks.append(group.create_task(loads.run()))
        for name in names:
            found.publish(name)
        try:
            yield found
        finally:
            for engine in engines.values():
                engine.may_load.set()  # type: ignore[attr-defined]
            for task in tasks:
                task.cancel()
