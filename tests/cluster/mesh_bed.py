"""A mesh of three, as `bridgectl up` makes it, and control over each of its processes."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil

from bridge_cli.parts import agent_state, launch
from bridge_cli.up import load_layout
from tests.cluster.up_bed import Bridge
from tests.support import eventually

NODES = ("node1", "node2", "node3")
TALKER = "smollm2:135m"
SOLO = "tiny-solo"  # lies on node3 alone
EMBEDDER = "tiny-embed"
QUESTION = "What is the capital of France?"
ASK = [{"role": "user", "content": QUESTION}]
GREEDY = {"temperature": 0, "seed": 1, "num_predict": 24}


class Mesh(Bridge):
    """A mesh that is up."""

    def __init__(self, state: Path) -> None:
        super().__init__(state, len(NODES))

    def address(self, node: str, listener: str = "http") -> tuple[str, int]:
        """Where a node listens."""
        where: str = self._agent(node)[listener]
        host, _, port = where.rpartition(":")
        return host, int(port)

    def url(self, node: str) -> str:
        """A node's base URL for clients."""
        host, port = self.address(node)
        return f"http://{host}:{port}"

    def engine_pid(self, node: str) -> int:
        """The engine of a node, as its agent noted it."""
        noted = self.state / node / "engines" / "0" / "process.json"
        return int(msgspec.json.decode(noted.read_bytes())["pid"])

    def client_files(self) -> tuple[str, str, str]:
        """CA, certificate and key of the mesh's client."""
        mesh = self.mesh()
        return mesh["ca"], mesh["client"]["cert"], mesh["client"]["key"]

    def client_tls(self) -> ssl.SSLContext:
        """TLS as the mesh's client."""
        ca, cert, key = self.client_files()
        context = ssl.create_default_context(cafile=ca)
        context.check_hostname = False
        context.load_cert_chain(cert, key)
        return context

    def logs(self) -> dict[str, str]:
        """What every process of the mesh has written."""
        paths = [*self.state.glob("logs/*"), *self.state.glob("node*/engines/*/engine.log*")]
        return {str(path.relative_to(self.state)): path.read_text(errors="replace") for path in paths}

    def assert_logs_are_clean(self) -> None:
        """No traceback: every fault was expected and has a sentence."""
        for name, text in self.logs().items():
            assert text.count("Traceback") == 0, f"{name}: {text[text.index('Traceback') - 300 :][:3000]}"

    # -- control

    def kill(self, part: str) -> None:
        """SIGKILL, and waits until it is gone."""
        end_hard(self.pid(part))

    def start(self, part: str) -> subprocess.Popen[bytes]:
        """Starts one part alone, as `up` would; the caller ends it."""
        layout = load_layout(self.state)
        assert layout is not None
        argv, environment = launch(layout, part)
        with (self.state / "logs" / f"{part}-alone.log").open("ab") as log:
            return subprocess.Popen(argv, stdout=log, stderr=log, env=environment)

    @contextlib.contextmanager
    def stopped(self, part: str) -> Iterator[None]:
        """SIGSTOP for the time of the block."""
        pid = self.pid(part)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    async def repair(self) -> None:
        """`bridgectl up` again."""
        await asyncio.to_thread(self.run, "up")

    async def seen(self) -> list[int]:
        """How many engines each node knows of; 0 from a node that is not ready."""
        states = await asyncio.gather(*(agent_state(agent["admin"]) for agent in self.mesh()["agents"]))
        return [state.instances if state.ready else 0 for state in states]

    async def whole(self, deadline_s: float = 30) -> None:
        """Waits until every node sees every engine."""

        async def sees_all() -> bool:
            return await self.seen() == [len(NODES)] * len(NODES)

        await eventually(sees_all, deadline_s)

    def _agent(self, node: str) -> dict[str, Any]:
        return next(agent for agent in self.mesh()["agents"] if agent["name"] == node)


def end_hard(pid: int) -> None:
    """SIGKILL, and waits until it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        process.kill()
        psutil.wait_procs([process], timeout=60)


def open_mesh(state: Path) -> Iterator[Mesh]:
    """A mesh from `up` to `down`; it must have logged no traceback and left no process."""
    mesh = Mesh(state)
    try:
        mesh.up()
        yield mesh
        mesh.assert_logs_are_clean()
        mesh.run("down")
        mesh.assert_logs_are_clean()
        left = [process.cmdline() for process in mesh.processes()]
        assert not left
    finally:
        mesh.kill_everything()


def call(
    address: tuple[str, int],
    method: str,
    path: str,
    body: object = None,
    headers: dict[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """One HTTP request, read to its end."""
    host, port = address
    connection = (
        http.client.HTTPSConnection(host, port, timeout=60, context=tls)
        if tls is not None
        else http.client.HTTPConnection(host, port, timeout=60)
    )
    try:
        data = body if body is None or isinstance(body, bytes) else msgspec.json.encode(body)
        connection.request(method, path, data, headers or {})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


@contextlib.asynccontextmanager
async def raw(address: tuple[str, int]) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare connection, for what no client would send."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
