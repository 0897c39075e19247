"""Streams on a mesh while its processes die: what their clients saw, stream by stream."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import random
import re
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import psutil

from tests.cluster.mesh_bed import NODES, Mesh, call, end_hard
from tests.support import eventually

CHAT, GENERATE, OPENAI, ANTHROPIC = "/api/chat", "/api/generate", "/v1/chat/completions", "/v1/messages"
PATHS = (CHAT, GENERATE, OPENAI, ANTHROPIC)
SPARED = "node1"  # the clients' own sidecar: no other process can keep their connections


@dataclass
class Seen:
    """One stream as its client saw it.

    Attributes:
        node: Where it began.
        begun: Text came.
        complete: Its terminal record came.
        error: What it was told of a failure; empty without one.
        resumed: How often it says that it was continued.
        pieces: Of text, as many as records brought some.
        pause: Longest time between two pieces of its text, in seconds.
    """

    text: str = ""
    node: str = ""
    begun: bool = False
    complete: bool = False
    error: str = ""
    resumed: int = 0
    pieces: int = 0
    pause: float = 0.0
    moved_at: float = 0.0


def asked(path: str, model: str, prompt: str, tokens: int, *, temperature: float = 0.0) -> dict[str, Any]:
    """The body of a request for a stream."""
    body: dict[str, Any] = {"model": model, "stream": True}
    if path == GENERATE:
        body["prompt"] = prompt
    else:
        body["messages"] = [{"role": "user", "content": prompt}]
    if path in (CHAT, GENERATE):
        return body | {"options": {"temperature": temperature, "seed": 1, "num_predict": tokens}}
    return body | {"temperature": temperature, "max_tokens": tokens}


async def one_stream(
    client: httpx.AsyncClient, url: str, path: str, body: dict[str, Any], seen: Seen
) -> None:
    """Reads a stream to its end, whatever that is."""
    try:
        async with client.stream("POST", url + path, json=body) as response:
            if response.status_code != 200:
                seen.error = f"{response.status_code} {(await response.aread()).decode()}"
                return
            seen.node = response.headers.get("x-bridge-node", "")
            async for line in response.aiter_lines():
                _read(line.removeprefix("data: "), seen)
    except httpx.HTTPError as fault:
        seen.error = seen.error or f"cut: {fault!r}"


def _read(line: str, seen: Seen) -> None:
    if line == "[DONE]":
        seen.complete = True
    if not line.startswith("{"):
        return
    record = json.loads(line)
    choice = (record.get("choices") or [{}])[0]
    delta = choice.get("delta") or record.get("delta") or {}
    message = record.get("message") or {}
    text = record.get("response") or message.get("content") or delta.get("content") or delta.get("text")
    if isinstance(text, str) and text:
        now = time.monotonic()
        seen.pause = max(seen.pause, now - seen.moved_at) if seen.begun else 0.0
        seen.text += text
        seen.pieces += 1
        seen.begun, seen.moved_at = True, now
    seen.complete = seen.complete or record.get("done") is True or record.get("type") == "message_stop"
    seen.resumed = max(seen.resumed, record.get("bridge", {}).get("resumed", 0))
    if record.get("error"):
        seen.error = json.dumps(record["error"])


def runners(mesh: Mesh, node: str) -> list[int]:
    """The processes under a node's engine."""
    with contextlib.suppress(psutil.Error, OSError):
        engine = psutil.Process(mesh.engine_pid(node))
        return [child.pid for child in engine.children(recursive=True)]
    return []


async def resumed_streams(mesh: Mesh) -> int:
    """Streams that the clients' sidecar has continued since it started."""
    page = (await asyncio.to_thread(call, mesh.address(SPARED, "admin"), "GET", "/metrics"))[2].decode()
    found = re.findall(r"^bridge_streams_resumed_total\{.*\} ([0-9.]+)$", page, re.MULTILINE)
    return int(sum(map(float, found)))


def kill_agent(mesh: Mesh, node: str) -> None:
    """The owner itself: SIGKILL."""
    mesh.kill(node)


def kill_engine(mesh: Mesh, node: str) -> None:
    """Its engine: SIGKILL."""
    end_hard(mesh.engine_pid(node))


