"""Which models have to be signed, and by whom: what a ModelSignaturePolicy becomes in the snapshot. Pure.

Rules:
1. A model is served where every policy about its name finds a signature of one of its signers.
2. A policy in shadow refuses nothing; what it would have is said.
3. Names are compared as access policies compare them (`policy.resources`): by every spelling, and `*` does
   not go over a slash; alone it stands for every model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final, Self

import msgspec

from bridge_core.bounds import Name, Text, Word
from bridge_core.policy import resources
from bridge_core.policy.globs import Glob

MAX_SIGNERS: Final = 32
MAX_PEM: Final = 16_384
MAX_IDENTITIES: Final = 32
MAX_NAMES: Final = 256

_Pem = Annotated[str, msgspec.Meta(max_length=MAX_PEM)]


class Signer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Somebody whose signatures count: by their key, or by a certificate of a CA.

    Attributes:
        name: What they are called here.
        public_key: PEM; empty: they show a certificate.
        authorities: CA certificates, PEM, that theirs leads to.
        identities: What theirs may say that it is of (its names, or its common name); `*` for any characters.
    """

    name: Word
    public_key: _Pem = ""
    authorities: _Pem = ""
    identities: Annotated[tuple[Text, ...], msgspec.Meta(max_length=MAX_IDENTITIES)] = ()


class ModelSignaturePolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    """One ModelSignaturePolicy.

    Attributes:
        name: The document's.
        models: Names, or patterns of them.
        signers: Of one of whom a model needs a signature.
        shadow: It refuses nothing.
    """

    name: Name
    models: Annotated[tuple[Name, ...], msgspec.Meta(max_length=MAX_NAMES)] = ()
    signers: Annotated[tuple[Signer, ...], msgspec.Meta(max_length=MAX_SIGNERS)] = ()
    shadow: bool = False


class SignatureBook:
    """The policies of one snapshot, asked by a model's name.

    Args:
        policies: All of them.
    """

    def __init__(self, policies: Iterable[ModelSignaturePolicy]) -> None:
        self.policies: Final = tuple(sorted(policies, key=lambda one: one.name))
        self._named = [_Named.of(one) for one in self.policies]

    def about(self, name: str) -> tuple[ModelSignaturePolicy, ...]:
        """The policies about the model of this canonical name."""
        spellings = resources.spellings("Model", name)
        return tuple(
            policy
            for policy, named in zip(self.policies, self._named, strict=True)
            if name in named.exact or any(glob.matches(one) for glob in named.globs for one in spellings)
        )

    def enforced(self, name: str) -> bool:
        """Whether the model of this canonical name has to be signed."""
        return any(not policy.shadow for policy in self.about(name))


class _Named(msgspec.Struct, frozen=True):
    exact: frozenset[str]
    globs: tuple[Glob, ...]

    @classmethod
    def of(cls, policy: ModelSignaturePolicy) -> Self:
        patterns = [one for one in policy.models if resources.is_pattern(one)]
        return cls(
            frozenset(resources.exact("Model", one) for one in policy.models if one not in patterns),
            tuple(resources.pattern("Model", one) for one in patterns),
        )
