"""Who is told of which alert, and when."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bridge_registry.alerts import delivery_rules as rules
from bridge_registry.alerts.alert_rules import Alert, Seen
from bridge_registry.alerts.delivery_rules import Message, ReceiverPlan, Telling, Told
from bridge_registry.alerts.message_rules import body_of

HOOK = ReceiverPlan(
    "hook", "webhook", "https://h.example/", group_wait_s=5.0, group_interval_s=60.0, repeat_s=3600.0
)
MANAGER = ReceiverPlan(
    "am", "alertmanager", "https://a.example/", group_by="mesh", group_wait_s=0.0, group_interval_s=0.0,
    repeat_s=60.0,
)  # fmt: skip
VECTORS = Path(__file__).parent / "vectors" / "alerts.json"


def alert(
    name: str = "disk", node: str = "n1", since: float = 100.0, ended: float = 0.0, **more: Any
) -> Alert:
    silenced = more.pop("silenced", "")
    severity = more.pop("severity", "warning")
    seen = Seen(
        name, severity, node, "", f"{name} of {node}", f"bridgectl health {node}", f"{node} ok", **more
    )
    return Alert(seen, since, since, ended, silenced)


def known(*alerts: Alert) -> dict[str, Alert]:
    return {one.seen.id: one for one in alerts}


def step(plan: ReceiverPlan, telling: Telling, *alerts: Alert, now: float) -> tuple[Telling, Message | None]:
    """The state after a look, and after its message came, if there was one."""
    there = known(*alerts)
    telling = rules.look(plan, telling, there)
    message = rules.due(plan, telling, there, now)
    return telling if message is None else rules.delivered(plan, telling, message, now), message


def ids(message: Message | None) -> list[str]:
    return [] if message is None else [one.seen.id for one in message.alerts]


def test_a_groups_first_message_waits_and_later_ones_wait_longer() -> None:
    telling, message = step(HOOK, Telling(), alert(), now=104.9)
    assert message is None
    assert telling.waiting == {"disk@n1"}
    telling, message = step(HOOK, telling, alert(), alert("queue", since=103.0), now=105.0)
    assert ids(message) == ["disk@n1", "queue@n1"]
    assert telling.waiting == frozenset()
    everything = (alert(), alert("queue", since=103.0), alert("new", since=106.0))
    assert step(HOOK, telling, *everything, now=164.9)[1] is None
    _, message = step(HOOK, telling, *everything, now=165.0)
    assert ids(message) == ["new@n1", "disk@n1", "queue@n1"], "with the new one all that lasts is told"


def test_groups_are_told_for_themselves() -> None:
    two = (alert(node="n2"), alert(node="n1"), alert("queue", node="n2"))
    for by, found in (("node", ["disk@n1"]), ("alert", ["disk@n1", "disk@n2"]), ("mesh", [*known(*two)])):
        plan = msgspec.structs.replace(HOOK, group_by=by)
        _, message = step(plan, Telling(), *two, now=105.0)
        assert sorted(ids(message)) == sorted(found)


def test_what_lasts_is_told_again_and_what_is_over_once() -> None:
    telling, _ = step(HOOK, Telling(), alert(), now=105.0)
    assert step(HOOK, telling, alert(), now=105.0 + 3599.9)[1] is None
    assert ids(step(HOOK, telling, alert(), now=105.0 + 3600.0)[1]) == ["disk@n1"]
    over = alert(ended=150.0)
    assert step(HOOK, telling, over, now=164.9)[1] is None
    telling, message = step(HOOK, telling, over, now=165.0)
    assert ids(message) == ["disk@n1"]
    assert step(HOOK, telling, over, now=1e6)[1] is None
    silent = msgspec.structs.replace(HOOK, send_resolved=False)
    telling, _ = step(silent, Telling(), alert(), now=105.0)
    assert step(silent, telling, over, now=1e6)[1] is None


def test_what_becomes_critical_is_told_again_once_and_what_becomes_less_is_not() -> None:
    for plan, soon in ((HOOK, 165.0), (MANAGER, 130.0)):
        telling, _ = step(plan, Telling(), alert(), now=105.0)
        worse = alert(severity="critical")
        telling, message = step(plan, telling, worse, now=soon)
        assert message is not None
        assert [(one.seen.id, one.seen.severity) for one in message.alerts] == [("disk@n1", "critical")]
        assert step(plan, telling, worse, now=soon + 59.0)[1] is None
        telling, message = step(plan, telling, alert(), now=soon + 59.0)
        assert message is None
        assert telling.waiting == frozenset()
    noted_before = {"disk@n1": Told(100.0, False, 105.0)}  # how severe it was is not in it
    before = Telling(noted_before, {"n1": 105.0})
    assert step(HOOK, before, alert(severity="critical"), now=200.0)[1] is None


def test_what_comes_again_is_told_again() -> None:
    telling, _ = step(HOOK, Telling(), alert(), now=105.0)
    again = alert(since=300.0)
    telling, message = step(HOOK, telling, again, now=305.0)
    assert ids(message) == ["disk@n1"]
    assert telling.told["disk@n1"] == Told(300.0, False, 305.0, "warning")


def test_what_flickered_is_nobodys_business_and_what_lasted_unheard_is() -> None:
    assert step(HOOK, Telling(), alert(ended=105.0), now=200.0)[1] is None
    _, message = step(HOOK, Telling(), alert(ended=105.1), now=200.0)
    assert ids(message) == ["disk@n1"]


def test_the_silenced_and_the_unwanted_are_not_told_of_but_that_they_are_over_is() -> None:
    telling, message = step(HOOK, Telling(), alert(silenced="node n1 is drained"), now=200.0)
    assert message is None
    assert telling.waiting == frozenset()
    assert ids(step(HOOK, telling, alert(), now=200.0)[1]) == ["disk@n1"], "told when it is silent no more"
    critical = msgspec.structs.replace(HOOK, severities=frozenset({"critical"}))
    assert step(critical, Telling(), alert(), now=200.0)[1] is None
    assert step(critical, Telling(), alert(severity="critical"), now=200.0)[1] is not None
    assert step(HOOK, Telling(), alert(receivers=("other",)), now=200.0)[1] is None
    assert step(HOOK, Telling(), alert(receivers=("other", "hook")), now=200.0)[1] is not None
    telling, _ = step(HOOK, Telling(), alert(), now=105.0)
    hushed = alert(silenced="node n1 is drained")
    assert step(HOOK, telling, hushed, now=105.0 + 3600.0)[1] is None, "nor again while it is silent"
    assert ids(step(HOOK, telling, alert(ended=300.0, silenced="x"), now=400.0)[1]) == ["disk@n1"]
    unheard = alert(ended=300.0, silenced="x")
    assert step(HOOK, Telling(), unheard, now=400.0)[1] is None


def test_an_alertmanager_hears_of_what_lasts_every_minute_and_of_nothing_twice_in_between() -> None:
    telling, message = step(MANAGER, Telling(), alert(), now=100.0)
    assert ids(message) == ["disk@n1"]
    both = (alert(), alert("queue", node="n2", since=110.0))
    telling, message = step(MANAGER, telling, *both, now=110.0)
    assert ids(message) == ["queue@n2"]
    telling, message = step(MANAGER, telling, *both, now=160.0)
    assert ids(message) == ["disk@n1"]
    assert step(MANAGER, telling, *both, now=169.9)[1] is None
    assert ids(step(MANAGER, telling, *both, now=170.0)[1]) == ["queue@n2"]


def test_of_many_alerts_the_first_are_told_and_the_others_follow() -> None:
    many = [alert(f"a{at:03}", since=100.0 + at) for at in range(64 + 6)]
    telling, message = step(HOOK, Telling(), *many, now=500.0)
    assert message is not None
    assert (len(message.alerts), message.more) == (64, 6)
    assert ids(message)[0] == "a000@n1"
    assert len(telling.waiting) == 6
    _, message = step(HOOK, telling, *many, now=560.0)
    assert message is not None
    assert set(ids(message)[:6]) == telling.waiting


def test_a_receiver_that_fails_is_left_alone_for_longer_and_longer() -> None:
    telling, pauses = rules.look(HOOK, Telling(), known(alert())), []
    for _ in range(9):
        telling = rules.failed(telling, "it is away", 200.0, jitter=1.0)
        pauses.append(telling.again - 200.0)
        assert rules.due(HOOK, telling, known(alert()), telling.again - 0.1) is None
        assert rules.due(HOOK, telling, known(alert()), telling.again) is not None
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    assert (telling.failed, telling.failing, telling.reason) == (9, 9, "it is away")
    assert "takes nothing (9 messages failed, 1 alerts wait): it is away" in next(
        rules.concern("hook", telling)
    )
    assert not list(
        rules.concern("hook", rules.failed(rules.failed(Telling(), "", 1.0, jitter=0), "", 1.0, jitter=0))
    )
    assert rules.failed(Telling(), "", 0.0, jitter=0.0).again == 0.5
    assert rules.failed(Telling(), "busy", 0.0, jitter=0.0, wait_s=30.0).again == 30.0
    assert rules.failed(Telling(), "busy", 0.0, jitter=0.0, wait_s=1e9).again == 60.0
    assert rules.due(HOOK, telling, known(alert()), telling.again - 3600.0) is not None, "a clock set back"
    there = rules.due(HOOK, telling, known(alert()), 1e6)
    assert there is not None
    after = rules.delivered(HOOK, telling, there, 1e6)
    assert (after.failing, after.reason, after.again, after.delivered) == (0, "", 0.0, 1)


def test_what_is_refused_for_good_or_forgotten_before_it_was_told_is_counted() -> None:
    there = known(alert())
    telling = rules.look(HOOK, Telling(), there)
    message = rules.due(HOOK, telling, there, 200.0)
    assert message is not None
    after = rules.refused(HOOK, telling, message, "no", 200.0)
    assert (after.dropped, after.failed, after.delivered, after.waiting) == (1, 1, 0, frozenset())
    assert rules.look(HOOK, telling, {}).dropped == 1
    assert rules.look(HOOK, rules.look(HOOK, telling, {}), {}).dropped == 1
    told, _ = step(HOOK, Telling(), alert(), now=105.0)
    assert rules.look(HOOK, told, {}) == msgspec.structs.replace(told, told={}, groups={})
    assert {status for status in range(100, 600) if rules.is_final(status)} == {400, 413, 415, 422}


class Hears:
    """A receiver: what it believes, by what it was told."""

    def __init__(self) -> None:
        self.lasting: dict[str, float] = {}

    def take(self, message: Message) -> None:
        for one in message.alerts:
            if one.ended:
                self.lasting.pop(one.seen.id, None)
            else:
                self.lasting[one.seen.id] = one.since


looks = st.lists(
    st.tuples(
        st.floats(0.5, 30.0),
        st.sets(st.sampled_from(["a", "b", "c", "d"])),
        st.sampled_from(["taken", "away", "unknown"]),
    ),
    max_size=30,
)


@given(looks, st.sampled_from([HOOK, MANAGER]))
def test_whatever_fails_a_receiver_believes_in_the_end_what_is_so(
    steps: list[tuple[float, set[str], str]], plan: ReceiverPlan
) -> None:
    """Unknown: it came, and the leader died before it stored that; the next one takes a lease's time."""
    now, heard, telling, alerts = 1000.0, Hears(), Telling(), dict[str, Alert]()
    last = steps[-1][1] if steps else set[str]()
    for more, names, outcome in [*steps, *((70.0, last, "taken") for _ in range(4))]:
        now += more
        for name in "abcd":
            old = alerts.get(f"{name}@n1")
            if name in names and (old is None or old.ended):
                alerts[f"{name}@n1"] = alert(name, since=now)
            elif name not in names and old is not None and not old.ended:
                alerts[old.seen.id] = msgspec.structs.replace(old, ended=now)
        telling = rules.look(plan, telling, alerts)
        message = rules.due(plan, telling, alerts, now)
        if message is None:
            continue
        assert message.alerts
        if outcome != "away":
            heard.take(message)
        if outcome == "taken":
            telling = rules.delivered(plan, telling, message, now)
        elif outcome == "away":
            telling = rules.failed(telling, "away", now, jitter=0.5)
        else:
            now += 6.0
    assert heard.lasting == {one.seen.id: one.since for one in alerts.values() if not one.ended}
    assert telling.waiting == frozenset()
    assert telling.dropped == 0


