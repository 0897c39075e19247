"""What a running agent has loaded: each of these is memory that every node would keep."""

import subprocess
import sys

# Of the commands, of rings of hundreds of instances, of gRPC calls.
NOT_KEPT = {"connectrpc", "numpy", "pydantic", "yaml"}


def test_the_agents_command_and_the_agent_load_nothing_that_they_need_only_at_times() -> None:
    code = "import bridge_agent.cli, bridge_agent.app, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert "bridge_agent.gateway.gateway" in done.stdout.split()
    assert NOT_KEPT.isdisjoint(done.stdout.split())
