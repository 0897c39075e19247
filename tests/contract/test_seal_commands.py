"""`seal status` and `seal rotate`, as an admin types them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner, Result

from bridge_agent.cli import app as agent_app
from bridge_agent.config import AgentConfig, StateDir, load_config, save_config
from bridge_agent.engines.config import EngineConfig
from bridge_core.files import write_atomically
from bridge_registry.cli import app as registry_app
from tests.registry_bed import make_settings
from tests.sealing_bed import sealer_of


def agent(*argv: object) -> Result:
    return CliRunner().invoke(agent_app, ["seal", *map(str, argv)])


def registry(*argv: object) -> Result:
    return CliRunner().invoke(registry_app, ["seal", *map(str, argv)])


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    state = StateDir(tmp_path / "agent")
    state.root.mkdir(mode=0o700)
    save_config(state, AgentConfig("n", "m", ("r:1",), (), "127.0.0.1:1"))
    return state


def test_a_keyring_says_what_opens_it_and_what_that_protects(state: StateDir) -> None:
    none = agent("status", "--state-dir", state.root)
    assert (none.exit_code, "no keyring" in none.stderr) == (1, True)
    made = sealer_of(state).ring.active.id.hex()
    said = agent("status", "--state-dir", state.root).stdout
    assert f"file:{state.seal}/kek" in said
    assert f"{made}  made" in said
    assert "Not protected: from root here" in said


def test_rotating_keeps_what_was_sealed_readable(state: StateDir) -> None:
    sealed = sealer_of(state).seal(b"text", "test")
    assert agent("rotate", "--state-dir", state.root).exit_code == 0
    added = agent("rotate", "--state-dir", state.root, "--data-key")
    assert "1 earlier ones stay" in added.stdout
    assert sealer_of(state).open(sealed, "test") == b"text"


def test_moving_the_key_elsewhere_is_written_into_agent_json(state: StateDir, tmp_path: Path) -> None:
    sealer_of(state)
    write_atomically(tmp_path / "kek", bytes(32))
    assert agent("rotate", "--state-dir", state.root, "--to", f"file:{tmp_path}/kek").exit_code == 0
    assert load_config(state).seal.key == f"file:{tmp_path}/kek"
    assert "every copy of the state by itself" in agent("status", "--state-dir", state.root).stdout
    both = agent("rotate", "--state-dir", state.root, "--to", "file:/x", "--data-key")
    assert (both.exit_code, "two rotations" in both.stderr) == (1, True)


def test_models_are_sealed_by_one_command_that_says_first_what_it_takes(state: StateDir) -> None:
    sealer_of(state)
    blob = state.models / "blobs" / f"sha256-{hashlib.sha256(b'x' * 2048).hexdigest()}"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"x" * 2048)
    only = agent("models", "--check", "--state-dir", state.root)
    assert only.stdout.startswith("0 blobs are sealed; 1 (2 KiB) are not")
    assert not load_config(state).models.sealed
    later = agent("models", "--state-dir", state.root)
    assert "sealed in the background then" in later.stdout
    assert load_config(state).models.sealed
    assert blob.read_bytes() == b"x" * 2048
    done = agent("models", "--now", "--state-dir", state.root)
    assert f"{blob.name[7:19]}  sealed, " in done.stdout
    assert blob.read_bytes().startswith(b"BRBLOB1")
    before = blob.read_bytes()
    agent("rotate", "--state-dir", state.root, "--data-key")
    again = agent("models", "--now", "--state-dir", state.root)
    assert f"{blob.name[7:19]}  its key wrapped anew" in again.stdout
    assert (blob.read_bytes()[8192:], blob.read_bytes() != before) == (before[8192:], True)
    assert agent("models", "--now", "--state-dir", state.root).stdout.splitlines() == [
        "1 blobs are sealed; 0 (0 B) are not"
    ]


def test_models_of_an_attached_engine_are_not_sealed(state: StateDir) -> None:
    attached = EngineConfig(0, kind="ollama", attach="http://127.0.0.1:11434")
    save_config(state, msgspec.structs.replace(load_config(state), engines=(attached,)))
    sealer_of(state)
    refused = agent("models", "--state-dir", state.root)
    assert (refused.exit_code, "sealing does not cover it" in refused.stderr) == (1, True)
    assert not load_config(state).models.sealed


def test_the_root_is_taken_away_with_the_key_from_elsewhere(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    settings.ensure_pki()
    write_atomically(tmp_path / "elsewhere", bytes(32))
    registry("rotate", "--state-dir", tmp_path, "--to", f"file:{tmp_path}/elsewhere")
    argv = ["ca", "export-root", "--state-dir", str(tmp_path), "--out", str(tmp_path / "root.pem")]
    without = CliRunner().invoke(registry_app, argv)
    assert (without.exit_code, "does not open with the key-encryption key" in without.stderr) == (1, True)
    taken = CliRunner().invoke(registry_app, [*argv, "--seal-key", f"file:{tmp_path}/elsewhere"])
    assert taken.exit_code == 0
    assert b"PRIVATE KEY" in (tmp_path / "root.pem").read_bytes()
    assert not list(settings.pki.folder.glob("root-*"))


def test_a_registrys_key_moves_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    make_settings(tmp_path).ensure_pki()
    write_atomically(tmp_path / "elsewhere", bytes(32))
    where = ("--state-dir", tmp_path)
    moved = registry("rotate", *where, "--to", f"file:{tmp_path}/elsewhere")
    assert f"--seal-key 'file:{tmp_path}/elsewhere'" in moved.stdout
    assert registry("status", *where, "--seal-key", f"file:{tmp_path}/elsewhere").exit_code == 0
    wrong = registry("status", *where)
    assert (wrong.exit_code, "does not open with the key-encryption key" in wrong.stderr) == (1, True)
