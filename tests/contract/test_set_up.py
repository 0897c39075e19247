"""`make setup` says what it is doing: it takes minutes on a slow network."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# A Python whose pip has locked packages to install.
STUB = """#!/bin/sh
case "$*" in
  *--require-hashes*)
    echo "Collecting one==1 (from -r x)"
    echo "  Downloading one-1.whl (93.1 MB)"
    echo "Requirement already satisfied: two==2"
    echo "Installing collected packages: one"
    exit {status} ;;
esac
"""


def set_up(folder: Path, *, terminal: bool, status: int = 0) -> tuple[int, str]:
    """Runs it with a pip that installs nothing; its exit status and what it says."""
    stub = folder / "venv/bin/python"
    stub.parent.mkdir(parents=True)
    stub.write_text(STUB.replace("{status}", str(status)))
    stub.chmod(0o755)
    seen, shown = pty.openpty() if terminal else os.pipe()
    try:
        done = subprocess.run(
            [ROOT / "tools/setup.sh", "run"],
            env={**os.environ, "VENV": str(folder / "venv"), "PYTHON": str(stub)},
            stdout=shown,
            stderr=subprocess.STDOUT,
            timeout=60,
            check=False,
        )
        return done.returncode, os.read(seen, 1 << 16).decode()
    finally:
        os.close(seen)
        os.close(shown)


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "file"])
def test_each_step_is_told_before_it_begins(tmp_path: Path, terminal: bool) -> None:
    status, said = set_up(tmp_path, terminal=terminal)
    assert status == 0
    lines = said.replace("\x1b[K", "").replace("\r", "\n").splitlines()
    steps = [line for line in lines if line.startswith("setup: ")]
    begins = [
        f"installing {locked()} locked packages (run)",
        "installing the model that talks",
        "installing the project",
        "done",
    ]
    assert len(steps) == len(begins)
    assert all(step.startswith(f"setup: {begin}") for step, begin in zip(steps, begins, strict=True)), steps
    assert "unpacking, which takes a slow disk longest" in said
    if terminal:
        assert f"package 1 of {locked()}: one==1" in said
        assert f"package 1 of {locked()}: downloading 93.1 MB" in said
        assert f"package 2 of {locked()}: two==2" in said
    assert set_up_again(tmp_path) == "", "nothing changed"


def set_up_again(folder: Path) -> str:
    (folder / "venv/bin/bridgectl").symlink_to("python")
    environment = {**os.environ, "VENV": str(folder / "venv"), "PYTHON": str(folder / "venv/bin/python")}
    command = [ROOT / "tools/setup.sh", "run"]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=True
    ).stdout


def locked() -> int:
    lines = (ROOT / "requirements/run.txt").read_text().splitlines()
    return sum("==" in line and line[:1].isalnum() for line in lines)


def test_what_could_not_be_installed_is_no_success(tmp_path: Path) -> None:
    status, said = set_up(tmp_path, terminal=False, status=1)
    assert status != 0
    assert "setup: done" not in said
