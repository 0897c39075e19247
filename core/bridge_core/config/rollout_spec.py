"""Rollout: requests move from one backend of a route to another, step by step, under guard."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from bridge_core.config.base import Duration, Metadata, Name, Strict

_DAY: Final = 86_400.0


class StepSpec(Strict):
    """One step: a share of the requests, or as many instances."""

    percent: float | None = Field(
        default=None, gt=0.0, le=100.0, description="Of the two backends' requests."
    )
    instances: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="That many of the canary's instances, with as many instances' share of the requests.",
    )
    hold: Duration | None = Field(
        default=None, ge=0.0, le=7 * _DAY, description="At least so long; else `every`."
    )

    @model_validator(mode="after")
    def _one_of(self) -> StepSpec:
        if (self.percent is None) == (self.instances is None):
            raise PydanticCustomError("one_of", "should have either percent or instances")
        return self


class GuardsSpec(Strict):
    """What rolls back, measured in each step against the stable backend in the same time. null: off."""

    min_requests: int = Field(
        default=20, ge=0, le=1_000_000, description="The canary's, before it is judged and a step can end."
    )
    error_rate: float | None = Field(
        default=0.02, ge=0.0, le=1.0, description="Requests that fail: so much more than stable's."
    )
    stream_error_rate: float | None = Field(
        default=0.02, ge=0.0, le=1.0, description="Answers that break off: so much more than stable's."
    )
    ttft_p50: float | None = Field(
        default=1.5, ge=1.0, le=1000.0, description="Median time to first byte, in times of stable's."
    )
    ttft_p95: float | None = Field(
        default=2.0, ge=1.0, le=1000.0, description="95th percentile, in times of stable's."
    )
    ttft_slack: Duration = Field(
        default=0.05, ge=0.0, le=600.0, description="Slower by less than this is not regarded."
    )
    tokens_per_second: float | None = Field(
        default=0.7, gt=0.0, le=1.0, description="Of one stream: at least that share of stable's."
    )


class PromptSpec(Strict):
    """One question with a known answer."""

    prompt: str = Field(min_length=1, max_length=100_000)
    system: str | None = Field(default=None, min_length=1, max_length=100_000)
    expect: str = Field(min_length=1, max_length=100_000)
    match: Literal["contains", "equals", "similar"] = Field(
        default="contains", description="How the answer has to be like `expect`; case is not regarded."
    )
    similarity: float = Field(default=0.8, gt=0.0, le=1.0, description="For similar: 1 is the same text.")


class ProbeSpec(Strict):
    """Questions that every instance of the canary is asked, at temperature 0."""

    prompts: list[PromptSpec] = Field(min_length=1, max_length=100)
    every: Duration = Field(default=30.0, ge=1.0, le=_DAY, description="Also within a step.")
    pass_share: float = Field(default=1.0, gt=0.0, le=1.0, description="Of the prompts, on each instance.")
    max_tokens: int = Field(default=64, ge=1, le=100_000)


class RolloutSpec(Strict):
    """Moves a route's requests from `stable` to `canary`."""

    route: Name = Field(description="The ModelRoute.")
    stable: Name = Field(description="Its backend that has the requests: its name, else its model.")
    canary: Name = Field(description="Its backend that gets them.")
    strategy: Literal["canary", "blueGreen"] = Field(
        default="canary", description="Step by step, or all at once with the old one kept warm."
    )
    first: StepSpec | None = Field(default=None, description="canary: the first step (10 %).")
    increment: float = Field(default=10.0, gt=0.0, le=100.0, description="canary: percent more a step.")
    every: Duration = Field(
        default=300.0, ge=0.0, le=7 * _DAY, description="canary: how long a step is held."
    )
    schedule: list[StepSpec] | None = Field(
        default=None, min_length=1, max_length=100, description="canary: the steps, in place of the above."
    )
    baseline: Duration = Field(
        default=60.0, ge=0.0, le=_DAY, description="blueGreen: stable is measured this long before."
    )
    keep_warm: Duration = Field(
        default=1800.0, ge=0.0, le=7 * _DAY, description="blueGreen: the old one is kept loaded this long."
    )
    guards: GuardsSpec = GuardsSpec()
    probe: ProbeSpec | None = None

    @model_validator(mode="after")
    def _fits_strategy(self) -> RolloutSpec:
        given = self.model_fields_set
        stray = sorted(given & ({"baseline", "keep_warm"} if self.strategy == "canary" else _CANARY_ONLY))
        if stray:
            raise PydanticCustomError("stray", "{key} is not for {strategy}", _stray(stray[0], self.strategy))
        if self.schedule is not None and given & {"first", "increment"}:
            raise PydanticCustomError("stray", "schedule stands in place of first and increment")
        return self


class RolloutDocument(Strict):
    """apiVersion, kind, metadata and spec of a Rollout."""

    api_version: Literal["bridge.deepseek.io/v1"]
    kind: Literal["Rollout"]
    metadata: Metadata
    spec: RolloutSpec


_CANARY_ONLY: Final = {"first", "increment", "every", "schedule"}


def _stray(key: str, strategy: str) -> dict[str, str]:
    return {"key": key, "strategy": strategy}
