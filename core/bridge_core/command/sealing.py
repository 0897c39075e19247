"""What the commands `seal status` and `seal rotate` of the programs say and do."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from bridge_core.errors import Fatal
from bridge_core.sealing import open_sealer
from bridge_core.sealing.key_source import KeySource
from bridge_core.sealing.sealer import SealFolder, new_data_key, rewrap

_OWN = (
    "Protected: a copy of the state without that file. Not protected: from root here, or where both are "
    "copied together."
)
_ELSEWHERE = "Protected: every copy of the state by itself. Not protected: from root while the program runs."


def describe(where: SealFolder) -> Iterator[str]:
    """A keyring in words; it has to open for that.

    Raises:
        Fatal: there is none, or it does not open.
    """
    ring = open_sealer(_existing(where)).ring
    yield f"keyring  {where.keyring}"
    yield f"key      {where.kek}"
    yield f"data keys  {len(ring.keys)}"
    for key in ring.keys:
        made = datetime.fromtimestamp(key.made, UTC).strftime("%Y-%m-%d %H:%M")
        yield f"  {key.id.hex()}  made {made} UTC{'  seals' if key is ring.active else ''}"
    yield _OWN if where.source is None else _ELSEWHERE


def rotate(where: SealFolder, *, to: KeySource | None, data_key: bool) -> str:
    """Makes another key and says what came of it.

    Args:
        where: The keyring.
        to: Seal the keyring with the key from there; None: with a new one of our own.
        data_key: Add a data key instead.

    Raises:
        Fatal: the keyring does not open, or the other key is not to be had.
    """
    _existing(where)
    if data_key:
        if to is not None:
            raise Fatal("--data-key and --to are two rotations", hint="make them one after the other")
        ring = new_data_key(where)
        return (
            f"the data key {ring.active.id.hex()} seals what is written from the next start on; "
            f"{len(ring.keys) - 1} earlier ones stay in the keyring for what they sealed"
        )
    rewrap(where, to)
    return f"the keyring {where.keyring} opens with {to or where.kek} now, and with the former key no longer"


def _existing(where: SealFolder) -> SealFolder:
    if not where.keyring.exists():
        raise Fatal(
            f"there is no keyring at {where.keyring}",
            hint="it is made at the program's first start; --state-dir names another folder",
        )
    return where
