"""The part of `agent.json` that names shared storage."""

from __future__ import annotations

import contextlib
import os.path
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import msgspec

from bridge_agent.models.shared.patience import Patience, StorageHangs

_LOOK_S: Final = 5.0
_SOURCE: Final = r"^(file:/[^\x00]+|credential:[A-Za-z0-9_.-]+)?$"


class SharedSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mounted folder in the layout of Ollama's store, or a bucket in the same, below the node's own disk.

    Attributes:
        path: Where the folder is mounted, absolute; empty: it is a bucket.
        publish: This node may write models into it; without, nothing is ever written there.
        timeout_s: How long one read or write may take before the storage counts as away, in seconds.
        s3: `file:/PATH` or `credential:NAME` that says which bucket, and has the key to it; empty: a folder.
    """

    path: Annotated[str, msgspec.Meta(pattern="^(/[^\x00]+)?$", max_length=4096)] = ""
    publish: bool = False
    timeout_s: Annotated[float, msgspec.Meta(ge=0.1, le=300.0)] = 20.0
    s3: Annotated[str, msgspec.Meta(pattern=_SOURCE, max_length=4096)] = ""

    @property
    def file(self) -> str:
        """The path of the file that says which bucket; empty: there is none."""
        kind, _, path = self.s3.partition(":")
        return path if kind == "file" else ""


def shared_faults(section: SharedSection | None, stores: tuple[str, ...]) -> list[str]:
    """Why this folder cannot be the tier below these models folders of the node.

    What evicts models from a node's own store must never reach the one that all share. Links are followed
    first, and the same folder by another mount counts as the same; storage that hangs is not waited for
    longer than `_LOOK_S`, and is then judged by its name.
    """
    if section is None:
        return []
    if bool(section.path) == bool(section.s3):
        return ["models.shared names a folder (path) or a bucket (s3): one of them"]
    if not section.path:
        return []
    shared = _canonical(section.path)
    return [
        f"models.shared.path {section.path} and the node's models folder {store}: one lies in the other; "
        "name a folder of its own for each"
        for store in stores
        if _one_in_the_other(shared, _canonical(store))
    ]


_Folder: TypeAlias = tuple[str, tuple[tuple[int, int], ...]]


def _canonical(path: str) -> _Folder:
    """A folder's path without links, and which folders it and those above it are, the innermost first."""
    named = os.path.normpath(path)
    try:
        return Patience(_LOOK_S).call(lambda: _looked_at(path))
    except (OSError, StorageHangs):
        return named, ()


def _looked_at(path: str) -> _Folder:
    whole = Path(os.path.realpath(path))
    found = []
    for one in (whole, *whole.parents):
        with contextlib.suppress(FileNotFoundError):
            stat = one.stat()
            found.append((stat.st_dev, stat.st_ino))
    return str(whole), tuple(found) if whole.exists() else ()


def _one_in_the_other(one: _Folder, other: _Folder) -> bool:
    (first, above_first), (second, above_second) = one, other
    if os.path.commonpath((first, second)) in {first, second}:
        return True
    return bool(above_first and above_second) and (
        above_first[0] in above_second or above_second[0] in above_first
    )
