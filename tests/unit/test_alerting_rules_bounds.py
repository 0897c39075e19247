"""Alerts, their rules and receivers, and the plan of an upgrade, at the limits of their rules."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bridge_cli.upgrade_rules import Part, Whole, plan
from bridge_core.config.alert_checks import Level
from bridge_core.counts import Counter, Counts
from bridge_core.formats import WRITTEN
from bridge_registry.alerts import delivery_rules
from bridge_registry.alerts.alert_rules import Alert, Seen, settle
from bridge_registry.alerts.delivery_rules import (
    Message,
    ReceiverPlan,
    Telling,
    Told,
    concern,
    due,
    failed,
    refused,
)
from bridge_registry.alerts.figure_rules import Mark, Sample, counted, marked
from bridge_registry.alerts.message_rules import body_of
from bridge_registry.alerts.threshold_rules import (
    RulePlan,
    Watched,
    resume,
    say,
    seen_of,
    sentence,
    watch,
    windows,
)

# -- alerts


def seen(name: str = "disk", node: str = "n1", **more: Any) -> Seen:
    return Seen(name, "warning", node, "", "it is full", "look", "ok", **more)


def settled(alerts: dict[str, Alert], *found: Seen, now: float) -> dict[str, Alert]:
    return settle(alerts, found, drained=(), moving=(), now=now)


def test_two_hundred_that_are_over_are_kept_the_newest() -> None:
    alerts = {f"a{at}": Alert(seen(f"a{at}"), 1.0, 1.0, 2.0 + at) for at in range(205)}
    kept = settled(alerts, now=1000.0)
    assert list(kept) == [f"a{at}" for at in range(5, 205)]
    assert settled({"a": alerts["a0"]}, now=1000.0) == {"a": alerts["a0"]}


def test_an_alert_of_the_first_second_of_time_is_over_all_the_same() -> None:
    (over,) = settled({"a": Alert(seen(), 0.0, 0.0)}, now=100.0).values()
    assert over.ended == 1.0
    (late,) = settled({"a": Alert(seen(), 5.0, 3.0)}, now=100.0).values()
    assert late.ended == 5.0


def test_of_one_node_what_lasts_goes_before_what_is_over() -> None:
    old = settled({}, *(seen(f"x{at:02}") for at in range(64)), now=1.0)
    assert len(old) == 64
    over = {id_: Alert(one.seen, 1.0, 1.0, 2.0 if id_ == "x00@n1" else 0.0) for id_, one in old.items()}
    found = settled(over, *(seen(f"x{at:02}") for at in range(1, 64)), seen("a"), seen("x00"), now=3.0)
    assert not found["a@n1"].ended
    assert found["x00@n1"].ended, "the sixty-fifth"
    assert Alert(seen(), 1.0, 1.0) == Alert(seen(), 1.0, 1.0, 0.0, "")


def test_what_was_not_taken_over_is_over_fifteen_seconds_after_it_was_seen_whenever_that_was() -> None:
    for last in (1.0, 100.0):
        alerts = {"disk@n1": Alert(seen(), last, last)}
        assert not settled(alerts, now=last + 15.0)["disk@n1"].ended
        assert settled(alerts, now=last + 15.1)["disk@n1"].ended == last


def test_what_was_over_in_the_first_second_of_time_goes_behind_what_lasts() -> None:
    old = settled({}, *(seen(f"x{at:02}") for at in range(1, 64)), now=5.0)
    old["a@n1"] = Alert(seen("a"), 0.5, 0.5, 1.0)
    found = settled(old, *(seen(f"x{at:02}") for at in range(1, 64)), seen("a"), seen("0"), now=6.0)
    assert not found["0@n1"].ended, "both are new, and this one comes first"
    assert found["a@n1"].ended == 1.0


def test_a_sentence_of_six_hundred_is_stored_and_a_longer_one_is_refused() -> None:
    (alert,) = settled({}, seen(), now=1.0).values()
    for length, fits in ((600, True), (601, False)):
        stored = msgspec.to_builtins(alert)
        stored["seen"]["summary"] = "x" * length
        try:
            msgspec.convert(stored, Alert)
        except msgspec.ValidationError:
            assert not fits
        else:
            assert fits


# -- receivers

HOOK = ReceiverPlan("hook", "webhook", "https://h/")


def test_what_a_receiver_gets_that_says_no_more_than_where_it_is() -> None:
    alert = Alert(seen(), 100.0, 100.0)
    telling = delivery_rules.look(HOOK, Telling(), {"disk@n1": alert})
    assert due(HOOK, telling, {"disk@n1": alert}, 104.9) is None
    first = due(HOOK, telling, {"disk@n1": alert}, 105.0)
    assert first is not None
    assert (len(first.alerts), first.more) == (1, 0)
    told = Telling(told={"disk@n1": Told(100.0, False, 105.0)}, groups={"n1": 105.0})
    assert due(HOOK, told, {"disk@n1": alert}, 105.0 + 4 * 3600 - 0.1) is None
    assert due(HOOK, told, {"disk@n1": alert}, 105.0 + 4 * 3600) is not None
    two = {"disk@n1": alert, "b@n1": Alert(seen("b"), 106.0, 106.0)}
    news = delivery_rules.look(HOOK, told, two)
    assert due(HOOK, news, two, 164.9) is None
    assert due(HOOK, news, two, 165.0) is not None
    over = {"disk@n1": Alert(seen(), 100.0, 100.0, 150.0)}
    assert delivery_rules.look(HOOK, told, over).waiting == {"disk@n1"}
    assert HOOK.wants(alert)
    assert not HOOK.private


def test_a_pause_counts_from_now_and_a_clock_set_back_ends_it() -> None:
    alert = {"disk@n1": Alert(seen(), 100.0, 100.0)}
    telling = failed(delivery_rules.look(HOOK, Telling(), alert), "away", 1000.0, jitter=1.0)
    assert telling.again == 1001.0
    assert due(HOOK, telling, alert, 941.0) is None
    assert due(HOOK, telling, alert, 940.9) is not None
    assert failed(telling, "away", 1000.0, jitter=0.5).again == 1001.5


def test_three_failures_are_an_admins_concern_and_reasons_are_cut() -> None:
    telling = Telling()
    for times in range(3):
        assert not list(concern("hook", telling)), times
        telling = failed(telling, "x" * 1001, 1.0, jitter=0.0)
    assert len(list(concern("hook", telling))) == 1
    assert telling.reason == "x" * 1000
    message = Message("n1", (Alert(seen(), 1.0, 1.0),))
    assert refused(HOOK, Telling(), message, "y" * 1001, 1.0).reason == "y" * 1000
    assert message.more == 0


def test_of_two_alerts_the_one_that_lasts_is_told_first_whichever_began_first() -> None:
    ended, lasts = Alert(seen("a"), 100.0, 150.0, 150.0), Alert(seen("b"), 120.0, 160.0)
    alerts = {one.seen.id: one for one in (ended, lasts)}
    message = due(HOOK, delivery_rules.look(HOOK, Telling(), alerts), alerts, 200.0)
    assert message is not None
    assert message.alerts == (lasts, ended)
    came = delivery_rules.delivered(HOOK, Telling(), message, 200.0)
    assert [one.over for one in came.told.values()] == [False, True]


def test_an_alert_of_this_very_moment_waits_as_long_as_any_other() -> None:
    alerts = {"disk@n1": Alert(seen(), 100.0, 100.0)}
    telling = delivery_rules.look(HOOK, Telling(), alerts)
    assert due(HOOK, telling, alerts, 100.0) is None
    assert due(HOOK, telling, alerts, 99.9) is not None, "of a clock that was set back nobody knows how far"


def test_after_a_message_came_nothing_is_kept_of_those_that_failed() -> None:
    message = Message("n1", (Alert(seen(), 1.0, 1.0),))
    telling = delivery_rules.delivered(HOOK, failed(Telling(), "away", 1.0, jitter=0.0), message, 2.0)
    assert set(msgspec.to_builtins(telling)) == {"told", "groups", "waiting", "failed", "delivered"}


def test_a_receiver_that_was_told_nothing() -> None:
    assert Telling() == Telling({}, {}, frozenset(), 0, 0, 0, 0, "", 0.0)


def test_moments_are_told_within_what_a_calendar_has() -> None:
    def starts(since: float) -> str:
        body = body_of(HOOK, Message("n1", (Alert(seen(), since, since),)), "m", 0.0)
        return str(body["alerts"][0]["startsAt"])

    assert starts(-5.0) == "1970-01-01T00:00:00.000Z"
    assert starts(0.5) == "1970-01-01T00:00:00.500Z"
    assert starts(1e12) == starts(1e11) == "5138-11-16T09:46:40.000Z"
    (firing,) = body_of(
        ReceiverPlan("am", "alertmanager", "u"), Message("mesh", (Alert(seen(), 0.0, 0.0),)), "m", 100.0
    )
    assert firing["endsAt"] == "1970-01-01T00:06:40.000Z"


def test_labels_and_groups_are_cut_to_what_receivers_take() -> None:
    long = Message("n" * 300, (Alert(seen(node="n" * 300, labels={"team": "t" * 300}), 1.0, 1.0),))
    body = body_of(HOOK, long, "m", 0.0)
    assert body["groupLabels"] == {"node": "n" * 256 + "…"}
    (labels,) = (one["labels"] for one in body["alerts"])
    assert (labels["node"], labels["team"]) == ("n" * 256 + "…", "t" * 256 + "…")


def test_what_an_earlier_leader_had_raised_has_no_figure_before_it_is_told_again() -> None:
    lasting = Seen("late", "warning", "n1", "n1/0", "it is late", "look", "ok", rule=True)
    found = resume(RULE, [lasting], 9.0)
    unsaid = Sample("n1", "n1/0", "", 0.0)
    assert found == {unsaid.key: Watched(unsaid, 9.0, None, unsaid)}


def test_only_what_all_alerts_share_is_common() -> None:
    two = (Alert(seen("a"), 1.0, 1.0), Alert(seen("b"), 1.0, 1.0, 2.0))
    body = body_of(HOOK, Message("n1", two, 7), "m", 0.0)
    assert body["commonLabels"] == {"severity": "warning", "mesh": "m", "node": "n1"}
    assert body["truncatedAlerts"] == 7
    assert [one["status"] for one in body["alerts"]] == ["firing", "resolved"]
    assert body["alerts"][0]["endsAt"] == "0001-01-01T00:00:00Z"


# -- figures and thresholds


def counts(answers: int, *, ttft: float = 0.1, tokens: int = 10) -> Counts:
    made = Counter()
    for _ in range(answers):
        made.answered(ttft, tokens=tokens, generating_s=2.0, broken=False)
    return made.counts


def test_a_trail_has_a_mark_each_sixth_of_its_window() -> None:
    first = (Mark(0.0, counts(1)),)
    assert len(marked(first, counts(2), 60.0, 9.9)) == 1
    assert len(marked(first, counts(2), 60.0, 10.0)) == 2
    assert marked((), counts(2), 60.0, 5.0) == (Mark(5.0, counts(2)),)
    two = (Mark(0.0, counts(1)), Mark(10.0, counts(1)))
    assert marked(two, counts(1), 60.0, 69.9)[0].at == 0.0
    assert marked(two, counts(1), 60.0, 70.0)[0].at == 10.0
    assert marked(first, counts(1), 60.0, 1.0) == first, "as many as before are no new beginning"
    assert Sample("n1", "", "", 1.0).limit == 0.0


def test_no_tokens_at_all_are_no_figure() -> None:
    trail = (Mark(0.0, counts(0)),)

    def tokens(each: int) -> Sample | None:
        return counted(
            "tokens_per_second", "n1", "n1/0", trail, counts(5, tokens=each), quantile=0.5, min_requests=5
        )

    assert tokens(0) is None
    assert tokens(1) == Sample("n1", "n1/0", "", 0.5)


RULE = RulePlan("late", "ttft_seconds", True, Level(2.0), Level(2.0), 0.0)


def test_a_rule_that_says_no_more_than_its_threshold() -> None:
    assert windows([RULE]) == {60.0}
    assert sentence(RULE, Sample("n1", "n1/0", "", 3.0)).startswith("n1/0: p95 of ttft_seconds")
    assert (RULE.min_requests, RULE.paused) == (20, False)
    assert RULE.fits({"zone": "x"})
    zone = RulePlan(
        "late", "ttft_seconds", True, Level(2.0), Level(2.0), 0.0, node_labels={"a": "1", "b": "2"}
    )
    assert not zone.fits({"a": "1"})
    assert zone.fits({"a": "1", "b": "2", "c": "3"})


def test_what_is_long_is_cut_to_what_a_record_has_room_for() -> None:
    long = RulePlan("x" * 600, "queue", True, Level(2.0), Level(2.0), 0.0)
    raised = Sample("n1", "i" * 700, "", 3.0)
    (one,) = seen_of(long, {"k": Watched(raised, 0.0, 0.0, raised)}, {})
    assert (len(one.command), len(one.summary)) == (512, 600)


def test_shares_are_said_of_their_limit_where_there_is_one() -> None:
    assert say("disk_used_bytes", 512.0, 1024.0, relative=True) == "50.0 % of 1 KiB"
    assert say("disk_used_bytes", 512.0, 1024.0) == "512 B"
    assert say("disk_used_bytes", 512.0, 0.0, relative=True) == "512 B"
    assert say("disk_used_bytes", 512.0, relative=True) == "512 B"
    assert say("disk_used_bytes", 0.5, 0.5, relative=True) == "100.0 % of 0 B"


def test_at_the_limit_of_a_small_share() -> None:
    half = RulePlan("r", "disk_used_bytes", True, Level(0.5, True), Level(0.5, True), 0.0)
    tiny = Sample("n1", "", "d", 0.4, 0.5)
    assert watch(half, {}, (tiny,), 0.0)["n1:d"].raised == tiny


# -- upgrades


def part(name: str, *models: str, **more: Any) -> Part:
    base = {"name": name, "state": "serving", "version": "1.1.0", "speaks": dict(WRITTEN), "models": models}
    return Part(**{**base, **more})


def mesh(*parts: Part, **more: Any) -> Whole:
    base = {"registry": "r1", "leader": "r1", "registry_version": "1.1.0", "speaks": WRITTEN}
    return Whole(**{**base, "store_fault": "", "parts": parts, **more})


def whys(whole: Whole) -> list[str]:
    return [one.why for one in plan(whole, "1.2.0").steps if one.what == "agent"]


def test_what_is_said_of_an_agents_restart() -> None:
    assert whys(mesh(part("n1", "a"), part("n2", "a"))) == ["", ""]
    assert whys(mesh(part("n1", "a", in_flight=3), part("n2", "a", in_flight=1))) == [
        "1 requests there end first",
        "3 requests there end first",
    ]
    alone = "it alone has a{}: who asks for it meanwhile waits, or is refused with 503"
    assert whys(mesh(part("n1", "a"))) == [alone.format("")]
    assert whys(mesh(part("n1", "a", "b"))) == [alone.format(" and 1 more")]
    assert whys(mesh(part("n1", "a", "b", "c"))) == [alone.format(" and 2 more")]
    assert Part("n", "serving", "", {}) == Part("n", "serving", "", {}, (), 0, "")


@pytest.mark.parametrize(
    ("version", "target", "refused"),
    [
        ("1.1.0", "2.0.0", ""),
        ("1.1.0", "3.0.0", "renew to 2.x first"),
        ("1.1.0", "1.1.0", ""),
        ("1.2.0", "1.1.9", "that is newer than 1.1.9"),
        ("1.1.0.dev9", "1.1.0", ""),
        ("1.1.1.dev9", "1.1.0", "that is newer"),
        ("1.1.x", "1.0.0", ""),
        ("1.1.²", "1.0.0", ""),
        ("10.0.0", "9.0.0", "that is newer"),
    ],
)
def test_from_which_version_to_which(version: str, target: str, refused: str) -> None:
    found = plan(mesh(part("n1", version=version), registry_version=target), target).refused
    assert len(found) == bool(refused)
    assert refused in "".join(found)


def test_what_else_is_to_be_known() -> None:
    def notes(*parts: Part, **more: Any) -> list[str]:
        return list(plan(mesh(*parts, **more), "1.2.0").notes)

    lone = "one node alone serves: while its agent restarts, requests wait in systemd's sockets"
    assert notes(part("n1", "a")) == [lone]
    assert notes(part("n1", "a"), part("n2", "a")) == []
    assert notes(part("n1", "a", version="1.2.0"), registry_version="1.2.0") == []
    assert notes(part("n1", state="drained")) == ["cordoned, and to stay so: n1"]
    assert notes(speaks={}) == ["the registry tells no formats: it is of a version before they were told"]


def test_who_is_renewed_first_of_registries() -> None:
    def why(**more: Any) -> str:
        return plan(mesh(**more), "1.2.0").steps[1].why

    assert why() == why(leader="") == "all of them, and their store guards"
    assert why(leader="r2").endswith("; r2, which leads, last")
    only_agents = plan(mesh(part("n1"), registry_version="1.2.0"), "1.2.0")
    assert [one.what for one in only_agents.steps] == ["backup", "agent"]
    only_registries = plan(mesh(part("n1", version="1.2.0")), "1.2.0")
    assert [one.what for one in only_registries.steps] == ["backup", "registries"]


def test_versions_that_differ_are_told_and_those_that_do_not_are_not() -> None:
    found = plan(mesh(part("n1", version=""), part("n2", version="1.2.0")), "1.2.0").differ
    assert found == (
        "the registry runs 1.1.0, not 1.2.0",
        "n1 runs a version that it does not tell, not 1.2.0",
    )
