"""A log's records, sealed at rest. Hashes and heads stay in the clear: a log is proved without its keys.

| file | what |
|---|---|
| `tile/entries/<n>.zst.sealed` | a bundle's file, sealed as a whole |
| `tail/<n>.sealed` | what was appended to the tail, append by append: its length (uint32), sealed |

Each piece is sealed for its place, so that none opens in another one. That it is of this log and not of
another one under the same keyring is for the hashes to say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from bridge_core.audit import tiles
from bridge_core.audit.tiles import WIDTH, Damaged
from bridge_core.errors import BridgeError

if TYPE_CHECKING:
    from bridge_core.sealing import Sealer  # cryptography is large, and who reads plain logs needs none of it

SUFFIX: Final = ".sealed"
_LENGTH: Final = 4


class KeyGone(Damaged):
    """Records that are sealed with a key that is not here."""


class OpenedTail(msgspec.Struct, frozen=True):
    """What opened of a sealed tail.

    Attributes:
        entries: Those in front of the first piece that did not open; few more than a tile's.
        taken: The bytes that they take in the file.
        fault: Why the next piece does not open; None: there is none, or a crash has cut it short.
    """

    entries: list[bytes]
    taken: int
    fault: Damaged | None = None


def bundle_path(index: int) -> str:
    """Where a full bundle lies that is sealed."""
    return tiles.bundle_path(index) + SUFFIX


def tail_path(index: int) -> str:
    """Where the entries of the last tile grow that are sealed."""
    return f"{tiles.TAIL}/{index}{SUFFIX}"


def seal_bundle(sealer: Sealer, index: int, data: bytes) -> bytes:
    """A bundle's file, sealed."""
    return sealer.seal(data, f"audit-bundle {index}")


def open_bundle(sealer: Sealer | None, index: int, data: bytes) -> bytes:
    """What was sealed as bundle `index`.

    Raises:
        KeyGone: its data key is not here.
        Damaged: it does not open: it was changed.
    """
    return _opened(sealer, f"audit-bundle {index}", data)


def seal_part(sealer: Sealer, index: int, first: int, entries: bytes) -> bytes:
    """Framed entries as a piece of the tail of tile `index`, behind the first so many of it."""
    message = sealer.seal(entries, f"audit-tail {index} {first}")
    return len(message).to_bytes(_LENGTH, "big") + message


def open_tail(sealer: Sealer | None, index: int, data: bytes) -> OpenedTail:
    """The entries in the file of a tail, as far as it opens. Never raises."""
    entries: list[bytes] = []
    at = 0
    while at + _LENGTH <= len(data) and len(entries) <= WIDTH:
        end = at + _LENGTH + int.from_bytes(data[at : at + _LENGTH], "big")
        if end > len(data):
            break
        try:
            text = _opened(sealer, f"audit-tail {index} {len(entries)}", data[at + _LENGTH : end])
        except Damaged as fault:
            return OpenedTail(entries, at, fault)
        part, taken = tiles.entries_in(text)
        if taken != len(text) or not part:
            return OpenedTail(entries, at, Damaged("it holds no whole records"))
        entries += part
        at = end
    return OpenedTail(entries, at)


def _opened(sealer: Sealer | None, purpose: str, data: bytes) -> bytes:
    from bridge_core.sealing.files import KeyMissing, key_id

    if sealer is None:
        name = key_id(data)
        if name is None:
            raise Damaged("it does not open: its head was changed")
        raise KeyGone(f"it is sealed with the data key {name.hex()}, and no keyring was given")
    try:
        return sealer.open(data, purpose)
    except KeyMissing as fault:
        raise KeyGone(fault.message, hint=fault.hint) from fault
    except BridgeError as fault:
        raise Damaged(f"it does not open: {fault.message}") from fault
