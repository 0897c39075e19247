"""The autoscaler's metrics: names for dashboards, and for adapters that make external metrics of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from bridge_core.errors import BridgeError
from bridge_registry.scaling.controller import ScalingController, Standing

_FIGURES: Final = {
    "wanted_instances": "Active instances that a policy wants",
    "unmet_instances": "Of these, those that no instance is there for",
    "floor_instances": "What the forecast asks for",
    "active_instances": "Instances that get new requests of the model",
    "loading_instances": "Instances that were asked to load it",
    "warm_instances": "Instances that were taken out and keep it loaded",
    "needed_slots": "Slots in use and requests that wait, smoothed",
    "queued_requests": "Requests that wait for a slot, smoothed",
    "slot_utilization_ratio": "Needed slots, of those of the active instances",
    "target_slot_utilization_ratio": "What the policy aims at",
}


class ScalingFigures(Collector):
    """Reads them when they are asked for. A registry that does not lead shows none: a gap holds an
    HorizontalPodAutoscaler where it is, a stale number would move it.
    """

    def __init__(self, controller: ScalingController) -> None:
        self._controller = controller

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """See prometheus_client."""
        try:
            standings = list(self._controller.standings())
        except BridgeError:
            standings = []
        for name, text in _FIGURES.items():
            family = GaugeMetricFamily(f"bridge_scaling_{name}", text, labels=["policy", "model"])
            for one in standings:
                family.add_metric([one.plan.name, one.plan.model], figures(one)[name])
            yield family


def figures(standing: Standing) -> dict[str, float]:
    """One policy's, by the names above."""
    plan, position = standing.plan, standing.position
    slots = sum(one.slots for one in standing.sight.instances if one.id in position.active)
    need = max(0.0, position.need)
    return {
        "wanted_instances": position.wanted,
        "unmet_instances": position.unmet,
        "floor_instances": position.floor,
        "active_instances": len(position.active),
        "loading_instances": len(position.loading),
        "warm_instances": len(position.warm),
        "needed_slots": need,
        "queued_requests": position.queued,
        "slot_utilization_ratio": need / slots if slots else 0.0,
        "target_slot_utilization_ratio": plan.target,
    }
