"""AlertRules: figures beyond a fixed threshold. Pure functions of (state, samples, now).

Rules:
1. A series (one figure of one node, instance, disk or GPU) is raised when it has been beyond the threshold
   for the rule's time, at every look; one look that was not begins that anew.
2. It is over when it is back at `clear`, not when it is just within the threshold: what swings about the
   threshold is one alert.
3. Where nobody says anything (a node is away, too few requests) nothing new is raised, and what is raised
   stays so for `HOLD_S`: that a node is silent is no sign that its disk has room.
4. Of one rule `MOST_SERIES` series are watched at most, and `MOST_OF_NODE` of one node, those among them
   that it no longer speaks of: a node that makes up series hides its own alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from shlex import quote
from typing import Final

import msgspec

from bridge_core import gauges
from bridge_core.config.alert_checks import Level, level_of
from bridge_core.config.documents import AlertRuleDocument
from bridge_core.quantities import say_duration, say_size
from bridge_registry.alerts.alert_rules import MOST_SUMMARY, Seen
from bridge_registry.alerts.figure_rules import Sample, is_counted

HOLD_S: Final = 300.0
MOST_SERIES: Final = 4096
MOST_OF_NODE: Final = 256
_MOVED: Final = frozenset({gauges.TTFT, gauges.ERRORS, gauges.TOKENS, gauges.QUEUE, gauges.IN_FLIGHT})
_BYTES: Final = frozenset({gauges.DISK, gauges.MEMORY, gauges.VRAM})


class RulePlan(msgspec.Struct, frozen=True):
    """An AlertRule as it is followed; times are seconds. `above` says on which side wrong is."""

    name: str
    figure: str
    above: bool
    threshold: Level
    clear: Level
    lasting_s: float
    window_s: float = 60.0
    quantile: float = 0.95
    min_requests: int = 20
    node_labels: dict[str, str] = {}
    severity: str = "warning"
    labels: dict[str, str] = {}
    runbook: str = ""
    receivers: tuple[str, ...] = ()
    paused: bool = False

    def fits(self, labels: Mapping[str, str]) -> bool:
        """Whether it is about a node with these labels."""
        return all(labels.get(name) == value for name, value in self.node_labels.items())


class Watched(msgspec.Struct, frozen=True):
    """A series as a rule sees it; times are monotonic seconds.

    Attributes:
        sample: The newest there was.
        heard: When that was.
        beyond: Since when it is beyond the threshold without a break; None: it is not.
        raised: The sample at which it was raised; None: it is not.
    """

    sample: Sample
    heard: float
    beyond: float | None = None
    raised: Sample | None = None


def plan_of(document: AlertRuleDocument) -> RulePlan:
    """What a document that was checked says."""
    spec = document.spec
    threshold = level_of(spec.figure, spec.above if spec.above is not None else spec.below or "")
    return RulePlan(
        document.metadata.name,
        spec.figure,
        spec.above is not None,
        threshold,
        threshold if spec.clear is None else level_of(spec.figure, spec.clear),
        spec.lasting,
        spec.window,
        spec.quantile,
        spec.min_requests,
        spec.node_labels,
        spec.severity,
        spec.labels,
        spec.runbook,
        tuple(spec.receivers),
        spec.paused,
    )


def watch(
    plan: RulePlan, before: Mapping[str, Watched], samples: Iterable[Sample], now: float
) -> dict[str, Watched]:
    """The rule's series after a look at monotonic time `now`."""
    after, of_node = dict[str, Watched](), Counter[str]()

    def has_room(sample: Sample) -> bool:
        return len(after) < MOST_SERIES and of_node[sample.node] < MOST_OF_NODE

    for sample in samples:
        if (value := _value(sample, plan.threshold)) is None or not has_room(sample):
            continue
        of_node[sample.node] += 1
        old = before.get(sample.key)
        over = _beyond(plan, value, plan.threshold)
        since = (now if old is None or old.beyond is None else old.beyond) if over else None
        raised = old.raised if old is not None and _beyond(plan, value, plan.clear) else None
        if raised is None and since is not None and now - since >= plan.lasting_s:
            raised = sample
        after[sample.key] = Watched(sample, now, since, raised)
    for key, old in before.items():
        held = key not in after and old.raised is not None and now - old.heard < HOLD_S
        if held and has_room(old.sample):
            of_node[old.sample.node] += 1
            after[key] = msgspec.structs.replace(old, beyond=None)
    return after


