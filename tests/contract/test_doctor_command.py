"""`bridgectl doctor` on the machine that runs the tests, with and without a mesh."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from bridge_cli.context import Context, put_context
from bridge_cli.doctor.facts import _engine_fault, _ports
from bridge_cli.layout import Layout, MeshOptions
from bridge_cli.main import app
from bridge_cli.processes import DetachedProcess
from bridge_cli.up import load_table
from bridge_core import proc
from bridge_core.addresses import split_address
from bridge_wire.v1 import registry_pb2 as wire
from tests.cluster.up_bed import free_base_port
from tests.contract.admin_bed import serving


@pytest.fixture(autouse=True)
def nobody_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_CONTEXT", str(tmp_path / "config/context.json"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("BRIDGE_STATE_DIR", raising=False)


def without_the_library(state: Path, **more: Any) -> Path:
    """A mesh's folder whose engines are elsewhere, so that to look at it loads no engine library."""
    state.mkdir(mode=0o700, parents=True)
    options = MeshOptions(engine="ollama", **more)
    (state / "up.json").write_bytes(msgspec.json.encode(options))
    return state


def findings(*argv: str) -> dict[str, list[dict[str, str]]]:
    ended = CliRunner().invoke(app, ["doctor", "--json", *argv])
    found: dict[str, list[dict[str, str]]] = {}
    for one in json.loads(ended.stdout)["findings"]:
        found.setdefault(one["topic"], []).append(one)
    return found


def test_it_looks_at_everything_before_there_is_a_mesh(tmp_path: Path) -> None:
    found = findings("--state-dir", str(tmp_path / "none"))
    assert {"commands", "etcd program", "engine", "clock", "state folder", "memory", "limits"} <= set(found)
    assert found["mesh"][0]["level"] == "skipped"
    assert not (tmp_path / "none").exists()


def test_a_state_folder_that_is_open_to_others_is_bad(tmp_path: Path) -> None:
    folder = without_the_library(tmp_path / "open")
    folder.chmod(0o755)
    (one,) = findings("--state-dir", str(folder))["state folder"]
    assert one["level"] == "bad"
    assert one["do"] == f"chmod 700 {folder}"


def test_it_looks_at_the_mesh_that_the_context_names(tmp_path: Path) -> None:
    folder = without_the_library(tmp_path / "elsewhere")
    folder.chmod(0o755)
    context = Context(("127.0.0.1:9",), "ca.pem", "admin.pem", "admin.key", str(folder))
    put_context("lab", context, use=True)
    (one,) = findings()["state folder"]
    assert one["do"] == f"chmod 700 {folder}"


def test_an_engine_library_that_hangs_is_said() -> None:
    assert _engine_fault(0.001) == "takes longer than 0.001 s to load"


def test_a_port_that_a_stranger_holds_is_not_the_meshs(tmp_path: Path) -> None:
    layout = Layout(tmp_path, MeshOptions(nodes=1, base_port=free_base_port(1), engine="ollama"))
    layout.mesh_file.write_bytes(msgspec.json.encode(layout.mesh({})))
    host, port = split_address(layout.listeners("node1")["admin"])
    with socket.create_server((host, port)):
        (held,) = [one for one in _ports(tmp_path, layout) if one.holder]
        assert (held.what, held.ours) == ("node1's admin", False)
        stat = proc.read_stat(os.getpid())
        assert stat is not None
        load_table(tmp_path).put("node1", DetachedProcess(stat.pid, stat.start_time, proc.boot_id()))
        (held,) = [one for one in _ports(tmp_path, layout) if one.holder]
        assert held.ours


def test_it_says_what_the_registry_says_and_shows_nothing_raw(tmp_path: Path) -> None:
    with serving(tmp_path, 1) as (registry,):
        registry.answers["StatusRequest"] = wire.StatusResponse(
            trust_domain="lab",
            leader=True,
            registry="r1",
            leader_name="r1",
            concerns=["a record \x1b[2J does not decode"],
        )
        where = ["--registry", registry.address, "--state-dir", str(without_the_library(tmp_path / "own"))]
        for flag, name in (("--ca", "ca.pem"), ("--cert", "admin.pem"), ("--key", "admin.key")):
            where += [flag, str(registry.folder / name)]
        said = {one["says"] for one in findings(*where)["mesh"]}
        assert f"r1 leads, asked at {registry.address}" in said
        ended = CliRunner().invoke(app, ["doctor", *where])
    assert "\x1b" not in ended.stdout
    assert "a record \\x1b[2J does not decode" in ended.stdout


def test_a_registry_that_does_not_answer_is_bad_and_ends_with_1(tmp_path: Path) -> None:
    with serving(tmp_path, 1) as (registry,):
        where = ["--registry", "127.0.0.1:9", "--state-dir", str(without_the_library(tmp_path / "own"))]
        for flag, name in (("--ca", "ca.pem"), ("--cert", "admin.pem"), ("--key", "admin.key")):
            where += [flag, str(registry.folder / name)]
        ended = CliRunner().invoke(app, ["doctor", *where])
    assert ended.exit_code == 1
    assert "BAD   mesh" in ended.stdout
