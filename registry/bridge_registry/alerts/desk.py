"""Keeps the mesh's alerts, while this registry leads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final

import structlog

from bridge_core.quantities import say_span
from bridge_core.snapshot import Snapshot
from bridge_registry.alerts import threshold_rules
from bridge_registry.alerts.alert_rules import Alert, Seen, essence, of_health, resumed, settle
from bridge_registry.alerts.alert_store import AlertStore
from bridge_registry.alerts.error_watch import ErrorWatch
from bridge_registry.alerts.figure_rules import Sample, Trails, counted, is_counted, measured
from bridge_registry.alerts.learner import Learner
from bridge_registry.alerts.learning_rules import WINDOW_S
from bridge_registry.alerts.matcher_rules import fits
from bridge_registry.alerts.message_rules import labels_of
from bridge_registry.alerts.series_rules import loads
from bridge_registry.alerts.silence_rules import Silence, silent
from bridge_registry.alerts.silences import Silences
from bridge_registry.alerts.threshold_rules import RulePlan, Watched
from bridge_registry.complaint import Complaint
from bridge_registry.forecasts.forecast_log import ForecastLog
from bridge_registry.forecasts.forecaster import Forecaster
from bridge_registry.forecasts.series import Forecast
from bridge_registry.health.keeper import FRESH_S, HealthKeeper, Heard, counts_of
from bridge_registry.health.standing_rules import clocks_off, cut_off

log = structlog.get_logger()

TICK_S: Final = 1.0
_RULES_S: Final = 2.0  # how often rules look


class AlertDesk:
    """See the module; `run` is its one task.

    Args:
        keeper: Has the verdicts and what nodes report.
        store: Where alerts are kept for who leads next.
        snapshot: The published one.
        rules: The AlertRules.
        moving: Rollouts that are under way.
        now: Unix seconds.
        clock: Monotonic seconds.
        mesh: The trust domain, a label of every alert.

    Attributes:
        silences: What people silenced.
    """

    def __init__(
        self,
        keeper: HealthKeeper,
        store: AlertStore,
        snapshot: Callable[[], Snapshot],
        rules: Callable[[], Sequence[RulePlan]],
        moving: Callable[[], Collection[str]],
        *,
        now: Callable[[], float],
        clock: Callable[[], float],
        mesh: str = "",
    ) -> None:
        self._keeper = keeper
        self._store = store
        self._snapshot = snapshot
        self._rules = rules
        self._moving = moving
        self._now = now
        self._clock = clock
        self._mesh = mesh
        self.silences = Silences(store, now)
        self._term = ""
        self._office, self._began = 0.0, 0.0  # when this registry began to lead: monotonic, and Unix seconds
        self._alerts: dict[str, Alert] = {}
        self._saved: frozenset[tuple[str, float, float, str]] = frozenset()
        self._watched: dict[str, dict[str, Watched]] = {}
        self._followed: dict[str, RulePlan] = {}
        self._trails = Trails()
        self._judged = float("-inf")
        self._learner = Learner(now())
        self._errors = ErrorWatch()
        self._windowed = float("-inf")
        self._forecaster = Forecaster((), clock())
        self._forecast_log = ForecastLog()

    async def run(self) -> None:
        """Looks until cancelled."""
        complaint = Complaint("alerts_not_stored")
        while True:
            await asyncio.sleep(TICK_S)
            with complaint.of_failure():
                await self.step()

    async def step(self) -> None:
        """Looks once, if this registry leads, and stores what became different.

        Raises:
            BridgeError: the store does not say what an earlier leader knew, or does not take what is.
        """
        term = self._store.term
        if not term:
            self._term = ""
            await self.silences.refresh()
            return
        if term != self._term:
            known = await self._store.known()
            await self.silences.refresh()
            self._take_office(known, term)
        self.look()
        await self.silences.refresh()
        now = essence(self._alerts)
        if now != self._saved:
            await self._store.save_known(tuple(self._alerts.values()))
            self._saved = now

    def look(self) -> None:
        """Looks once."""
        now, clock = self._now(), self._clock()
        self._keeper.settle(clock)
        if clock - self._judged >= _RULES_S:
            self._judged = clock
            self._judge(clock)
        if clock - self._windowed >= WINDOW_S:
            self._windowed = clock
            self._learn(now, clock)
        snapshot = self._snapshot()
        if figure := self._forecaster.due(clock):
            self._forecaster.look(
                figure, snapshot, self._reporting(clock), self._rules(), now=now, clock=clock
            )
            self._forecast_log.look(self._forecaster, clock)
        drained = {one.name for one in snapshot.nodes.values() if one.state != "active"}
        before = self._alerts
        learnt = [*self._learner.seen(), *self._errors.seen(), *self._forecaster.seen()]
        seen = [*self._found(snapshot, clock), *self._ruled(), *learnt]
        self._alerts = settle(
            before,
            seen,
            drained=drained,
            moving=self._moving(),
            now=now,
            office=self._began,
            hushed=self._hushed(),
        )
        for id_, alert in self._alerts.items():
            old = before.get(id_)
            if not alert.ended and (old is None or old.ended):
                log.warning("alert", alert=id_, severity=alert.seen.severity, summary=alert.seen.summary)
            elif alert.ended and old is not None and not old.ended:
                log.info("alert_over", alert=id_)

    @property
    def term(self) -> str:
        """For which term of office the alerts are known; empty: for none."""
        return self._term

    @property
    def known(self) -> Mapping[str, Alert]:
        """All of them by id; nothing while another registry leads."""
        return self._alerts if self._term else {}

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """Those that last first, the newest before the older; none while another registry leads."""
        return tuple(
            sorted(self.known.values(), key=lambda one: (one.ended > 0.0, -(one.ended or one.since)))
        )

    def meant_by(self, silences: Sequence[Silence]) -> list[int]:
        """How many alerts that last each silence is about."""
        lasting = [labels_of(one.seen, self._mesh) for one in self.known.values() if not one.ended]
        return [sum(fits(one.matchers, labels) for labels in lasting) for one in silences]

    def watched(self, rule: str) -> Mapping[str, Watched]:
        """The series that a rule looks at."""
        return self._watched.get(rule, {})

    @property
    def forecaster(self) -> Forecaster:
        """What forecasts, since this registry began to lead."""
        return self._forecaster

    def forecasts(self, node: str = "", *, hit: bool = False) -> list[Forecast]:
        """What is forecast of a node's series, or of all; with `hit` of those alone that hit their limit.
        None while another registry leads.
        """
        return self._forecaster.forecasts(node, hit=hit) if self._term else []

    def fullest(self) -> dict[str, dict[str, tuple[float, float, float]]]:
        """See `Forecaster.fullest`; nothing while another registry leads."""
        return self._forecaster.fullest() if self._term else {}

    def _take_office(self, known: Sequence[Alert], term: str) -> None:
        now, clock = self._now(), self._clock()
        self._alerts = resumed(known, now)
        self._saved = essence(self._alerts)
        self._term, self._office, self._began = term, clock, now
        self._judged = float("-inf")
        self._trails, self._watched, self._followed = Trails(), {}, {}
        self._learner, self._errors, self._windowed = Learner(now), ErrorWatch(), clock
        lasting = [one.seen for one in self._alerts.values() if not one.ended]
        self._forecaster = Forecaster(lasting, clock)
        for plan in self._rules():
            self._watched[plan.name] = threshold_rules.resume(plan, lasting, clock)
            self._followed[plan.name] = plan

    def _hushed(self) -> Callable[[Seen], str]:
        """Says of an alert why somebody silenced it."""
        silences = self.silences.lasting
        return lambda seen: silent(silences, labels_of(seen, self._mesh)) if silences else ""

    def _judge(self, clock: float) -> None:
        """Every rule looks. Of one that was changed everything begins anew."""
        plans = self._rules()
        reporting = self._reporting(clock)
        self._trails.mark(threshold_rules.windows(plans), counts_of(reporting), clock)
        watched = {}
        for plan in plans:
            before = self._watched.get(plan.name, {}) if self._followed.get(plan.name) == plan else {}
            samples = () if plan.paused else self._samples(plan, reporting)
            watched[plan.name] = threshold_rules.watch(plan, before, samples, clock)
        self._watched, self._followed = watched, {plan.name: plan for plan in plans}

    def _learn(self, now: float, clock: float) -> None:
        """One window more of the series whose thresholds are learnt."""
        reporting = self._reporting(clock)
        load = {id_: share for heard in reporting.values() for id_, share in loads(heard.gauges).items()}
        instances, counts = self._snapshot().instances, counts_of(reporting)
        self._learner.look(instances, counts, load, now)
        self._errors.look(instances, counts, now)

    def _reporting(self, clock: float) -> dict[str, Heard]:
        """The last reports of nodes that report at monotonic time `clock`."""
        heard, nodes = self._keeper.heard, self._snapshot().nodes
        return {name: heard[name] for name in nodes if self._keeper.reports(name, clock)}

    def _samples(self, plan: RulePlan, reporting: Mapping[str, Heard]) -> Iterator[Sample]:
        nodes = self._snapshot().nodes
        for name, heard in reporting.items():
            if not plan.fits(nodes[name].labels):
                continue
            if not is_counted(plan.figure):
                yield from measured(plan.figure, name, heard.gauges)
                continue
            for id_, one in heard.instances.items():
                sample = counted(
                    plan.figure,
                    name,
                    id_,
                    self._trails.of(plan.window_s, id_),
                    one.counts,
                    quantile=plan.quantile,
                    min_requests=plan.min_requests,
                )
                if sample is not None:
                    yield sample

    def _ruled(self) -> Iterator[Seen]:
        """What rules say is wrong."""
        known = {id_: one.seen for id_, one in self._alerts.items() if not one.ended}
        for name, plan in self._followed.items():
            yield from threshold_rules.seen_of(plan, self._watched.get(name, {}), known)

    def _found(self, snapshot: Snapshot, clock: float) -> Iterator[Seen]:
        """Everything else that is wrong at monotonic time `clock`."""
        for verdict in self._keeper.verdicts():
            node = verdict.instance.partition("/")[0]
            for reason in verdict.reasons:
                severity = "critical" if reason.level == "failing" else "warning"
                out = "; it takes no requests" if verdict.out and reason.aspect == "business" else ""
                summary = f"{verdict.instance}: {reason.text}{out}"
                moved = reason.aspect == "service"
                yield of_health(reason.code, severity, node, verdict.instance, summary, moved=moved)
        yield from self._apart(clock)
        for node, one in snapshot.nodes.items():
            heard = self._keeper.heard.get(node)
            since = self._office if heard is None else heard.at
            if one.state == "active" and clock - since >= FRESH_S:
                summary = f"node {node} does not report: its agent has stopped, or cannot reach the registry"
                yield of_health("node-away", "critical", node, "", summary)

    def _apart(self, clock: float) -> Iterator[Seen]:
        """Whose clock is another one, and who cannot be reached by the others though it reports."""
        reporting = self._reporting(clock)
        for node, ahead in clocks_off({name: heard.leads for name, heard in reporting.items()}).items():
            way = "ahead" if ahead > 0 else "behind"
            whose = f"the clock of node {node}" if node else "the clock of this registry's machine"
            summary = f"{whose} is {say_span(abs(ahead))} {way}: set it, as certificates are judged by clocks"
            yield of_health("clock-off", "critical", node, "", summary)
        for node, witnesses in cut_off({name: heard.silent for name, heard in reporting.items()}).items():
            named = " and ".join((*witnesses[:2], *([f"{len(witnesses) - 2} more"] if witnesses[2:] else [])))
            summary = f"node {node} leaves {named} without an answer on its peer port: the way there is cut"
            yield of_health("peers-cut", "critical", node, "", summary)
