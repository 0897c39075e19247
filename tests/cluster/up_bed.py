"""Running `bridge` as a person would, on ports and in a state dir of the test's own."""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import psutil

from bridge_cli.layout import Layout, MeshOptions
from bridge_cli.ports import check_free
from bridge_core.errors import Fatal
from tests.ports import any_base_port

BRIDGE = str(Path(sys.executable).parent / "bridgectl")


def free_base_port(nodes: int) -> int:
    """A base port under which all of a mesh's ports are free now, below the kernel's own range."""
    for _ in range(100):
        base = any_base_port(nodes)
        layout = Layout(Path(), MeshOptions(nodes=nodes, base_port=base))
        parts = ("etcd", "guard", "registry", *layout.names)
        with contextlib.suppress(Fatal):
            check_free((part, where) for part in parts for where in layout.addresses(part).values())
            return base
    raise AssertionError("no free ports")


class Bridge:
    """The command `bridge` on one state dir."""

    def __init__(self, state: Path, nodes: int) -> None:
        self.state = state
        self.nodes = nodes
        self.base_port = free_base_port(nodes)

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs it to its end; fails with what it said when it fails and `check`."""
        ended = subprocess.run(
            [BRIDGE, *argv, "--state-dir", str(self.state)],
            capture_output=True,
            text=True,
            timeout=200,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert "Traceback" not in ended.stdout + ended.stderr, ended.stderr
        assert not check or ended.returncode == 0, ended.stdout + ended.stderr
        return ended

    def up(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """`bridgectl up` with this bed's nodes and ports."""
        return self.run("up", "--nodes", str(self.nodes), "--base-port", str(self.base_port), *argv)

    def mesh(self) -> Any:
        """mesh.json."""
        return msgspec.json.decode((self.state / "mesh.json").read_bytes())

    def pid(self, part: str) -> int:
        """The process of "etcd", "registry" or a node."""
        table = msgspec.json.decode((self.state / "processes.json").read_bytes())
        return int(table[part]["pid"])

    def status(self) -> Any:
        """`bridgectl status --json`."""
        return msgspec.json.decode(self.run("status", "--json", check=False).stdout)

    def processes(self) -> list[psutil.Process]:
        """Everything that runs for this mesh, found by its command lines alone."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if any(str(self.state) in word for word in process.cmdline()):
                    found.append(process)
        return found

    def kill_everything(self) -> None:
        """SIGKILL to all of them at once, as a power cut would."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):  # one whose parent is gone may end by itself
                process.kill()
        psutil.wait_procs(self.processes(), timeout=60)


def post(address: str, path: str, body: object) -> tuple[int, Any]:
    """POSTs JSON and reads JSON."""
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request("POST", path, msgspec.json.encode(body))
        answer = connection.getresponse()
        return answer.status, msgspec.json.decode(answer.read())
    finally:
        connection.close()
