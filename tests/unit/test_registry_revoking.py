"""Which certificates are revoked with their owner, and in which writes."""

from __future__ import annotations

import pytest

from bridge_core import keyspace
from bridge_core.identity import SpiffeId
from bridge_core.store.api import KeyValue, Put
from bridge_registry.enrolment.revoking import BATCH, batches, live_serials
from bridge_registry.records import SerialRecord, encode

WHO = SpiffeId("m", "node", "n1")


def kept(serial: str, identity: str = str(WHO), expires: float = 100.0) -> KeyValue:
    return KeyValue(keyspace.SERIALS + serial, encode(SerialRecord(identity, expires)), 1, 1)


def test_only_the_owners_certificates_that_still_count_are_revoked_with_the_reason() -> None:
    items = [kept("a"), kept("b", expires=50.0), kept("c", expires=50.5), kept("d", "spiffe://m/node/n10")]
    found = live_serials(items, WHO, 50.0, "left")
    assert {serial: (one.expires, one.reason) for serial, one in found.items()} == {
        "a": (100.0, "left"),
        "c": (50.5, "left"),
    }


@pytest.mark.parametrize(
    ("many", "ahead", "rest"),
    [
        (0, 0, 0),
        (1, 0, 1),
        (BATCH, 0, BATCH),
        (BATCH + 1, 1, 1),
        (2 * BATCH, 1, BATCH),
        (2 * BATCH + 1, 2, 1),
    ],
)
def test_what_does_not_fit_one_transaction_goes_ahead_in_batches(many: int, ahead: int, rest: int) -> None:
    revoked = {f"{number:x}": SerialRecord(str(WHO), 9.0, "left") for number in range(many)}
    first, last = batches(revoked)
    assert ([len(one) for one in first], len(last)) == ([BATCH] * ahead, rest)
    writes = [op for one in [*first, last] for op in one]
    assert [op.key for op in writes if isinstance(op, Put)] == [keyspace.REVOKED + one for one in revoked]
    assert len(writes) == many
