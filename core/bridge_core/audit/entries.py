"""What the entries of an audit log say: JSON objects, told apart by `kind`.

Times are Unix seconds, spans milliseconds. No prompt and no answer is in any of them but `content`, which is
written only where the mesh's settings ask for it by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import msgspec

from bridge_core.audit.tiles import MAX_ENTRY

_CLIPPED: Final = 1000  # characters of each text of an entry that is too long
_MOST_TEXTS: Final = 16


class _Entry(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind"):
    """What all have in common: the file begins with the kind."""

    at: float


class AuditRecord(_Entry, frozen=True, gc=False, omit_defaults=True, tag="request"):
    """One request at one node: a forwarded one has a record at either.

    Attributes:
        at: When it came.
        request_id: The same at each node that it passes.
        principal: Who asked.
        listener: Where it came in: `local`, `tls` or `peer`.
        method: HTTP's.
        path: The route's, without what a client put into it.
        status: What it was answered.
        outcome: How it ended.
        duration_ms: From its head to the end of its answer.
        bytes_in: Of its body.
        bytes_out: Of the answer's.
        model: That it asked for.
        instance: That answered.
        via: The node that forwarded it; empty at the one that the client called.
        failed_attempts: Tries that came to nothing, and why.
        route: That mapped the model.
        backend: The route's, that was chosen.
        key: What the choice of the instance hung on: a digest, hexadecimal.
        node: That wrote this.
        address: The client's, or the forwarding node's.
        digest: Of the model that served it, where the instance told.
        input: HMAC-SHA-256 of the body under the key of its period, hexadecimal.
        input_key: That period: the name of the key.
        rule: What let it pass or refused it.
        waited_ms: In queues.
        sent_ms: From its head until it went to an engine or node; 0: it did not.
        first_ms: From its head to the answer's; 0: none came.
        prompt_tokens: As the engine counted.
        tokens: Generated, likewise.
        reason: Why it was turned away at the door, in a word.
        quota: That refused it; `shadow:` before one that would have.
        shadowed: Policies in shadow that would have refused it.
        clipped: Texts of it were too long for a record, and are cut.
    """

    request_id: str
    principal: str
    listener: str
    method: str
    path: str
    status: int
    outcome: str
    duration_ms: float
    bytes_in: int
    bytes_out: int
    model: str = ""
    instance: str = ""
    via: str = ""
    failed_attempts: tuple[str, ...] = ()
    route: str = ""
    backend: str = ""
    key: str = ""
    node: str = ""
    address: str = ""
    digest: str = ""
    input: str = ""
    input_key: str = ""
    rule: str = ""
    waited_ms: float = 0.0
    sent_ms: float = 0.0
    first_ms: float = 0.0
    prompt_tokens: int = 0
    tokens: int = 0
    reason: str = ""
    quota: str = ""
    shadowed: tuple[str, ...] = ()
    clipped: bool = False


class ContentRecord(_Entry, frozen=True, omit_defaults=True, tag="content"):
    """A part of what a request asked; only where the settings say `content`."""

    request_id: str
    part: int
    parts: int
    data: bytes


class AdminRecord(_Entry, frozen=True, omit_defaults=True, tag="admin"):
    """One call of the control plane.

    Attributes:
        at: When it came.
        request_id: Of this call.
        principal: Whose certificate it showed; empty: none.
        address: Where from.
        call: Which one.
        what: What it asked for, without what is secret in it.
        outcome: gRPC's word for how it ended: OK, PERMISSION_DENIED …
        reason: Why it was refused.
        duration_ms: How long it took.
        node: The registry that wrote this.
        rule: What let it pass or refused it.
        clipped: See `AuditRecord`.
    """

    request_id: str
    principal: str
    address: str
    call: str
    what: str
    outcome: str
    duration_ms: float
    reason: str = ""
    node: str = ""
    rule: str = ""
    clipped: bool = False


class BegunRecord(_Entry, frozen=True, omit_defaults=True, tag="begun"):
    """The first entry of a log: whose, under which key, and what became of a former one."""

    origin: str
    former: str = ""


class LostRecord(_Entry, frozen=True, omit_defaults=True, tag="lost"):
    """So many records since then came to nothing."""

    count: int
    since: float
    why: str


class RemovedRecord(_Entry, frozen=True, omit_defaults=True, tag="removed"):
    """Entries before this index were too old, and go."""

    before: int


class FindingRecord(_Entry, frozen=True, omit_defaults=True, tag="finding"):
    """What this node found when another one asked it to cosign.

    Attributes:
        at: When.
        origin: Whose log.
        what: `forked`, `rolled back`, `new key`.
        detail: A sentence.
        evidence: What was signed before, and what now.
    """

    origin: str
    what: str
    detail: str
    evidence: tuple[str, ...] = ()


Entry: TypeAlias = (
    AuditRecord | ContentRecord | AdminRecord | BegunRecord | LostRecord | RemovedRecord | FindingRecord
)

_encoder: Final = msgspec.json.Encoder()
_encode: Final = _encoder.encode
_decoder: Final[msgspec.json.Decoder[Entry]] = msgspec.json.Decoder(Entry)


def encode(record: Entry) -> bytes:
    """A record as an entry. One that is too long has its texts cut, and says so.

    Raises:
        ValueError: it cannot be written, or not even then.
    """
    data = _encode(record)
    if len(data) > MAX_ENTRY:
        data = _encode(_clipped(record))
        if len(data) > MAX_ENTRY:
            raise ValueError("a record of more than 64 KiB")
    return data


def encode_all(records: Sequence[Entry]) -> list[bytes]:
    """As `encode` of each, in less time.

    Raises:
        ValueError: one of them cannot be written.
    """
    if not records:
        return []
    lines = _encoder.encode_lines(records).split(b"\n")  # in JSON's own texts a line's end is escaped
    lines.pop()
    if max(map(len, lines)) > MAX_ENTRY:
        return list(map(encode, records))
    return lines


def decode(entry: bytes) -> Entry | None:
    """The record in an entry; None where it is none that is known: logs outlive versions."""
    try:
        return _decoder.decode(entry)
    except (ValueError, RecursionError, OverflowError):  # msgspec's and Unicode's among them
        return None


def _clipped(record: Entry) -> Entry:
    changed: dict[str, Any] = {}
    for name in record.__struct_fields__:
        value = getattr(record, name)
        if isinstance(value, str):
            changed[name] = value[:_CLIPPED]
        elif isinstance(value, tuple):
            changed[name] = tuple(one[:_CLIPPED] for one in value[:_MOST_TEXTS])
    if "clipped" in record.__struct_fields__:
        changed["clipped"] = True
    return msgspec.structs.replace(record, **changed)
