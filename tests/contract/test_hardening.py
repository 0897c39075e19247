"""Programs that hold keys: no core, no tracing by the same user, and no key file that others could read."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bridge_cli.main import app as bridgectl
from bridge_core.errors import Fatal
from bridge_core.files import write_atomically
from bridge_core.key_files import check_key_files
from tests.contract.admin_bed import serving
from tests.registry_bed import make_settings


def linked(key: Path) -> None:
    kept = key.with_suffix(".real")
    key.rename(kept)
    key.symlink_to(kept.name)


SHOW = """
import os, resource, sys
from bridge_core.hardening import keep_memory_private
keep_memory_private()
print(resource.getrlimit(resource.RLIMIT_CORE), os.stat("/proc/self/environ").st_uid, flush=True)
sys.stdin.read()
"""


def test_a_process_that_holds_keys_leaves_no_core_and_its_proc_is_roots() -> None:
    user = [] if os.geteuid() else ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
    if subprocess.run([*user, sys.executable, "-c", "import bridge_core"], check=False).returncode:
        pytest.skip("SKIPPED LOUDLY: no interpreter here that another user could run this with")
    with subprocess.Popen(
        [*user, sys.executable, "-c", SHOW], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().split(") ") == ["(0, 0", "0\n"]
        # The same user cannot look into it.
        look = subprocess.run(
            [*user, "cat", f"/proc/{process.pid}/environ"], capture_output=True, text=True, check=False
        )
        assert "Permission denied" in look.stderr
        process.communicate("")


@pytest.mark.parametrize(
    "argv",
    [
        ["bridge_registry.cli", "run", "--etcd", "https://127.0.0.1:1"],
        ["bridge_registry.cli", "store-guard", "--etcd", "https://127.0.0.1:1"],
        ["bridge_registry.cli", "init"],
    ],
    ids=["registry", "guard", "init"],
)
@pytest.mark.parametrize("spoil", [lambda key: key.chmod(0o644), linked], ids=["open", "link"])
def test_the_control_plane_does_not_start_on_key_files_of_everybody(
    tmp_path: Path, argv: list[str], spoil: Callable[[Path], None]
) -> None:
    make_settings(tmp_path).ensure_pki()
    key = tmp_path / "pki" / ("guard.key" if argv[1] == "store-guard" else "registry.key")
    spoil(key)
    module, command, *rest = argv
    code = f"import sys; sys.argv[0] = 'bridge-registry'; from {module} import run; run()"
    name = ["--name", make_settings(tmp_path).name]
    done = subprocess.run(
        [sys.executable, "-c", code, command, "--state-dir", str(tmp_path), *name, *rest],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert f"bridge-registry: {key} is " in done.stderr
    assert "Traceback" not in done.stderr


def test_an_agent_does_not_start_on_a_key_file_of_everybody(tmp_path: Path) -> None:
    write_atomically(tmp_path / "key.pem", b"key")
    check_key_files(tmp_path / "key.pem")
    (tmp_path / "key.pem").chmod(0o604)
    with pytest.raises(Fatal, match="open to other users"):
        check_key_files(tmp_path / "key.pem")


def test_bridgectl_does_not_use_an_admins_key_that_everybody_can_read(tmp_path: Path) -> None:
    with serving(tmp_path) as [registry]:
        (tmp_path / "admin.key").chmod(0o644)
        flags = ["--registry", f"127.0.0.1:{registry.port}", "--ca", str(tmp_path / "ca.pem")]
        flags += ["--cert", str(tmp_path / "admin.pem"), "--key", str(tmp_path / "admin.key")]
        done = CliRunner().invoke(bridgectl, ["nodes", *flags])
    assert (done.exit_code, "admin.key is open to other users" in done.stderr) == (1, True)
