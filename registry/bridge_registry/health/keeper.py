"""What all nodes say of health, put together: a verdict for every instance, published while this one leads.

Infrastructure and service are what an instance's own agent says of it, as long as that reports; business is
what the golden prompts came to. Only the latter takes an instance out, as only that is decided by others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import structlog

from bridge_core.counts import Counts
from bridge_core.gauges import Gauge
from bridge_core.names import canonical_or_same
from bridge_core.snapshot import Instance, Snapshot
from bridge_core.verdicts import Reason, Verdict, ordered
from bridge_registry.health.golden_rules import GoldenBook
from bridge_registry.health.reported import InstanceHealth, NodeHealthReport
from bridge_registry.health.standing_rules import LEADS

log = structlog.get_logger()

FRESH_S: Final = 10.0
"""For so long a node's last report says how it is."""


class Heard:
    """The last report of one node, and when it came: monotonic seconds, so that a clock that is set makes
    nobody late.
    """

    __slots__ = ("at", "gauges", "instances", "leads", "silent", "told_silent")

    def __init__(self, report: NodeHealthReport, at: float, before: Heard | None = None) -> None:
        self.at = at
        told = () if report.lead is None else (report.lead,)
        self.leads: tuple[float, ...] = (*(before.leads if before is not None else ()), *told)[-LEADS:]
        # Of two reports: a peer that was busy for a moment is not cut off.
        self.told_silent = report.silent
        self.silent = report.silent & before.told_silent if before is not None else frozenset[str]()
        self.instances: Mapping[str, InstanceHealth] = {one.instance: one for one in report.instances}
        self.gauges: tuple[Gauge, ...] = report.gauges


def counts_of(reporting: Mapping[str, Heard]) -> dict[str, Counts]:
    """What the instances of nodes that report have done so far."""
    return {id_: one.counts for heard in reporting.values() for id_, one in heard.instances.items()}


class HealthKeeper:
    """See the module. One task feeds it: the loop's.

    Args:
        snapshot: What is published.
        leads: Whether this registry leads.
        changed: Called when what is to be published changed.
    """

    def __init__(
        self, snapshot: Callable[[], Snapshot], leads: Callable[[], bool], changed: Callable[[], None]
    ) -> None:
        self._snapshot = snapshot
        self._leads = leads
        self._changed = changed
        self._golden = GoldenBook()
        self._heard: dict[str, Heard] = {}
        self._published: dict[str, Verdict] = {}
        self._led = False
        self._swept: Snapshot | None = None

    @property
    def heard(self) -> Mapping[str, Heard]:
        """The last report of every node."""
        return self._heard

    def take(self, node: str, report: NodeHealthReport, now: float) -> None:
        """Takes a report in, at monotonic time `now`; what it comes to, `settle` says."""
        self._take_office()
        snapshot = self._snapshot()
        self._heard[node] = Heard(report, now, self._heard.get(node))
        nodes = snapshot.node_of
        for answer in report.golden:
            digest = _digest(snapshot.instances.get(answer.instance), answer.model)
            if digest:
                self._golden.take(node, answer, digest=digest, nodes=nodes)

    def settle(self, now: float) -> None:
        """Makes up the verdicts anew, at monotonic time `now`; who became better or worse is logged and
        published.
        """
        self._take_office()
        snapshot = self._snapshot()
        self._sweep(snapshot)
        verdicts = {}
        for instance in snapshot.instances.values():
            reasons = ordered(self._reasons(instance, now))
            if reasons:
                out = self._golden.convicted(instance.id)
                verdicts[instance.id] = Verdict(instance.id, reasons, out)
        if verdicts != self._published:
            self._publish(verdicts)

    def _sweep(self, snapshot: Snapshot) -> None:
        """Forgets what is gone, once for each snapshot."""
        if snapshot is self._swept:
            return
        self._swept = snapshot
        self._golden.forget_all_but({id_: _digests(one) for id_, one in snapshot.instances.items()})
        self._heard = {node: one for node, one in self._heard.items() if node in snapshot.nodes}

    def _publish(self, verdicts: dict[str, Verdict]) -> None:
        for id_, verdict in verdicts.items():
            before = self._published.get(id_)
            if before is None or (before.level, before.out) != (verdict.level, verdict.out):
                log.warning(
                    "instance_not_well", instance=id_, level=verdict.level, out=verdict.out, why=verdict.why
                )
        for id_ in self._published.keys() - verdicts.keys():
            log.info("instance_well_again", instance=id_)
        self._published = verdicts
        self._changed()

    def verdicts(self) -> Iterable[Verdict]:
        """Against whom there is something to say."""
        self._take_office()
        return tuple(self._published.values())

    def reports(self, node: str, now: float) -> bool:
        """Whether a node's last report is of now, monotonic seconds."""
        heard = self._heard.get(node)
        return heard is not None and now - heard.at < FRESH_S

    def concerns(self) -> Iterator[str]:
        """Whose answers an admin should look at, a sentence each; machines have `bridgectl health`."""
        self._take_office()
        for one in self._published.values() if self._led else ():
            if any(reason.aspect == "business" for reason in one.reasons):
                out = " and takes no requests" if one.out else ""
                yield f"{one.instance} is {one.level}{out}: {one.why} (bridgectl health)"

    def compared(self, instance: str) -> str:
        """What came of its last golden prompt."""
        return self._golden.compared(instance)

    def _reasons(self, instance: Instance, now: float) -> Iterator[Reason]:
        heard = self._heard.get(instance.node)
        if heard is not None and now - heard.at < FRESH_S:
            own = heard.instances.get(instance.id)
            yield from own.reasons if own is not None else ()
        yield from self._golden.reasons(instance.id)

    def _take_office(self) -> None:
        """Who begins to lead goes on from what is published: nobody who was taken out comes back by that.

        Reports are for the leader: what one heard in an earlier office is old.
        """
        leads = self._leads()
        if leads == self._led:
            return
        self._led, self._swept = leads, None
        self._golden, self._heard, self._published = GoldenBook(), {}, {}
        if leads:
            self._published = dict(self._snapshot().verdicts)
            self._resume()

    def _resume(self) -> None:
        """Convictions are kept; what else was said against answers shows again, or not."""
        for verdict in self._published.values():
            for reason in verdict.reasons if verdict.out else ():
                if reason.code == "wrong-answers":
                    self._golden.resume(verdict.instance, reason)


def _digests(instance: Instance) -> dict[str, str] | None:
    """The digests of an instance's models, by their canonical names; None: it has not listed them yet."""
    if instance.state == "starting" and not instance.models:
        return None  # whose agent begins anew is not acquitted by that
    return {canonical_or_same(one.name): one.digest for one in instance.models}


def _digest(instance: Instance | None, model: str) -> str:
    """The digest of an instance's model; empty where it has none of this name."""
    models = instance.models if instance is not None else ()
    return next((one.digest for one in models if canonical_or_same(one.name) == model), "")
