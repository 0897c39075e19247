"""Where things are in etcd."""

from __future__ import annotations

from typing import Final

ROOT: Final = "/bridge/v1/"
MEMBERS: Final = ROOT + "members/"
NODES: Final = ROOT + "nodes/"
CONFIG: Final = ROOT + "config"  # one value: whatever is applied is applied at once
REVISIONS: Final = ROOT + "revisions/"
TOKENS: Final = ROOT + "tokens/"
AUTHORITIES: Final = ROOT + "ca/authorities"  # one value: whoever reads it sees one step of a rotation
SERIALS: Final = ROOT + "ca/serials/"
REVOKED: Final = ROOT + "ca/revoked/"
LEASES: Final = ROOT + "leases/"
GUARDS: Final = ROOT + "guards/"
CLIENTS: Final = ROOT + "clients/"
KEY_SETS: Final = ROOT + "keysets/"  # fetched for identity providers
SECRETS: Final = ROOT + "secrets/"  # sealed: what agents are told beside the snapshot
ADMINS: Final = ROOT + "admins/"
USAGE: Final = ROOT + "usage/"
ROLLOUTS: Final = ROOT + "rollouts/"
SCALING: Final = ROOT + "scaling/"  # where each AutoscalePolicy stands
ALERTS: Final = ROOT + "alerts/"  # what lasts, and who was told of it
PUBLISHING: Final = ROOT + "publishing/"  # who writes which model into shared storage
LEADER: Final = ROOT + "leader/"
STORE: Final = ROOT + "store"  # which store this is; see the registry's store_identity_rules

_LEASED: Final = (MEMBERS, LEADER, LEASES, GUARDS, PUBLISHING)
# History is large and only read by people; the rest of these are in the registry's own files.
_NOT_KEPT: Final = (*_LEASED, REVISIONS, USAGE, ALERTS, STORE, AUTHORITIES)


def is_lasting(key: str) -> bool:
    """Whether a registry keeps a copy of the record: it is the mesh's own and under nobody's lease."""
    return key.startswith(ROOT) and not key.startswith(_NOT_KEPT)


def members_of(node: str) -> str:
    """The prefix that a node, and it alone, may write, through the store guard."""
    return f"{MEMBERS}{node}/"
