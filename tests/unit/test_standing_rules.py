"""How a node stands with its mesh, and what is said of it."""

from __future__ import annotations

import pytest

from bridge_agent.membership.standing_rules import (
    certificate_concern,
    clock_concern,
    span,
    standing,
    way_back,
)
from bridge_core.snapshot import Instance, Node, Snapshot, Version, encode_entry

ME, OTHER = "a" * 16, "b" * 16


def mesh(*holders: str, state: str = "active", peer: str = "10.0.0.1:11445") -> Snapshot:
    entries = {"node/n1": encode_entry(Node("n1", peer, state))}
    entries |= {
        f"instance/n1/{at}": encode_entry(Instance(f"n1/{at}", "n1", holder=holder))
        for at, holder in enumerate(holders)
    }
    entries["instance/n2/0"] = encode_entry(Instance("n2/0", "n2", holder="c" * 16))
    return Snapshot(Version(1, 1), entries)


@pytest.mark.parametrize(
    ("holders", "other"),
    [((), ""), ((ME,), ""), (("",), ""), ((OTHER,), OTHER), ((ME, OTHER), OTHER), (("", ME), "")],
)
def test_who_has_the_records_is_the_node(holders: tuple[str, ...], other: str) -> None:
    assert standing(mesh(*holders), "n1", ME, ()).other == other


def test_what_is_not_in_the_snapshot_is_missing() -> None:
    assert standing(mesh(ME), "n1", ME, ("n1/0", "n1/1")).missing == {"n1/1"}


def test_members_are_in_the_snapshot_and_not_revoked() -> None:
    assert standing(mesh(), "n1", ME, ()).member
    assert not standing(mesh(state="revoked"), "n1", ME, ()).member
    assert not standing(mesh(), "n3", ME, ()).member
    assert standing(mesh(peer="h:1"), "n1", ME, ()).peer == "h:1"


@pytest.mark.parametrize(
    ("now", "says"),
    [
        (900.0, "is valid in 100 s only: this machine's clock is behind"),
        (1500.0, ""),
        (1890.0, ""),
        (1950.0, "expires in 50 s and could not be renewed yet"),
        (2010.0, "expires in 0 s and could not be renewed yet"),  # clocks may differ by 20 s
        (2000.0 + 3 * 86_400, "expired 3 d ago: no peer and no registry takes it; THE WAY BACK"),
    ],
)
def test_what_is_to_be_done_about_a_certificate(now: float, says: str) -> None:
    found = certificate_concern(1000.0, 2000.0, now, "THE WAY BACK")
    assert says in found
    assert bool(found) is bool(says)


def test_the_way_back_can_be_typed() -> None:
    said = way_back("n1", ("r1:11400", "[::1]:11400"))
    assert "`bridgectl token create --node n1`" in said
    assert "`bridge-agent join r1:11400,[::1]:11400 --token TOKEN --replace`" in said


def test_whose_clock_is_off() -> None:
    assert clock_concern(90_000.0) == "this machine's clock is 25 h ahead of the registry's"
    assert clock_concern(-3600.0) == "this machine's clock is 60 min behind the registry's"
    assert [span(at) for at in (-1, 0, 119, 120, 7200, 172_800)] == [
        "0 s",
        "0 s",
        "119 s",
        "2 min",
        "2 h",
        "2 d",
    ]
