"""What a program seals with: its keyring, opened once at its start.

Beside the state that it seals lie, in a folder of their own:

    keyring     the data keys, sealed under the key-encryption key (KEK)
    kek         the KEK, where no other source was named: made at the first start, 0600

A KEK beside the state protects a backup, a stolen disk or an image that holds the one without the
other. It does not protect from root on this machine, nor where both are copied together; that takes a
source elsewhere (`key_source`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from bridge_core.errors import Fatal
from bridge_core.files import sync_folder, write_atomically
from bridge_core.sealing import files, framing, keyring
from bridge_core.sealing.key_source import KeySource
from bridge_core.sealing.keyring import ID_BYTES, DataKey, Keyring

_KEK: Final = "kek"
_NEXT: Final = "kek.next"


class SealFolder(msgspec.Struct, frozen=True):
    """Where a program's keyring lies, and where its KEK comes from.

    Attributes:
        folder: Holds the keyring.
        source: Where the KEK comes from; None: `kek` in the same folder.
    """

    folder: Path
    source: KeySource | None = None

    @property
    def keyring(self) -> Path:
        """The file of the data keys."""
        return self.folder / "keyring"

    @property
    def kek(self) -> KeySource:
        """Where the KEK comes from."""
        return self.source or KeySource("file", str((self.folder / _KEK).absolute()))

    @property
    def next_kek(self) -> KeySource:
        """Where a KEK of our own lies while it takes the place of the former one."""
        return KeySource("file", str((self.folder / _NEXT).absolute()))


class Sealer:
    """Seals and opens what a program keeps. Not changed while it runs: a rotation is seen at its next start.

    Args:
        ring: The data keys.
    """

    def __init__(self, ring: Keyring) -> None:
        self._ring = ring

    @property
    def ring(self) -> Keyring:
        """The data keys."""
        return self._ring

    def seal(self, text: bytes, purpose: str) -> bytes:
        """`text`, sealed for one purpose: it opens for no other."""
        return files.seal_bytes(self._ring, purpose, os.urandom(framing.SALT_BYTES), text)

    def open(self, sealed: bytes, purpose: str) -> bytes:
        """What `seal` got.

        Raises:
            SealBroken: it was changed, or is of another keyring or purpose.
        """
        return files.open_bytes(self._ring, purpose, sealed)

    def write(self, path: Path, text: bytes, purpose: str) -> None:
        """Replaces a file by the sealed text, whole or not at all. Raises OSError."""
        write_atomically(path, self.seal(text, purpose))


def open_sealer(where: SealFolder, environment: Mapping[str, str] | None = None) -> Sealer:
    """A program's sealer; keyring and, without a source named, KEK are made at its first start.

    Args:
        where: Keyring and KEK.
        environment: Names systemd's credentials and is passed to commands; None: this process's own.

    Raises:
        Fatal: the KEK is not to be had or another one, or the keyring is damaged; says which file, and
            what to do.
    """
    environment = os.environ if environment is None else environment
    try:
        where.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not where.keyring.exists():
            return Sealer(_first_ring(where, environment))
        return Sealer(_load(where, environment))
    except OSError as fault:
        raise Fatal(
            f"cannot use {fault.filename or where.folder}: {fault.strerror or fault}",
            hint="check who owns the state dir and that the disk is not full",
        ) from fault


def read_ring(where: SealFolder, environment: Mapping[str, str] | None = None) -> Keyring:
    """The data keys as they are now, for a program that runs: nothing is made, and nothing written.

    `open_sealer` ends a rotation that was interrupted; to a rotation under way this here is no hindrance.

    Raises:
        Fatal: there is no keyring, or the KEK is not to be had, or another one.
    """
    environment = os.environ if environment is None else environment
    try:
        if _is_changing(where):
            return _with_either(where, environment)[0]
        return _with(where.kek, where, environment)
    except OSError as fault:
        raise Fatal(
            f"cannot read the keyring {where.keyring}: {fault.strerror or fault}",
            hint="restore it from a backup: what it has the keys of opens with nothing else",
        ) from fault


def new_data_key(where: SealFolder, environment: Mapping[str, str] | None = None) -> Keyring:
    """Adds a data key, which seals from the program's next start on. Raises Fatal."""
    environment = os.environ if environment is None else environment
    ring = open_sealer(where, environment).ring.with_key(_data_key())
    _save(where, ring, where.kek.read(environment))
    return ring


def rewrap(
    where: SealFolder, to: KeySource | None = None, environment: Mapping[str, str] | None = None
) -> Keyring:
    """Seals the keyring under another KEK; nothing else is written.

    Args:
        where: Keyring and the KEK until now.
        to: Where the other KEK comes from; None: a new one in the place of our own file.
        environment: As `open_sealer`.

    Raises:
        Fatal: one of the two is not to be had, or the KEK is somebody else's to replace.
    """
    environment = os.environ if environment is None else environment
    ring = open_sealer(where, environment).ring
    if to is not None:
        _save(where, ring, to.read(environment))
        return ring
    if where.source is not None:
        raise Fatal(
            f"the key-encryption key comes from {where.source}, which is not ours to replace",
            hint="make the new key where it is kept and name it with --to",
        )
    # A crash in between leaves the KEK of the keyring in one of the two places; see _load.
    following = os.urandom(framing.KEY_BYTES)
    try:
        write_atomically(Path(where.next_kek.value), following)
    except OSError as fault:
        raise _unwritable(where, fault) from fault
    _save(where, ring, following)
    _promote(where)
    return ring


def _load(where: SealFolder, environment: Mapping[str, str]) -> Keyring:
    if not _is_changing(where):
        return _with(where.kek, where, environment)
    # A rotation was interrupted.
    ring, followed = _with_either(where, environment)
    if followed:
        _promote(where)
    else:
        Path(where.next_kek.value).unlink()
    return ring


def _is_changing(where: SealFolder) -> bool:
    """Whether there are two KEKs of our own: a rotation was interrupted, or goes on."""
    return where.source is None and Path(where.next_kek.value).exists()


def _with_either(where: SealFolder, environment: Mapping[str, str]) -> tuple[Keyring, bool]:
    """The keyring while there are two KEKs, and whether it opens with the following one."""
    try:
        return _with(where.next_kek, where, environment), True
    except Fatal:  # that one is not in force yet, or by now has taken the former one's place
        return _with(where.kek, where, environment), False


def _with(kek: KeySource, where: SealFolder, environment: Mapping[str, str]) -> Keyring:
    return keyring.load(where.keyring, kek.read(environment), source=str(kek))


def _promote(where: SealFolder) -> None:
    Path(where.next_kek.value).replace(where.folder / _KEK)
    sync_folder(where.folder)


def _first_ring(where: SealFolder, environment: Mapping[str, str]) -> Keyring:
    if where.source is None and not Path(where.kek.value).exists():
        write_atomically(Path(where.kek.value), os.urandom(framing.KEY_BYTES))
    ring = Keyring((_data_key(),))
    _save(where, ring, where.kek.read(environment))
    return ring


def _save(where: SealFolder, ring: Keyring, kek: bytes) -> None:
    try:
        keyring.save(where.keyring, ring, kek, os.urandom(framing.SALT_BYTES))
    except OSError as fault:
        raise _unwritable(where, fault) from fault


def _unwritable(where: SealFolder, fault: OSError) -> Fatal:
    return Fatal(f"cannot write to {where.folder}: {fault.strerror or fault}", hint="nothing was changed")


def _data_key() -> DataKey:
    return DataKey(os.urandom(ID_BYTES), os.urandom(framing.KEY_BYTES), time.time())
