"""Issuers of tokens that the mesh believes, as a snapshot has them."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from bridge_core.bounds import Labels, Name

Algorithm: TypeAlias = Literal["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"]
KeySet = Annotated[str, msgspec.Meta(max_length=262_144)]
Audiences: TypeAlias = Annotated[tuple[Name, ...], msgspec.Meta(max_length=64)]


class IdentityProvider(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whose JWTs are taken, and what their claims mean.

    Attributes:
        name: The document's; the first part of its principals' texts.
        issuer: What `iss` must be.
        audiences: One of which `aud` must name.
        algorithms: No other counts.
        keys: Its key set (RFC 7517) as JSON; the registry keeps it fresh.
        subject: The claim that names the principal.
        groups: The claim that holds its groups; empty: none.
        attributes: Attribute to the claim that holds it.
        kubernetes: Its tokens are those that Kubernetes projects into pods.
    """

    name: Name
    issuer: Name
    audiences: Audiences
    algorithms: Annotated[tuple[Algorithm, ...], msgspec.Meta(max_length=16)] = ("RS256", "ES256")
    keys: KeySet = ""
    subject: Name = "sub"
    groups: Name = ""
    attributes: Labels = {}
    kubernetes: bool = False
