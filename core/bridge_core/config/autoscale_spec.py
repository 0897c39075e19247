"""AutoscalePolicy: on how many instances a model is in memory and takes requests."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from bridge_core.config.base import Duration, Metadata, Name, Strict

_DAY: Final = 86_400.0


class GoalsSpec(Strict):
    """What is held. More instances are wanted as soon as one of them is missed; null: not regarded."""

    slot_utilization: float = Field(
        default=0.7,
        gt=0.0,
        le=1.0,
        description="Slots in use, of those of the active instances (0.7: seven of ten).",
    )
    queued_per_instance: float | None = Field(
        default=2.0, gt=0.0, le=1000.0, description="Requests that wait for a slot, for each active instance."
    )
    ttft_p95: Duration | None = Field(
        default=None, gt=0.0, le=600.0, description="95th percentile of the time to the first byte."
    )


class ScaleToZeroSpec(Strict):
    """When no instance keeps the model: the next request then loads it where it goes, and waits so long."""

    after: Duration = Field(
        default=900.0, ge=60.0, le=7 * _DAY, description="Without a request for so long (1m–7d)."
    )
    wake_budget: Duration = Field(
        default=30.0,
        gt=0.0,
        le=600.0,
        description="What the first request may wait: where loading was seen to take longer, one stays.",
    )


class CoolDownsSpec(Strict):
    """How long one step is left to take effect before the next one."""

    scale_out: Duration = Field(default=15.0, ge=0.0, le=3600.0)
    scale_in: Duration = Field(
        default=60.0,
        ge=10.0,
        le=_DAY,
        description="Also after a step outwards.",
    )


class NodeClassBudgetSpec(Strict):
    """How many instances may be on nodes of a class."""

    node_class: Name = Field(description="A NodeClass; `local` for nodes that none is about.")
    max: int = Field(ge=0, le=20_000)


class AutoscaleSpec(Strict):
    """Keeps a model on as many instances as it needs."""

    model: Name = Field(description="As `ollama list` names it. A route's backends have a policy each.")
    min: int = Field(default=1, ge=0, le=20_000, description="Instances; 0 needs scaleToZero.")
    max: int = Field(ge=1, le=20_000, description="Instances.")
    goals: GoalsSpec = GoalsSpec()
    scale_to_zero: ScaleToZeroSpec | None = None
    measured_over: Duration = Field(
        default=450.0,
        ge=10.0,
        le=3600.0,
        description="Slots in use are averaged over so long before they move the fleet: some thirty answers.",
    )
    cool_downs: CoolDownsSpec = CoolDownsSpec()
    keep_warm: Duration = Field(
        default=60.0,
        ge=0.0,
        le=_DAY,
        description="One that was taken out keeps the model loaded for so long, to be put back at once.",
    )
    loads_at_once: int = Field(
        default=2, ge=1, le=1000, description="Instances that load at one time: they share disk and network."
    )
    forecast: bool = Field(
        default=True, description="Hold as many as the load was seen to need at this time of day."
    )
    budgets: list[NodeClassBudgetSpec] = Field(
        default_factory=list, max_length=64, description="By node class; without any, every node may serve."
    )
    paused: bool = Field(default=False, description="Leave everything as it stands.")


class AutoscalePolicyDocument(Strict):
    """apiVersion, kind, metadata and spec of an AutoscalePolicy."""

    api_version: Literal["bridge.deepseek.io/v1"]
    kind: Literal["AutoscalePolicy"]
    metadata: Metadata
    spec: AutoscaleSpec
