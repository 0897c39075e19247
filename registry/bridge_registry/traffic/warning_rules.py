"""What is applied and may not be what was meant: pure. A warning is no fault: models and nodes come later."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from bridge_core.config.documents import AnyDocument, ModelRouteDocument
from bridge_core.names import canonical_or_same
from bridge_core.snapshot import Instance


def unserved(documents: Iterable[AnyDocument], members: Iterable[Instance]) -> tuple[str, ...]:
    """Which backends of these documents no instance can answer for at present."""
    documents, members = tuple(documents), tuple(members)
    held = {instance.id: {canonical_or_same(one.name) for one in instance.models} for instance in members}
    there = set[str]().union(*held.values())
    warnings = []
    for document in documents:
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