def resume(plan: RulePlan, lasting: Iterable[Seen], now: float) -> dict[str, Watched]:
    """The rule's series for who begins to lead: those that an earlier leader had raised, until they say."""
    found = dict[str, Watched]()
    for one in lasting:
        if one.rule and one.name == plan.name:
            sample = Sample(one.node, one.instance, one.of, 0.0)
            found[sample.key] = Watched(sample, now, None, sample)
    return found


def seen_of(plan: RulePlan, watched: Mapping[str, Watched], known: Mapping[str, Seen]) -> Iterable[Seen]:
    """What the rule says is wrong. What was raised keeps its words (`known`, by id)."""
    if plan.paused:
        return
    for one in watched.values():
        if one.raised is None:
            continue
        sample = one.raised
        made = Seen(
            plan.name,
            plan.severity,
            sample.node,
            sample.instance,
            sentence(plan, sample),
            f"bridgectl alerting explain {quote(plan.name)}"[:512],
            f"{one.sample.key.removesuffix(':')} ok",
            of=sample.of,
            rule=True,
            moved=plan.figure in _MOVED,
            labels=plan.labels,
            runbook=plan.runbook,
            receivers=plan.receivers,
        )
        old = known.get(made.id)
        yield made if old is None else msgspec.structs.replace(made, summary=old.summary)


def sentence(plan: RulePlan, sample: Sample) -> str:
    """What is wrong, as of a sample."""
    place = sample.instance or f"node {sample.node}"
    of = f" of {sample.of}" if sample.of else ""
    what = f"p{plan.quantile * 100:g} of {plan.figure}" if plan.figure == gauges.TTFT else plan.figure
    for_ = f" for {say_duration(plan.lasting_s)}" if plan.lasting_s else ""
    said = say(plan.figure, sample.value, sample.limit, relative=plan.threshold.relative)
    return f"{place}: {what}{of} was {said}, {bounds(plan)}{for_}"[:MOST_SUMMARY]


def bounds(plan: RulePlan) -> str:
    """The threshold in words: "above 90 %"."""
    side = "above" if plan.above else "below"
    return f"{side} {say_level(plan.figure, plan.threshold)}"


def say_level(figure: str, level: Level) -> str:
    """A threshold in its figure's unit."""
    return f"{level.value * 100:g} %" if level.relative else say(figure, level.value)


def say(figure: str, value: float, limit: float = 0.0, *, relative: bool = False) -> str:
    """A value in its figure's unit, beside its limit where that is what it is compared with."""
    if relative and limit > 0.0:
        return f"{100.0 * value / limit:.1f} % of {_plainly(figure, limit)}"
    return _plainly(figure, value)


def _plainly(figure: str, value: float) -> str:
    if figure in _BYTES:
        return say_size(int(value))
    if figure == gauges.TTFT:
        return f"{value:.3g} s"
    if figure == gauges.ERRORS:
        return f"{100.0 * value:.3g} %"
    if figure == gauges.GPU_TEMPERATURE:
        return f"{value:g} °C"
    if figure == gauges.TOKENS:
        return f"{value:.3g} tokens/s"
    return f"{value:.4g}" if figure in {gauges.QUEUE, gauges.IN_FLIGHT} else f"{value:.3g} %"


def windows(plans: Iterable[RulePlan]) -> frozenset[float]:
    """The windows that counters are kept for."""
    return frozenset(one.window_s for one in plans if is_counted(one.figure) and not one.paused)


def _value(sample: Sample, level: Level) -> float | None:
    """What is compared; None: there is no limit to be a share of."""
    if not level.relative:
        return sample.value
    return sample.value / sample.limit if sample.limit > 0.0 else None


def _beyond(plan: RulePlan, value: float, level: Level) -> bool:
    return value > level.value if plan.above else value < level.value
