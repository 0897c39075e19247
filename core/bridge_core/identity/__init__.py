"""Who is who in a mesh: SPIFFE ids, join tokens, keys and certificates.

`spiffe`, `tokens` and `rotation_rules` are pure; `certificates` makes keys, CSRs and certificates from
its arguments alone.
"""

from bridge_core.identity.certificates import (
    CertificateInfo,
    create_csr,
    describe,
    generate_key,
    key_to_pem,
)
from bridge_core.identity.rotation_rules import CertificateState, certificate_state, renew_at
from bridge_core.identity.spiffe import IdentityFault, SpiffeId, check_node_name, check_trust_domain
from bridge_core.identity.tokens import JoinToken, TokenFault

__all__ = [
    "CertificateInfo",
    "CertificateState",
    "IdentityFault",
    "JoinToken",
    "SpiffeId",
    "TokenFault",
    "certificate_state",
    "check_node_name",
    "check_trust_domain",
    "create_csr",
    "describe",
    "generate_key",
    "key_to_pem",
    "renew_at",
]
