"""AlertRule: when a figure is wrong. AlertReceiver: who is told of alerts, and how."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from bridge_core.config.base import Duration, LabelKey, Labels, Metadata, Name, Strict
from bridge_core.quantities import MAX_TEXT

_DAY: Final = 86_400.0

Figure: TypeAlias = Literal[
    "cpu_pressure_percent",
    "disk_used_bytes",
    "error_share",
    "gpu_temperature_celsius",
    "in_flight",
    "io_pressure_percent",
    "memory_pressure_percent",
    "memory_used_bytes",
    "queue",
    "tokens_per_second",
    "ttft_seconds",
    "vram_used_bytes",
]
"""Of `bridge_core.gauges.NAMES`."""

Severity: TypeAlias = Literal["warning", "critical"]


def _level(value: Any) -> str:
    if isinstance(value, str) and 0 < len(value) <= MAX_TEXT:
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value)[:MAX_TEXT]
    raise PydanticCustomError("level", "should be a number, or one with a unit such as 90%, 20GiB or 2s")


LevelText: TypeAlias = Annotated[
    str,
    BeforeValidator(_level),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number"},
                {"type": "string", "examples": ["90%", "20GiB", "2s"], "maxLength": MAX_TEXT},
            ]
        }
    ),
]
LabelText: TypeAlias = Annotated[str, Field(max_length=256)]


class AlertRuleSpec(Strict):
    """An alert for every node, engine, disk or GPU whose figure is beyond a threshold for some time."""

    figure: Figure = Field(
        description="What is looked at. ttft_seconds, error_share and tokens_per_second are of an engine's "
        "requests in `window`; the others are what its node measures."
    )
    above: LevelText | None = Field(
        default=None, description="Wrong is what is more: 90% (of the limit), 20GiB, 2s, or a number."
    )
    below: LevelText | None = Field(default=None, description="Wrong is what is less.")
    clear: LevelText | None = Field(
        default=None, description="It is over where the figure is back here; not given: at the threshold."
    )
    lasting: Duration = Field(
        default=60.0, ge=0.0, le=_DAY, alias="for", description="Beyond it for so long without a break."
    )
    window: Duration = Field(default=60.0, description="Of counted figures: 1m, 5m or 15m.")
    quantile: float = Field(default=0.95, gt=0.0, lt=1.0, description="Of ttft_seconds.")
    min_requests: int = Field(
        default=20, ge=1, le=1_000_000, description="Of counted figures: fewer in the window say nothing."
    )
    node_labels: Labels = Field(default_factory=dict, description="Only nodes with these labels.")
    severity: Severity = "warning"
    labels: Annotated[dict[LabelKey, LabelText], Field(max_length=16)] = Field(
        default_factory=dict, description="For receivers to route by, such as a team."
    )
    runbook: str = Field(default="", max_length=500, description="What to do, or where that is written.")
    receivers: list[Name] = Field(
        default_factory=list, max_length=16, description="AlertReceivers that are told; none: all of them."
    )
    paused: bool = Field(default=False, description="Raise nothing.")


class AlertRuleDocument(Strict):
    """apiVersion, kind, metadata and spec of an AlertRule."""

    api_version: Literal["bridge.deepseek.io/v1"]
    kind: Literal["AlertRule"]
    metadata: Metadata
    spec: AlertRuleSpec


class AlertReceiverSpec(Strict):
    """Where alerts are sent, by the registry that leads."""

    type: Literal["alertmanager", "webhook"] = Field(
        description="Alertmanager's API v2; or its webhook format, which many programs take."
    )
    url: Annotated[str, Field(min_length=1, max_length=2000)] = Field(
        description="https. Of an Alertmanager the address before /api/v2/alerts. http only where "
        "allowPrivateAddress is given."
    )
    severities: list[Severity] = Field(default=["warning", "critical"], min_length=1, max_length=2)
    group_by: Literal["node", "alert", "mesh"] = Field(
        default="node", description="Of a webhook: what is told of in one message."
    )
    group_wait: Duration = Field(
        default=5.0, ge=0.0, le=3600.0, description="How long a group's first message waits for more alerts."
    )
    group_interval: Duration = Field(
        default=60.0, ge=1.0, le=_DAY, description="Between two messages of a group."
    )
    repeat: Duration = Field(
        default=4 * 3600.0, ge=60.0, le=7 * _DAY, description="What lasts is told again so often."
    )
    send_resolved: bool = Field(default=True, description="Of a webhook: tell also what is over.")
    authorization_file: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="A file in the folder `alerts` of each registry's state folder, mode 0600: the value of "
        "the Authorization header, such as `Bearer …`.",
    )
    ca: str | None = Field(
        default=None, max_length=65_536, description="PEM certificates to trust in place of the system's."
    )
    allow_private_address: bool = Field(
        default=False, description="Let the registry send to an address that is not public."
    )


class AlertReceiverDocument(Strict):
    """apiVersion, kind, metadata and spec of an AlertReceiver."""

    api_version: Literal["bridge.deepseek.io/v1"]
    kind: Literal["AlertReceiver"]
    metadata: Metadata
    spec: AlertReceiverSpec
