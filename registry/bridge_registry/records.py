"""What the registry keeps in etcd under its own keys, as JSON."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from bridge_core.decoding import Undecodable, decode_json
from bridge_core.errors import BridgeError
from bridge_core.snapshot import Node
from bridge_core.store.api import KeyValue

T = TypeVar("T", bound=msgspec.Struct)


class RecordFault(BridgeError):
    """A record in etcd that cannot be read: written by somebody else, or by a newer version."""


class TokenRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A join token. Kept for a while after its end, so that a late use is told why it fails."""

    id: str
    secret_hash: str
    expires: float
    uses_left: int
    node_name: str = ""
    labels: dict[str, str] = {}
    created_by: str = ""
    revoked: bool = False
    dns_names: tuple[str, ...] = ()


class NodeRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """An enrolled node.

    Attributes:
        name: Its name.
        peer: host:port of its peer listener.
        state: "active", "drained" or "revoked".
        labels: From its token (which win) and its own facts.
        serial: Of its current certificate, hexadecimal.
        expires: When that ends, Unix seconds.
        version: What its agent said it is.
        token: Id of the token it joined with.
        key: SHA-256 of its public key: recognises a repeated Join whose answer was lost.
        dns_names: Host names that its certificates may carry, from its token.
    """

    name: str
    peer: str = ""
    state: str = "active"
    labels: dict[str, str] = {}
    serial: str = ""
    expires: float = 0.0
    version: str = ""
    token: str = ""
    key: str = ""
    dns_names: tuple[str, ...] = ()

    def public(self) -> Node:
        """What every agent is told about it."""
        return Node(self.name, self.peer, self.state, self.labels, self.serial)


class SerialRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A certificate that was issued; under `ca/revoked/` one that is no longer accepted."""

    identity: str
    expires: float
    reason: str = ""


class RevisionRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One change of the applied config.

    Attributes:
        number: Counts from 1.
        author: Who applied it.
        applied: When, Unix seconds.
        changed: "<kind>/<name>" of each document that changed or went.
        diff: Unified diff of the documents.
        restores: The revision that it went back to; 0: it was an apply.
        documents: Everything applied after it, "<kind>/<name>" to YAML: what a rollback restores.
    """

    number: int
    author: str
    applied: float
    changed: tuple[str, ...] = ()
    diff: str = ""
    documents: dict[str, str] = {}
    restores: int = 0


def encode(record: msgspec.Struct) -> bytes:
    """The record's JSON."""
    return msgspec.json.encode(record, order="sorted")


def decode(item: KeyValue, kind: type[T]) -> T:
    """The record in `item`.

    Raises:
        RecordFault: it does not decode.
    """
    try:
        return decode_json(item.value, kind)
    except Undecodable as fault:
        name = kind.__name__
        raise RecordFault(f"{item.key} in etcd does not decode as {name}: {fault.message}") from fault
