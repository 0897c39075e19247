"""The last snapshot on disk, so that who restarts serves before it reaches anyone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import structlog

from bridge_core.decoding import decode_json
from bridge_core.errors import BridgeError
from bridge_core.sealing import Sealer
from bridge_core.snapshot import EMPTY, Delta, Snapshot, apply, whole

log = structlog.get_logger()

_MAX_BYTES: Final = 512 * 1024 * 1024
_PURPOSE: Final = "snapshot"


def encode(snapshot: Snapshot) -> bytes:
    """The whole snapshot with its digest, as it lies sealed in the file."""
    return msgspec.json.encode(whole(snapshot))


def decode(data: bytes) -> Snapshot:
    """The snapshot in what a file holds.

    Raises:
        Undecodable: it is not what `encode` writes.
        SnapshotRejected: its entries do not match its digest.
    """
    return apply(EMPTY, decode_json(data, Delta, most=_MAX_BYTES))


def read(path: Path, sealer: Sealer) -> Snapshot:
    """The snapshot in a sealed file.

    Raises:
        BridgeError: it does not open, or is no snapshot.
        OSError: it cannot be read.
    """
    return decode(sealer.open(path.read_bytes(), _PURPOSE))


class SnapshotFile:
    """Keeps one snapshot in one file; never the reason that its owner does not start.

    Args:
        path: The file.
        sealer: What it is sealed with.
        now: The wall clock in seconds: it names damaged files that were moved aside.
    """

    def __init__(self, path: Path, sealer: Sealer, *, now: Callable[[], float]) -> None:
        self._path = path
        self._sealer = sealer
        self._now = now

    def load(self) -> Snapshot:
        """The saved snapshot; the empty one without a file or when the file is damaged.

        A damaged file is moved aside for whoever wants to look at it.
        """
        try:
            return read(self._path, self._sealer)
        except FileNotFoundError:
            return EMPTY
        except OSError as fault:
            log.warning("snapshot_unreadable", path=str(self._path), reason=fault.strerror)
        except BridgeError as fault:
            aside = self._path.with_name(f"{self._path.name}.damaged-{int(self._now())}")
            log.warning("snapshot_damaged", moved_to=str(aside), reason=str(fault))
            try:
                self._path.replace(aside)
            except OSError as kept:
                log.warning("snapshot_not_moved_aside", path=str(self._path), reason=kept.strerror)
        return EMPTY

    def write(self, snapshot: Snapshot) -> None:
        """Replaces the file, whole or not at all. Raises OSError."""
        self._sealer.write(self._path, encode(snapshot), _PURPOSE)

    def save(self, snapshot: Snapshot) -> None:
        """Replaces the file; a failure (full disk) is logged, and the old file stays."""
        try:
            self.write(snapshot)
        except OSError as fault:
            log.warning("snapshot_not_saved", path=str(self._path), reason=fault.strerror)
