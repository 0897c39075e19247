"""What a schema cannot say of a ModelAccessPolicy. Pure.

Rules:
1. A condition that could never hold, or that no engine of policies could answer, is a fault.
2. So is an action that is not done to any of the kinds it stands beside, and a kind without an action.
3. Who may change the config, drain a node or speak for the mesh is said by the roles of admins at the
   registry, not by policies: two places that say it would contradict each other, and a policy could lock
   out those who could mend it. Config and drain are refused, with the way to say it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bridge_core.config.security_spec import ModelAccessPolicySpec, ResourceSpec, SubjectSpec
from bridge_core.policy import resources
from bridge_core.policy.conditions import fault
from bridge_core.policy.defaults import CHANGES, USES
from bridge_core.policy.globs import ANY
from bridge_core.policy.statements import Action, Condition, ResourceKind

_ROLES: Final = "is said by the roles of admins: `bridgectl admin create NAME --role viewer|operator|admin`"
_DONE_TO: Final[dict[ResourceKind, frozenset[Action]]] = {
    "Model": USES | CHANGES,
    "Node": CHANGES | frozenset[Action]({"admin"}),
}


def faults(spec: ModelAccessPolicySpec) -> Iterator[tuple[str, str]]:
    """Every fault, as the path below `spec` and a sentence."""
    for at, subject in enumerate(spec.subjects):
        yield from _subject(f"subjects[{at}].name", subject)
    for at, resource in enumerate(spec.resources):
        yield from _resource(f"resources[{at}]", resource)
    kinds = {kind for resource in spec.resources for kind in resource.kinds if kind in _DONE_TO}
    for at, action in enumerate(spec.actions):
        if action == "drain":
            yield f"actions[{at}]", f"who may drain nodes {_ROLES}"
        elif action != "*" and kinds and not any(action in _DONE_TO[kind] for kind in kinds):
            fitting = " or ".join(kind for kind, actions in _DONE_TO.items() if action in actions)
            named = " and ".join(sorted(kinds))
            yield f"actions[{at}]", f"{action} is done to a {fitting}, and this is about a {named}"
    for at, one in enumerate(spec.conditions):
        wrong = fault(Condition(one.key, one.operator, tuple(one.values)))
        if wrong is not None:
            yield f"conditions[{at}]", wrong


def _subject(path: str, subject: SubjectSpec) -> Iterator[tuple[str, str]]:
    name = subject.name
    if name.startswith("spiffe://"):
        yield path, f"write the name alone: {name.rpartition('/')[2]}"
    elif subject.kind == "ServiceAccount" and name != ANY:
        provider, mark, account = name.partition("#")
        if not (provider and mark and ":" in account):
            yield path, "a ServiceAccount is <IdentityProvider>#<namespace>:<name>"


def _resource(path: str, resource: ResourceSpec) -> Iterator[tuple[str, str]]:
    for at, kind in enumerate(resource.kinds):
        if kind == "Config":
            yield f"{path}.kinds[{at}]", f"who may change the config {_ROLES}"
        elif kind in resource.kinds[:at]:
            yield f"{path}.kinds[{at}]", f"{kind} is there twice"
    for at, name in enumerate(resource.names):
        if "Model" in resource.kinds and not resources.is_pattern(name) and not resources.is_model(name):
            yield f"{path}.names[{at}]", f"{name!r} is not a model name"
