"""A node that joins a running mesh by hand, as the README says."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from bridge_engine import seed
from tests.cluster.agent_bed import free_listeners
from tests.cluster.mesh_bed import Mesh
from tests.support import eventually

AGENT = str(Path(sys.executable).with_name("bridge-agent"))


class Newcomer:
    """The command `bridge-agent` on a state folder of its own."""

    def __init__(self, mesh: Mesh, name: str) -> None:
        self.mesh = mesh
        self.name = name
        self.state = mesh.state / name  # in there, so that the mesh's checks cover it
        self.listeners = free_listeners()
        self.log = mesh.state / "logs" / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def address(self, listener: str = "http") -> tuple[str, int]:
        """Where it listens."""
        host, _, port = getattr(self.listeners, listener).rpartition(":")
        return host, int(port)

    def seed(self, *models: str) -> None:
        """Gives it models."""
        seed.seed(self.state / "models", list(models), self.mesh.state / "cache")

    async def command(self, *arguments: str, stdin: str = "") -> tuple[int, str]:
        """Runs a command to its end; returns its exit status and all that it said."""
        process = await asyncio.create_subprocess_exec(
            AGENT,
            *arguments,
            "--state-dir",
            str(self.state),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await asyncio.wait_for(process.communicate(stdin.encode()), 60)
        assert process.returncode is not None
        assert b"Traceback" not in output
        return process.returncode, " ".join(output.decode().split())

    async def join(self, token: str, *more: str, registry: str = "") -> tuple[int, str]:
        """`bridge-agent join`, with more flags."""
        flags = [
            word
            for name in ("http", "https", "grpc", "peer", "admin")
            for word in (f"--{name}", getattr(self.listeners, name))
        ]
        where = registry or self.mesh.mesh()["registry"]["grpc"]
        return await self.command(
            "join", where, "--token", "-", "--name", self.name, *flags, *more, stdin=token
        )

    def run(self) -> None:
        """`bridge-agent run`, in the background."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [AGENT, "run", "--state-dir", str(self.state)], stdout=log, stderr=log
            )

    async def ended(self) -> None:
        """Waits for the end of what `run` started."""
        assert self.process is not None
        process = self.process
        await eventually(lambda: process.poll() is not None, 30)

    def kill(self) -> None:
        """Ends it, whatever it does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@contextlib.asynccontextmanager
async def newcomer(mesh: Mesh, name: str) -> AsyncIterator[Newcomer]:
    """A node that is gone afterwards, dead or alive."""
    node = Newcomer(mesh, name)
    try:
        yield node
    finally:
        node.kill()


def token(mesh: Mesh, *flags: str) -> str:
    """`bridgectl token create`."""
    return mesh.run("token", "create", "--ttl", "1h", *flags).stdout.strip()
