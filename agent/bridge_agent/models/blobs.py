"""The blobs of one models folder, as the agent reads them. Everything here blocks: run it in threads."""

from __future__ import annotations

import os
from pathlib import Path

from bridge_agent.models.blob_files import BlobFault, open_blob, opened, said
from bridge_agent.models.blob_keys import BlobKeys
from bridge_core.errors import BridgeError
from bridge_core.model_store.open_blob import OpenBlob, is_sealed
from bridge_core.sealing.blobs import text_size


class Blobs:
    """See the module.

    Args:
        root: The models folder.
        keys: Open what is sealed; None: nothing is expected to be.
        sealing: Whether what comes is sealed with them.

    Attributes:
        root: The models folder.
        keys: As given.
        sealing: What seals what comes; None: it lies there in the clear.
    """

    def __init__(self, root: Path, keys: BlobKeys | None = None, *, sealing: bool = False) -> None:
        self.root = root
        self.keys = keys
        self.sealing = keys if sealing else None

    def open(self, hex_: str) -> OpenBlob | None:
        """A whole blob, to be closed; None where there is none that is a file of its own.

        Raises:
            BlobFault: it cannot be read, or is sealed and does not open.
        """
        handle = open_blob(self.root, hex_)
        if handle is None:
            return None
        try:
            with said(f"cannot read blob {hex_[:12]}"):
                return OpenBlob(handle, hex_, None if self.keys is None else self.keys.unseal)
        except BlobFault:
            raise
        except BridgeError as fault:  # there is no key for it
            raise BlobFault(f"cannot read blob {hex_[:12]}: {fault.message}", hint=fault.hint) from fault

    def size(self, hex_: str) -> int | None:
        """Bytes of a whole blob; None where there is none, or a sealed one that was cut. It takes no key.

        Raises:
            BlobFault: it cannot be read.
        """
        with opened(self.root, hex_) as handle, said(f"cannot read blob {hex_[:12]}"):
            if handle is None:
                return None
            length = os.fstat(handle).st_size
            return text_size(length) if is_sealed(handle) else length

    def sealed(self, hex_: str) -> bool:
        """Whether a blob is there and sealed. Raises BlobFault."""
        with opened(self.root, hex_) as handle, said(f"cannot read blob {hex_[:12]}"):
            return handle is not None and is_sealed(handle)
