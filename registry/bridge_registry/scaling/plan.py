"""What an AutoscalePolicy asks for, and what is known when it is decided on: values alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from bridge_core.bounds import Count, Moment, Name, Seconds, Text
from bridge_core.config.autoscale_spec import AutoscalePolicyDocument
from bridge_core.counts import Counts
from bridge_core.holders import ModelHolders

Way: TypeAlias = Literal["unhide", "resident", "page-cache", "disk"]
WAYS: Final[tuple[Way, ...]] = ("unhide", "resident", "page-cache", "disk")  # by cost
# Seconds until the instance serves, where it was not seen yet: of a 13.5 GB model on an H200, 2 s from the
# page cache and 10 s from disk.
USUAL_LEAD_S: Final[Mapping[str, float]] = {"unhide": 0.0, "resident": 0.0, "page-cache": 2.0, "disk": 10.0}
BUCKETS: Final = 288  # of a day, five minutes each
UNSEEN: Final = (-1.0,) * BUCKETS  # the profile of a day of which nothing was seen

_Moments: TypeAlias = Annotated[dict[Text, Moment], msgspec.Meta(max_length=20_000)]


class ScalingPlan(msgspec.Struct, frozen=True):
    """A policy as it is acted on; see the document for what each field means."""

    name: str
    model: str
    max: int
    min: int = 1
    target: float = 0.7
    queued_per_instance: float | None = 2.0
    ttft_p95_s: float | None = None
    measured_s: float = 450.0
    zero_after_s: float | None = None
    wake_budget_s: float = 30.0
    out_s: float = 15.0
    in_s: float = 60.0
    keep_warm_s: float = 60.0
    loads_at_once: int = 2
    forecast: bool = True
    budgets: Mapping[str, int] = {}
    paused: bool = False


def plan_of(document: AutoscalePolicyDocument) -> ScalingPlan:
    """The plan of a document."""
    spec = document.spec
    zero = spec.scale_to_zero
    return ScalingPlan(
        name=document.metadata.name,
        model=spec.model,
        max=spec.max,
        min=spec.min,
        target=spec.goals.slot_utilization,
        queued_per_instance=spec.goals.queued_per_instance,
        ttft_p95_s=spec.goals.ttft_p95,
        measured_s=spec.measured_over,
        zero_after_s=None if zero is None else zero.after,
        wake_budget_s=30.0 if zero is None else zero.wake_budget,
        out_s=spec.cool_downs.scale_out,
        in_s=spec.cool_downs.scale_in,
        keep_warm_s=spec.keep_warm,
        loads_at_once=spec.loads_at_once,
        forecast=spec.forecast,
        budgets={one.node_class: one.max for one in spec.budgets},
        paused=spec.paused,
    )


class Seen(msgspec.Struct, frozen=True):
    """An instance that has the model on disk, at a moment.

    Attributes:
        node_class: Of its node.
        slots: What it decodes at a time.
        in_flight: Its requests, of any model; those that wait for a slot are `queued`, besides.
        loaded: The model is in its memory.
        alone: No other model is.
        available: It takes new work: ready, on a node that is neither drained nor revoked.
        known: Its node reported lately: else the counts above say nothing.
        taken: It holds another model that is scaled.
    """

    id: str
    node: str
    node_class: str = "local"
    slots: int = 1
    in_flight: int = 0
    queued: int = 0
    loaded: bool = False
    alone: bool = True
    available: bool = True
    known: bool = True
    taken: bool = False


class Sight(msgspec.Struct, frozen=True):
    """What is known at a moment.

    Attributes:
        instances: That have the model.
        asked: Requests for it that ended or were refused since the sight before.
        ttft: Times to the first byte of these.
        moving: A rollout is moving requests from or to the model.
        loading_nodes: Nodes where another policy's model is being loaded.
    """

    instances: tuple[Seen, ...] = ()
    asked: int = 0
    ttft: Counts = Counts()
    moving: bool = False
    loading_nodes: frozenset[str] = frozenset()


class Loading(msgspec.Struct, frozen=True, omit_defaults=True):
    """An instance that was asked to load the model at Unix time `since`."""

    since: Moment
    way: Way = "disk"


class ScalingPosition(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a policy stands: stored, so that a new leader goes on from it. Times are Unix seconds.

    Attributes:
        model: Whose holders these are.
        active: Get new requests.
        loading: Were asked to load it.
        warm: Were taken out then, and keep it loaded; what they still answer goes on.
        released: Had it in memory until then: the file is likely in the page cache yet.
        failed: Did not get it loaded in time.
        wanted: How many active ones there should be.
        unmet: Of these, how many no instance is there for.
        floor: What the forecast asks for.
        need: Slots that are needed, smoothed over a minute; negative: not measured yet.
        usual: The same over some minutes, which sizes the fleet; negative: as `need`.
        trim: By how much what is aimed at differs from the target, so that the mean is the target.
        queued: Requests that wait, smoothed.
        measured_at: When.
        out_at: The last step outwards.
        in_at: The last step inwards.
        asked_at: When the model was last asked for.
        ttft: Times to the first byte since `ttft_at`.
        slow: They missed their goal in the last window.
        leads: Seconds that each way took until the instance served.
        profile: Needed slots by time of day; negative: not seen.
        bucket: The one that is being measured: its number, sum and count.
        reason: Why it stands so.
    """

    model: Name
    active: Annotated[tuple[Text, ...], msgspec.Meta(max_length=20_000)] = ()
    loading: Annotated[dict[Text, Loading], msgspec.Meta(max_length=20_000)] = {}
    warm: _Moments = {}
    released: _Moments = {}
    failed: _Moments = {}
    wanted: Count = 0
    unmet: Count = 0
    floor: Count = 0
    need: float = -1.0
    usual: float = -1.0
    trim: float = 0.0
    queued: float = 0.0
    measured_at: Moment = 0.0
    out_at: Moment = 0.0
    in_at: Moment = 0.0
    asked_at: Moment = 0.0
    ttft: Counts = Counts()
    ttft_at: Moment = 0.0
    slow: bool = False
    leads: Annotated[dict[Text, Seconds], msgspec.Meta(max_length=16)] = {}
    profile: Annotated[tuple[float, ...], msgspec.Meta(max_length=BUCKETS)] = ()
    bucket: tuple[int, float, int] = (-1, 0.0, 0)
    reason: Annotated[str, msgspec.Meta(max_length=1000)] = ""

    def lead_s(self, way: Way) -> float:
        """Seconds until an instance serves, that way."""
        return self.leads.get(way, USUAL_LEAD_S[way])


def holders_of(plan: ScalingPlan, position: ScalingPosition) -> ModelHolders:
    """What agents are told of it."""
    held = tuple(sorted({*position.loading, *position.warm}))
    return ModelHolders(plan.name, position.model, position.active, held)
