"""A models folder whose blobs lie sealed, with the agent's side that gives engines the keys."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

from bridge_agent.models.blob_keys import BlobKeys
from bridge_agent.models.blob_sealing import How, bring_up, stored
from bridge_agent.models.blobs import Blobs
from bridge_agent.models.key_socket import KeySocket
from bridge_core.model_store.blob_keys import SOCKET
from bridge_core.sealing import open_sealer
from bridge_core.sealing.sealer import SealFolder
from tests.support import eventually


class SealedStore:
    """See the module.

    Attributes:
        root: The models folder.
        where: The keyring.
        keys: As an agent has them; `later` has them looked at anew.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "models"
        (self.root / "blobs").mkdir(parents=True, exist_ok=True)
        self.where = SealFolder(folder / "seal")
        open_sealer(self.where)
        self._now = 0.0
        self.keys = BlobKeys(lambda: self.where, now=lambda: self._now)
        self.blobs = Blobs(self.root, self.keys, sealing=True)

    def later(self) -> None:
        """So much later that the keyring is opened anew."""
        self._now += 3600.0

    def seal_all(self) -> int:
        """Seals what lies there; the bytes that were written."""
        how = How(self.root, self.keys, contextlib.nullcontext())
        return sum(bring_up(hex_, how) for hex_ in stored(self.root))

    def put(self, data: bytes) -> Path:
        """Puts a blob there in the clear; its path."""
        path = self.path(hashlib.sha256(data).hexdigest())
        path.write_bytes(data)
        return path

    def path(self, hex_: str) -> Path:
        return self.root / "blobs" / f"sha256-{hex_}"

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        """Engines are given keys."""
        task = asyncio.create_task(KeySocket(self.root, self.keys).run())
        try:
            await eventually(lambda: (self.root / SOCKET).is_socket() or task.done())
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
