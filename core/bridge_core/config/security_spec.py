"""ModelAccessPolicy, Quota and IdentityProvider, and what a Mesh says of security and audit."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field

from bridge_core.attestation import TcbStatus
from bridge_core.config.base import Duration, Labels, Metadata, Name, Strict
from bridge_core.policy.statements import MAX_PARTS, Action, Effect, Operator, ResourceKind, SubjectKind
from bridge_core.providers import Algorithm
from bridge_core.quotas import Per
from bridge_core.security_settings import AuditSettings, FullDisk, LocalListener, SecuritySettings

_DAY: Final = 86_400.0
_SECURITY, _AUDIT = SecuritySettings(), AuditSettings()
_Text: TypeAlias = Annotated[str, Field(min_length=1, max_length=256)]
_Amount: TypeAlias = Annotated[int, Field(ge=0, le=1 << 53)]
_NONE: Final = 0


class SubjectSpec(Strict):
    """Whom a document is about."""

    kind: SubjectKind
    name: _Text = Field(description="`*` stands for any characters.")


class ResourceSpec(Strict):
    """What a policy is about."""

    kinds: list[ResourceKind] = Field(min_length=1, max_length=3)
    names: list[Name] = Field(
        min_length=1,
        max_length=MAX_PARTS,
        description="`*` stands for any characters, of a model's name but a slash; alone for all.",
    )


class ConditionSpec(Strict):
    """What must hold besides."""

    key: _Text = Field(
        description="An attribute of the subject; or time, weekday, network, num_ctx, keep_alive, images, "
        "node.<label>."
    )
    operator: Operator
    values: list[_Text] = Field(default_factory=list, max_length=MAX_PARTS)


class ModelAccessPolicySpec(Strict):
    """Who may, or may not, do what with which models. A Deny wins over every Allow."""

    subjects: list[SubjectSpec] = Field(min_length=1, max_length=MAX_PARTS)
    resources: list[ResourceSpec] = Field(min_length=1, max_length=MAX_PARTS)
    actions: list[Action] = Field(min_length=1, max_length=MAX_PARTS)
    conditions: list[ConditionSpec] = Field(
        default_factory=list, max_length=MAX_PARTS, description="All must hold."
    )
    effect: Effect = "Allow"
    shadow: bool = Field(default=False, description="Only record what it would have refused.")


class ModelAccessPolicyDocument(Strict):
    """apiVersion, kind, metadata and spec of a ModelAccessPolicy."""

    api_version: Literal["security.deepseek.io/v1"]
    kind: Literal["ModelAccessPolicy"]
    metadata: Metadata
    spec: ModelAccessPolicySpec


class QuotaSpec(Strict):
    """How much may be asked for in a window; 0: no limit."""

    subjects: list[SubjectSpec] = Field(
        default_factory=list, max_length=MAX_PARTS, description="None: everybody."
    )
    models: list[Name] = Field(
        default_factory=list, max_length=MAX_PARTS, description="Models and routes, `*` for any characters."
    )
    window: Duration = Field(default=60.0, ge=1.0, le=31 * _DAY)
    per: Per = Field(default="client", description="Whose use is added up.")
    requests: _Amount = _NONE
    prompt_tokens: _Amount = _NONE
    output_tokens: _Amount = _NONE
    concurrency: _Amount = _NONE
    shadow: bool = Field(default=False, description="Only record what it would have refused.")


class QuotaDocument(Strict):
    """apiVersion, kind, metadata and spec of a Quota."""

    api_version: Literal["bridge.deepseek.io/v1"]
    kind: Literal["Quota"]
    metadata: Metadata
    spec: QuotaSpec


class ClaimsSpec(Strict):
    """What the claims of a provider's tokens mean."""

    subject: Name = "sub"
    groups: str = Field(default="", max_length=512, description="The claim that holds groups; empty: none.")
    attributes: Labels = Field(default_factory=dict, description="Attribute to the claim that holds it.")


