"""The folders an engine writes to: whose they are, and how much they may hold."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from bridge_agent.engines.process import LaunchSpec
from bridge_agent.limits import disk_quota


def hold(spec: LaunchSpec, shared: Iterable[str], most: int | None) -> tuple[str, ...]:
    """Limits each folder that it writes to; `most` None lifts earlier limits. Returns those limited.

    Raises:
        LimitsRefused: the limit would not hold.
    """
    return disk_quota.hold((spec.folder / "home", *spec.writable, *map(Path, shared)), most)


def foreign(folders: Iterable[Path]) -> str:
    """The first of the folders that is not this user's own; empty when all are."""
    for folder in folders:
        try:
            if folder.stat().st_uid != os.geteuid():
                return str(folder)
        except OSError:
            continue
    return ""


def elsewhere(folders: Iterable[Path], state_dir: Path) -> str:
    """The first of the folders that does not lie in the agent's state; empty when all do.

    A store that other programs may share does not change hands.
    """
    root = state_dir.resolve()
    return next((str(one) for one in folders if not one.resolve().is_relative_to(root)), "")


def give(spec: LaunchSpec, uid: int, gid: int) -> None:
    """Lets the engine's user into its folder, and makes that user's what it writes to and is ours.

    A file that has other names, too (a model that several nodes share), stays ours where it can be read: its
    owner could change it under all of them.
    """
    os.chown(spec.folder, -1, gid)
    spec.folder.chmod(0o750)
    ours = os.geteuid()
    for path in _written(spec):
        found = path.lstat()
        shared = stat.S_ISREG(found.st_mode) and found.st_nlink > 1 and found.st_mode & stat.S_IROTH
        if found.st_uid == ours and not shared:
            os.chown(path, uid, gid, follow_symlinks=False)


def take_back(spec: LaunchSpec, uid: int) -> None:
    """Makes ours again what was made that user's: root without its capabilities opens nobody else's files."""
    ours, group = os.geteuid(), os.getegid()
    for path in _written(spec):
        if path.lstat().st_uid == uid:
            os.chown(path, ours, group, follow_symlinks=False)


def _written(spec: LaunchSpec) -> Iterator[Path]:
    """The folders that the engine writes to, and all that lies in them."""
    for folder in (spec.folder / "home", *spec.writable):
        for parent, _, files in os.walk(folder):
            yield Path(parent)
            yield from (Path(parent) / name for name in files)
