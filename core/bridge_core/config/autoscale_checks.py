"""What a schema cannot say of an AutoscalePolicy. Pure.

Rules:
1. min is not above max; a min of 0 and scaleToZero go together.
2. The model is a model's name, no pattern and no route: a route's backends are scaled each by itself.
3. A node class has one budget, and the budgets let min be reached.
4. One policy a model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from bridge_core.config.autoscale_spec import AutoscaleSpec
from bridge_core.names import InvalidName, canonical, canonical_or_same


def faults(spec: AutoscaleSpec, routes: Collection[str]) -> Iterator[tuple[str, str]]:
    """Every fault, as the path below `spec` and a sentence. `routes` are canonical names."""
    try:
        own = canonical(spec.model)
    except InvalidName:
        yield "model", f"{spec.model!r} is not a model name"
    else:
        if own in routes:
            yield "model", f"{spec.model} is a route: write a policy for each model among its backends"
    if spec.min > spec.max:
        yield "min", f"min {spec.min} is above max {spec.max}"
    if spec.min == 0 and spec.scale_to_zero is None:
        yield "min", "a min of 0 needs scaleToZero, which says after how long and how long a wake may take"
    if spec.min > 0 and spec.scale_to_zero is not None:
        yield "scaleToZero", f"is without effect while min is {spec.min}: make it 0"
    if spec.scale_to_zero is not None and spec.scale_to_zero.after < spec.cool_downs.scale_in:
        yield "scaleToZero.after", "is shorter than coolDowns.scaleIn: it would never be reached in time"
    seen: set[str] = set()
    for at, budget in enumerate(spec.budgets):
        if budget.node_class in seen:
            yield f"budgets[{at}].nodeClass", f"{budget.node_class} is there twice"
        seen.add(budget.node_class)
    room = sum(budget.max for budget in spec.budgets)
    if spec.budgets and room < spec.min:
        yield "budgets", f"leave room for {room} instances together, and min is {spec.min}"


def same(spec: AutoscaleSpec, others: Mapping[str, AutoscaleSpec]) -> str:
    """The name of another policy of the same model; empty: there is none."""
    own = canonical_or_same(spec.model)
    return next((name for name, other in others.items() if canonical_or_same(other.model) == own), "")
