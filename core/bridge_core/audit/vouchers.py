"""A node's identity vouches for the key of its log: a statement that its certificate's key signs. Pure.

A log's key says itself whose it is, so a stranger has to be told by somebody. A voucher lets the mesh's CA
tell it: the CA certifies the node, the node its log. It is three files that OpenSSL checks
(docs/operations/audit.md): the statement, its signature (ECDSA with SHA-256, DER), and the node's
certificate with its chain.

    bridge audit log key v1
    log bridge.local/node/gpu-01
    key bridge.local/node/gpu-01+4f2e…
    at 2026-11-30T12:00:00Z

Such a certificate lives a day: `at` says when it was in force. That is the node's word, as the signature is.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import msgspec

from bridge_core.audit.notes import BadNote, PublicKey

_FIRST: Final = "bridge audit log key v1"
_MOST: Final = 2048
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"


class Voucher(msgspec.Struct, frozen=True):
    """What a node hands out.

    Attributes:
        statement: See the module.
        signature: Over its UTF-8, by the certificate's key.
        chain: The node's certificate, and what leads from it to the root; PEM.
    """

    statement: str
    signature: bytes
    chain: str


class Statement(msgspec.Struct, frozen=True):
    """What a statement says: the log's origin, its verifier key, and when (Unix seconds)."""

    origin: str
    key: PublicKey
    at: int

    @property
    def text(self) -> str:
        """As it is signed."""
        at = datetime.fromtimestamp(self.at, UTC).strftime(_TIME)
        return f"{_FIRST}\nlog {self.origin}\nkey {self.key.text}\nat {at}\n"


def read_statement(text: str) -> Statement:
    """What a statement says.

    Raises:
        BadNote: it is none.
    """
    lines = text.split("\n")
    heads = ("log ", "key ", "at ")
    if len(text) > _MOST or len(lines) != 5 or lines[0] != _FIRST or lines[4]:
        raise BadNote("no statement about an audit log's key")
    if not all(line.startswith(head) for line, head in zip(lines[1:], heads, strict=False)):
        raise BadNote("a statement about an audit log's key whose lines are others")
    origin, key, at = (line.removeprefix(head) for line, head in zip(lines[1:4], heads, strict=True))
    try:
        moment = int(datetime.strptime(at, _TIME).replace(tzinfo=UTC).timestamp())
    except (ValueError, OverflowError) as fault:
        raise BadNote("a statement about an audit log's key without a time") from fault
    said = Statement(origin, PublicKey.parse(key), moment)
    if said.text != text or said.key.name != origin:
        raise BadNote("a statement about an audit log's key that is another log's")
    return said
