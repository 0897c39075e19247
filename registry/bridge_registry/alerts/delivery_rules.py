"""Who is told of which alert, and when. Pure functions of (state, alerts, now).

Rules:
1. What a receiver is still to be told is the difference between the alerts and what it was told: nothing is
   queued but that, so a receiver that is away for hours is told how things are, once.
2. Alerts of one group (node, alert, or the whole mesh) are one message. The first waits `group_wait_s` for
   more to come, later ones `group_interval_s`; what lasts is told again every `repeat_s`.
3. Who was told of an alert is told of its end. An alert that ended before anybody could be told is told of as
   over, where it lasted longer than messages wait; what flickered for less is nobody's business.
4. What is silenced is not told of before it is silent no more.
5. An alert that had to be forgotten before it was told is counted (`dropped`), as is what a receiver refuses.
6. A message that was sent is repeated only where nobody knows whether it came: the state is stored after it.
7. What was told of as a warning and became critical is told of again, as news.
8. Of one message that fails nothing is lost: it is made anew, from how things are then, after a pause.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal

import msgspec

from bridge_core.bounds import Moment, Name, Word
from bridge_core.config.documents import AlertReceiverDocument
from bridge_registry.alerts.alert_rules import KEPT, MOST, Alert

MOST_AT_ONCE: Final = 64
"""Alerts of one message; the others are counted in it, or follow."""
RESEND_S: Final = 60.0
"""An Alertmanager takes for over what nobody told it of for some minutes."""
FIRST_PAUSE_S: Final = 1.0
LAST_PAUSE_S: Final = 60.0

Severities = frozenset[str]


class ReceiverPlan(msgspec.Struct, frozen=True):
    """An AlertReceiver as it is followed; times are seconds."""

    name: str
    kind: Literal["alertmanager", "webhook"]
    url: str
    severities: Severities = frozenset({"warning", "critical"})
    group_by: Literal["node", "alert", "mesh"] = "node"
    group_wait_s: float = 5.0
    group_interval_s: float = 60.0
    repeat_s: float = 4 * 3600.0
    send_resolved: bool = True
    authorization_file: str = ""
    ca: str = ""
    private: bool = False

    def group_of(self, alert: Alert) -> str:
        """The group of an alert."""
        if self.group_by == "mesh":
            return "mesh"
        return alert.seen.node if self.group_by == "node" else alert.seen.name

    def wants(self, alert: Alert) -> bool:
        """Whether it is told of an alert."""
        seen = alert.seen
        return seen.severity in self.severities and (not seen.receivers or self.name in seen.receivers)


class Told(msgspec.Struct, frozen=True, array_like=True):
    """What a receiver was told of one alert: of which one (`since`), whether that it is over, when, and how
    severe it was called.
    """

    since: Moment
    over: bool
    at: Moment
    severity: Word = ""


class Telling(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one receiver was told. Times are Unix seconds.

    Attributes:
        told: By alert.
        groups: When it was last told of each.
        waiting: Alerts that it is still to be told of.
        dropped: Alerts that it was not told of, and never will be.
        failed: Messages that did not come.
        delivered: Messages that came.
        failing: How many failed since the last one that came.
        reason: Why the last of them did.
        again: Not before then.
    """

    told: Annotated[dict[Name, Told], msgspec.Meta(max_length=4 * (MOST + KEPT))] = {}
    groups: Annotated[dict[Name, Moment], msgspec.Meta(max_length=4 * (MOST + KEPT))] = {}
    waiting: frozenset[str] = frozenset()
    dropped: int = 0
    failed: int = 0
    delivered: int = 0
    failing: int = 0
    reason: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    again: Moment = 0.0


class Message(msgspec.Struct, frozen=True):
    """What is to be sent: the alerts of a group, and how many there was no room for."""

    group: str
    alerts: tuple[Alert, ...]
    more: int = 0


def plan_of(document: AlertReceiverDocument) -> ReceiverPlan:
    """What a document that was checked says."""
    spec = document.spec
    plan = ReceiverPlan(
        document.metadata.name,
        spec.type,
        spec.url,
        frozenset(spec.severities),
        authorization_file=spec.authorization_file or "",
        ca=spec.ca or "",
        private=spec.allow_private_address,
    )
    if plan.kind == "alertmanager":
        return msgspec.structs.replace(
            plan,
            url=f"{spec.url.rstrip('/')}/api/v2/alerts",
            group_by="mesh",
            group_wait_s=0.0,
            group_interval_s=0.0,
            repeat_s=RESEND_S,
        )
    return msgspec.structs.replace(
        plan,
        group_by=spec.group_by,
        group_wait_s=spec.group_wait,
        group_interval_s=spec.group_interval,
        repeat_s=spec.repeat,
        send_resolved=spec.send_resolved,
    )


def look(plan: ReceiverPlan, telling: Telling, alerts: Mapping[str, Alert]) -> Telling:
    """The state beside the alerts of now: what waits, what has to be given up, what is past."""
    told = {id_: one for id_, one in telling.told.items() if id_ in alerts}
    waiting = frozenset(id_ for id_, alert in alerts.items() if _is_news(plan, alert, telling.told.get(id_)))
    lost = sum(id_ not in alerts for id_ in telling.waiting)
    there = {plan.group_of(alert) for alert in alerts.values()}
    groups = {name: at for name, at in telling.groups.items() if name in there}
    return msgspec.structs.replace(
        telling, told=told, groups=groups, waiting=waiting, dropped=telling.dropped + lost
    )


