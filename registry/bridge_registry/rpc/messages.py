"""Between protobuf messages and our own types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bridge_core.config import Fault
from bridge_core.snapshot import Delta, Version
from bridge_registry.enrolment.enroller import Issued
from bridge_registry.membership.node_status import NodeStanding
from bridge_registry.publication.hub import Acknowledgement
from bridge_registry.records import RevisionRecord, TokenRecord
from bridge_registry.traffic.config_desk import Applied
from bridge_wire.v1 import registry_pb2 as pb


def version_message(version: Version) -> pb.SnapshotVersion:
    """A snapshot's version."""
    return pb.SnapshotVersion(epoch=version.epoch, revision=version.revision)


def version_of(message: pb.SnapshotVersion) -> Version:
    """The version that `message` says."""
    return Version(message.epoch, message.revision)


def update_message(
    delta: Delta, ring_digest: bytes, secrets: Mapping[str, bytes] | None = None
) -> pb.SnapshotUpdate:
    """An update as it goes to an agent, with secrets where it has to be told them."""
    return pb.SnapshotUpdate(
        version=version_message(delta.version),
        base=None if delta.base is None else version_message(delta.base),
        entries=[pb.SnapshotEntry(key=key, value=value) for key, value in delta.changed.items()],
        removed=delta.removed,
        digest=delta.digest,
        ring_digest=ring_digest,
        secrets=secrets,
    )


def identity_message(issued: Issued) -> pb.Identity:
    """A node's new identity."""
    return pb.Identity(
        certificate_chain_pem=issued.chain_pem,
        trust_bundle_pem=issued.bundle_pem,
        issuers_pem=issued.issuers_pem,
        trust_domain=issued.identity.trust_domain,
        node_name=issued.identity.name,
    )


def token_message(record: TokenRecord) -> pb.TokenInfo:
    """A token without its secret."""
    return pb.TokenInfo(
        id=record.id,
        expires_unix=int(record.expires),
        uses_left=record.uses_left,
        node_name=record.node_name,
        labels=record.labels,
        created_by=record.created_by,
        dns_names=record.dns_names,
    )


def fault_messages(faults: Iterable[Fault]) -> list[pb.Fault]:
    """Faults of config files."""
    return [
        pb.Fault(file=fault.file, line=fault.line, path=fault.path, message=fault.message) for fault in faults
    ]


def apply_message(applied: Applied, warnings: Iterable[str] = ()) -> pb.ApplyResponse:
    """What came of an apply or rollback."""
    return pb.ApplyResponse(
        revision=applied.revision,
        changed=applied.change.touched if applied.change is not None else (),
        faults=fault_messages(applied.faults),
        removed=applied.change.removed if applied.change is not None else (),
        warnings=warnings,
    )


def revision_message(record: RevisionRecord) -> pb.Revision:
    """One line of the history."""
    return pb.Revision(
        number=record.number,
        author=record.author,
        applied_unix=int(record.applied),
        changed=record.changed,
        unified_diff=record.diff,
        restores=record.restores,
    )


def node_status_message(
    standing: NodeStanding, said: Acknowledgement | None, heard_unix: float
) -> pb.NodeStatus:
    """A node in the status.

    Args:
        standing: How it stands.
        said: What its agent, if it is connected, last acknowledged.
        heard_unix: When it last reported; 0: not yet.
    """
    node, load = standing.node, standing.load
    have = said.have if said is not None else None
    return pb.NodeStatus(
        name=node.name,
        state=node.state,
        peer_address=node.peer,
        instances=standing.instances,
        certificate_expires_unix=int(node.expires),
        acknowledged=None if have is None else version_message(have),
        rejected=said.rejected if said is not None else "",
        in_flight=load.in_flight if load is not None else 0,
        reports=standing.reports,
        safe_to_stop=standing.safe_to_stop,
        models=standing.models,
        version=(load.version if load is not None else "") or node.version,
        speaks=load.speaks if load is not None else {},
        began_unix=load.began // 1000 if load is not None else 0,
        heard_unix=int(heard_unix),
        silent_peers=[
            pb.SilentPeer(node=name, since_unix=since)
            for name, since in (load.silent_peers.items() if load is not None else ())
        ],
    )
