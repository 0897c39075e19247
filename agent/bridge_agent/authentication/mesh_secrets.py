"""What the mesh tells its agents beside the snapshot, and nobody else: in memory, and in a file of mode 0600.

It is kept on disk so that an agent which is restarted while no registry answers knows API keys again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
import structlog

from bridge_core.decoding import Undecodable, decode_json
from bridge_core.files import write_atomically
from bridge_core.identity.api_keys import PEPPER, PEPPER_BYTES, Pepper
from bridge_core.snapshot import Snapshot

log = structlog.get_logger()

_MOST: Final = 64  # secrets
_MOST_BYTES: Final = 64 * 1024  # of all of them


class MeshSecrets:
    """The present secrets.

    Args:
        path: Where they are kept; None: nowhere.

    Attributes:
        pepper: Of API keys; None: not told yet.
    """

    __slots__ = ("_path", "_secrets", "pepper")

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._secrets: Mapping[str, bytes] = {}
        self.pepper: Pepper | None = None
        if path is not None:
            self._set(_read(path))

    def take(self, secrets: Mapping[str, bytes]) -> None:
        """Takes over what the mesh says now, and keeps it."""
        if secrets == self._secrets:
            return
        if len(secrets) > _MOST or sum(map(len, secrets.values())) > _MOST_BYTES:
            log.error("mesh_secrets_not_taken", reason=f"more than {_MOST}, or more than {_MOST_BYTES} bytes")
            return
        self._set(secrets)
        log.info("mesh_secrets_taken", names=sorted(secrets))
        if self._path is None:
            return
        try:
            write_atomically(self._path, msgspec.json.encode(dict(secrets)))
        except OSError as fault:
            log.warning("mesh_secrets_not_saved", path=str(self._path), reason=fault.strerror)

    def concerns(self, snapshot: Snapshot) -> list[str]:
        """What an operator should know, in a mesh of which this is the snapshot."""
        if self.pepper is not None or not snapshot.clients:
            return []
        return ["no API key can be checked here: no registry has told this node yet how (clients get 503)"]

    def _set(self, secrets: Mapping[str, bytes]) -> None:
        self._secrets = secrets
        pepper = secrets.get(PEPPER, b"")
        self.pepper = Pepper(pepper) if len(pepper) == PEPPER_BYTES else None


def _read(path: Path) -> dict[str, bytes]:
    try:
        return decode_json(path.read_bytes(), dict[str, bytes])
    except FileNotFoundError:
        return {}
    except (OSError, Undecodable) as fault:  # the next registry tells them anew
        log.warning("mesh_secrets_unreadable", path=str(path), reason=str(fault))
        return {}