class IdentityProviderSpec(Strict):
    """Whose JWTs are taken (OpenID Connect, or Kubernetes' projected tokens)."""

    issuer: Name
    audiences: list[_Text] = Field(min_length=1, max_length=64)
    algorithms: list[Algorithm] = Field(default=["RS256", "ES256"], min_length=1, max_length=16)
    jwks: str | None = Field(default=None, max_length=262_144, description="Its key set, JSON.")
    jwks_uri: Name | None = Field(
        default=None, description="Where the registry gets its key set, and keeps it fresh: https."
    )
    refresh: Duration = Field(
        default=3600.0, ge=60.0, le=7 * _DAY, description="How old a fetched key set may get."
    )
    allow_private_address: bool = Field(
        default=False, description="Let the registry fetch from an address that is not public."
    )
    claims: ClaimsSpec = ClaimsSpec()
    kubernetes: bool = Field(
        default=False, description="Its tokens are those that Kubernetes projects into pods."
    )


class IdentityProviderDocument(Strict):
    """apiVersion, kind, metadata and spec of an IdentityProvider."""

    api_version: Literal["security.deepseek.io/v1"]
    kind: Literal["IdentityProvider"]
    metadata: Metadata
    spec: IdentityProviderSpec


_Sha256: TypeAlias = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_Sha384: TypeAlias = Annotated[str, Field(pattern="^[0-9a-f]{96}$")]


class EnclaveSpec(Strict):
    """An SGX enclave that is trusted: all that is said here has to be so."""

    mr_enclave: _Sha256 | None = Field(default=None, description="Its exact code.")
    mr_signer: _Sha256 | None = Field(default=None, description="Who signed it; then give `product`, too.")
    product: int | None = Field(default=None, ge=0, le=65_535, description="Number of the signer's product.")
    version: int = Field(default=0, ge=0, le=65_535, description="The least one (ISVSVN).")


class MachineSpec(Strict):
    """A TDX machine that is trusted: all that is said here has to be so."""

    mr_td: _Sha384 = Field(description="What it was built from.")
    rt_mr0: _Sha384 | None = Field(default=None, description="Its firmware's settings.")
    rt_mr1: _Sha384 | None = Field(default=None, description="Its kernel.")
    rt_mr2: _Sha384 | None = Field(default=None, description="Its command line and first file system.")
    rt_mr3: _Sha384 | None = Field(default=None, description="What it measured as it ran.")


class AttestationPolicySpec(Strict):
    """Which enclaves and machines are trusted. Nothing else is."""

    sgx: list[EnclaveSpec] = Field(default_factory=list, max_length=256)
    tdx: list[MachineSpec] = Field(default_factory=list, max_length=256)
    tcb: list[TcbStatus] = Field(
        default=["UpToDate"], min_length=1, max_length=8, description="States of the firmware that are taken."
    )


class AttestationPolicyDocument(Strict):
    """apiVersion, kind, metadata and spec of an AttestationPolicy."""

    api_version: Literal["security.deepseek.io/v1"]
    kind: Literal["AttestationPolicy"]
    metadata: Metadata
    spec: AttestationPolicySpec


class SecuritySpec(Strict):
    """Who may what where no policy says it."""

    default_effect: Effect = Field(
        default=_SECURITY.default_effect, description="Of requests for a model that no policy is about."
    )
    local_listener: LocalListener = Field(
        default=_SECURITY.local_listener, description="What a program on a node may do over the loopback."
    )
    renewal_grace: Duration = Field(
        default=_SECURITY.renewal_grace_s,
        ge=0.0,
        le=30 * _DAY,
        description="For so long after its end a node's certificate still lets it renew itself.",
    )


class AuditSpec(Strict):
    """What is recorded, and for how long."""

    retention: Duration = Field(default=_AUDIT.retention_s, ge=60.0, le=3660 * _DAY)
    cosigners: int = Field(
        default=_AUDIT.cosigners, ge=0, le=16, description="Other nodes that sign a node's checkpoints."
    )
    on_full_disk: FullDisk = Field(
        default=_AUDIT.on_full_disk, description="Whether traffic goes on unrecorded, or is refused."
    )
    content: bool = Field(
        default=_AUDIT.content, description="Record what was asked as well; answers never are."
    )
    key_period: Duration = Field(
        default=_AUDIT.key_period_s, ge=60.0, le=366 * _DAY, description="Of the key that hashes requests."
    )
    sealed: bool = Field(
        default=_AUDIT.sealed,
        description="Keep records sealed on the disk, from then on, with the node's keys.",
    )
    timestamp_authority: str = Field(
        default=_AUDIT.timestamp_authority,
        max_length=512,
        pattern="^(https?://[!-~]+)?$",
        description="A time-stamp authority (RFC 3161), asked once an hour for a stamp of each log.",
    )
