"""`bridgectl doctor` on the machine that runs the tests, with and without a mesh."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bridge_cli.main import app
from bridge_wire.v1 import registry_pb2 as wire
from tests.contract.admin_bed import serving


@pytest.fixture(autouse=True)
def nobody_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_CONTEXT", str(tmp_path / "config/context.json"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("BRIDGE_STATE_DIR", raising=False)


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
    folder = tmp_path / "open"
    folder.mkdir(mode=0o755)
    (one,) = findings("--state-dir", str(folder))["state folder"]
    assert one["level"] == "bad"
    assert one["do"] == f"chmod 700 {folder}"


def test_it_says_what_the_registry_says_and_shows_nothing_raw(tmp_path: Path) -> None:
    with serving(tmp_path, 1) as (registry,):
        registry.answers["StatusRequest"] = wire.StatusResponse(
            trust_domain="lab",
            leader=True,
            registry="r1",
            leader_name="r1",
            concerns=["a record \x1b[2J does not decode"],
        )
        where = ["--registry", registry.address]
        for flag, name in (("--ca", "ca.pem"), ("--cert", "admin.pem"), ("--key", "admin.key")):
            where += [flag, str(registry.folder / name)]
        said = {one["says"] for one in findings(*where)["mesh"]}
        assert f"r1 leads, asked at {registry.address}" in said
        ended = CliRunner().invoke(app, ["doctor", *where])
    assert "\x1b" not in ended.stdout
    assert "a record \\x1b[2J does not decode" in ended.stdout


def test_a_registry_that_does_not_answer_is_bad_and_ends_with_1(tmp_path: Path) -> None:
    with serving(tmp_path, 1) as (registry,):
        where = ["--registry", "127.0.0.1:9"]
        for flag, name in (("--ca", "ca.pem"), ("--cert", "admin.pem"), ("--key", "admin.key")):
            where += [flag, str(registry.folder / name)]
        ended = CliRunner().invoke(app, ["doctor", *where])
    assert ended.exit_code == 1
    assert "BAD   mesh" in ended.stdout
