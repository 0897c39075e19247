"""What the mesh tells its agents beside the snapshot, and nobody else: in memory, and sealed in a file.

It is kept on disk so that an agent which is restarted while no registry answers knows API keys again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
import structlog

from bridge_core.decoding import Undecodable, decode_json
from bridge_core.identity.api_keys import PEPPER, PEPPER_BYTES, Pepper
from bridge_core.sealing import SealBroken, Sealer
from bridge_core.snapshot import Snapshot

log = structlog.get_logger()

_MOST: Final = 64  # secrets
_MOST_BYTES: Final = 64 * 1024  # of all of them
_PURPOSE: Final = "mesh secrets"


class MeshSecrets:
    """The present secrets.

    Args:
        file: Where they are kept, and what seals them; None: nowhere.

    Attributes:
        pepper: Of API keys; None: not told yet.
    """

    __slots__ = ("_file", "_secrets", "pepper")

    def __init__(self, file: tuple[Path, Sealer] | None = None) -> None:
        self._file = file
        self._secrets: Mapping[str, bytes] = {}
        self.pepper: Pepper | None = None
        if file is not None:
            self._set(_read(*file))

    def take(self, secrets: Mapping[str, bytes]) -> None:
        """Takes over what the mesh says now, and keeps it."""
        if secrets == self._secrets:
            return
        if len(secrets) > _MOST or sum(map(len, secrets.values())) > _MOST_BYTES:
            log.error("mesh_secrets_not_taken", reason=f"more than {_MOST}, or more than {_MOST_BYTES} bytes")
            return
        self._set(secrets)
        log.info("mesh_secrets_taken", names=sorted(secrets))
        if self._file is None:
            return
        path, sealer = self._file
        try:
            sealer.write(path, msgspec.json.encode(dict(secrets)), _PURPOSE)
        except OSError as fault:
            log.warning("mesh_secrets_not_saved", path=str(path), reason=fault.strerror)

    def concerns(self, snapshot: Snapshot) -> list[str]:
        """What an operator should know, in a mesh of which this is the snapshot."""
        if self.pepper is not None or not snapshot.clients:
            return []
        return ["no API key can be checked here: no registry has told this node yet how (clients get 503)"]

    def _set(self, secrets: Mapping[str, bytes]) -> None:
        self._secrets = secrets
        pepper = secrets.get(PEPPER, b"")
        self.pepper = Pepper(pepper) if len(pepper) == PEPPER_BYTES else None


def _read(path: Path, sealer: Sealer) -> dict[str, bytes]:
    try:
        return decode_json(sealer.open(path.read_bytes(), _PURPOSE), dict[str, bytes])
    except FileNotFoundError:
        return {}
    except (OSError, Undecodable, SealBroken) as fault:  # the next registry tells them anew
        log.warning("mesh_secrets_unreadable", path=str(path), reason=str(fault))
        return {}
