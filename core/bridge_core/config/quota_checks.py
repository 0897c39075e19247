"""What a schema cannot say of a Quota. Pure.

Rules:
1. A quota limits something.
2. `per: group` counts the groups that it names, and so it names some, and nobody else.
3. What is there twice is a slip; what is no model's name would never count.
4. Two quotas that are not in shadow are not about the same, in the same window: put their limits into one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bridge_core.config.security_spec import QuotaSpec
from bridge_core.policy.resources import exact, is_model, is_pattern


def faults(spec: QuotaSpec) -> Iterator[tuple[str, str]]:
    """Every fault, as the path below `spec` and a sentence; the path may be empty."""
    if not (spec.requests or spec.prompt_tokens or spec.output_tokens or spec.concurrency):
        yield "", "nothing is limited: give requests, promptTokens, outputTokens or concurrency"
    if spec.per == "group" and not any(one.kind == "Group" for one in spec.subjects):
        yield "per", "per: group counts the groups among the subjects: name one, or * for all"
    for at, subject in enumerate(spec.subjects):
        if subject.name.startswith("spiffe://"):
            yield f"subjects[{at}].name", f"write the name alone: {subject.name.rpartition('/')[2]}"
        elif spec.per == "group" and subject.kind != "Group":
            yield f"subjects[{at}].kind", f"per: group counts groups, and a {subject.kind} is none"
        if subject in spec.subjects[:at]:
            yield f"subjects[{at}]", f"{subject.kind} {subject.name} is there twice"
    names = [_comparable(name) for name in spec.models]
    for at, name in enumerate(spec.models):
        if not is_pattern(name) and not is_model(name):
            yield f"models[{at}]", f"{name!r} is not a model name"
        elif names[at] in names[:at]:
            yield f"models[{at}]", f"{name} is there twice"


def same(spec: QuotaSpec, others: Sequence[tuple[str, QuotaSpec]]) -> str:
    """The name of another quota that is about the same as this one; empty: none is."""
    if spec.shadow:  # to try a limit beside another one
        return ""
    own = _about(spec)
    return next((name for name, other in others if not other.shadow and _about(other) == own), "")


def _about(spec: QuotaSpec) -> tuple[object, ...]:
    subjects = frozenset((one.kind, one.name) for one in spec.subjects)
    return subjects, frozenset(map(_comparable, spec.models)), spec.per, spec.window


def _comparable(name: str) -> str:
    return name.lower() if is_pattern(name) else exact("Model", name)
