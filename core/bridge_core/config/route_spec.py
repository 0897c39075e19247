"""ModelRoute, and the policy of requests that Mesh and ModelRoute share.

Whether a key was given is what counts: a route's key stands over the mesh's, the mesh's over the
default that is shown here.
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from bridge_core.config.base import Duration, Labels, Metadata, Name, Strict
from bridge_core.traffic import AdmissionPolicy, Affinity, Breaker, Outlier, Retries, RoutePolicy, Strategy

_DAY: Final = 86_400.0
_RETRIES, _OUTLIER, _BREAKER, _ADMISSION = Retries(), Outlier(), Breaker(), AdmissionPolicy()
_POLICY: Final = RoutePolicy()


class RetriesSpec(Strict):
    """When an attempt that failed before its first byte is made again elsewhere."""

    attempts: int = Field(default=_RETRIES.attempts, ge=1, le=10, description="Tries in all.")
    per_try_timeout: Duration | None = Field(
        default=None, gt=0.0, le=_DAY, description="An attempt without a first byte after this long failed."
    )
    budget: float = Field(
        default=_RETRIES.budget, ge=0.0, le=1.0, description="Retries, as a share of requests in progress."
    )
    budget_floor: int = Field(
        default=_RETRIES.budget_floor, ge=0, le=1000, description="Retries in progress that always may be."
    )


class OutlierSpec(Strict):
    """When an instance is ejected for what it did to requests."""

    consecutive_failures: int = Field(
        default=_OUTLIER.consecutive_failures, ge=1, le=1000, description="That many in a row eject it."
    )
    base_ejection: Duration = Field(
        default=_OUTLIER.base_ejection_s, gt=0.0, le=_DAY, description="The first ejection's length."
    )
    max_ejection: Duration = Field(
        default=_OUTLIER.max_ejection_s, gt=0.0, le=_DAY, description="The longest."
    )
    max_ejected: float = Field(
        default=_OUTLIER.max_ejected, ge=0.0, le=1.0, description="Never a larger share of the instances."
    )
    panic_threshold: float = Field(
        default=_OUTLIER.panic_threshold,
        ge=0.0,
        le=1.0,
        description="With a smaller share of healthy instances, health is not regarded.",
    )
    success_rate: bool = Field(
        default=_OUTLIER.success_rate, description="Also eject those that fail far more often than others."
    )


class BreakerSpec(Strict):
    """When an instance's circuit opens."""

    failure_share: float = Field(
        default=_BREAKER.failure_share, gt=0.0, le=1.0, description="That share of recent requests failed,"
    )
    min_requests: int = Field(
        default=_BREAKER.min_requests, ge=1, le=100_000, description="of at least that many,"
    )
    window: Duration = Field(default=_BREAKER.window_s, gt=0.0, le=3600.0, description="within this time.")
    open: Duration = Field(
        default=_BREAKER.open_s, gt=0.0, le=3600.0, description="How long it stays open before a trial."
    )


class AdmissionSpec(Strict):
    """The queue in front of an instance."""

    queue_per_slot: int = Field(
        default=_ADMISSION.queue_per_slot, ge=0, le=10_000, description="Requests that may wait a slot."
    )
    max_wait: Duration = Field(
        default=_ADMISSION.max_wait_s, ge=0.0, le=_DAY, description="Who waited this long is refused."
    )


class PolicySpec(Strict):
    """How requests are treated."""

    strategy: Strategy = Field(default=_POLICY.strategy, description="How an instance is chosen.")
    affinity: Affinity = Field(default=_POLICY.affinity, description="What stays on one instance.")
    bounded_load: float = Field(
        default=_POLICY.bounded_load,
        ge=0.0,
        le=10.0,
        description="An instance over (1 + this) × its fair share is passed over.",
    )
    retries: RetriesSpec = RetriesSpec()
    deadline: Duration | None = Field(
        default=None, gt=0.0, le=_DAY, description="A whole request may take this long."
    )
    hedge_after: Duration | None = Field(
        default=None, gt=0.0, le=_DAY, description="A short call without an answer by then is sent twice."
    )
    outlier: OutlierSpec = OutlierSpec()
    breaker: BreakerSpec = BreakerSpec()
    admission: AdmissionSpec = AdmissionSpec()
    slow_start: Duration = Field(
        default=_POLICY.slow_start_s, ge=0.0, le=3600.0, description="New instances grow to their share."
    )
    keep_alive_bytes: Duration | None = Field(
        default=None, ge=0.1, le=3600.0, description="Waiting clients get harmless bytes this often."
    )


class BackendSpec(Strict):
    """One target of a route."""

    model: Name = Field(description="A model, in any spelling Ollama takes.")
    weight: int = Field(default=100, ge=0, le=1_000_000, description="Its share among the backends' weights.")
    name: str | None = Field(
        default=None, min_length=1, max_length=512, description="Tells backends of the same model apart."
    )
    node_labels: Labels = Field(
        default_factory=dict, description="Only instances on nodes with all of these."
    )
    instances: list[Name] = Field(
        default_factory=list, max_length=1000, description='Only these, as "node1/0".'
    )

    @property
    def key(self) -> str:
        """What it is called in its route."""
        return self.name or self.model


class ModelRouteSpec(PolicySpec):
    """A virtual model: requests for its name go to its backends."""

    backends: list[BackendSpec] = Field(min_length=1, max_length=64)
    fallback: Name | None = Field(default=None, description="The model or route if no backend can answer.")


class ModelRouteDocument(Strict):
    """apiVersion, kind, metadata and spec of a ModelRoute."""

    api_version: Literal["bridge.deepseek.io/v1"]
    kind: Literal["ModelRoute"]
    metadata: Metadata
    spec: ModelRouteSpec
