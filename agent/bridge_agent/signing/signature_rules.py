"""Which of a node's models are served where policies ask for signatures. Pure.

Rules:
1. A model that a policy is about is served once its manifest, by the digest that the engine lists, was found
   signed by the policies in force. Until that was looked at it is withheld: a doubt serves nobody.
2. What was on the disk before a policy came is treated as what comes after it.
3. A model of an engine whose store is somebody else's cannot be looked at, and is withheld.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from bridge_agent.engines.view import LocalInstance
from bridge_agent.signing.judging_rules import Judged
from bridge_core.bounds import MAX_REASON
from bridge_core.model_signing.policies import SignatureBook
from bridge_core.names import canonical_or_same
from bridge_core.snapshot import MemberModel, SignedModel, WithheldModel

BEING_CHECKED: Final = "its signature is being checked: ask again in a moment"
ANOTHERS: Final = (
    "the engine that has it is attached and its store is its own, so that no signature of it can be checked: "
    "pull the model to a node that runs its engines itself"
)


class Sorted(msgspec.Struct, frozen=True):
    """Instances as they are shown, and the canonical names of models that have to be looked at."""

    instances: tuple[LocalInstance, ...]
    unknown: frozenset[str] = frozenset()


def sort_out(
    instances: Sequence[LocalInstance],
    own: frozenset[str],
    book: SignatureBook,
    known: Mapping[str, Mapping[str, Judged]],
) -> Sorted:
    """Takes out what is not to be served.

    Args:
        instances: As their engines list them.
        own: Ids of those whose models are in this node's store.
        book: The policies in force.
        known: What was found under just these policies, by canonical name and digest of the manifest.
    """
    if not book.policies:
        return Sorted(tuple(instances))
    shown, unknown = [], set[str]()
    for instance in instances:
        kept: list[MemberModel] = []
        withheld: list[WithheldModel] = []
        signed: list[SignedModel] = []
        for model in instance.models:
            name = canonical_or_same(model.name)
            if not book.about(name):
                kept.append(model)
                continue
            judged, why = _judged(model, instance.id in own, known.get(name, {}))
            if why == BEING_CHECKED:
                unknown.add(name)
            if why and book.enforced(name):
                withheld.append(WithheldModel(model.name, model.digest, why[:MAX_REASON]))
                continue
            kept.append(model)
            if judged.by:
                signed.append(SignedModel(model.name, judged.by))
        shown.append(_with(instance, kept, withheld, signed))
    return Sorted(tuple(shown), frozenset(unknown))


def _judged(model: MemberModel, own: bool, known: Mapping[str, Judged]) -> tuple[Judged, str]:
    """What is known of a model, and why it is not served where that is to be signed."""
    if not own:
        return Judged(), ANOTHERS
    found = known.get(model.digest.removeprefix("sha256:"))
    return (Judged(), BEING_CHECKED) if found is None else (found, found.refused)


def _with(
    instance: LocalInstance,
    kept: list[MemberModel],
    withheld: list[WithheldModel],
    signed: list[SignedModel],
) -> LocalInstance:
    out = {one.name for one in withheld}
    return msgspec.structs.replace(
        instance,
        models=tuple(kept),
        loaded=tuple(name for name in instance.loaded if name not in out),
        loading=tuple(one for one in instance.loading if one.name not in out),
        withheld=tuple(withheld),
        signed=tuple(signed),
    )
