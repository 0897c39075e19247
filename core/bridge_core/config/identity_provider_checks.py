"""What a schema cannot say of an IdentityProvider. Pure.

Rules:
1. A provider's name is the first part of its users' names in every record: lower case, and no `#`.
2. Its key set is given, or where to fetch it, and not both. A given one is public and has a key that one of
   its algorithms can be checked with.
3. No two providers have the same issuer: a token names one.
4. An attribute that Kubernetes gives is not mapped to another claim.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from bridge_core.config.security_spec import IdentityProviderSpec
from bridge_core.config.url_checks import is_https, url_fault
from bridge_core.identity.key_sets import BadKeySet, read_key_set

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
_FROM_KUBERNETES: Final = ("namespace", "serviceaccount", "pod")


def name_fault(name: str) -> str:
    """What is wrong with a provider's name; empty: nothing."""
    if _NAME.fullmatch(name):
        return ""
    return f"{name[:80]!r} is no name of a provider: up to 63 of a-z, 0-9, dot and dash"


def faults(spec: IdentityProviderSpec) -> Iterator[tuple[str, str]]:
    """Every fault, as the path below `spec` and a sentence."""
    if (spec.jwks is None) == (spec.jwks_uri is None):
        both = "jwks" if spec.jwks is not None else "issuer"
        yield both, "either jwks (the key set itself) or jwksUri (where the registry gets it) is needed"
    if spec.jwks is not None:
        yield from _jwks(spec.jwks, spec.algorithms)
        for name in ("refresh", "allow_private_address"):
            if name in spec.model_fields_set:
                yield "jwks", "is not fetched: refresh and allowPrivateAddress are without effect"
                break
    elif spec.jwks_uri is not None and (fault := _uri(spec.jwks_uri)):
        yield "jwksUri", fault
    if spec.kubernetes:
        for name in _FROM_KUBERNETES:
            if name in spec.claims.attributes:
                yield f"claims.attributes.{name}", "is what Kubernetes says itself: leave it out"


def _jwks(text: str, algorithms: Sequence[str]) -> Iterator[tuple[str, str]]:
    try:
        keys = read_key_set(text)
    except BadKeySet as fault:
        yield "jwks", fault.message
        return
    if not any(key.fits(algorithm) for key in keys for algorithm in algorithms):
        yield "algorithms", "none of them can be checked with a key of the key set"


def _uri(text: str) -> str:
    return url_fault(text) or ("" if is_https(text) else "has to be an https:// address")
