"""Gives this node's engines the keys of sealed blobs as they load them (`model_store.blob_keys`).

The socket lies in the models folder and is its owner's alone: the user that the engines run as. What is given
is the key of one blob, for its header; the keyring stays here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import structlog

from bridge_agent.models.blob_files import BlobFault, give_like
from bridge_agent.models.blob_keys import BlobKeys
from bridge_agent.models.blob_sealing import stored
from bridge_agent.models.blobs import Blobs
from bridge_core.decoding import Undecodable, decode_json
from bridge_core.errors import BridgeError
from bridge_core.model_store.blob_keys import MOST_QUESTION, SOCKET, KeyAsked, KeyGiven

log = structlog.get_logger()

_PATIENCE_S: Final = 5.0  # for a question to come, or an answer to be taken
_AT_ONCE: Final = 16


class KeySocket:
    """See the module.

    Args:
        root: The models folder.
        keys: Gives what is asked for.
        sealing: Whether the node seals its blobs; else there may be sealed ones of a time when it did.
    """

    def __init__(self, root: Path, keys: BlobKeys, *, sealing: bool = True) -> None:
        self._root = root
        self._keys = keys
        self._sealing = sealing

    async def run(self) -> None:
        """Answers engines until cancelled; run it as a task. Ends at once where nothing is sealed.

        Raises:
            BridgeError: the socket cannot be made.
        """
        if not self._sealing and not await asyncio.to_thread(self._any_sealed):
            return
        loop = asyncio.get_running_loop()
        turns = asyncio.Semaphore(_AT_ONCE)
        with self._listening() as listener:
            async with asyncio.TaskGroup() as group:
                while True:
                    await turns.acquire()
                    connection, _ = await loop.sock_accept(listener)
                    task = group.create_task(self._answer(connection), name="blob-key")
                    task.add_done_callback(lambda _: turns.release())

    def _any_sealed(self) -> bool:
        blobs = Blobs(self._root)
        try:
            return any(blobs.sealed(hex_) for hex_ in stored(self._root))
        except BlobFault:  # no store yet, or none that can be read
            return False

    @contextlib.contextmanager
    def _listening(self) -> Iterator[socket.socket]:
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            folder = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as fault:
            raise BridgeError(f"cannot use {self._root}: {fault.strerror}") from fault
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as listener:
            try:
                self._bind(listener, folder)
            except OSError as fault:
                raise BridgeError(
                    f"engines cannot be given keys at {self._root / SOCKET}: {fault.strerror or fault}",
                    hint="remove what lies there",
                ) from fault
            finally:
                os.close(folder)
            listener.setblocking(False)
            yield listener
        # What lies there now is dead: whoever comes next replaces it.

    @staticmethod
    def _bind(listener: socket.socket, folder: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.stat(SOCKET, dir_fd=folder, follow_symlinks=False).st_mode):
                os.unlink(SOCKET, dir_fd=folder)  # an earlier agent's
        # The kernel gives the name the mode that the socket has: at no moment may others connect.
        os.fchmod(listener.fileno(), 0o600)
        where = f"/proc/self/fd/{folder}/{SOCKET}"  # a path of its own may be too long for an address
        listener.bind(where)
        give_like(folder, Path(where))
        listener.listen(_AT_ONCE)

    async def _answer(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with connection:
            connection.setblocking(False)
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    data = b""
                    while not data.endswith(b"\n") and len(data) <= MOST_QUESTION:
                        more = await loop.sock_recv(connection, 1 << 16)
                        if not more:
                            return
                        data += more
                given = await asyncio.to_thread(self._given, data)
                async with asyncio.timeout(_PATIENCE_S):
                    await loop.sock_sendall(connection, msgspec.json.encode(given) + b"\n")
            except (OSError, TimeoutError):
                return  # it left; an engine asks again

    def _given(self, data: bytes) -> KeyGiven:
        try:
            asked = decode_json(data, KeyAsked, most=MOST_QUESTION)
            key = self._keys.unseal(asked.digest, asked.header)
        except Undecodable as fault:
            return KeyGiven(fault=f"that is no question for a key: {fault}"[:2048])
        except BridgeError as fault:
            log.warning("blob_key_not_given", reason=str(fault))
            return KeyGiven(fault=str(fault)[:2048])
        log.info("blob_key_given", blob=asked.digest[:12])
        return KeyGiven(key.secret, key.size)
