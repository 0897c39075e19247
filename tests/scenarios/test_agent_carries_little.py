"""What a running agent has loaded: each of these is memory that every node would keep."""

import subprocess
import sys

# Of the commands, of rings of hundreds of instances, of gRPC calls.
NOT_KEPT = {"connectrpc", "numpy", "pydantic", "typer", "yaml"}


def test_the_agent_loads_nothing_that_it_needs_only_at_times() -> None:
    code = "import sys\nsys.modules['rich'] = None\nimport bridge_agent.serve, bridge_agent.app\n"
    code += "print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert "bridge_agent.gateway.gateway" in done.stdout.split()
    assert NOT_KEPT.isdisjoint(done.stdout.split())
