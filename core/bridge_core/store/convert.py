"""Between etcd's protobuf messages and the store's own values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from etcd3aio._protobuf import (
    Compare,
    DeleteRangeRequest,
    PutRequest,
    RequestOp,
    TxnRequest,
)

from bridge_core.store.api import Deleted, KeyListing, KeyValue, Op, Put, Unchanged
from bridge_core.store.watch_rules import Response, WatchHeader

_DELETE_EVENT = 1  # mvccpb.Event.DELETE


def key_range(prefix: str) -> dict[str, bytes]:
    """The `key` and `range_end` fields that mean everything under `prefix`."""
    start = prefix.encode()
    # The end is the prefix with its last byte that can be raised raised by one.
    stem = start.rstrip(b"\xff")
    if not stem:
        return {"key": start or b"\0", "range_end": b"\0"}
    return {"key": start, "range_end": stem[:-1] + bytes([stem[-1] + 1])}


def header_of(header: Any) -> WatchHeader:
    """An answer's header."""
    return WatchHeader(header.cluster_id, header.revision, header.raft_term)


def key_value_of(kv: Any) -> KeyValue:
    """A key as etcd sends it."""
    return KeyValue(kv.key.decode(), kv.value, kv.mod_revision, kv.create_revision, kv.lease)


def listing_of(answer: Any) -> KeyListing:
    """A range's answer."""
    items = tuple(key_value_of(kv) for kv in answer.kvs)
    return KeyListing(items, answer.header.revision, answer.header.cluster_id)


def response_of(answer: Any) -> Response:
    """A message of the watch stream."""
    return Response(
        header=header_of(answer.header),
        watch_id=answer.watch_id,
        created=answer.created,
        cancelled=answer.canceled,
        compact_revision=answer.compact_revision,
        cancel_reason=answer.cancel_reason,
        events=tuple(_events(answer.events)),
    )


def transaction(ops: Sequence[Op], conditions: Sequence[Unchanged]) -> Any:
    """The request that does `ops` if all of `conditions` hold."""
    compare = [
        Compare(
            result=Compare.EQUAL,
            target=Compare.MOD,
            key=condition.key.encode(),
            mod_revision=condition.mod_revision,
        )
        for condition in conditions
    ]
    return TxnRequest(compare=compare, success=[_request_op(op) for op in ops])


def _events(events: Iterable[Any]) -> Iterable[KeyValue | Deleted]:
    for event in events:
        if event.type == _DELETE_EVENT:
            yield Deleted(event.kv.key.decode(), event.kv.mod_revision)
        else:
            yield key_value_of(event.kv)


def _request_op(op: Op) -> Any:
    if isinstance(op, Put):
        return RequestOp(request_put=PutRequest(key=op.key.encode(), value=op.value, lease=op.lease))
    span = key_range(op.key) if op.prefix else {"key": op.key.encode()}
    return RequestOp(request_delete_range=DeleteRangeRequest(**span))
