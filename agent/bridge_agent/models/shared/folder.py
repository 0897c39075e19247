"""A mounted folder in the layout of Ollama's store, as a tier."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bridge_agent.models.shared import tier_files
from bridge_agent.models.shared.patience import Patience
from bridge_agent.models.shared.storage import Listed, Stamp
from bridge_agent.models.shared.tier_writes import TierWriter
from bridge_core.files import read_at


class FolderBlob:
    """A blob of it that is open; see `OpenBlob`.

    Attributes:
        handle: Its descriptor.
    """

    def __init__(self, handle: int, stamp: Stamp) -> None:
        self.handle: Final = handle
        self._stamp = stamp

    @property
    def stamp(self) -> Stamp:
        """See `OpenBlob`."""
        return self._stamp

    def read(self, offset: int, length: int) -> bytes:
        """See `OpenBlob`."""
        data = read_at(self.handle, offset, length)
        # It lies in this node's own store soon: once in the page cache is enough.
        os.posix_fadvise(self.handle, offset, length, os.POSIX_FADV_DONTNEED)
        return data

    def close(self) -> None:
        """See `OpenBlob`."""
        os.close(self.handle)


class FolderStorage:
    """The folder; see `Storage`.

    Args:
        root: Where it is mounted.
    """

    def __init__(self, root: Path) -> None:
        self.root: Final = root

    @property
    def where(self) -> str:
        """See `Storage`."""
        return str(self.root)

    @property
    def ahead(self) -> int:
        """See `Storage`: the kernel reads ahead."""
        return 1

    def manifest_at(self, place: str) -> bytes | None:
        """See `Storage`."""
        return tier_files.manifest_at(self.root, place)

    def listed(self) -> Iterator[Listed]:
        """See `Storage`."""
        return tier_files.listed(self.root)

    def open(self, hex_: str) -> FolderBlob | None:
        """See `Storage`."""
        found = tier_files.open_blob(self.root, hex_)
        return None if found is None else FolderBlob(*found)

    def writer(self, patience: Patience) -> TierWriter:
        """See `Storage`."""
        return TierWriter(self.root, patience)
