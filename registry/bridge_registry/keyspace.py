"""Where things are in etcd."""

from __future__ import annotations

from typing import Final

ROOT: Final = "/bridge/v1/"
MEMBERS: Final = ROOT + "members/"
NODES: Final = ROOT + "nodes/"
CONFIG: Final = ROOT + "config"  # one value: whatever is applied is applied at once
REVISIONS: Final = ROOT + "revisions/"
TOKENS: Final = ROOT + "tokens/"
CA_CERTIFICATE: Final = ROOT + "ca/certificate"
CA_SEALED_KEY: Final = ROOT + "ca/key"
SERIALS: Final = ROOT + "ca/serials/"
REVOKED: Final = ROOT + "ca/revoked/"
LEASES: Final = ROOT + "leases/"
GUARDS: Final = ROOT + "guards/"
ROLLOUTS: Final = ROOT + "rollouts/"
LEADER: Final = ROOT + "leader/"


def members_of(node: str) -> str:
    """The prefix that a node, and it alone, may write, through the store guard."""
    return f"{MEMBERS}{node}/"
