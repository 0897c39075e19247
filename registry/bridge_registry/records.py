"""What the registry keeps in etcd under its own keys, as JSON."""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec
import zstandard

from bridge_core import keyspace
from bridge_core.clients import Admin, Client
from bridge_core.decoding import Undecodable, decode_json
from bridge_core.errors import BridgeError
from bridge_core.snapshot import Node
from bridge_core.store.api import KeyValue
from bridge_registry.enrolment.authority_rules import Authorities

T = TypeVar("T", bound=msgspec.Struct)

MAX_UNPACKED_BYTES: Final = 64 * 1024 * 1024


class RecordFault(BridgeError):
    """A record in etcd that cannot be read: written by somebody else, or by a newer version."""


class Candidate(msgspec.Struct, frozen=True, omit_defaults=True):
    """A registry that lives, as it stands for election.

    Attributes:
        name: Its name.
        address: host:port that agents and admins reach it at.
        guards: https://host:port of each store guard, as it tells nodes that join.
    """

    name: str
    address: str
    guards: tuple[str, ...] = ()


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
    root: str = ""  # the pin that it names


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
        issuer: The pin of the CA that signed its current certificate.
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
    issuer: str = ""

    def public(self) -> Node:
        """What every agent is told about it."""
        return Node(self.name, self.peer, self.state, self.labels, self.serial)


class SerialRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A certificate that was issued; under `ca/revoked/` one that is no longer accepted.

    Attributes:
        identity: Whose.
        expires: Unix seconds.
        reason: Why it is no longer accepted.
        issuer: The pin of the CA that signed it.
    """

    identity: str
    expires: float
    reason: str = ""
    issuer: str = ""


class ClientRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A client of the mesh.

    Attributes:
        client: What every agent is told.
        created: Unix seconds.
        created_by: The admin.
        key_times: When each of its keys was made, by the key's id.
    """

    client: Client
    created: float = 0.0
    created_by: str = ""
    key_times: dict[str, float] = {}


class AdminRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """An admin of the mesh.

    Attributes:
        admin: What every agent is told.
        created: Unix seconds.
        created_by: The admin who said so.
        deleted: When it was deleted; 0: it was not. Its name is not given again: what the records say that
            it did stays its own.
    """

    admin: Admin
    created: float = 0.0
    created_by: str = ""
    deleted: float = 0.0


class KeySetRecord(msgspec.Struct, frozen=True):
    """The key set that was fetched for an identity provider, when (Unix seconds), and from where."""

    keys: str
    fetched: float
    source: str


class StoredDocument(msgspec.Struct, frozen=True, array_like=True):
    """One applied document.

    Attributes:
        text: YAML.
        changed: Number of the revision that gave it this text.
        born: Number of the revision since which it has been there.
    """

    text: str
    changed: int
    born: int


class ConfigRecord(msgspec.Struct, frozen=True):
    """Everything that is applied: `documents` by "<kind>/<name>", as revision `number` left them."""

    number: int = 0
    documents: dict[str, StoredDocument] = {}


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


def decode_authorities(raw: bytes, where: str = keyspace.AUTHORITIES) -> Authorities:
    """The mesh's CAs.

    Raises:
        RecordFault: they do not decode, or are not as `authority_rules` has them.
    """
    found = decode(KeyValue(where, raw, 0, 0), Authorities)
    if not found.sound:
        raise RecordFault(f"{where} does not say which CA issues")
    return found


def encode(record: msgspec.Struct) -> bytes:
    """The record's JSON."""
    return msgspec.json.encode(record, order="sorted")


def pack(record: msgspec.Struct) -> bytes:
    """The record's JSON, compressed: for records that hold many documents."""
    return zstandard.ZstdCompressor(level=9).compress(encode(record))


def unpack(item: KeyValue, kind: type[T]) -> T:
    """The record in `item`, which `pack` made.

    Raises:
        RecordFault: it does not decode, or is larger than any config can be.
    """
    try:
        raw = zstandard.ZstdDecompressor().decompress(item.value, max_output_size=MAX_UNPACKED_BYTES)
    except zstandard.ZstdError as fault:
        raise RecordFault(f"{item.key} in etcd cannot be unpacked: {fault}") from fault
    return decode(msgspec.structs.replace(item, value=raw), kind)


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
