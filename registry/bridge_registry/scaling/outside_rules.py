"""What the outside (Kubernetes by KEDA) is told of a policy: pure.

Rules:
1. The metric `instances` is how many active instances are wanted; its target is how many instances a pod
   brings, so that the HorizontalPodAutoscaler comes to exactly as many pods.
2. The metric `slots` is the needed slots; its target is what one pod's slots hold at the policy's target.
3. It is active while any instance is wanted.
4. What is not known is not told: an error makes KEDA hold, or fall back as its ScaledObject says. A number
   that was made up would move pods.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import msgspec

from bridge_core.errors import BridgeError
from bridge_registry.scaling.plan import ScalingPlan, ScalingPosition, Sight

METRICS: Final = ("instances", "slots")
KEYS: Final = frozenset({"policy", "metric", "instancesPerPod", "slotsPerPod", "scalerAddress"})
_MOST: Final = 1000


class Asked(msgspec.Struct, frozen=True):
    """What a ScaledObject asks for."""

    policy: str
    metric: str = "instances"
    instances_per_pod: int = 1
    slots_per_pod: int = 0  # 0: as many as the instances that are there have

    @property
    def metric_name(self) -> str:
        """As it is told, and asked for again."""
        return f"bridge-{self.metric}-{self.policy}"


def asked_of(metadata: Mapping[str, str]) -> Asked:
    """What the `metadata` of a trigger says.

    Raises:
        BridgeError: a key is missing or unknown, or a value is none of those that it can have.
    """
    hint = "see the trigger's metadata in the ScaledObject"
    # KEDA adds keys of its own, for TLS: those are not ours to judge.
    unknown = {key for key in metadata if key not in KEYS and not _is_kedas(key)}
    if unknown:
        raise BridgeError(f"unknown key {min(unknown)!r}; there are {', '.join(sorted(KEYS))}", hint=hint)
    policy = metadata.get("policy", "")
    if not policy:
        raise BridgeError("the key policy is missing: the name of an AutoscalePolicy", hint=hint)
    metric = metadata.get("metric", METRICS[0])
    if metric not in METRICS:
        raise BridgeError(f"metric {metric!r} is none of {', '.join(METRICS)}", hint=hint)
    return Asked(
        policy, metric, _count(metadata, "instancesPerPod", 1, hint), _count(metadata, "slotsPerPod", 0, hint)
    )


def target(asked: Asked, plan: ScalingPlan, sight: Sight) -> float:
    """What one pod stands for."""
    if asked.metric == "instances":
        return float(asked.instances_per_pod)
    slots = asked.slots_per_pod
    if not slots:
        found = [one.slots for one in sight.instances]
        slots = math.ceil(sum(found) / len(found)) * asked.instances_per_pod if found else 1
    return slots * plan.target


def value(asked: Asked, position: ScalingPosition) -> float:
    """What there is of it."""
    return float(position.wanted) if asked.metric == "instances" else round(max(0.0, position.need), 3)


def is_active(position: ScalingPosition) -> bool:
    """Whether there is to be any pod."""
    return position.wanted > 0


def _is_kedas(key: str) -> bool:
    return key.startswith(("tls", "ca", "unsafe", "enableTLS", "type", "name"))


def _count(metadata: Mapping[str, str], key: str, default: int, hint: str) -> int:
    text = metadata.get(key)
    if text is None:
        return default
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(_MOST))
    if not digits or not 1 <= int(text) <= _MOST:
        raise BridgeError(f"{key} {text[:20]!r} is no number of 1 to {_MOST}", hint=hint)
    return int(text)
