"""What a Rollout document asks for, worked out: pure."""

from __future__ import annotations

import msgspec

from bridge_core.config.rollout_spec import RolloutDocument, RolloutSpec
from bridge_core.probe import Question


class Step(msgspec.Struct, frozen=True):
    """One step: `percent` of the requests, or `instances` of the canary (then `percent` is 0)."""

    percent: float
    hold_s: float
    instances: int = 0


class Guards(msgspec.Struct, frozen=True):
    """See the Rollout document's guards; None: off."""

    min_requests: int = 20
    error_rate: float | None = 0.02
    stream_error_rate: float | None = 0.02
    ttft_p50: float | None = 1.5
    ttft_p95: float | None = 2.0
    ttft_slack_s: float = 0.05
    tokens_per_s: float | None = 0.7


class RolloutPlan(msgspec.Struct, frozen=True):
    """One rollout, from beginning to end.

    Attributes:
        name: The document's.
        route: The ModelRoute's name as the document says it.
        stable: Key of the backend that has the requests.
        canary: Key of the one that gets them.
        steps: At least one.
        guards: What rolls back.
        questions: What every instance of the canary is asked; empty: no probe.
        probe_every_s: How often.
        pass_share: How many have to be right.
        max_tokens: Of an answer.
        keep_warm_s: The stable side is kept loaded for so long after the last step began; 0: not.
        born: The revision at which its document was created: one that was removed and applied again
            is another rollout.
    """

    name: str
    route: str
    stable: str
    canary: str
    steps: tuple[Step, ...]
    guards: Guards = Guards()
    questions: tuple[Question, ...] = ()
    probe_every_s: float = 30.0
    pass_share: float = 1.0
    max_tokens: int = 64
    keep_warm_s: float = 0.0
    born: int = 0

    @property
    def identity(self) -> str:
        """A plan with another identity is another rollout and begins anew."""
        return f"{self.route} {self.stable} {self.canary} {self.born}"


def plan_of(document: RolloutDocument, born: int = 0) -> RolloutPlan:
    """The plan of a document that was created at revision `born`."""
    spec, probe = document.spec, document.spec.probe
    guards = spec.guards
    return RolloutPlan(
        name=document.metadata.name,
        route=spec.route,
        stable=spec.stable,
        canary=spec.canary,
        steps=_green_steps(spec) if spec.strategy == "blueGreen" else _canary_steps(spec),
        guards=Guards(
            guards.min_requests,
            guards.error_rate,
            guards.stream_error_rate,
            guards.ttft_p50,
            guards.ttft_p95,
            guards.ttft_slack,
            guards.tokens_per_second,
        ),
        questions=tuple(
            Question(one.prompt, one.expect, one.system or "", one.match, one.similarity)
            for one in (probe.prompts if probe else ())
        ),
        probe_every_s=probe.every if probe else 30.0,
        pass_share=probe.pass_share if probe else 1.0,
        max_tokens=probe.max_tokens if probe else 64,
        keep_warm_s=spec.keep_warm if spec.strategy == "blueGreen" else 0.0,
        born=born,
    )


def _canary_steps(spec: RolloutSpec) -> tuple[Step, ...]:
    if spec.schedule is not None:
        steps = [
            Step(one.percent or 0.0, spec.every if one.hold is None else one.hold, one.instances or 0)
            for one in spec.schedule
        ]
    else:
        first = spec.first
        percent = (first.percent or 0.0) if first else 10.0
        hold_s = spec.every if first is None or first.hold is None else first.hold
        steps = [Step(percent, hold_s, (first.instances or 0) if first else 0)]
        while percent < 100.0:
            percent = min(100.0, percent + spec.increment)
            steps.append(Step(percent, spec.every))
    if steps[-1].percent < 100.0:
        steps.append(Step(100.0, spec.every))
    return tuple(steps)


def _green_steps(spec: RolloutSpec) -> tuple[Step, ...]:
    return (Step(0.0, spec.baseline), Step(100.0, spec.keep_warm))
