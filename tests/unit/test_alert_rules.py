"""One alert for each thing that is wrong, while it is."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bridge_registry.alerts.alert_rules import (
    Alert,
    Seen,
    essence,
    resumed,
    settle,
)


def seen(
    name: str = "disk",
    node: str = "n1",
    instance: str = "n1/0",
    summary: str = "it is full",
    **more: Any,
) -> Seen:
    return Seen(name, "warning", node, instance, summary, f"bridgectl health {node}", "n1/0 ok", **more)


def after(
    alerts: dict[str, Alert],
    *found: Seen,
    now: float,
    drained: tuple[str, ...] = (),
    moving: tuple[str, ...] = (),
) -> dict[str, Alert]:
    return settle(alerts, found, drained=drained, moving=moving, now=now)


def test_what_lasts_is_one_alert_since_it_began_with_the_newest_words() -> None:
    alerts = after({}, seen(), now=10.0)
    alerts = after(alerts, seen(summary="it is fuller"), now=12.0)
    (alert,) = alerts.values()
    assert (alert.since, alert.ended, alert.seen.summary) == (10.0, 0.0, "it is fuller")


def test_what_flickers_is_one_alert_and_what_is_gone_ends_when_it_was_last_seen() -> None:
    alerts = after({}, seen(), now=10.0)
    alerts = after(alerts, now=10.0 + 15.0)
    assert not alerts["disk@n1/0"].ended
    alerts = after(alerts, now=10.1 + 15.0)
    assert alerts["disk@n1/0"].ended == 10.0
    alerts = after(alerts, seen(), now=100.0)
    assert (alerts["disk@n1/0"].since, alerts["disk@n1/0"].ended) == (100.0, 0.0)


def test_drains_and_rollouts_are_silent_but_not_about_wrong_answers() -> None:
    assert after({}, seen(), now=1.0, drained=("n1",))["disk@n1/0"].silenced == "node n1 is drained"
    assert after({}, seen(), now=1.0, drained=("n2",))["disk@n1/0"].silenced == ""
    moved = seen("errors", moved=True)
    assert after({}, moved, now=1.0, moving=("b", "a"))["errors@n1/0"].silenced == "rollout a moves"
    assert after({}, seen(), now=1.0, moving=("a",))["disk@n1/0"].silenced == "", "disks fill all the same"
    wrong = seen("wrong-answers")
    assert after({}, wrong, now=1.0, drained=("n1",), moving=("a",))["wrong-answers@n1/0"].silenced == ""
    named_so = seen("wrong-answers", rule=True)
    assert after({}, named_so, now=1.0, drained=("n1",))["rule wrong-answers@n1/0"].silenced


def test_a_node_has_alerts_of_its_own() -> None:
    assert set(after({}, seen("node-away", instance=""), seen("node-away"), now=1.0)) == {
        "node-away@n1",
        "node-away@n1/0",
    }


@given(st.lists(st.sets(st.integers(0, 300), max_size=64), max_size=6))
def test_those_that_last_are_all_kept_and_of_the_others_the_newest(looks: list[set[int]]) -> None:
    alerts: dict[str, Alert] = {}
    for at, look in enumerate(looks):
        found = [seen(instance=f"n1/{number}") for number in look]
        alerts = after(alerts, *found, now=(at + 1) * (15.0 + 1))
        lasting = {id_ for id_, one in alerts.items() if not one.ended}
        assert lasting >= {one.id for one in found}
        assert len(alerts) - len(lasting) <= 200


def test_a_rule_and_each_of_its_disks_have_alerts_of_their_own() -> None:
    disks = (seen(of="models", instance=""), seen(of="audit", instance=""), seen(rule=True, instance=""))
    assert set(after({}, *disks, now=1.0)) == {"disk@n1:models", "disk@n1:audit", "rule disk@n1"}


def test_who_begins_to_lead_goes_on_from_what_was_known() -> None:
    alerts = after(after({}, seen(), seen("queue"), now=10.0), seen("queue"), now=30.0)
    alerts = after(alerts, seen("queue"), now=40.0)
    known = resumed([*alerts.values(), Alert(seen("future"), 1e9, 1e9)], 100.0)
    assert known["disk@n1/0"] == alerts["disk@n1/0"], "what is over stays over"
    assert (known["queue@n1/0"].since, known["queue@n1/0"].last) == (10.0, 100.0)
    assert len(known) == 2, "nothing began in the future"
    assert len(resumed([Alert(seen(), 100.0, 100.0)], 100.0)) == 1
    later = settle(known, (), drained=(), moving=(), now=145.0, office=100.0)
    assert not later["queue@n1/0"].ended
    later = settle(known, (), drained=(), moving=(), now=145.1, office=100.0)
    assert later["queue@n1/0"].ended == 100.0
    again = settle(known, (seen("queue"),), drained=(), moving=(), now=101.0, office=100.0)
    later = settle(again, (), drained=(), moving=(), now=116.1, office=100.0)
    assert later["queue@n1/0"].ended == 101.0, "what was seen since is as any other"


def test_a_clock_that_is_set_back_keeps_nothing_for_ever() -> None:
    alerts = after({}, seen(), now=1000.0)
    assert after(alerts, now=500.0)["disk@n1/0"].ended == 1000.0
    assert not after(alerts, seen(), now=500.0)["disk@n1/0"].ended


def test_one_node_that_reports_nonsense_hides_nobody_elses() -> None:
    nonsense = [seen(name=f"x{at:03}") for at in range(2 * 64)]
    alerts = after({}, seen("zzz"), seen("other", "n2", "n2/0"), now=1.0)
    alerts = after(alerts, *nonsense, seen("zzz"), seen("other", "n2", "n2/0"), now=2.0)
    assert len([one for one in alerts.values() if one.seen.node == "n1"]) == 64
    assert {"zzz@n1/0", "other@n2/0"} <= alerts.keys(), "what lasts already goes before"


def test_nor_does_one_whose_nonsense_is_another_each_time() -> None:
    alerts: dict[str, Alert] = {}
    other = seen("other", "n2", "n2/0")
    for second in range(45):
        nonsense = [seen(f"x{second}-{at}") for at in range(64)]
        alerts = after(alerts, *nonsense, *([other] if second else []), now=float(second))
        lasting = [one for one in alerts.values() if not one.ended]
        assert len([one for one in lasting if one.seen.node == "n1"]) <= 64
        assert other.id in alerts or not second
    assert len(alerts) <= 2 * 64 + 1 + 200


def test_a_mesh_has_so_many_alerts_at_most() -> None:
    many = [seen("away", f"n{at}", "") for at in range(1000 + 5)]
    assert len(after({}, *many, now=1.0)) == 1000


def test_that_something_is_seen_once_more_is_not_worth_storing() -> None:
    first = after({}, seen(), now=10.0)
    assert essence(after(first, seen(summary="fuller"), now=11.0)) == essence(first)
    assert essence(after(first, seen(), now=11.0, drained=("n1",))) != essence(first)
    assert essence(after(first, now=100.0)) != essence(first)