def kill_runner(mesh: Mesh, node: str) -> None:
    """Its engine's runners: SIGKILL."""
    for pid in runners(mesh, node):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def stop_runner(mesh: Mesh, node: str) -> None:
    """Its engine's runners: SIGSTOP, so that they hang and nothing is closed."""
    for pid in runners(mesh, node):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)


def stop_agent(mesh: Mesh, node: str) -> None:
    """The owner itself: SIGSTOP, so that its connections stay open and say nothing."""
    os.kill(mesh.pid(node), signal.SIGSTOP)


DEATHS: dict[str, Callable[[Mesh, str], None]] = {
    "agent": kill_agent,
    "engine": kill_engine,
    "runner": kill_runner,
    "frozen": stop_runner,
    "paused": stop_agent,
}
OF_A_NODE = ("agent", "paused")  # deaths that the clients' own sidecar cannot be spared


@contextlib.contextmanager
def thawed(mesh: Mesh) -> Iterator[None]:
    """Lets every process go on that the block stopped and nobody has killed since."""
    known = [pid for node in NODES for pid in (mesh.pid(node), *runners(mesh, node))]
    try:
        yield
    finally:
        for pid in known:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


async def survive(
    mesh: Mesh,
    bodies: Sequence[tuple[str, dict[str, Any]]],
    death: str,
    chance: random.Random,
    *,
    share: float = 0.5,
    pieces: int = 0,
    window_s: float = 0.5,
    early: int = 0,
    wakes: Callable[[], Awaitable[bool]] | None = None,
) -> list[Seen]:
    """Runs the streams, has a node die once `share` of them speak, and returns what clients saw.

    Args:
        bodies: Path and body of each stream; all through the node that is spared.
        death: Which of DEATHS.
        share: How many must have begun before.
        pieces: How many pieces of text all of them together must have brought before.
        window_s: Within how long after that it happens, at random.
        early: With this, it happens to a node as soon as a stream of it speaks that has brought no more
            pieces than so many, in place of all of these; where none does, nobody dies.
        wakes: What was stopped goes on once this says so; None: when all streams are over.
    """
    url = mesh.url(SPARED)
    victims = [node for node in NODES if node != SPARED] if death in OF_A_NODE else list(NODES)
    seen = [Seen() for _ in bodies]
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=180, limits=limits) as client, asyncio.TaskGroup() as group:
        jobs = [
            group.create_task(one_stream(client, url, path, body, one))
            for (path, body), one in zip(bodies, seen, strict=True)
        ]

        def speaking(most: float = math.inf) -> list[str]:
            """Nodes that may die, once for each stream that they still speak."""
            of = [one for one in seen if one.begun and not one.complete and one.pieces <= most]
            return [one.node for one in of if one.node in victims]

        while not all(job.done() for job in jobs):
            begun, brought = sum(one.begun for one in seen), sum(one.pieces for one in seen)
            if speaking(early) if early else begun >= share * len(seen) and brought >= pieces:
                break
            await asyncio.sleep(0.001 if early else 0.01)
        if not early:
            await asyncio.sleep(chance.random() * window_s)
        with thawed(mesh):
            if doomed := speaking(early) if early else speaking() or victims:
                await asyncio.to_thread(DEATHS[death], mesh, chance.choice(doomed))
            while not all(job.done() for job in jobs) and not (wakes is not None and await wakes()):
                await asyncio.wait(jobs, timeout=0.2)
    return seen


async def believed_in(mesh: Mesh) -> None:
    """Waits until every node is there, and passed over by the clients' sidecar for nothing of before."""
    await mesh.whole()

    async def nobody_is_passed_over() -> bool:
        page = (await asyncio.to_thread(call, mesh.address(SPARED, "admin"), "GET", "/metrics"))[2]
        return b"bridge_ejected_seconds{" not in page

    await eventually(nobody_is_passed_over, 60)


async def copied(mesh: Mesh, model: str, name: str, nodes: Sequence[str]) -> None:
    """Gives these nodes, and no other, a model under another name that the clients' sidecar knows of."""
    body = {"source": model, "destination": name}
    for node in nodes:
        status, _, said = await asyncio.to_thread(call, mesh.address(node), "POST", "/api/copy", body)
        assert status == 200, said

    async def known() -> bool:
        return (await asyncio.to_thread(call, mesh.address(SPARED), "POST", "/api/show", {"model": name}))[
            0
        ] == 200

    await eventually(known, 30)
