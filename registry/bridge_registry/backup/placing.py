"""Putting a backup into a state folder: whole, or not at all.

The new `pki` folder is written beside its place and moved there last, so that a registry which is started in
between, or after a power cut, has either no CA (it would be noticed: nothing trusts a new one) or all of it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from bridge_core.errors import Fatal
from bridge_core.files import sync_folder, write_atomically
from bridge_registry.backup.backup_rules import Backup
from bridge_registry.store_memory import remembered

_PUBLIC: Final = ("ca.pem", "issuers.pem")
_STORE_FILE: Final = "store.json"
_OWN: Final = ("pki", _STORE_FILE, "snapshot.sealed")


def place(backup: Backup, state: Path, *, replace: bool, now: float) -> list[str]:
    """Makes `state` the state folder of the mesh's registry, as of the backup; returns what was done.

    Args:
        backup: Checked.
        state: Of a registry that does not run.
        replace: What is there already is moved aside, not refused.
        now: Unix seconds; names what was moved aside.

    Raises:
        Fatal: there is a registry's state already, or the folder cannot be written. Then nothing changed,
            or what was there lies beside it under another name, and the restore may be repeated.
    """
    try:
        return _place(backup, state, replace=replace, now=now)
    except OSError as fault:
        raise Fatal(
            f"cannot write {fault.filename or state}: {fault.strerror or fault}",
            hint="run this as root or as the registry's user, with the registry stopped",
        ) from fault


def _place(backup: Backup, state: Path, *, replace: bool, now: float) -> list[str]:
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    there = [name for name in _OWN if (state / name).exists()]
    if (state / "pki" / "authorities.json").exists() and not replace:
        raise Fatal(
            f"{state} has the state of a registry already",
            hint="if only etcd was lost: `bridgectl restore --from-snapshot` puts back what is known here; "
            "--replace moves what is here aside",
        )
    fresh = Path(tempfile.mkdtemp(prefix=".pki.", dir=state))  # 0700
    try:
        for name, data in backup.files.items():
            write_atomically(fresh / name, data, mode=0o644 if name in _PUBLIC else 0o600)
        done = [_move_aside(state / name, now) for name in there]
        write_atomically(state / _STORE_FILE, remembered(backup.store, backup.records, backup.history))
        _give_to_owner(state, [*fresh.iterdir(), fresh, state / _STORE_FILE])
        fresh.rename(state / "pki")
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    sync_folder(state)
    return [*done, f"wrote {state / 'pki'} and {state / _STORE_FILE}"]


def _move_aside(path: Path, now: float) -> str:
    aside = path.with_name(f"{path.name}.replaced-{int(now)}")
    path.rename(aside)
    return f"moved {path} to {aside}"


def _give_to_owner(state: Path, paths: list[Path]) -> None:
    # Root restores for the user that the services run as.
    owner = state.stat()
    if owner.st_uid != os.geteuid():
        for path in paths:
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
