"""What etcd sends becomes the store's values, whoever wrote it."""

from __future__ import annotations

from bridge_core.store.api import Deleted
from bridge_core.store.convert import key_range, key_value_of, response_of
from bridge_wire.etcd.kv_pb2 import Event, KeyValue
from bridge_wire.etcd.rpc_pb2 import WatchResponse


def test_a_key_that_is_not_utf8_is_a_key_like_another() -> None:
    written = KeyValue(key=b"/bridge/v1/members/a/\xff", value=b"\xff", mod_revision=3)
    assert key_value_of(written).key == "/bridge/v1/members/a/\\xff"
    gone = Event(type=Event.DELETE, kv=written)
    assert response_of(WatchResponse(events=[gone])).events == (Deleted("/bridge/v1/members/a/\\xff", 3),)


def test_a_prefix_ends_where_its_last_byte_is_raised() -> None:
    assert key_range("/a/") == (b"/a/", b"/a0")
    assert key_range("") == (b"\0", b"\0")
