"""What of a log is made to last before its head is signed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bridge_core.audit.writing import LogWriter


def test_all_that_a_head_speaks_for_is_synced_before_it_and_a_packed_tail_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "log"
    log = LogWriter(folder, "m.local/node/a", lambda _: b"begun")
    synced: list[Path] = []
    fsync = os.fsync

    def noted(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").readlink())
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    log.append([b"%d" % number for number in range(600)])
    log.checkpoint()
    head = next(at for at, path in enumerate(synced) if path.name.startswith(".checkpoint"))
    bundles = {folder / f"tile/{kind}" for kind in ("entries/000.zst", "entries/001.zst", "0/000", "0/001")}
    tail = {folder / f"tail/2.{kind}" for kind in ("entries", "hashes")}
    folders = {folder, *(folder / name for name in ("tile", "tile/entries", "tile/0", "tail"))}
    assert set(synced[:head]) == bundles | tail | folders
