"""What revokes the certificates of somebody: which ones, and in which writes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from bridge_core import keyspace
from bridge_core.identity import SpiffeId
from bridge_core.store.api import KeyValue, Op, Put
from bridge_registry.records import SerialRecord, decode, encode

BATCH: Final = 100  # operations of one transaction, of which etcd takes 128 by default


def live_serials(
    items: Iterable[KeyValue], identity: SpiffeId, now: float, reason: str
) -> dict[str, SerialRecord]:
    """Of the records of all certificates those of `identity` that could still be used, as they are revoked.

    Args:
        items: Below `keyspace.SERIALS`, from the store itself: what was issued a moment ago may not have come
            by the watch yet.
        identity: Whose.
        now: Unix seconds.
        reason: Why they are revoked.
    """
    records = ((item.key.removeprefix(keyspace.SERIALS), decode(item, SerialRecord)) for item in items)
    return {
        serial: msgspec.structs.replace(record, reason=reason)
        for serial, record in records
        if record.identity == str(identity) and record.expires > now
    }


def batches(revoked: Mapping[str, SerialRecord]) -> tuple[list[list[Op]], list[Op]]:
    """The writes that revoke certificates: batches to be written first, and what fits the caller's own.

    Somebody may have let itself be given any number of certificates; one transaction takes only so many.
    """
    ops: list[Op] = [Put(keyspace.REVOKED + serial, encode(gone)) for serial, gone in revoked.items()]
    ahead = max(0, (len(ops) - 1) // BATCH) * BATCH
    return [ops[at : at + BATCH] for at in range(0, ahead, BATCH)], ops[ahead:]
