"""How this node stands with its mesh, and what brings it back where it stands badly: pure.

Rules:
1. A certificate that is not of now, or a registry that does not know the node, keeps it from peers and
   registries; its own clients are served all the same.
2. Who has the node's records in the mesh's snapshot is the node. Another agent that runs with the same
   identity, on a copied folder or disk, neither registers over them nor renews the certificate: it says
   so, and takes the place over when the records go with the other's lease.
3. A record without a holder is of an agent that did not say so yet: it is nobody else's.
4. An address that the mesh has for the node and that is not this agent's is put right by a renewal, by
   the holder alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bridge_core.identity import CertificateState, certificate_state
from bridge_core.quantities import say_span
from bridge_core.snapshot import Snapshot


class Standing(msgspec.Struct, frozen=True):
    """What a published snapshot says of this node.

    Attributes:
        member: Whether it is in it, and not revoked.
        other: The holder of its records where that is somebody else; empty: it is this agent, or nobody.
        peer: Where other agents look for it.
        missing: The instances of this agent's that are not in it.
    """

    member: bool
    other: str
    peer: str
    missing: frozenset[str]


def standing(snapshot: Snapshot, node: str, holder: str, registered: Sequence[str]) -> Standing:
    """How `node` stands, for the agent that is `holder` and has put the instances `registered`."""
    own = [one for one in snapshot.instances.values() if one.node == node]
    record = snapshot.nodes.get(node)
    others = sorted({one.holder for one in own} - {"", holder})
    return Standing(
        member=record is not None and record.state != "revoked",
        other=others[0] if others else "",
        peer=record.peer if record is not None else "",
        missing=frozenset(registered) - {one.id for one in own},
    )


def way_back(name: str, registries: Sequence[str]) -> str:
    """What makes a member again of a node whose certificate is of no use any more."""
    return (
        f"an admin makes a token with `bridgectl token create --node {name}`, then "
        f"`bridge-agent join {','.join(registries)} --token TOKEN --replace` brings it back "
        "with its engines, models and settings"
    )


def certificate_concern(
    not_before: float, not_after: float, now: float, back: str, *, grace_s: float = 0.0
) -> str:
    """What an operator should do about the certificate; empty: nothing. Times are Unix seconds.

    `grace_s` is for how long after its end it renews itself, as far as is known; `back` what helps later.
    """
    match certificate_state(not_before, not_after, now, 0.5):
        case CertificateState.EXPIRED:
            ago = say_span(now - not_after)
            if now < not_after + grace_s:
                return (
                    f"the certificate expired {ago} ago: no peer takes it; it renews itself once a registry "
                    f"answers within {say_span(not_after + grace_s - now)}"
                )
            return f"the certificate expired {ago} ago: no peer and no registry takes it; {back}"
        case CertificateState.NOT_YET_VALID:
            return (
                f"the certificate is valid in {say_span(not_before - now)} only: "
                "this machine's clock is behind "
                "the registry's; set it"
            )
        case _ if now > not_before + 0.9 * (not_after - not_before):
            return f"the certificate expires in {say_span(not_after - now)} and could not be renewed yet"
        case _:
            return ""


def clock_concern(ahead_s: float) -> str:
    """Whose clock is off and by how much, `ahead_s` being this machine's lead over the registry's."""
    way = "ahead of" if ahead_s > 0 else "behind"
    return f"this machine's clock is {say_span(abs(ahead_s))} {way} the registry's"
