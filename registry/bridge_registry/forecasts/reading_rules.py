"""Series that are forecast, out of what nodes report. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from bridge_core import gauges
from bridge_core.counts import Counts
from bridge_core.snapshot import Snapshot
from bridge_core.traffic import AdmissionPolicy
from bridge_registry.alerts.threshold_rules import RulePlan
from bridge_registry.health.keeper import Heard


class Place(msgspec.Struct, frozen=True, order=True):
    """Which series of a figure: a node's, or where `instance` is set that instance's."""

    node: str
    instance: str
    of: str


class Reading(msgspec.Struct, frozen=True):
    """What a series is now, and its limit; 0: it has none."""

    place: Place
    value: float
    limit: float = 0.0


def filling(figure: str, reporting: Mapping[str, Heard]) -> Iterator[Reading]:
    """Disks, or GPUs' memory."""
    for node, heard in reporting.items():
        for one in heard.gauges:
            if one.name == figure and one.limit > 0.0:
                yield Reading(Place(node, "", one.of), one.value, one.limit)


def queues(
    snapshot: Snapshot, reporting: Mapping[str, Heard], plans: Sequence[RulePlan]
) -> Iterator[Reading]:
    """Every instance's queue. Its limit is where the strictest route turns requests away, or an AlertRule's
    threshold below that.
    """
    bounds = (one.policy.admission.queue_per_slot for one in snapshot.routes.values())
    of_slot = min(bounds, default=AdmissionPolicy().queue_per_slot)
    for node, heard in reporting.items():
        threshold = _threshold(gauges.QUEUE, snapshot.nodes[node].labels, plans)
        for one in heard.gauges:
            if one.name == gauges.QUEUE and one.of in snapshot.instances:
                full = float(snapshot.instances[one.of].slots * of_slot)
                limits = [each for each in (full, threshold) if each > 0.0]
                yield Reading(Place(node, one.of, ""), one.value, min(limits, default=0.0))


def streams(
    snapshot: Snapshot,
    reporting: Mapping[str, Heard],
    plans: Sequence[RulePlan],
    before: Mapping[str, Counts],
) -> Iterator[Reading]:
    """Tokens a second of one stream, of every instance that made some since `before`. An AlertRule's
    threshold is their limit.
    """
    for node, heard in reporting.items():
        threshold = _threshold(gauges.TOKENS, snapshot.nodes[node].labels, plans)
        for id_, health in heard.instances.items():
            earlier = before.get(id_)
            if earlier is None or id_ not in snapshot.instances:
                continue
            pace = health.counts.since(earlier).tokens_per_s
            if pace > 0.0:
                yield Reading(Place(node, id_, ""), pace, threshold)


def _threshold(figure: str, labels: Mapping[str, str], plans: Sequence[RulePlan]) -> float:
    """The first threshold that a node's series reaches, of the AlertRules that are about it; 0: there is
    none.
    """
    above = figure == gauges.QUEUE
    found = [
        one.threshold.value
        for one in plans
        if (one.figure, one.above) == (figure, above)
        and not one.paused
        and not one.threshold.relative
        and one.fits(labels)
    ]
    return (min if above else max)(found, default=0.0)
