"""How long an agent's loop stands still while a large body goes through it.

See `bench.watching` for the two clocks.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from bench import results
from bench.grpc.rows import ours as of_grpc
from bench.hops import certificates, ours
from bench.processes import LOAD_CORE, SUBJECT_CORE, free_port, pinned
from bench.watching import WATCH

Process: TypeAlias = "subprocess.Popen[bytes]"
MIB = 60
ROUNDS = 5


def _longest(process: Process, folder: Path) -> tuple[float, float]:
    """The longest stops of a process since this was asked last, in ms: passed, and of its own work."""
    path = folder / f"watch-{process.pid}"
    path.unlink(missing_ok=True)
    process.send_signal(signal.SIGUSR1)
    while not path.exists():
        time.sleep(0.01)
    passed, worked = json.loads(path.read_text())
    return passed * 1000, worked * 1000


def _send(port: int, size: int) -> None:
    """A chat with an image of so many bytes, whole answer read."""
    body = b'{"model":"tiny","stream":false,"messages":[{"role":"user","content":"?","images":["%b"]}]}' % (
        base64.b64encode(os.urandom(size // 4 * 3))
    )
    with socket.create_connection(("127.0.0.1", port), 60) as client:
        head = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client.sendall(head + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body))
        client.sendall(body)
        answer = b""
        while part := client.recv(1 << 16):
            answer += part
    if not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"answered {answer[:300]!r}")


def _call(port: int, folder: Path, size: int) -> None:
    """The same by gRPC, from a process of its own."""
    command = ["taskset", "-c", LOAD_CORE, sys.executable, "-m", "bench.grpc.large", str(port), str(folder)]
    subprocess.run([*command, str(size)], check=True, timeout=120)


@contextlib.contextmanager
def _ways(folder: Path) -> Iterator[dict[str, tuple[Callable[[int], None], dict[str, Process]]]]:
    """What sends a chat with an image of so many bytes, and the processes that it goes through."""
    certificates(folder)
    with contextlib.ExitStack() as stack:

        def started(command: Callable[[int], list[str]], core: str = SUBJECT_CORE) -> tuple[int, Process]:
            port = free_port()
            log = folder / f"{port}.log"
            return port, stack.enter_context(pinned(command(port), port, core=core, log=log))

        engine, _ = started(lambda port: ours("plain", port), LOAD_CORE)
        os.environ[WATCH] = str(folder / "watch")
        local, agent = started(lambda port: ours("agent", port, engine, folder))
        owning, owner = started(lambda port: ours("owner", port, engine, folder))
        entering, entry = started(lambda port: ours("entry", port, owning, folder))
        own = folder / "called"
        shutil.copytree(
            folder, own, ignore=lambda _, names: [n for n in names if not n.endswith((".pem", ".key"))]
        )
        called, serving = started(lambda port: of_grpc("agent", port, engine, own))
        del os.environ[WATCH]
        yield {
            "one hop": (lambda size: _send(local, size), {"agent": agent}),
            "two hops": (lambda size: _send(entering, size), {"entry": entry, "owner": owner}),
            "gRPC": (lambda size: _call(called, folder, size), {"agent": serving}),
        }


def large_bodies(folder: Path, _seconds: float, versions: list[str], command: str) -> None:
    """The row `large-bodies`."""
    rows = []
    with _ways(folder) as ways:
        for way, (send, processes) in ways.items():
            samples: dict[tuple[str, int], list[tuple[float, float]]] = {}
            for number in range(ROUNDS + 1):
                for size in (1024, MIB << 20):
                    for process in processes.values():
                        _longest(process, folder)
                    send(size)
                    for name, process in processes.items():
                        found = _longest(process, folder)
                        if number:  # the first one warms
                            samples.setdefault((name, size), []).append(found)
            for (name, size), stops in samples.items():
                passed, worked = (statistics.median(values) for values in zip(*stops, strict=True))
                most = max(value for _, value in stops)
                what = f"{MIB} MiB" if size > 1024 else "1 KiB"
                rows.append((way, name, what, f"{worked:.1f} / {most:.1f}", f"{passed:.1f}"))
                print(rows[-1], flush=True)
    head = ("way", "process", "image", "its own work, ms: median / most", "time that passed, ms: median")
    text = (
        "The longest stop of an agent's loop while one chat with an image goes through, "
        f"{ROUNDS} times each. What passed holds what else the machine did.\n\n" + results.table(head, rows)
    )
    results.record("large-bodies", "The loop while a large body passes", command, versions, text)
