"""What the external metrics API answers: pure, `(path, selector, what policies say) -> status, document`.

Rules:
1. There are the metrics of `METRICS`, named as the registry's Prometheus metrics are, so that one
   HorizontalPodAutoscaler works by either way. Each has a value for each AutoscalePolicy.
2. A selector chooses among them by the labels `policy` and `model`: `key=value`, `key==value`,
   `key in (a,b)`, joined by commas. What it cannot be read as is refused: a selector that was ignored
   would add up the policies of others.
3. Only the namespaces that are served have metrics: who may scale in one learns nothing of another.
4. What is not known is not told: without fresh figures the answer is 503, and the HorizontalPodAutoscaler
   leaves the pods as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

GROUP: Final = "external.metrics.k8s.io"
VERSION: Final = "v1beta1"
FRESH_S: Final = 15.0  # as often as a HorizontalPodAutoscaler asks
_ROOT: Final = f"/apis/{GROUP}"
_LABELS: Final = ("policy", "model")
_MOST_SELECTOR: Final = 4096
_TERM: Final = re.compile(r"\s*([\w./-]+)\s*(?:={1,2}\s*([\w.:/-]*)|\s+in\s*\(([\w.:/,\s-]*)\))\s*(?:,|$)")

Document = dict[str, Any]
Answer = tuple[int, Document]


class PolicyFigures(msgspec.Struct, frozen=True):
    """What a registry says of one AutoscalePolicy; see scaling.proto."""

    policy: str
    model: str
    wanted: int = 0
    unmet: int = 0
    needed_slots: float = 0.0
    queued: float = 0.0


METRICS: Final[Mapping[str, Callable[[PolicyFigures], float]]] = {
    "bridge_scaling_wanted_instances": lambda one: one.wanted,
    "bridge_scaling_unmet_instances": lambda one: one.unmet,
    "bridge_scaling_needed_slots": lambda one: one.needed_slots,
    "bridge_scaling_queued_requests": lambda one: one.queued,
}


class Figures(msgspec.Struct, frozen=True):
    """What was last read of the registries: `at` Unix time; `fault` says why nothing newer was."""

    policies: tuple[PolicyFigures, ...] = ()
    at: float = 0.0
    fault: str = "no registry was asked yet"


def answer(path: str, selector: str, figures: Figures, namespaces: Collection[str], now: float) -> Answer:
    """The answer to a GET of `path`. `namespaces`: those that are served; empty: every one."""
    parts = path.removeprefix(_ROOT).strip("/").split("/") if path.startswith(_ROOT) else [path]
    match parts:
        case ["/apis"]:
            return 200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group()]}
        case [""]:
            return 200, {"kind": "APIGroup", "apiVersion": "v1", **_group()}
        case [version] if version == VERSION:
            return 200, _resources()
        case [version, "namespaces", namespace, metric] if version == VERSION:
            if namespaces and namespace not in namespaces:
                return refusal(404, f"no metrics are served in the namespace {namespace[:100]!r}")
            return _values(metric, selector, figures, now)
        case _:
            return refusal(404, f"there is no {path[:200]!r} here")


def refusal(code: int, message: str) -> Answer:
    """A `Status` that says why not."""
    reason = {
        400: "BadRequest",
        403: "Forbidden",
        404: "NotFound",
        405: "MethodNotAllowed",
        503: "ServiceUnavailable",
    }[code]
    said = {"status": "Failure", "message": message, "reason": reason, "code": code}
    return code, {"kind": "Status", "apiVersion": "v1", "metadata": {}, **said}


def selected(text: str) -> Mapping[str, frozenset[str]]:
    """The values that each label may have.

    Raises:
        ValueError: it is no selector of rule 2.
    """
    if len(text) > _MOST_SELECTOR:
        raise ValueError(f"the labelSelector is longer than {_MOST_SELECTOR} characters")
    found: dict[str, frozenset[str]] = {}
    at = 0
    while at < len(text):
        term = _TERM.match(text, at)
        if term is None:
            raise ValueError(
                f"the labelSelector cannot be read from {text[at : at + 50]!r} on: use key=value"
            )
        key, one, many = term.groups()
        if key not in _LABELS:
            raise ValueError(f"these metrics have no label {key[:50]!r}, they have {' and '.join(_LABELS)}")
        values = {one} if one is not None else {part.strip() for part in many.split(",")}
        found[key] = found.get(key, frozenset(values)) & values
        at = term.end()
    return found


def quantity(value: float) -> str:
    """A number as Kubernetes writes it: whole, or in thousandths."""
    thousandths = round(max(0.0, value) * 1000)
    return f"{thousandths}m" if thousandths % 1000 else str(thousandths // 1000)


def _values(metric: str, selector: str, figures: Figures, now: float) -> Answer:
    measure = METRICS.get(metric)
    if measure is None:
        return refusal(404, f"there is no metric {metric[:100]!r}, there are {', '.join(METRICS)}")
    try:
        wanted = selected(selector)
    except ValueError as fault:
        return refusal(400, str(fault))
    if not 0.0 <= now - figures.at <= FRESH_S:
        return refusal(503, f"what policies want is not known: {figures.fault}")
    at = datetime.fromtimestamp(figures.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    items = [
        {
            "metricName": metric,
            "metricLabels": {"policy": one.policy, "model": one.model},
            "timestamp": at,
            "value": quantity(measure(one)),
        }
        for one in _chosen(figures.policies, wanted)
    ]
    listed = {"kind": "ExternalMetricValueList", "apiVersion": f"{GROUP}/{VERSION}", "metadata": {}}
    return 200, {**listed, "items": items}


def _chosen(
    policies: Iterable[PolicyFigures], wanted: Mapping[str, frozenset[str]]
) -> Iterable[PolicyFigures]:
    for one in policies:
        labels = {"policy": one.policy, "model": one.model}
        if all(labels[key] in values for key, values in wanted.items()):
            yield one


def _group() -> Document:
    version = {"groupVersion": f"{GROUP}/{VERSION}", "version": VERSION}
    return {"name": GROUP, "versions": [version], "preferredVersion": version}


def _resources() -> Document:
    kind = "ExternalMetricValueList"
    resources = [
        {"name": name, "singularName": "", "namespaced": True, "kind": kind, "verbs": ["get"]}
        for name in METRICS
    ]
    head = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{GROUP}/{VERSION}"}
    return {**head, "resources": resources}
