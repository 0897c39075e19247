"""Shared storage as this node reads it: manifests and blobs of others, believed only by their digests.

Its methods block, for no longer than the storage may take (`patience`): run them in threads.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Final, TypeVar

import msgspec
import structlog

from bridge_agent.models.blob_files import BlobFault, hash_all, read_piece
from bridge_agent.models.shared.patience import MOST, Patience, StorageHangs, is_left
from bridge_agent.models.shared.section import SharedSection
from bridge_agent.models.shared.standing_rules import Standing
from bridge_agent.models.shared.storage import (
    Listed,
    OpenBlob,
    PublishFault,
    Stamp,
    Storage,
    TierWriting,
    TooMany,
    manifest_in,
    reason_of,
)
from bridge_agent.models.shared.storages import storage_of
from bridge_core.errors import BridgeError, Reaction
from bridge_core.model_answers import SharedCounts, SharedSaid
from bridge_core.names import ModelName

log = structlog.get_logger()

T = TypeVar("T")

_MOST_WRONG: Final = 4096  # blobs that are remembered as wrong
_MOST_LISTED: Final = 1024  # models that are named of all that lie there


class TierFault(BridgeError):
    """The shared storage did not give what it was asked for."""

    reaction = Reaction.ELSEWHERE


class TierLacks(TierFault):
    """It does not have that, or what it has by that name is known to be wrong."""


class _Wrong(msgspec.Struct, frozen=True):
    """A file that is not the blob of its name with `size` bytes.

    A manifest says that size, and whoever made it may have lied: for another size the file may be right.
    """

    stamp: Stamp
    size: int


class SharedTier:
    """Reads one tier.

    Args:
        section: Where it is.
        now: Monotonic seconds.
        patience: Runs what may hang; None: one with the section's time-out.
        storage: What is there; None: what the section names.

    Attributes:
        storage: What is there.
    """

    def __init__(
        self,
        section: SharedSection,
        now: Callable[[], float] = time.monotonic,
        patience: Patience | None = None,
        storage: Storage | None = None,
    ) -> None:
        self.section: Final = section
        self.storage: Final = storage or storage_of(section, os.environ)
        self.patience: Final = patience or Patience(section.timeout_s, MOST * self.storage.ahead)
        self._now = now
        self._lock = threading.Lock()  # of all below
        self._standing = Standing()
        self._wrong: dict[str, _Wrong] = {}
        self._models: tuple[str, ...] = ()
        self._taken = self._given = self._lacked = self._wrongs = 0

    @property
    def where(self) -> str:
        """For people: what they call it."""
        return self.storage.where

    @property
    def ahead(self) -> int:
        """How many pieces of a blob are read at one time."""
        return self.storage.ahead

    def may_write(self) -> None:
        """Raises PublishFault: this node may not."""
        if not self.section.publish:
            raise PublishFault(
                f"this node may not write into {self.where}",
                hint='"publish": true in models.shared of its agent.json lets it, where it is writable',
            )

    def writer(self) -> TierWriting:
        """Writes there."""
        return self.storage.writer(self.patience)

    # -- what it has

    def manifest(self, name: ModelName) -> bytes | None:
        """A model's manifest as it lies there; None: there is none, or the storage is away."""
        try:
            return self._ask(lambda: manifest_in(self.storage, name))
        except TierFault:
            return None

    def open(self, hex_: str, size: int) -> TierBlob:
        """A blob of so many bytes, to be closed.

        Raises:
            TierLacks: there is none of that size, or the file there is known to be wrong.
            TierFault: the storage is away.
        """
        found = self._ask(lambda: self.storage.open(hex_), late=_close)
        if found is None:
            with self._lock:
                self._lacked += 1
            raise TierLacks(f"the shared storage {self.where} does not have blob {hex_[:12]}")
        stamp = found.stamp
        with self._lock:
            known = self._wrong.get(hex_) == _Wrong(stamp, size)
            if not known:  # another file lies there by now, or it was of another size that it was said to be
                self._wrong.pop(hex_, None)
        if stamp.size == size and not known:
            return TierBlob(self, found, hex_, size)
        self.close(found)
        if not known:
            self._is_wrong(hex_, _Wrong(stamp, size), f"it has {stamp.size} bytes and not {size}")
        raise TierLacks(f"what the shared storage {self.where} has as blob {hex_[:12]} is wrong")

    def doubt(self, hex_: str, size: int, stopped: Callable[[], bool]) -> bool:
        """A whole of which pieces came from here had another digest: reads the file; False: it is wrong.

        Blocks for as long as that takes, or until `stopped`. A storage that goes away meanwhile has not shown
        that it is right.
        """
        try:
            blob = self.open(hex_, size)
        except TierFault:
            return False
        try:
            if hash_all(blob.read, size, stopped)[0] == hex_ or stopped():
                return True
        except (TierFault, BlobFault):
            return False
        finally:
            blob.close()
        self._is_wrong(hex_, _Wrong(blob.stamp, size), "its bytes have another digest")
        return False

    def manifests(self) -> Iterator[tuple[Listed, bytes | None]]:
        """All that lie there, one after the other; None: one that cannot be read.

        Raises:
            TierFault: the storage is away, or holds more than is looked through.
        """

        def all_() -> list[Listed] | TooMany:
            try:
                return list(self.storage.listed())
            except TooMany as fault:
                return fault

        listed = self._ask(all_)
        if isinstance(listed, TooMany):
            raise TierFault(str(listed))
        for one in listed:
            yield one, self._ask(partial(self.storage.manifest_at, one.place))

    def look(self) -> None:
        """Lists what lies there, and whether it answers; what came of it is in `said`."""
        try:
            found = self._ask(self._names)
        except TierFault:
            return
        with self._lock:
            self._models, wrong = found, list(self._wrong.items())
        for hex_, one in wrong:
            self._look_again(hex_, one.stamp)

    def _names(self) -> tuple[str, ...]:
        found: list[str] = []
        with contextlib.suppress(TooMany):
            names = (one.name.short() for one in self.storage.listed() if one.name is not None)
            found.extend(islice(names, _MOST_LISTED))
        return tuple(found)

    def _look_again(self, hex_: str, stamp: Stamp) -> None:
        """Whether a blob that was wrong has been put right."""
        try:
            found = self._ask(lambda: self.storage.open(hex_), late=_close)
        except TierFault:
            return
        if found is not None:
            self.close(found)
        if found is None or found.stamp != stamp:
            self.mended(hex_)

    # -- what is said of it

    def said(self) -> SharedSaid:
        """How it stands."""
        with self._lock:
            counts = SharedCounts(
                self._given, self._taken, self._lacked, self._wrongs, self._standing.faults, len(self._wrong)
            )
            return SharedSaid(
                self.where[:256],
                self.section.publish,
                self._standing.fault,
                self.patience.hanging,
                counts,
                self._models,
            )

    def concerns(self) -> list[str]:
        """What an operator should know of it, a sentence each."""
        with self._lock:
            fault, wrong = self._standing.fault, sorted(self._wrong)
        found = []
        if fault:
            found.append(
                f"the shared storage {self.where} is away: {fault}; models come from other nodes and "
                "their registries meanwhile"
            )
        if wrong:
            found.append(
                f"the shared storage {self.where} holds {len(wrong)} blobs that are wrong "
                f"(sha256-{wrong[0][:12]}…): publish their models again with `bridgectl models publish`"
            )
        return found

    # -- inside

    def _ask(self, work: Callable[[], T], late: Callable[[T | None], None] = lambda _: None) -> T:
        """What `work` returns, while the storage is asked at all. Raises TierFault."""
        with self._lock:
            asks, why = self._standing.asks(self._now()), self._standing.fault
        if not asks:
            raise TierFault(f"the shared storage {self.where} is away: {why}")
        try:
            result = self.patience.call(work, late=late)
        except (OSError, StorageHangs) as fault:
            said = reason_of(fault) if isinstance(fault, OSError) else fault.message
            self._failed(said)
            raise TierFault(f"the shared storage {self.where} is away: {said}") from fault
        with self._lock:
            back = bool(self._standing.fault)
            self._standing.answered()
        if back:
            log.info("shared_storage_back", path=self.where)
        return result

    def _failed(self, why: str) -> None:
        with self._lock:
            news = self._standing.failed(why, self._now())
        if news:
            log.warning("shared_storage_away", path=self.where, reason=why)

    def _is_wrong(self, hex_: str, one: _Wrong, why: str) -> None:
        with self._lock:
            if len(self._wrong) >= _MOST_WRONG:
                del self._wrong[next(iter(self._wrong))]
            self._wrong[hex_] = one
            self._wrongs += 1
        log.warning("shared_blob_wrong", path=self.where, blob=hex_[:12], reason=why)

    def read(self, file: OpenBlob, offset: int, length: int) -> bytes:
        """Bytes of an open blob, which is closed where that read hangs; see `TierBlob`. Raises TierFault."""
        data = self._ask(lambda: file.read(offset, length), late=lambda _: _close(file))
        with self._lock:
            self._taken += len(data)
        return data

    def answers(self) -> None:
        """Something was written there just now: it is not away, whatever was thought before."""
        with self._lock:
            self._standing.answered()

    def mended(self, hex_: str) -> None:
        """A blob there was written anew, or is gone."""
        with self._lock:
            self._wrong.pop(hex_, None)

    def gave(self) -> None:
        """A blob came from here, as far as it did not come from nodes, and had its digest."""
        with self._lock:
            self._given += 1

    def close(self, file: OpenBlob) -> None:
        """Closes a blob, without waiting for it: that, too, may hang."""
        threading.Thread(target=_close, args=(file,), daemon=True, name="shared-storage-close").start()


