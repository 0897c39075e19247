"""What an isolated engine cannot reach, and who cannot reach it: real engines behind real walls."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from bridge_agent.limits.isolation import private_network, probe
from bridge_agent.limits.launcher import IsolatedLauncher
from bridge_core.node_class import Isolation, Limits, NodeClass
from tests.engine_support import fake_config, supervised

ALL = ("mount", "pid", "ipc", "uts", "net", "capabilities", "no_new_privs")
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="SKIPPED LOUDLY: walls of an agent with root need root"
)


def launcher(state: Path, *, walls: tuple[str, ...] | None = ALL, **options) -> IsolatedLauncher:
    node_class = NodeClass(
        isolation=Isolation(walls=walls, require=options.pop("require", ())),
        limits=options.pop("limits", Limits()),
    )
    return IsolatedLauncher(state, node_class=node_class, cgroups=None, without="not in this test", **options)


async def test_an_isolated_engine_is_reached_by_its_sidecar_alone(tmp_path):
    if impossible := await probe():  # inside a chroot, say: its root is no mount point
        pytest.skip(f"SKIPPED LOUDLY: this machine does not allow every wall: {impossible}")
    state = tmp_path / "s"
    async with supervised(fake_config(tmp_path), state, launcher=launcher(state, require=ALL)) as it:
        view = await it.state("ready")
        assert view.network_pid == it.status.pid
        assert private_network(view.network_pid)
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((view.host, view.port), 1.0)
        async with it.client() as client:
            assert await client.version()
