"""The last published snapshot on disk: what a registry serves that starts while the store is away."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import structlog

from bridge_core.files import write_atomically
from bridge_core.snapshot import Snapshot, SnapshotRejected, Version

log = structlog.get_logger()


class _File(msgspec.Struct):
    epoch: int
    revision: int
    entries: dict[str, msgspec.Raw]
    sha256: str


def save(path: Path, snapshot: Snapshot) -> None:
    """Replaces the file.

    Raises:
        OSError: it cannot be written; the former stays.
    """
    content = _File(
        snapshot.version.epoch,
        snapshot.version.revision,
        {key: msgspec.Raw(value) for key, value in snapshot.entries.items()},
        hashlib.sha256(snapshot.digest).hexdigest(),
    )
    write_atomically(path, msgspec.json.encode(content))


def restore(path: Path) -> Snapshot:
    """The snapshot in the file; an empty one when there is none or it is damaged (logged)."""
    try:
        return _decode(path.read_bytes())
    except FileNotFoundError:
        return Snapshot(Version(), {})
    except (OSError, msgspec.DecodeError, SnapshotRejected) as fault:
        log.warning("snapshot_file_unusable", path=str(path), reason=str(fault))
        return Snapshot(Version(), {})


def _decode(data: bytes) -> Snapshot:
    content = msgspec.json.decode(data, type=_File)
    entries = {key: bytes(value) for key, value in content.entries.items()}
    snapshot = Snapshot(Version(content.epoch, content.revision), entries)
    if hashlib.sha256(snapshot.digest).hexdigest() != content.sha256:
        raise SnapshotRejected("its checksum is wrong")
    _ = snapshot.mesh, snapshot.nodes, snapshot.instances, snapshot.routes
    return snapshot
