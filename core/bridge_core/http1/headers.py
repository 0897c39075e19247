"""Header fields as raw byte pairs, names lower-cased once, and which of them a hop keeps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

Pair = tuple[bytes, bytes]

# Fields that speak about this connection, not about the message (RFC 9110 7.6.1), and those that a
# forwarder writes itself (the framing, and Expect, which each hop answers on its own).
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"expect",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
LENGTH: Final = b"content-length"
FRAMING = frozenset({b"connection", LENGTH, b"transfer-encoding", b"keep-alive"})
_NOT_FORWARDED = HOP_BY_HOP | {LENGTH, b"host"}
_COMMON_CONNECTION = frozenset({b"keep-alive", b"close", b"Keep-Alive", b"Close"})
_NONE: Final[frozenset[bytes]] = frozenset()
_SAME: Final[Mapping[bytes, bytes]] = {}


class Headers:
    """An immutable list of (lower-case name, value) pairs in the order they came.

    The list is shared, not copied: whoever makes a `Headers` gives it up.
    """

    __slots__ = ("_blocks", "_index", "_like", "_others", "_pairs", "_varying")

    def __init__(self, pairs: list[Pair], index: dict[bytes, bytes] | None = None) -> None:
        self._pairs = pairs
        self._index = index
        self._blocks: dict[frozenset[bytes], bytes] | None = None
        self._like: Headers | None = None  # those that they were changed from
        self._others = _SAME  # and values in the place of theirs
        self._varying = _NONE

    @classmethod
    def of(cls, pairs: Iterable[Pair]) -> Headers:
        """Headers from pairs whose names may be in any case."""
        return cls([(name.lower(), value) for name, value in pairs])

    @property
    def pairs(self) -> list[Pair]:
        """The fields; not to be changed."""
        others = self._others
        if not others:
            return self._pairs
        return [(name, others.get(name, value)) for name, value in self._pairs]

    def changed(self, others: dict[bytes, bytes], varying: frozenset[bytes]) -> Headers:
        """These fields, as a parser gave them, with other values.

        Args:
            others: The values by name; each of these fields comes once and stays where it is.
            varying: Those names, Content-Length left out (no block holds it). Blocks without them are
                shared by all that were made of these fields.
        """
        made = Headers(self._pairs)
        made._like = self
        made._others = others
        made._varying = varying
        return made

    def repeats(self, without: frozenset[bytes]) -> bool:
        """Whether `block(without)` is the same as that of the fields that these were `changed` from."""
        return self._varying <= without

    def get(self, name: bytes, default: bytes | None = None) -> bytes | None:
        """The first value of the field `name` (lower-case), or `default`."""
        index = self._index
        if index is None:
            index = self._indexed()
        return index.get(name, default)

    def _indexed(self) -> dict[bytes, bytes]:
        like = self._like
        if like is None:  # reversed, so that of repeated fields the first one stays
            index = dict(reversed(self._pairs))
        else:
            index = {**(like._index or like._indexed()), **self._others}  # noqa: SLF001 - of this class
        self._index = index
        return index

    def get_all(self, name: bytes) -> list[bytes]:
        """Every value of the field `name` (lower-case), in order."""
        return [value for key, value in self.pairs if key == name]

    def end_to_end(self) -> list[Pair]:
        """The pairs that a forwarder passes on: a new list without hop-by-hop fields and framing.

        Fields that `Connection` lists go too. `Content-Length` goes because a forwarder frames
        anew, and `Host` because it names the next server.
        """
        dropped: frozenset[bytes] | set[bytes] = _NOT_FORWARDED
        connection = self.get(b"connection")
        if connection is not None and connection not in _COMMON_CONNECTION:
            listed = b",".join(self.get_all(b"connection")).lower().split(b",")
            dropped = _NOT_FORWARDED.union(token.strip(b" \t") for token in listed)
        return [pair for pair in self.pairs if pair[0] not in dropped]

    def block(self, without: frozenset[bytes] = frozenset()) -> bytes:
        """`end_to_end` as header lines, remembered; `without` names further fields to leave out.

        Connections repeat their heads, and a repeated head is this same object: so the lines are
        joined once for many requests. Pass the same few sets as `without`.
        """
        keeper: Headers | None = self._like
        if keeper is None:
            keeper = self
        elif not self._varying <= without:
            return self._joined(without)
        blocks = keeper._blocks
        if blocks is None:
            blocks = keeper._blocks = {}
        block = blocks.get(without)
        if block is None:
            block = blocks[without] = self._joined(without)
        return block

    def _joined(self, without: frozenset[bytes]) -> bytes:
        return b"".join([b"%b: %b\r\n" % pair for pair in self.end_to_end() if pair[0] not in without])

    def __contains__(self, name: bytes) -> bool:
        return self.get(name) is not None

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self.pairs == other.pairs

    def __hash__(self) -> int:
        return hash(tuple(self.pairs))

    def __repr__(self) -> str:
        # Names only: values may be secrets and reprs end up in logs.
        return f"Headers({b', '.join(name for name, _ in self.pairs).decode('latin-1')})"
