"""Which alerts there are: one for each thing that is wrong, while it is. Pure.

Rules:
1. An alert's id is its name and place: what is wrong still, or again, is the same alert.
2. It ends when it was not seen for `QUIET_S`; so what flickers is one alert and not many.
3. It is silent while its node is drained, and while a rollout moves: then things change on purpose. Answers
   that are wrong are told of in any case.
4. Those that are over are kept for people to look at: the newest `KEPT`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

import msgspec

QUIET_S: Final = 15.0
KEPT: Final = 200
ALWAYS_TOLD: Final = frozenset({"wrong-answers"})


class Seen(msgspec.Struct, frozen=True):
    """Something that is wrong at this moment.

    Attributes:
        name: What kind: one of few words.
        severity: "warning" or "critical".
        node: Where.
        instance: The same, where it is one instance's.
        summary: What changed, in a sentence.
        command: Shows more.
        well: What that would say if all were well.
    """

    name: str
    severity: str
    node: str
    instance: str
    summary: str
    command: str
    well: str

    @property
    def id(self) -> str:
        """See rule 1."""
        return f"{self.name}@{self.instance or self.node}"


class Alert(msgspec.Struct, frozen=True):
    """One alert; times are Unix seconds, `ended` is 0 while it lasts."""

    seen: Seen
    since: float
    last: float
    ended: float = 0.0
    silenced: str = ""


def settle(
    alerts: Mapping[str, Alert],
    seen: Iterable[Seen],
    *,
    drained: Collection[str],
    moving: Collection[str],
    now: float,
) -> dict[str, Alert]:
    """The alerts after a look.

    Args:
        alerts: Those before.
        seen: What is wrong now.
        drained: Nodes that were told to take no work.
        moving: Rollouts that are under way.
        now: Unix seconds.
    """
    after = dict(alerts)
    for one in seen:
        before = alerts.get(one.id)
        lasting = before is not None and not before.ended
        since = before.since if before is not None and lasting else now
        after[one.id] = Alert(one, since, now, 0.0, _silence(one, drained, moving))
    for id_, alert in after.items():
        if not alert.ended and now - alert.last > QUIET_S:
            after[id_] = msgspec.structs.replace(alert, ended=alert.last)
    over = sorted((alert.ended, id_) for id_, alert in after.items() if alert.ended)
    for _, id_ in over[: max(0, len(over) - KEPT)]:
        del after[id_]
    return after


def _silence(one: Seen, drained: Collection[str], moving: Collection[str]) -> str:
    if one.name in ALWAYS_TOLD:
        return ""
    if one.node in drained:
        return f"node {one.node} is drained"
    return f"rollout {min(moving)} moves" if moving else ""
