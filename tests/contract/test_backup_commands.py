"""`bridge-registry backup|restore` and `bridgectl backup|restore FILE`, as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bridge_cli.main import app as bridgectl
from bridge_registry.backup import backup_rules as rules
from bridge_registry.cli import app as registry
from tests.unit.test_backup_rules import _BACKUP, _KEY, _SALT


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    (tmp_path / "key").write_bytes(_KEY)
    (tmp_path / "key").chmod(0o600)
    file = tmp_path / "mesh.backup"
    file.write_bytes(rules.seal(rules.content_of(_BACKUP), _KEY, _SALT))
    return file


def restore(file: Path, *more: object, key: str = "") -> Result:
    argv = ["restore", file, "--backup-key", key or f"file:{file.parent}/key", *more]
    return CliRunner().invoke(registry, [str(word) for word in argv])


def test_check_says_what_is_in_it_and_writes_nothing(sealed: Path) -> None:
    said = restore(sealed, "--check", "--state-dir", sealed.parent / "state")
    assert said.exit_code == 0
    assert "mesh bridge.local at 2026-11-18" in said.stdout
    assert "1 nodes, 0 clients, 0 join tokens, 0 revocations, 1 revisions" in said.stdout
    assert not (sealed.parent / "state").exists()


def test_a_restore_writes_the_state_and_says_what_is_next(sealed: Path) -> None:
    said = restore(sealed, "--state-dir", sealed.parent / "state")
    assert (said.exit_code, "Next: start etcd" in said.stdout) == (0, True)
    assert (sealed.parent / "state" / "pki" / "keyring").read_bytes() == b"ring"
    again = restore(sealed, "--state-dir", sealed.parent / "state", "--replace")
    assert (again.exit_code, "moved" in again.stdout) == (0, True)


def test_a_wrong_key_a_missing_file_and_a_missing_key_are_said(sealed: Path) -> None:
    (sealed.parent / "other").write_bytes(bytes(32))
    (sealed.parent / "other").chmod(0o600)
    wrong = restore(sealed, "--check", key=f"file:{sealed.parent}/other")
    assert (wrong.exit_code, "sealed with another key" in wrong.stderr) == (1, True)
    absent = restore(sealed.parent / "absent", "--check")
    assert (absent.exit_code, "No such file" in absent.stderr) == (1, True)
    keyless = restore(sealed, "--check", key="file:/nowhere/key")
    assert (keyless.exit_code, "cannot be read" in keyless.stderr) == (1, True)


def test_bridgectl_asks_for_the_key_before_anything_else(tmp_path: Path) -> None:
    for argv in (["backup", "x"], ["restore", "x"]):
        said = CliRunner().invoke(
            bridgectl, [*argv, "--state-dir", str(tmp_path)], env={"BRIDGE_BACKUP_KEY": ""}
        )
        assert (said.exit_code, "name the key" in said.stderr) == (1, True)
    both = CliRunner().invoke(bridgectl, ["restore", "x", "--accept-store"])
    assert both.exit_code == 1


def test_a_backup_needs_an_etcd_and_a_registry(tmp_path: Path) -> None:
    argv = [
        "backup",
        str(tmp_path / "x"),
        "--backup-key",
        f"file:{tmp_path}/key",
        "--state-dir",
        str(tmp_path),
    ]
    said = CliRunner().invoke(registry, argv, env={"BRIDGE_REGISTRY_ETCD": ""})
    assert (said.exit_code, "no etcd is named" in said.stderr) == (1, True)
    said = CliRunner().invoke(registry, [*argv, "--etcd", "https://127.0.0.1:1"])
    assert (said.exit_code, "cannot read" in said.stderr) == (1, True)
    assert not (tmp_path / "x").exists()
