"""ModelSignaturePolicy: which models have to be signed, and by whom."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from bridge_core.config.base import Metadata, Name, Strict
from bridge_core.model_signing.policies import MAX_IDENTITIES, MAX_NAMES, MAX_PEM, MAX_SIGNERS

_Identity: TypeAlias = Annotated[str, Field(min_length=1, max_length=256)]


class SignerSpec(Strict):
    """Somebody whose signatures count: by a public key, or by certificates of a CA."""

    name: str = Field(min_length=1, max_length=64, description="What they are called here.")
    public_key: str = Field(
        default="", max_length=MAX_PEM, description="PEM; an elliptic curve's: P-256, P-384 or P-521."
    )
    authorities: str = Field(
        default="",
        max_length=MAX_PEM,
        description="PEM, one or several CA certificates; beside `identities`.",
    )
    identities: list[_Identity] = Field(
        default_factory=list,
        max_length=MAX_IDENTITIES,
        description="Mail addresses, URIs or DNS names that the certificate may be of (its common name where "
        "it has none of these); `*` stands for any characters.",
    )


class ModelSignaturePolicySpec(Strict):
    """Models that are served only with a signature (OpenSSF Model Signing) of one of these signers."""

    models: list[Name] = Field(
        min_length=1,
        max_length=MAX_NAMES,
        description="`*` stands for any characters but a slash; alone for every model.",
    )
    signers: list[SignerSpec] = Field(min_length=1, max_length=MAX_SIGNERS)
    shadow: bool = Field(default=False, description="Only say what it would have refused.")


class ModelSignaturePolicyDocument(Strict):
    """apiVersion, kind, metadata and spec of a ModelSignaturePolicy."""

    api_version: Literal["security.deepseek.io/v1"]
    kind: Literal["ModelSignaturePolicy"]
    metadata: Metadata
    spec: ModelSignaturePolicySpec
