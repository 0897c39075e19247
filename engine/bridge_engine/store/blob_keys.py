"""Asks this node's agent for keys of sealed blobs (`model_store.blob_keys`). Blocks: use it in threads."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bridge_core.decoding import Undecodable, decode_json
from bridge_core.errors import BridgeError
from bridge_core.model_store.blob_keys import MOST_ANSWER, PATIENCE_S, SOCKET, KeyAsked, KeyGiven

if TYPE_CHECKING:
    from bridge_core.sealing.blobs import BlobKey


class KeyNotGiven(BridgeError):
    """A sealed blob cannot be opened: the agent does not give its key, or does not answer."""


class AskedKeys:
    """Unseals what the agent gives the key of, see `open_blob.Unseal`; keeps none.

    Args:
        models: The models folder: the agent's socket lies there.
        patience_s: How long an answer may take.
    """

    def __init__(self, models: Path, patience_s: float = PATIENCE_S) -> None:
        self._models = models
        self._patience_s = patience_s

    def __call__(self, hex_: str, header: bytes) -> BlobKey:
        """The key of the blob of a digest with this header.

        Raises:
            KeyNotGiven: in the agent's words, or that it does not answer.
        """
        from bridge_core.sealing.blobs import BlobKey  # cryptography is large, and few need it

        question = msgspec.json.encode(KeyAsked(hex_, header)) + b"\n"
        try:
            given = decode_json(self._asked(question), KeyGiven, most=MOST_ANSWER)
        except (OSError, Undecodable) as fault:
            raise KeyNotGiven(
                f"blob {hex_[:12]} is sealed, and the agent at {self._models / SOCKET} gives no key: {fault}",
                hint="the agent whose models folder this is has to run: `bridge-agent status`",
            ) from fault
        if given.fault or len(given.secret) != 32:
            raise KeyNotGiven(f"blob {hex_[:12]} is sealed: {given.fault or 'the agent gave no key'}")
        return BlobKey(bytes.fromhex(hex_), given.size, given.secret)

    def _asked(self, question: bytes) -> bytes:
        folder = os.open(self._models, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(self._patience_s)
                # A path of its own may be too long for an address.
                connection.connect(f"/proc/self/fd/{folder}/{SOCKET}")
                connection.sendall(question)
                with connection.makefile("rb") as answer:
                    return answer.readline(MOST_ANSWER + 1)
        finally:
            os.close(folder)
