"""What of a log is made to last before its head is signed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bridge_core.audit.writing import LogWriter

_FULL = frozenset({"tile/entries/000.zst", "tile/entries/001.zst", "tile/0/000", "tile/0/001"})
_GROWING = frozenset({"tail/2.entries", "tail/2.hashes"})
_FOLDERS = frozenset({".", "tile", "tile/entries", "tile/0", "tail"})


def _log(folder: Path) -> LogWriter:
    return LogWriter(folder, "m.local/node/a", lambda _: b"begun")


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was synced, in order."""
    found: list[Path] = []
    fsync = os.fsync

    def noted(handle: int) -> None:
        found.append(Path(f"/proc/self/fd/{handle}").readlink())
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    return found


def _before_head(folder: Path, synced: list[Path]) -> set[str]:
    head = next(at for at, path in enumerate(synced) if path.name.startswith(".checkpoint"))
    return {str(path.relative_to(folder)) for path in synced[:head]}


def test_all_that_a_head_speaks_for_is_synced_before_it_and_a_packed_tail_is_not(
    tmp_path: Path, synced: list[Path]
) -> None:
    log = _log(tmp_path / "log")
    synced.clear()
    log.append([b"%d" % number for number in range(600)])
    log.checkpoint()
    assert _before_head(log.folder, synced) == _FULL | _GROWING | _FOLDERS


def test_what_a_killed_writer_left_unsynced_is_synced_before_it_is_signed_for(
    tmp_path: Path, synced: list[Path]
) -> None:
    _log(tmp_path / "log").append([b"%d" % number for number in range(600)])
    again = _log(tmp_path / "log")
    synced.clear()
    again.checkpoint()
    assert _before_head(again.folder, synced) == _FULL | _GROWING | _FOLDERS
