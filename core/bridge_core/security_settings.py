"""What a Mesh document says of security and of the audit, as a snapshot has it."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from bridge_core.bounds import Name, Seconds, Small, Word
from bridge_core.policy.statements import Effect

LocalListener: TypeAlias = Literal["open", "policy", "off"]
FullDisk: TypeAlias = Literal["serve", "refuse"]
Certificates: TypeAlias = Annotated[
    tuple[Annotated[str, msgspec.Meta(max_length=16_384)], ...], msgspec.Meta(max_length=8)
]


class SecuritySettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who may what where no policy says it.

    Attributes:
        default_effect: Of a request for a model that no policy is about. Allow: who is known may infer,
            list and show; what changes a node's models takes an admin or a policy of its own.
        local_listener: `open`: a program on a node may do everything at that node, and infer everywhere;
            `policy`: policies decide, as for anybody; `off`: it is refused.
        renewal_grace_s: For how long after its end a node's certificate still lets it renew itself.
    """

    default_effect: Effect = "Allow"
    local_listener: LocalListener = "open"
    renewal_grace_s: Seconds = 0.0


class Trust(msgspec.Struct, frozen=True, omit_defaults=True):
    """The mesh's CAs, PEM; nothing where a snapshot does not say.

    Attributes:
        roots: What a registry is known by.
        issuers: What members are known by: the CAs that sign their certificates.
        issuing: SHA-256 of the one that signs now, hexadecimal. Who has a certificate of another renews it.
    """

    roots: Certificates = ()
    issuers: Certificates = ()
    issuing: Word = ""


class AuditSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is recorded, and for how long.

    Attributes:
        retention_s: Records older than this are removed.
        cosigners: How many other nodes sign a node's checkpoints where there are so many.
        on_full_disk: Whether traffic goes on unrecorded, or is refused.
        content: Whether what was asked is recorded as well; answers never are.
        key_period_s: How long one key makes the hashes of what was asked.
        sealed: Whether records lie sealed on the disk, from now on.
        timestamp_authority: Where a time stamp of the log (RFC 3161) is got once an hour; empty: nowhere.
    """

    retention_s: Seconds = 180 * 86_400.0
    cosigners: Small = 2
    on_full_disk: FullDisk = "serve"
    content: bool = False
    key_period_s: Seconds = 86_400.0
    timestamp_authority: Name = ""
    sealed: bool = False
