"""What it costs to end an agent's pod, and when that is worth writing down. Pure.

A ReplicaSet that has too many pods ends those of the least `controller.kubernetes.io/pod-deletion-cost` first
(https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#pod-deletion-cost).

Rules:
1. A pod is a node of the mesh, by its name. Of its instances each counts once, whatever policies look at it.
2. Most costs a pod that a policy has active, or loading: whom a policy took out, Kubernetes takes first, also
   while that one finishes what it has. Then what it still has to do counts, then models in its memory.
3. Requests are counted in powers of two: pods are not written to for each request that comes or goes.
4. A pod whose node does not report stays as it was written last.
5. A cost is written when it differs; for requests and models alone not before `EVERY_S` since the last time.
6. A pod that is not there is asked for again after `GONE_S`: a node may have no pod at all.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final

import msgspec

ANNOTATION: Final = "controller.kubernetes.io/pod-deletion-cost"
ACTIVE: Final = 10_000_000
EVERY_S: Final = 30.0
GONE_S: Final = 300.0
AT_ONCE: Final = 100  # writes of one round: the API is everybody's
_REQUEST: Final = 100
_MOST_ACTIVE: Final = 99  # a cost is a signed number of 32 bits
_MOST_REQUESTS: Final = 1 << 16
_MOST_MODELS: Final = 99
_POD: Final = re.compile(r"(?!.{254})[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


class Holder(msgspec.Struct, frozen=True):
    """An instance as one policy sees it; see scaling.proto."""

    instance: str
    part: str
    requests: int = 0
    loaded: bool = False
    known: bool = True


class Written(msgspec.Struct, frozen=True):
    """What a pod was last told, at monotonic seconds; None: it is not there."""

    cost: int | None
    at: float


def costs(holders: Iterable[Holder]) -> dict[str, int]:
    """By pod, of those whose cost is known."""
    seen: dict[str, dict[str, list[Holder]]] = {}
    for one in holders:
        node = one.instance.partition("/")[0]
        if _POD.fullmatch(node):
            seen.setdefault(node, {}).setdefault(one.instance, []).append(one)
    return {
        node: _cost(instances.values())
        for node, instances in seen.items()
        if all(one.known for views in instances.values() for one in views)
    }


def due(found: Mapping[str, int], written: Mapping[str, Written], now: float) -> list[str]:
    """The pods to write to now, whose place changed most first."""
    late: list[tuple[int, str]] = []
    for pod, cost in found.items():
        last = written.get(pod)
        if last is None or last.cost is None:
            if last is None or now - last.at >= GONE_S:
                late.append((cost, pod))
        elif cost != last.cost and (cost // ACTIVE != last.cost // ACTIVE or now - last.at >= EVERY_S):
            late.append((abs(cost - last.cost), pod))
    return [pod for _, pod in sorted(late, key=lambda one: (-one[0], one[1]))[:AT_ONCE]]


def patch_of(cost: int) -> bytes:
    """The merge patch that says so."""
    return msgspec.json.encode({"metadata": {"annotations": {ANNOTATION: str(cost)}}})


def _cost(instances: Collection[list[Holder]]) -> int:
    """Rules 1 to 3, of one pod's instances as each policy sees them."""
    views = [one for each in instances for one in each]
    active = sum(one.part in {"active", "loading"} for one in views)
    requests = _rounded(sum(max(0, first.requests) for first, *_ in instances))
    models = sum(one.loaded for one in views)
    return (
        min(_MOST_ACTIVE, active) * ACTIVE
        + min(_MOST_REQUESTS, requests) * _REQUEST
        + min(_MOST_MODELS, models)
    )


def _rounded(requests: int) -> int:
    """To the power of two that is not below it."""
    return 1 << (requests - 1).bit_length() if requests > 0 else 0
