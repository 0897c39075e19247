"""Which alerts there are: one for each thing that is wrong, while it is. Pure.

Rules:
1. An alert's id is its name and place: what is wrong still, or again, is the same alert.
2. It ends when it was not seen for `QUIET_S`; so what flickers is one alert and not many. Who begins to lead
   hears of nobody at first: what it took over ends after `OFFICE_S`.
3. It is silent while its node is drained. While a rollout moves, what requests come to is silent: that
   changes on purpose then. A disk fills all the same, and answers that are wrong are told of in any case,
   unless somebody has silenced them by hand.
4. Those that are over are kept for people to look at: the newest `KEPT`.
5. One node has `MOST_OF_NODE` alerts that last at most, the mesh `MOST`, those among them that are not seen
   at this moment: whoever reports nonsense, and other nonsense each time, hides nobody else's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Annotated, Final

import msgspec

from bridge_core.bounds import Moment, Name, Text, Word

QUIET_S: Final = 15.0
OFFICE_S: Final = 45.0
KEPT: Final = 200
MOST_OF_NODE: Final = 64
MOST: Final = 1000
ALWAYS_TOLD: Final = frozenset({"wrong-answers"})
MOST_SUMMARY: Final = 600


class Seen(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that is wrong at this moment.

    Attributes:
        name: What kind: one of few words, or an AlertRule's name.
        severity: "warning" or "critical".
        node: Where.
        instance: The same, where it is one instance's.
        summary: What changed, in a sentence.
        command: Shows more.
        well: What that would say if all were well.
        of: Which of several: a disk, a GPU; empty: none in particular.
        rule: Whether an AlertRule says so, and its name is its document's.
        moved: Whether a rollout that moves may be why.
        labels: Of the rule.
        runbook: Of the rule.
        receivers: Who is told; none: everybody.
    """

    name: Name
    severity: Word
    node: Text
    instance: Text
    summary: Annotated[str, msgspec.Meta(max_length=MOST_SUMMARY)]
    command: Name
    well: Name
    of: Text = ""
    rule: bool = False
    moved: bool = False
    labels: Annotated[dict[Text, Text], msgspec.Meta(max_length=16)] = {}
    runbook: Name = ""
    receivers: Annotated[tuple[Name, ...], msgspec.Meta(max_length=16)] = ()

    @property
    def id(self) -> str:
        """See rule 1."""
        place = f"{self.instance or self.node}:{self.of}" if self.of else self.instance or self.node
        return f"{'rule ' if self.rule else ''}{self.name}@{place}"


class Alert(msgspec.Struct, frozen=True, omit_defaults=True):
    """One alert; times are Unix seconds, `ended` is 0 while it lasts."""

    seen: Seen
    since: Moment
    last: Moment
    ended: Moment = 0.0
    silenced: Name = ""


def of_health(
    name: str, severity: str, node: str, instance: str, summary: str, *, moved: bool = False
) -> Seen:
    """Something that `bridgectl health` shows more of."""
    command, well = f"bridgectl health {node}", f"{instance or node} ok"
    return Seen(name, severity, node, instance, summary[:MOST_SUMMARY], command, well, moved=moved)


def settle(
    alerts: Mapping[str, Alert],
    seen: Iterable[Seen],
    *,
    drained: Collection[str],
    moving: Collection[str],
    now: float,
    office: float = 0.0,
    hushed: Callable[[Seen], str] = lambda _: "",
) -> dict[str, Alert]:
    """The alerts after a look.

    Args:
        alerts: Those before.
        seen: What is wrong now.
        drained: Nodes that were told to take no work.
        moving: Rollouts that are under way.
        now: Unix seconds.
        office: When this registry began to lead, as `resumed` was told it.
        hushed: Why somebody wants to hear nothing of one; empty: nobody said so.
    """
    after = dict(alerts)
    found = {one.id: one for one in seen}
    quiet = [
        one.seen.node
        for id_, one in alerts.items()
        if id_ not in found and not one.ended and not _is_past(one, now, office)
    ]
    for one in _bounded(found, alerts, quiet):
        before = alerts.get(one.id)
        since = now if before is None or before.ended else before.since
        after[one.id] = Alert(one, since, now, 0.0, hushed(one) or _silence(one, drained, moving))
    for id_, alert in after.items():
        if not alert.ended and _is_past(alert, now, office):
            after[id_] = msgspec.structs.replace(alert, ended=max(alert.last, alert.since, 1.0))
    over = sorted((alert.ended, id_) for id_, alert in after.items() if alert.ended)
    for _, id_ in over[: max(0, len(over) - KEPT)]:
        del after[id_]
    return after


def resumed(alerts: Iterable[Alert], now: float) -> dict[str, Alert]:
    """What an earlier leader knew, for who begins to lead: what lasted then is as good as seen now."""
    return {
        one.seen.id: one if one.ended else msgspec.structs.replace(one, last=now)
        for one in alerts
        if one.since <= now
    }


def essence(alerts: Mapping[str, Alert]) -> frozenset[tuple[str, float, float, str]]:
    """What of them is worth to be stored: not that they were seen once more."""
    return frozenset((id_, one.since, one.ended, one.silenced) for id_, one in alerts.items())


def _is_past(alert: Alert, now: float, office: float) -> bool:
    """Whether one that lasts was not seen for so long that it is over (rule 2)."""
    # Where the clock was set back since, nobody knows how long that is: it is seen again, or over.
    quiet_s = OFFICE_S if alert.last == office else QUIET_S
    return not alert.last <= now <= alert.last + quiet_s


def _bounded(
    found: Mapping[str, Seen], alerts: Mapping[str, Alert], quiet: Collection[str]
) -> Iterator[Seen]:
    """Not more than rule 5 allows beside those of the nodes `quiet`, which are not seen at this moment; what
    lasts already goes before what is new.
    """
    of_node, told = Counter(quiet), len(quiet)
    for id_ in sorted(found, key=lambda id_: (id_ not in alerts or bool(alerts[id_].ended), id_)):
        one = found[id_]
        of_node[one.node] += 1
        if of_node[one.node] <= MOST_OF_NODE and told < MOST:
            told += 1
            yield one


def _silence(one: Seen, drained: Collection[str], moving: Collection[str]) -> str:
    if one.name in ALWAYS_TOLD and not one.rule:
        return ""
    if one.node in drained:
        return f"node {one.node} is drained"
    return f"rollout {min(moving)} moves" if moving and one.moved else ""
