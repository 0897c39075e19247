"""What is applied and may not be what was meant: pure. A warning is no fault: models and nodes come later."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from bridge_core.config.documents import AnyDocument, ModelRouteDocument, QuotaDocument
from bridge_core.names import canonical_or_same
from bridge_core.policy.resources import is_pattern
from bridge_core.snapshot import Instance


def unserved(
    documents: Iterable[AnyDocument], members: Iterable[Instance], routes: Iterable[str] = ()
) -> tuple[str, ...]:
    """Which models of these documents nobody can answer for at present; `routes` are all routes' names."""
    documents, members = tuple(documents), tuple(members)
    held = {instance.id: {canonical_or_same(one.name) for one in instance.models} for instance in members}
    there = set[str]().union(*held.values())
    named = there | {canonical_or_same(name) for name in routes}
    warnings = []
    for document in documents:
        if isinstance(document, QuotaDocument):
            warnings += [
                f"quota {document.metadata.name}: no node has the model {name}, and no route is called so"
                for name in document.spec.models
                if not is_pattern(name) and canonical_or_same(name) not in named
            ]
        if not isinstance(document, ModelRouteDocument):
            continue
        name = document.metadata.name
        for backend in document.spec.backends:
            model = canonical_or_same(backend.model)
            if model not in there:
                warnings.append(f"route {name}: no node has the model {backend.model}")
            elif backend.instances and not _on(backend.instances, model, held):
                where = ", ".join(backend.instances)
                warnings.append(f"route {name}: none of {where} has the model {backend.model}")
    return tuple(warnings)


def _on(instances: Collection[str], model: str, held: dict[str, set[str]]) -> bool:
    return any(model in held.get(instance, ()) for instance in instances)
