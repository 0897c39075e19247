"""What each command says to somebody who tries it for the first time."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from bridge_agent.cli import app as agent
from bridge_cli.main import app as bridgectl
from bridge_core.command.program import as_called
from bridge_core.form import form
from bridge_core.systemd import placement
from bridge_engine.cli import app as engine
from bridge_registry.cli import app as registry

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = {
    "bridgectl": bridgectl,
    "bridge-agent": agent,
    "bridge-registry": registry,
    "bridge-engine": engine,
}


def commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """A command and all those below it."""
    yield name, command
    for word, below in getattr(command, "commands", {}).items():
        yield from commands(f"{name} {word}", below)


EVERY = [one for name, program in PROGRAMS.items() for one in commands(name, typer.main.get_command(program))]


@pytest.mark.parametrize(("name", "command"), EVERY, ids=[name for name, _ in EVERY])
def test_every_command_and_every_option_says_what_it_is(name: str, command: Any) -> None:
    assert command.help, name
    silent = [option.name for option in command.params if not getattr(option, "help", None)]
    assert not silent, f"{name}: no help for {', '.join(silent)}"


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_what_one_tries_first_is_answered(program: typer.Typer) -> None:
    runner = CliRunner()
    for arguments in ([], ["-h"], ["--help"]):
        assert "Usage" in runner.invoke(program, arguments).output
    told = runner.invoke(program, ["--version"])
    assert told.exit_code == 0
    assert told.output.strip() == f"{version('deepseek-ollama-bridge')} ({form().words})"
    wrong = runner.invoke(program, ["nonsense"])
    assert wrong.exit_code == 2
    assert "No such command 'nonsense'" in wrong.output


def test_no_command_has_a_name_of_another_program_or_a_second_one() -> None:
    """`bridge` is iproute2's on every Debian."""
    scripts = distribution("deepseek-ollama-bridge").entry_points.select(group="console_scripts")
    assert sorted(one.name for one in scripts) == sorted(PROGRAMS) == sorted(placement.COMMANDS)


@pytest.mark.skipif(not shutil.which("make"), reason="SKIPPED LOUDLY: there is no make")
def test_make_links_the_commands_and_takes_the_links_away(tmp_path: Path) -> None:
    where = [f"DESTDIR={tmp_path}", f"VENV={Path(sys.executable).parents[1]}"]

    def make(target: str) -> None:  # without its set-up, which was before any test
        command = ["make", "--silent", "--old-file=setup", target, *where]
        subprocess.run(command, cwd=ROOT, timeout=60, check=True, capture_output=True)

    make("install")
    folder = tmp_path / "usr/local/bin"
    assert sorted(one.name for one in folder.iterdir()) == sorted(PROGRAMS)
    for one in folder.iterdir():
        assert one.readlink() == Path(sys.executable).with_name(one.name)
    make("uninstall")
    assert list(folder.iterdir()) == []


def test_a_policy_without_a_name_is_asked_for() -> None:
    ended = CliRunner().invoke(bridgectl, ["autoscale", "explain", ""])
    assert ended.exit_code == 2
    assert "the name of an AutoscalePolicy" in " ".join(ended.output.split())


_HEAVY = ("grpc", "google.protobuf", "pydantic", "numpy", "cryptography", "structlog", "uvloop", "rich")


@pytest.mark.parametrize(
    "modules",
    ["bridge_cli.main", "bridge_agent.cli", "bridge_agent.cli, bridge_agent.status_report"],
)
def test_a_command_loads_what_it_needs_and_no_more(modules: str) -> None:
    told = subprocess.run(
        [sys.executable, "-c", f"import sys, {modules}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert set(_HEAVY) & set(told.stdout.split()) == set()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_shell_can_complete_every_program(name: str) -> None:
    variable = f"_{name.replace('-', '_').upper()}_COMPLETE"
    told = subprocess.run(
        [str(Path(sys.executable).with_name(name))],
        env={**os.environ, variable: "complete_bash", "COMP_WORDS": f"{name} s", "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    word = {"bridgectl": "status", "bridge-engine": "serve"}.get(name, "service")
    assert word in told.stdout.split()


def test_no_default_is_kept_from_the_reader() -> None:
    dynamic = [
        f"{name} {option.name}"
        for name, command in EVERY
        for option in command.params
        if callable(option.default) and option.show_default is True
    ]
    assert not dynamic


def test_a_registry_without_an_identity_says_what_else_is_needed(tmp_path: Path) -> None:
    told = CliRunner().invoke(
        bridgectl, ["history", "--registry", "192.0.2.1:1", "--state-dir", str(tmp_path / "none")]
    )
    assert told.exit_code == 1
    assert "--registry 192.0.2.1:1 has to come with --ca, --cert and --key" in told.output


def test_an_engine_whose_port_is_taken_says_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        serve = ["serve", "--models", str(tmp_path / "models"), "--listen", where]
        ended = subprocess.run(
            [sys.executable, "-m", "bridge_engine.cli", *serve],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert f"cannot listen on {where}" in ended.stderr
    assert "Address already in use" in ended.stderr


def test_a_line_to_copy_works_where_it_was_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("bridgectl", "bridge-agent"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "bridgectl"), "up"])
    monkeypatch.setenv("PATH", "/nowhere")
    assert as_called("bridge-agent") == str(tmp_path / "bridge-agent")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert as_called("bridge-agent") == "bridge-agent"
    # Run as `python -m …`: there is nothing beside it to name.
    monkeypatch.setattr(sys, "argv", ["/nowhere/main.py"])
    assert as_called("bridgectl") == "bridgectl"
