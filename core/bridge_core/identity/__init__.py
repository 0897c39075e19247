"""Who is who in a mesh: SPIFFE ids, join tokens, keys and certificates.

`spiffe`, `tokens`, `certificate_info` and `rotation_rules` are pure; `certificates` makes keys, CSRs and
certificates from its arguments alone. It is not imported here: it keeps 8 MiB, and an agent that runs
needs it once a day.
"""

from bridge_core.identity.certificate_info import CertificateInfo
from bridge_core.identity.rotation_rules import CertificateState, certificate_state, renew_at
from bridge_core.identity.spiffe import IdentityFault, SpiffeId, check_node_name, check_trust_domain
from bridge_core.identity.tokens import JoinToken, PodToken, TokenFault, parse_token

__all__ = [
    "CertificateInfo",
    "CertificateState",
    "IdentityFault",
    "JoinToken",
    "PodToken",
    "SpiffeId",
    "TokenFault",
    "certificate_state",
    "check_node_name",
    "check_trust_domain",
    "parse_token",
    "renew_at",
]