def due(plan: ReceiverPlan, telling: Telling, alerts: Mapping[str, Alert], now: float) -> Message | None:
    """The message that is to be sent now; None: none. `telling` is of `look`."""
    if telling.failing and telling.again - LAST_PAUSE_S <= now < telling.again:
        return None
    groups = dict[str, list[Alert]]()
    for alert in alerts.values():
        groups.setdefault(plan.group_of(alert), []).append(alert)
    for name, members in sorted(groups.items()):
        message = _of_group(plan, telling, name, members, now)
        if message is not None:
            return message
    return None


def delivered(plan: ReceiverPlan, telling: Telling, message: Message, now: float) -> Telling:
    """The state after a message came."""
    told = dict(telling.told)
    for alert in message.alerts:
        told[alert.seen.id] = Told(alert.since, bool(alert.ended), now, alert.seen.severity)
    ids = {alert.seen.id for alert in message.alerts}
    return msgspec.structs.replace(
        telling,
        told=told,
        groups={**telling.groups, message.group: now},
        waiting=telling.waiting - ids,
        delivered=telling.delivered + 1,
        failing=0,
        reason="",
        again=0.0,
    )


def failed(telling: Telling, reason: str, now: float, *, jitter: float, wait_s: float = 0.0) -> Telling:
    """The state after one did not come.

    Args:
        telling: The state before.
        reason: Why.
        now: Unix seconds.
        jitter: Of the pause, from 0 to 1.
        wait_s: How long the receiver asks to be left alone.
    """
    whole = min(LAST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(telling.failing, 16))
    pause = max(whole * (0.5 + 0.5 * jitter), min(wait_s, LAST_PAUSE_S))
    return msgspec.structs.replace(
        telling,
        failed=telling.failed + 1,
        failing=telling.failing + 1,
        reason=reason[:1000],
        again=now + pause,
    )


def refused(plan: ReceiverPlan, telling: Telling, message: Message, reason: str, now: float) -> Telling:
    """The state after a receiver said that it will never take a message like this one."""
    news = sum(alert.seen.id in telling.waiting for alert in message.alerts)
    after = delivered(plan, telling, message, now)
    return msgspec.structs.replace(
        after,
        delivered=telling.delivered,
        failed=telling.failed + 1,
        dropped=telling.dropped + news,
        reason=reason[:1000],
    )


def is_final(status: int) -> bool:
    """Whether an answer says that the same message would be refused again. A wrong key or path is mended by
    whoever runs the receiver, and then the message is wanted.
    """
    return status in {400, 413, 415, 422}


def _of_group(
    plan: ReceiverPlan, telling: Telling, name: str, members: list[Alert], now: float
) -> Message | None:
    news = [one for one in members if one.seen.id in telling.waiting]
    last = telling.groups.get(name)
    told = [one for one in members if not one.ended and _was_told(telling, one)]
    lasting = [one for one in told if one.seen.id not in telling.waiting]
    stale = [one for one in lasting if _passed(telling.told[one.seen.id].at, plan.repeat_s, now)]
    if last is None:
        ready = any(_passed(one.since, plan.group_wait_s, now) for one in news)
    else:
        ready = bool(news) and _passed(last, plan.group_interval_s, now)
    if not ready and not stale:
        return None
    news.sort(key=lambda one: (bool(one.ended), one.since, one.seen.id))
    lasting.sort(key=lambda one: (telling.told[one.seen.id].at, one.since, one.seen.id))
    chosen = [*(news if ready else ()), *(stale if plan.kind == "alertmanager" else lasting)]
    return Message(name, tuple(chosen[:MOST_AT_ONCE]), max(0, len(chosen) - MOST_AT_ONCE))


def _is_news(plan: ReceiverPlan, alert: Alert, told: Told | None) -> bool:
    """Whether a receiver is still to be told of it."""
    if alert.ended:
        if told is not None and not told.over:  # of this one, or of one before it: it is believed to last
            return plan.send_resolved
        if told is not None and told.since == alert.since:
            return False
        lasted = alert.ended - alert.since > plan.group_wait_s
        return plan.send_resolved and lasted and not alert.silenced and plan.wants(alert)
    known = told is not None and told.since == alert.since and not _grew(told, alert)
    return not known and not alert.silenced and plan.wants(alert)


def _grew(told: Told, alert: Alert) -> bool:
    return told.severity == "warning" and alert.seen.severity == "critical"


def _was_told(telling: Telling, alert: Alert) -> bool:
    told = telling.told.get(alert.seen.id)
    return told is not None and told.since == alert.since and not alert.silenced


def _passed(since: float, span_s: float, now: float) -> bool:
    """Whether a span is over; a clock that was set back since makes nobody wait for days."""
    return not since <= now < since + span_s


def concern(name: str, telling: Telling) -> Iterator[str]:
    """What an admin should know of a receiver that cannot be reached."""
    if telling.failing >= 3:
        count = len(telling.waiting)
        yield (
            f"the alert receiver {name} takes nothing ({telling.failing} messages failed, {count} alerts "
            f"wait): {telling.reason}"
        )
