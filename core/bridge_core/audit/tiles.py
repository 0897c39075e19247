"""Tiles and bundles: where a log's parts lie (C2SP tlog-tiles), and how entries are packed. Pure.

| file | what |
|---|---|
| `checkpoint` | the newest signed head, with its cosignatures |
| `tile/<level>/<n>` | 256 hashes: of entries at level 0, of full tiles of the level below above it |
| `tile/entries/<n>.zst` | 256 entries, each with its length before it (uint16); one zstd frame |
| `tail/<n>.entries`, `tail/<n>.hashes` | the same of the last, not yet full tile, growing |

Behind the frame of a bundle stands another one that decompressors skip: the SHA-256 of what is before it. An
edit that leaves the entries as they were is noticed by it as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from itertools import chain
from struct import Struct
from typing import Final

import zstandard

from bridge_core.audit.merkle import HASH_BYTES
from bridge_core.errors import BridgeError

WIDTH: Final = 256
TILE_BYTES: Final = WIDTH * HASH_BYTES
MAX_ENTRY: Final = 0xFFFF
MAX_BUNDLE: Final = WIDTH * (2 + MAX_ENTRY)
CHECKPOINT: Final = "checkpoint"
TAIL: Final = "tail"
_length: Final = Struct(">H")
_LEVELS: Final = 8  # of tiles: more entries than any log has
# Of zstd. What is random in records stays so at each level, and this one takes two thirds of the time of 3.
_LEVEL: Final = 1
_SUM: Final = b"\x50\x2a\x4d\x18\x20\x00\x00\x00"  # a skippable frame of 32 bytes


class Damaged(BridgeError):
    """A file of a log that is not what it has to be."""


def path_of(index: int) -> str:
    """The path of tile `index`: `067`, or `x001/x234/067`."""
    parts = [f"{index % 1000:03d}"]
    while index := index // 1000:
        parts.append(f"x{index % 1000:03d}")
    return "/".join(reversed(parts))


def tile_path(level: int, index: int) -> str:
    """Where a full tile lies."""
    return f"tile/{level}/{path_of(index)}"


def bundle_path(index: int) -> str:
    """Where a full bundle lies."""
    return f"tile/entries/{path_of(index)}.zst"


def tail_paths(index: int) -> tuple[str, str]:
    """Where the entries and the hashes of the last tile grow."""
    return f"{TAIL}/{index}.entries", f"{TAIL}/{index}.hashes"


def entries_at(path: str) -> tuple[str, int] | None:
    """Of a file with entries whether it is a `tile`'s or the `tail`'s, and its index; of another None."""
    kind, _, rest = path.partition("/")
    if not is_file_of_log(path) or (kind != TAIL and not rest.startswith("entries/")):
        return None
    if kind == TAIL:
        number, _, what = rest.partition(".")
        return (TAIL, int(number)) if what == "entries" else None
    digits = rest.removeprefix("entries/").removesuffix(".zst").replace("/", "").replace("x", "")
    return "tile", int(digits)


def framed(entry: bytes) -> bytes:
    """An entry with its length before it."""
    return len(entry).to_bytes(2, "big") + entry


def framed_all(entries: Sequence[bytes]) -> bytes:
    """Entries behind one another, each with its length before it."""
    return b"".join(chain.from_iterable(zip(map(_length.pack, map(len, entries)), entries, strict=True)))


def entries_in(data: bytes) -> tuple[list[bytes], int]:
    """The whole entries at the beginning of `data`, and how many bytes they take; few more than a tile's."""
    found: list[bytes] = []
    at = 0
    while at + 2 <= len(data) and len(found) <= WIDTH:
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if end > len(data):
            break
        found.append(data[at + 2 : end])
        at = end
    return found, at


def pack(bundle: bytes) -> bytes:
    """A bundle as its file."""
    frame = zstandard.ZstdCompressor(level=_LEVEL).compress(bundle)
    return frame + _SUM + sha256(frame).digest()


def unpack(data: bytes) -> tuple[list[bytes], bool]:
    """The entries of a bundle's file, as many as there are, and whether the file is just as it was written.

    Raises:
        Damaged: they cannot be read.
    """
    frame, trailer = data[: -len(_SUM) - HASH_BYTES], data[-len(_SUM) - HASH_BYTES :]
    try:
        # Bounded: the frame says itself how large it is, and whoever edits it may say anything.
        reader = zstandard.ZstdDecompressor(max_window_size=1 << 25).stream_reader(data)
        bundle = reader.read(MAX_BUNDLE + 1)
    except (zstandard.ZstdError, MemoryError) as fault:
        raise Damaged("it cannot be decompressed") from fault
    entries, taken = entries_in(bundle)
    intact = trailer == _SUM + sha256(frame).digest() and taken == len(bundle)
    return entries, intact


def hashes_in(tile: bytes) -> list[bytes]:
    """The whole hashes at the beginning of a tile's file."""
    return [tile[at : at + HASH_BYTES] for at in range(0, len(tile) - HASH_BYTES + 1, HASH_BYTES)]


def is_file_of_log(path: str) -> bool:
    """Whether a log may have a file of this name: what is asked for by others is checked by it."""
    if path == CHECKPOINT:
        return True
    kind, _, rest = path.partition("/")
    if kind == TAIL:
        number, _, what = rest.partition(".")
        return what in {"entries", "hashes"} and number.isascii() and number.isdigit() and len(number) < 17
    level, _, name = rest.partition("/")
    if kind != "tile" or level not in {"entries", *map(str, range(_LEVELS))}:
        return False
    if level == "entries":
        if not name.endswith(".zst"):
            return False
        name = name.removesuffix(".zst")
    *above, last = name.split("/")
    return (
        len(above) < 6 and all(part[:1] == "x" and _is_three(part[1:]) for part in above) and _is_three(last)
    )


def _is_three(text: str) -> bool:
    return len(text) == 3 and text.isascii() and text.isdigit()
