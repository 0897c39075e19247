"""Clients that leave in the middle of a long prefill: when the slot is free, and who serves meanwhile."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from pathlib import Path

from bench import results
from bench.affinity import MODEL, started_engines
from bridge_agent.engines.view import LocalInstance
from bridge_core import http1
from bridge_core.snapshot import MemberModel
from bridge_engine import seed
from tests.lone_gateway import gateway_before

ROUNDS, WORDS = 8, 700
_LONGEST_S = 60.0


def cancel_prefill(folder: Path, _seconds: float, versions: list[str], command: str) -> None:
    """Two engines of one slot each; the client of a long prompt leaves, another comes at once."""
    models = folder / "models"
    seed.seed(models, [MODEL], folder / "cache")
    with started_engines(models, folder / "engines", engines=2, slots=1) as ports:
        freed, first, elsewhere = asyncio.run(_rounds(ports))
    rows = [
        ("prefills cancelled, half a second after they began", str(len(freed))),
        ("slot free again after, by the engine's word", _spread(freed)),
        ("the next request of the same conversation was served by the other engine", f"{elsewhere} times"),
        ("its first byte after", _spread(first)),
    ]
    text = (
        f"Two embedded engines of one slot behind one gateway, {MODEL}, prompts of {WORDS} words that no "
        "cache has. The engine finishes the batch it is in and tells its slots on GET /bridge/slots; a "
        "real Ollama, which tells nothing, gets its slot back three seconds after the cancel.\n\n"
        + results.table(("what", "measured"), rows)
    )
    print(text, flush=True)
    results.record("cancel-prefill", "Cancelled in the middle of a prefill", command, versions, text)


async def _rounds(ports: list[int]) -> tuple[list[float], list[float], int]:
    freed, first, elsewhere = [], [], 0
    engines = [
        LocalInstance(f"bench/{at}", "127.0.0.1", port, "ready", (MemberModel(MODEL),), (MODEL,), 1)
        for at, port in enumerate(ports)
    ]
    async with gateway_before(engines) as (gateway, pool):
        for number in range(4):  # both are loaded before anything is measured
            await _ask(pool, f"warm{number}", f"warm-{number}", "hello")
        for number in range(ROUNDS):
            session, prompt = f"chat{number}", " ".join(f"w{number}x{at}" for at in range(WORDS))
            left = asyncio.create_task(_ask(pool, session, f"left-{number}", prompt))
            await asyncio.sleep(0.5)
            left.cancel()
            began = time.monotonic()
            await asyncio.wait([left])
            first.append(await _ask(pool, session, f"next-{number}", "hello"))
            (gone,), (served,) = gateway.records(f"left-{number}"), gateway.records(f"next-{number}")
            elsewhere += gone.instance != served.instance
            while gateway.known_work() or gateway.suspected():
                if time.monotonic() - began > _LONGEST_S:
                    raise RuntimeError("the slot is not free")
                await asyncio.sleep(0.005)
            freed.append(time.monotonic() - began)
    return freed, first, elsewhere


async def _ask(pool: http1.Pool, session: str, request_id: str, prompt: str) -> float:
    """The seconds until the first record."""
    body = {"model": MODEL, "prompt": prompt, "raw": True, "options": {"num_predict": 1, "seed": 1}}
    pairs = [(b"x-bridge-session", session.encode()), (b"x-request-id", request_id.encode())]
    began, first = time.monotonic(), 0.0
    async with pool.request("POST", "/api/generate", pairs, json.dumps(body).encode()) as response:
        async for _ in response:
            first = first or time.monotonic() - began
    return first


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values) * 1000:.0f} ms median, {max(values) * 1000:.0f} ms at most"
