"""What walls cost: the start of an engine, a new connection to it, and a request over one that is kept.

In the engine's place stands a program that only answers, so that its own time is small. Needs root.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import structlog

from bench import results
from bridge_agent.engines.network import connect_inside, private_network
from bridge_agent.limits.default_class import DEFAULT, UNCLASSED
from bridge_agent.limits.launcher import IsolatedLauncher
from bridge_agent.limits.surroundings import engine_groups
from bridge_core.node_class import Isolation, NodeClass
from tests.inside import stand_in

STARTS, CONNECTIONS, REQUESTS = 10, 100, 2000
WITH_NETWORK = NodeClass("net", isolation=Isolation(walls=(*(DEFAULT.isolation.walls or ()), "net")))
CLASSES = {"no walls": UNCLASSED, "the default": DEFAULT, "the default and net": WITH_NETWORK}
ANSWER = """
import os, socket, threading
server = socket.create_server(("127.0.0.1", 0), backlog=256)
home = os.environ["HOME"]
with open(home + "/part", "w") as file: file.write(str(server.getsockname()[1]))
os.rename(home + "/part", home + "/port")
def serve(one):
    while one.recv(65536): one.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n{}")
while True: threading.Thread(target=serve, args=server.accept()[:1], daemon=True).start()
"""
REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


async def _started(state: Path, node_class: NodeClass, figures: dict[str, list[float]]) -> str:
    """One start, timed with what follows; the walls that stood."""
    groups, why = engine_groups("bench", state)
    it = IsolatedLauncher(state, node_class=node_class, cgroups=groups, without=why)
    folder = state / "engines" / "0"
    port_file = folder / "home" / "port"
    argv = (sys.executable, "-I", "-S", "-c", ANSWER)
    began = time.perf_counter()
    async with stand_in(it, folder, "bench/0", argv, {"HOME": str(port_file.parent)}) as process:
        figures["started"].append(time.perf_counter() - began)
        while not port_file.exists():
            await asyncio.sleep(0.001)
        figures["listens"].append(time.perf_counter() - began)
        address = ("127.0.0.1", int(port_file.read_text()))
        inside = process.pid if private_network(process.pid) else 0
        await asyncio.to_thread(_connections, address, inside, figures)
        port_file.unlink()
        return ", ".join(it.report("bench/0").walls) or "none"


def _connections(address: tuple[str, int], inside: int, figures: dict[str, list[float]]) -> None:
    def connect() -> socket.socket:
        return connect_inside(inside, address, 5.0) if inside else socket.create_connection(address)

    for _ in range(CONNECTIONS):
        _timed(figures["connection"], lambda: connect().close())
    with connect() as kept:
        kept.setblocking(True)
        for _ in range(REQUESTS):
            _timed(figures["request"], lambda: _ask(kept))


def _ask(kept: socket.socket) -> None:
    kept.sendall(REQUEST)
    kept.recv(65536)


def _timed(into: list[float], work: Callable[[], None]) -> None:
    began = time.perf_counter()
    work()
    into.append(time.perf_counter() - began)


async def measure(folder: Path) -> str:
    """The table."""
    keys = ("started", "listens", "connection", "request")
    figures = {name: {key: list[float]() for key in keys} for name in CLASSES}
    stood = dict[str, str]()
    for _ in range(STARTS):  # in turn, so that what else the machine does falls on all
        for number, (name, node_class) in enumerate(CLASSES.items()):
            stood[name] = await _started(folder / str(number) / "state", node_class, figures[name])
    rows = [
        (
            name,
            *(f"{median(one[key]) * by:,.1f}" for key, by in zip(keys, (1e3, 1e3, 1e6, 1e6), strict=True)),
            stood[name],
        )
        for name, one in figures.items()
    ]
    head = ("", "walls up, ms", "listens, ms", "new connection, µs", "request, µs", "walls that stood")
    return results.table(head, rows)


def walls(folder: Path, _seconds: float, versions: list[str], command: str) -> None:
    """The row of `python -m bench`."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    text = asyncio.run(measure(folder))
    print(text)
    note = f"Medians of {STARTS} starts, {CONNECTIONS} connections and {REQUESTS} requests each.\n\n"
    results.record("walls", "What walls cost", command, versions, note + text)
