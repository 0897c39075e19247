"""One alert for each thing that is wrong, while it is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge_registry.alerts.alert_rules import Alert, Seen, settle


def seen(name: str = "disk", node: str = "n1", instance: str = "n1/0", summary: str = "it is full") -> Seen:
    return Seen(name, "warning", node, instance, summary, f"bridgectl health {node}", "n1/0 ok")


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
    assert after({}, seen(), now=1.0, moving=("b", "a"))["disk@n1/0"].silenced == "rollout a moves"
    wrong = seen("wrong-answers")
    assert after({}, wrong, now=1.0, drained=("n1",), moving=("a",))["wrong-answers@n1/0"].silenced == ""


def test_a_node_has_alerts_of_its_own() -> None:
    assert set(after({}, seen("node-away", instance=""), seen("node-away"), now=1.0)) == {
        "node-away@n1",
        "node-away@n1/0",
    }


@given(st.lists(st.sets(st.integers(0, 300), max_size=300), max_size=6))
def test_those_that_last_are_all_kept_and_of_the_others_the_newest(looks: list[set[int]]) -> None:
    alerts: dict[str, Alert] = {}
    for at, look in enumerate(looks):
        found = [seen(instance=f"n1/{number}") for number in look]
        alerts = after(alerts, *found, now=(at + 1) * (15.0 + 1))
        lasting = {id_ for id_, one in alerts.items() if not one.ended}
        assert lasting >= {one.id for one in found}
        assert len(alerts) - len(lasting) <= 200
