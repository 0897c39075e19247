"""Writes a model into a folder that all nodes read, or removes it there. Blocks: run it in threads.

The rules are those of `TierWriting`; this is how a folder keeps them:

1. A blob is written under a name of its own in `bridge-partial`, synced, and renamed.
2. A manifest is renamed into its place.
3. The look at the mark, the look at the lease and the rename are under `flock` on the fence. Where a file
   system refuses locks the mark and the lease stand alone, and a writer that stops in the microseconds
   between look and rename could still replace a newer manifest by its older one; never by one in parts.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from bridge_agent.models.blob_content import write_all
from bridge_agent.models.piece_rules import piece_count, span
from bridge_agent.models.shared import fence_files
from bridge_agent.models.shared.fence_files import FENCES, NEW
from bridge_agent.models.shared.patience import Patience, is_left
from bridge_agent.models.shared.steps import Steps
from bridge_agent.models.shared.storage import PublishFault, is_right, of_its_digest
from bridge_agent.models.shared.tier_files import FOLDER, MANIFESTS, below, open_regular
from bridge_core.errors import BridgeError
from bridge_core.files import read_at
from bridge_core.names import ModelName

T = TypeVar("T")

PARTIAL: Final = "bridge-partial"
_SYNC_EVERY: Final = 64  # pieces: of many the last sync would take longer than one step may
_SYNC_S: Final = 600.0
_OLD_S: Final = 86_400.0  # what a writer that died left behind


class TierWriter:
    """Writes into one tier; see `TierWriting`.

    Args:
        root: Its folder.
        patience: Runs the steps.
    """

    def __init__(self, root: Path, patience: Patience) -> None:
        self._root = root
        self._steps = Steps(lambda: str(root), patience)

    def identity(self) -> str:
        """See `TierWriting`."""
        return self._steps.do("use", partial(fence_files.identity, self._root))

    def claim(self, name: ModelName, mark: str, valid: Callable[[], bool]) -> None:
        """See `TierWriting`."""
        self._steps.do("use", partial(fence_files.claim, self._root, name, mark, valid))

    def tidy(self) -> None:
        """See `TierWriting`."""
        self._steps.do("use", self._tidy)

    def blob(
        self, hex_: str, size: int, read: Callable[[int], bytes], *, goes_on: Callable[[int], None]
    ) -> None:
        """See `TierWriting`."""
        if self._is_there(hex_, size, goes_on):
            return
        name = f"{hex_}.{secrets.token_hex(8)}"
        try:
            self._write(name, hex_, size, read, goes_on)
            self._steps.do("write", partial(self._named, name, f"sha256-{hex_}"))
        except BaseException:
            with contextlib.suppress(BridgeError):
                self._steps.do("clean up", partial(self._forgotten, name))
            raise

    def list_model(self, name: ModelName, data: bytes, mark: str, valid: Callable[[], bool]) -> None:
        """See `TierWriting`."""
        temporary = f"manifest.{secrets.token_hex(8)}"

        def work() -> None:
            file = self._created(temporary)
            try:
                write_all(file, 0, data)
                os.fsync(file)
                with fence_files.claimed(self._root, name, mark, valid):
                    self._listed(temporary, name)
            except BaseException:
                self._forgotten(temporary)
                raise
            finally:
                os.close(file)

        self._steps.do("write", work, within_s=_SYNC_S)

    def unlist(self, name: ModelName, place: str, mark: str, valid: Callable[[], bool]) -> None:
        """See `TierWriting`."""

        def work() -> None:
            *parts, tag = place.split("/")
            with (
                fence_files.claimed(self._root, name, mark, valid),
                below(self._root, MANIFESTS, *parts) as folder,
            ):
                _remove(tag, folder)

        self._steps.do("write", work, within_s=_SYNC_S)

    def remove_blob(self, hex_: str) -> None:
        """See `TierWriting`."""

        def work() -> None:
            with below(self._root, "blobs") as folder:
                _remove(f"sha256-{hex_}", folder)

        self._steps.do("write", work, within_s=_SYNC_S)

    def _write(
        self, name: str, hex_: str, size: int, read: Callable[[int], bytes], goes_on: Callable[[int], None]
    ) -> None:
        file = _Opened(self._steps, self._steps.do("write", partial(self._created, name), late=_close))
        try:
            whole = hashlib.sha256()
            for piece in range(piece_count(size)):
                data, (offset, _) = read(piece), span(size, piece)
                whole.update(data)
                file.step("write", partial(write_all, file.handle, offset, data))
                if piece % _SYNC_EVERY == _SYNC_EVERY - 1:
                    file.step("write", partial(os.fsync, file.handle), within_s=_SYNC_S)
                goes_on(offset + len(data))
            of_its_digest(whole.hexdigest(), hex_)
            file.step("write", partial(os.fsync, file.handle), within_s=_SYNC_S)
        finally:
            file.close()

    def _is_there(self, hex_: str, size: int, goes_on: Callable[[int], None]) -> bool:
        found = self._steps.do("read", partial(self._found, hex_, size), late=_close)
        if found is None:
            return False
        file = _Opened(self._steps, found)
        try:

            def read(offset: int, length: int) -> bytes:
                return file.step("read", partial(read_at, file.handle, offset, length))

            return is_right(hex_, size, read, goes_on=goes_on)
        finally:
            file.close()

    # -- what runs in the threads

    def _found(self, hex_: str, size: int) -> int | None:
        with below(self._root, "blobs") as folder:
            file = open_regular(f"sha256-{hex_}", folder)
        if file is not None and os.fstat(file).st_size != size:
            os.close(file)
            return None
        return file

    def _tidy(self) -> None:
        for name in ("blobs", MANIFESTS, PARTIAL, FENCES):
            with below(self._root) as root:
                _make_folder(name, root)
        old = time.time() - _OLD_S
        with below(self._root, PARTIAL) as folder:
            for name in os.listdir(folder):  # noqa: PTH208 - of a descriptor, which no link can move
                with contextlib.suppress(FileNotFoundError):
                    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                    if stat.S_ISREG(found.st_mode) and found.st_mtime < old:
                        os.unlink(name, dir_fd=folder)

    def _created(self, name: str) -> int:
        with below(self._root, PARTIAL) as folder:
            file = os.open(name, NEW, 0o644, dir_fd=folder)
        os.fchmod(file, 0o644)  # whatever this process's mask: all nodes read it
        return file

    def _forgotten(self, name: str) -> None:
        with below(self._root, PARTIAL) as folder, contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)

    def _named(self, name: str, final: str) -> None:
        with below(self._root, PARTIAL) as source, below(self._root, "blobs") as target:
            os.rename(name, final, src_dir_fd=source, dst_dir_fd=target)
            os.fsync(target)

    def _listed(self, temporary: str, name: ModelName) -> None:
        parts = (MANIFESTS, name.host, name.namespace, name.model)
        for depth in range(1, len(parts)):
            with below(self._root, *parts[:depth]) as folder:
                _make_folder(parts[depth], folder)
                os.fsync(folder)
        with below(self._root, PARTIAL) as source, below(self._root, *parts) as target:
            os.rename(temporary, name.tag, src_dir_fd=source, dst_dir_fd=target)
            os.fsync(target)


class _Opened:
    """An open file, which the thread closes that hangs on it."""

    def __init__(self, steps: Steps, handle: int) -> None:
        self._steps = steps
        self._left = False
        self.handle = handle

    def step(self, doing: str, work: Callable[[], T], *, within_s: float = 0.0) -> T:
        """A step on it. Raises PublishFault."""
        try:
            return self._steps.do(doing, work, late=lambda _: os.close(self.handle), within_s=within_s)
        except PublishFault as fault:
            self._left = is_left(fault)
            raise

    def close(self) -> None:
        """Closes it; what that fails with was told by the last sync, if it matters."""
        if not self._left:
            with contextlib.suppress(BridgeError):
                self._steps.do("close", partial(os.close, self.handle))


def _make_folder(name: str, folder: int) -> None:
    """A folder that all nodes may read, whatever this process's mask; one that is there stays as it is."""
    try:
        os.mkdir(name, 0o755, dir_fd=folder)
    except FileExistsError:
        return
    made = os.open(name, FOLDER, dir_fd=folder)
    try:
        os.fchmod(made, 0o755)
    finally:
        os.close(made)


def _remove(name: str, folder: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
    os.fsync(folder)


def _close(file: int | None) -> None:
    if file is not None:
        os.close(file)
