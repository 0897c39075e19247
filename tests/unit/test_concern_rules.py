"""What `bridge-agent status` tells an operator to look at."""

from __future__ import annotations

from bridge_agent.concern_rules import (
    Disk,
    FailureNotes,
    disk_concerns,
    ejection_concerns,
    engine_concerns,
    member_concern,
    store_concern,
    why_not_a_member,
)
from bridge_agent.engines.instance import InstanceStatus

GIB = 1 << 30


def instance(
    phase: str = "ready", *, since_s: float = 5.0, failures: int = 1, reason: str = "exited with status 3"
):
    return InstanceStatus(
        "n1/0",
        "llamacpp",
        False,
        phase,
        since_s,
        reason,
        failures,
        2,
        False,
        7,
        "127.0.0.1:1",
        "/x/engine.log",
        [],
    )


def test_an_ejected_peer_is_named_with_the_reason() -> None:
    notes = FailureNotes()
    notes.take("n2/0", "connection refused")
    found = ejection_concerns({"n3": 1.0, "n2/0": 12.4, "n2": 130.0}, notes)
    assert found == [
        "n2 is passed over for 2 min more: connection refused",
        "n2/0 is passed over for 12 s more: connection refused",
        "n3 is passed over for 1 s more: it does not answer",
    ]


def test_notes_of_failures_are_bounded() -> None:
    notes = FailureNotes()
    for at in range(5000):
        notes.take(f"n{at}/0", "x" * 10_000)
    assert notes.of("n0/0") == ""
    assert notes.of("n4999") == "x" * 200


def test_engines_that_crash_are_told_for_a_while() -> None:
    said = "n1/0 failed once and is ready: exited with status 3; its log is /x/engine.log"
    assert engine_concerns([instance()]) == [said]
    assert engine_concerns([instance("backoff", since_s=9e9, failures=4)])[0].startswith(
        "n1/0 failed 4 times in a row and is backoff"
    )
    assert engine_concerns([instance(since_s=601.0)]) == []
    assert engine_concerns([instance(failures=0)]) == []


def test_a_disk_is_low_by_share_and_by_bytes() -> None:
    assert disk_concerns([Disk("/a", 4 * GIB, 100 * GIB), Disk("/b", 90 << 20, GIB)]) == []
    low = disk_concerns([Disk("/a", GIB - 1, 100 * GIB), Disk("/b", 1 << 20, GIB)])
    assert [one.split(" has ")[0] for one in low] == ["/a", "/b"]


def test_not_a_member_comes_with_the_way_back() -> None:
    assert member_concern(why_not_a_member(None, ""), "BACK") == []
    assert member_concern(why_not_a_member(True, ""), "BACK") == []
    assert "snapshot does not have it" in member_concern(why_not_a_member(False, ""), "BACK")[0]
    assert member_concern(why_not_a_member(None, "it was revoked"), "BACK") == [
        "this node is not a member of the mesh: it was revoked; BACK"
    ]


def test_a_store_that_is_away_is_a_concern_once_the_lease_is_over() -> None:
    assert store_concern(0.0, 5.0, "") == store_concern(5.0, 5.0, "refused") == []
    assert store_concern(125.0, 5.0, "it does not answer")[0].startswith(
        "no store guard has answered for 2 min (it does not answer): this node's lease has run out"
    )
