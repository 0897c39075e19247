"""What a running agent has loaded: each of these is memory that every node would keep."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from bridge_core.identity import SpiffeId
from bridge_core.identity.certificates import create_authority, generate_key, issue, key_to_pem, to_pem

# Of the commands, of rings of hundreds of instances, of gRPC's listener and its calls, of making keys and
# certificates, of scrapes.
# The ciphers of `cryptography` are needed: what an agent keeps on disk is sealed.
NOT_KEPT = {
    "connectrpc",
    "cryptography.x509",
    "h2corn",
    "http.server",
    "numpy",
    "prometheus_client",
    "pydantic",
    "typer",
    "yaml",
}


def loaded_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return set(done.stdout.split())


def test_the_agent_loads_nothing_that_it_needs_only_at_times() -> None:
    loaded = loaded_by("sys.modules['rich'] = None\nimport bridge_agent.serve, bridge_agent.app")
    assert "bridge_agent.gateway.gateway" in loaded
    assert NOT_KEPT.isdisjoint(loaded)


def test_plain_calls_by_grpc_load_no_library_for_the_others() -> None:
    loaded = loaded_by("import bridge_agent.gateway.grpc_adapter.application")
    assert "bridge_agent.gateway.grpc_adapter.unary" in loaded
    assert {"connectrpc", "grpc_health", "protobuf"}.isdisjoint(loaded)


@pytest.mark.parametrize(
    "program",
    [
        "bridge_registry.cli, bridge_registry.app",
        "bridge_engine.cli, bridge_engine.app",
        "bridge_cli.main, bridge_core.command.logs",
    ],
)
def test_structlog_takes_no_rich_along(program: str) -> None:
    loaded = loaded_by(f"import {program}")
    assert "structlog" in loaded
    assert "rich" not in loaded


def test_a_runner_loads_no_log_of_ours() -> None:
    """Each model has one of its own, and waits for what that loads."""
    loaded = loaded_by("import bridge_engine.runner.__main__")
    assert "bridge_engine.runner.spec" in loaded
    assert {"asyncio", "structlog", "rich"}.isdisjoint(loaded)


def test_its_own_certificate_is_read_by_what_is_there_already(tmp_path: Path) -> None:
    authority, key, now = (
        create_authority("test.mesh", now=time.time(), ttl_s=3600),
        generate_key(),
        time.time(),
    )
    leaf = issue(authority, key.public_key(), SpiffeId("test.mesh", "node", "a"), now=now, ttl_s=600)
    for name, pem in (("cert", to_pem(leaf)), ("key", key_to_pem(key)), ("ca", authority.pem)):
        (tmp_path / name).write_bytes(pem)
    paths = ", ".join(f"Path({str(tmp_path / name)!r})" for name in ("cert", "key", "ca"))
    code = f"from pathlib import Path\nfrom bridge_core.tls import TlsIdentity\none = TlsIdentity({paths})\n"
    code += "one.server(require_client=True), one.client(), one.reload()"
    loaded = loaded_by(code)
    assert "bridge_core.tls" in loaded
    assert "cryptography" not in loaded