class TierBlob:
    """One blob of the tier, open. Close it.

    Attributes:
        file: It; None once it is closed, or left to the thread that hangs on it.
        stamp: As it was when it was opened.
        ahead: How many of its pieces may be read at one time.
    """

    def __init__(self, tier: SharedTier, file: OpenBlob, hex_: str, size: int) -> None:
        self._tier = tier
        self._hex = hex_
        self.file: OpenBlob | None = file
        self.stamp: Final = file.stamp
        self.ahead: Final = tier.ahead
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        """The bytes there; fewer where the blob was cut. Raises TierFault: the storage is away."""
        file = self.file
        if file is None:
            raise TierFault(f"blob {self._hex[:12]} of the shared storage is closed")
        try:
            return self._tier.read(file, offset, length)
        except TierFault as fault:
            if is_left(fault):
                self.file = None  # the thread that hangs on it closes it
            raise

    def piece(self, piece: int) -> bytes:
        """A piece of it. Raises TierFault: the storage is away, or the blob was cut."""
        try:
            return read_piece(self.read, self.size, piece)
        except BlobFault as fault:
            raise TierFault(f"blob {self._hex[:12]} of the shared storage: {fault.message}") from fault

    def close(self) -> None:
        """Lets go of it."""
        file, self.file = self.file, None
        if file is not None:
            self._tier.close(file)


def _close(file: OpenBlob | None) -> None:
    if file is not None:
        with contextlib.suppress(OSError):
            file.close()