@given(st.lists(st.tuples(st.floats(0.1, 50.0), st.booleans()), max_size=40))
def test_nothing_is_told_twice_before_its_time(steps: list[tuple[float, bool]]) -> None:
    now, telling, last = 1000.0, Telling(), dict[str, float]()
    for more, also in steps:
        now += more
        there = [alert(since=1000.0)] + ([alert("b", since=1000.0)] if also else [])
        telling, message = step(HOOK, telling, *there, now=now)
        if message is not None:
            assert now - last.get("group", float("-inf")) >= HOOK.group_interval_s
            last["group"] = now


EVIL = alert(
    "full", since=1_700_000_000.25, of="x\x1b[2J\n", rule=True, labels={"team": "a\nb"}, runbook="look"
)
OVER = alert("queue", since=1_700_000_000.0, ended=1_700_000_060.5, severity="critical")


def test_messages_are_as_they_were() -> None:
    wanted = json.loads(VECTORS.read_text())
    message = Message("n1", (EVIL, OVER), 3)
    found = {
        "webhook": body_of(HOOK, message, "lab.example", 1_700_000_100.0),
        "alertmanager": body_of(MANAGER, message, "lab.example", 1_700_000_100.0),
    }
    assert found == {name: wanted[name] for name in found}


def test_what_is_stored_is_read_as_it_was() -> None:
    wanted = json.loads(VECTORS.read_text())
    told = {"disk@n1": Told(1.0, True, 2.0, "critical")}
    telling = Telling(told, {"n1": 2.0}, frozenset({"a"}), 1, 2, 3, 4, "why", 5.0)
    assert msgspec.to_builtins(telling) == wanted["telling"]
    assert msgspec.convert(wanted["telling"], Telling) == telling
    first = msgspec.convert(wanted["telling as it first was"], Telling)
    assert first == msgspec.structs.replace(telling, told={"disk@n1": Told(1.0, True, 2.0)})
    assert msgspec.to_builtins(EVIL) == wanted["alert"]
    assert msgspec.convert(wanted["alert"], Alert) == EVIL


def test_a_group_is_over_when_all_of_it_is() -> None:
    assert body_of(HOOK, Message("n1", (OVER,)), "m", 0.0)["status"] == "resolved"
    assert body_of(HOOK, Message("n1", (OVER, EVIL)), "m", 0.0)["status"] == "firing"
    plans = [msgspec.structs.replace(HOOK, group_by=by) for by in ("node", "alert", "mesh")]
    labels = [body_of(plan, Message(plan.group_of(OVER), (OVER,)), "m", 0.0)["groupLabels"] for plan in plans]
    assert labels == [{"node": "n1"}, {"alertname": "queue"}, {"mesh": "m"}]


def test_what_came_back_for_a_moment_only_is_over_for_who_was_told_of_it_before() -> None:
    telling, _ = step(HOOK, Telling(), alert(), now=105.0)
    flicker = alert(since=300.0, ended=301.0)
    telling, message = step(HOOK, telling, flicker, now=302.0)
    assert ids(message) == ["disk@n1"]
    assert step(HOOK, telling, flicker, now=1e6)[1] is None
