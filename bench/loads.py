"""Clients that leave while their model is loaded: how often it is loaded, and what the next one waits."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from pathlib import Path

from bench import results
from bench.affinity import MODEL, started_engines
from bridge_agent.engines.view import LocalInstance
from bridge_agent.gateway.config import GatewayConfig, ListenerKind
from bridge_agent.gateway.gateway import Gateway
from bridge_agent.health.made import connect
from bridge_agent.loading.model_loads import ModelLoads
from bridge_agent.peers.upstreams import Upstreams
from bridge_agent.routing.view import MeshView
from bridge_core import http1
from bridge_core.snapshot import MemberModel, MeshConfig, RoutePolicy, Snapshot, Version, encode_entry
from bridge_engine import seed

ROUNDS = 20
_BURST = 16
_LEAVES = 0.5  # of a load's time, then its client goes
_FORGET_S = 3.5  # until a load is old news to the agent


def loads(folder: Path, _seconds: float, versions: list[str], command: str) -> None:
    """The row `loads`."""
    models = folder / "models"
    seed.seed(models, [MODEL], folder / "cache")
    with started_engines(models, folder / "engines", engines=1, slots=4) as ports:
        whole, rest, loaded, burst = asyncio.run(_rounds(ports[0], folder))
    rows = [
        ("a load that its client waits for, alone", _spread(whole)),
        (f"rounds in which the client left after {_LEAVES:.0%} of that", str(ROUNDS)),
        ("loads that the engine began in them", str(loaded)),
        ("what the next client waited until its first byte", _spread(rest)),
        (f"loads for a burst of {_BURST} clients", str(burst)),
    ]
    text = (
        f"One embedded engine behind one gateway, {MODEL}, unloaded before each round; loads as counted in "
        "the engine's own log. Each load here takes the time to start a runner and map a file that is in the "
        "page cache.\n\n" + results.table(("what", "measured"), rows)
    )
    print(text, flush=True)
    results.record("loads", "Clients that leave while their model is loaded", command, versions, text)


async def _rounds(port: int, folder: Path) -> tuple[list[float], list[float], int, int]:
    view = MeshView("bench")
    upstreams = Upstreams(view, None)
    engine = LocalInstance("bench/0", "127.0.0.1", port, "ready", (MemberModel(MODEL),), (), 4)

    def publish(_instance: str = "") -> None:
        view.publish_local(held.shown((engine,)))

    held = ModelLoads(lambda: [engine], connect, changed=publish, now=time.monotonic, wall=time.time)
    async with asyncio.TaskGroup() as group:
        gateway = Gateway(GatewayConfig(node="bench", host_name="bench"), view, upstreams, group)
        gateway.load_with(held)
        view.publish(Snapshot(Version(1, 1), {"mesh": encode_entry(MeshConfig(defaults=RoutePolicy()))}))
        publish()
        running = group.create_task(held.run())
        server = await http1.serve(gateway.http_app(ListenerKind.LOCAL), name="http")
        pool = http1.Pool(("127.0.0.1", server.port))
        whole, rest = [], []
        for _ in range(5):
            await _unloaded(engine)
            whole.append(await _ask(pool))
        before = _loads_in(folder)
        leaves_after = _LEAVES * statistics.median(whole)
        for _ in range(ROUNDS):
            await _unloaded(engine)
            left = asyncio.create_task(_ask(pool))
            await asyncio.sleep(leaves_after)
            left.cancel()
            await asyncio.wait([left])
            rest.append(await _ask(pool))
        loaded = _loads_in(folder) - before
        await _unloaded(engine)
        await asyncio.gather(*(_ask(pool) for _ in range(_BURST)))
        burst = _loads_in(folder) - before - loaded
        running.cancel()
        await pool.close()
        await server.close()
    await upstreams.close()
    return whole, rest, loaded, burst


async def _unloaded(engine: LocalInstance) -> None:
    """The model is in no memory, and the agent does not think so either."""
    client = connect(engine)
    try:
        await client.load(MODEL, keep_alive=0)
        while await client.loaded():
            await asyncio.sleep(0.01)
    finally:
        await client.close()
    await asyncio.sleep(_FORGET_S)


def _loads_in(folder: Path) -> int:
    """Loads that engines told of in their logs."""
    logs = (folder / "engines").rglob("*.log")
    return sum(path.read_bytes().count(b" loaded ") for path in logs)


async def _ask(pool: http1.Pool) -> float:
    """The seconds until the first byte of a streamed answer."""
    body = {"model": MODEL, "prompt": "hello", "raw": True, "options": {"num_predict": 1, "seed": 1}}
    began, first = time.monotonic(), 0.0
    async with pool.request("POST", "/api/generate", (), json.dumps(body).encode()) as response:
        async for _ in response:
            first = first or time.monotonic() - began
    return first


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values) * 1000:.0f} ms median, {max(values) * 1000:.0f} ms at most"
