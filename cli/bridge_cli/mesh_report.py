"""What there is to say of a mesh, from what its registry says. Pure.

Whatever the number of nodes, a report is some lines: nodes are named while they are few, and counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from bridge_core.mesh_picture import node_state
from bridge_core.names import display_or_same, natural
from bridge_core.quantities import say_span

_NAMED: Final = 3
_LINES: Final = 8  # of one kind of trouble
_SOON_S: Final = 2 * 3_600.0
_SKEW_S: Final = 20.0


class NodeLine(msgspec.Struct, frozen=True):
    """A node as an admin thinks of it.

    Attributes:
        name: Its name.
        state: "serving", "drained", "away" (in service, without a lease and not heard of), "no engine" or
            "revoked".
        since_unix: When its agent began, or, where it is away, when it was last heard of; 0: not known.
        version: Of its agent.
        expires_unix: When its certificate ends.
        instances: Its engines' ids.
        models: What they have.
        in_flight: Requests there.
        address: Where peers reach it.
        safe_to_stop: Whether stopping it now cuts no request.
        silent_to: Nodes that it gets no answer from, with since when.
        rejected: Why it refused the last snapshot, if it did.
        reports: Whether it reports to the registry that was asked.
    """

    name: str
    state: str
    since_unix: int
    version: str
    expires_unix: int
    instances: tuple[str, ...]
    models: tuple[str, ...]
    in_flight: int
    address: str
    safe_to_stop: bool
    silent_to: dict[str, int]
    rejected: str
    reports: bool


class MeshReport(msgspec.Struct, frozen=True):
    """A mesh at a moment.

    Attributes:
        trust_domain: Its name.
        registry: Who was asked.
        registry_version: Its version.
        leader: Who leads; empty: nobody.
        leader_address: Where that one is reached.
        snapshot: Epoch and revision of what is published.
        store_fault: Why etcd does not answer, and for how long; empty: it does.
        nodes: By name.
        models: Each model's nodes.
        certificates: When certificates of the registry that answered end, Unix seconds: "kind name" to that.
        own_expires: When the certificate ends that was shown to it; 0: not known.
        troubles: What an admin should know, a sentence each; empty: all is in order.
        broken: Whether the mesh cannot be changed: nobody leads, or etcd does not answer.
    """

    trust_domain: str
    registry: str
    registry_version: str
    leader: str
    leader_address: str
    snapshot: str
    store_fault: str
    nodes: tuple[NodeLine, ...]
    models: dict[str, tuple[str, ...]]
    certificates: dict[str, int]
    own_expires: float
    troubles: tuple[str, ...]
    broken: bool


def report_of(status: Any, now: float, own_expires: float = 0.0) -> MeshReport:
    """The report of a StatusResponse, at `now` by this machine's clock, in Unix seconds.

    `own_expires` is when the certificate ends that it was asked with.
    """
    nodes = tuple(sorted((_node(one) for one in status.nodes), key=lambda one: natural(one.name)))
    models: dict[str, list[str]] = defaultdict(list)
    for node in nodes:
        for model in node.models:
            models[model].append(node.name)
    leader = leader_of(status)
    return MeshReport(
        trust_domain=status.trust_domain,
        registry=status.registry,
        registry_version=status.registry_version,
        leader=leader,
        leader_address=status.leader_address,
        snapshot=f"{status.version.epoch}.{status.version.revision}",
        store_fault=status.store_fault,
        nodes=nodes,
        models={name: tuple(where) for name, where in sorted(models.items())},
        certificates={f"{one.kind} {one.name}": one.ends_unix for one in status.certificates},
        own_expires=own_expires,
        troubles=tuple(_troubles(status, leader, nodes, now)),
        broken=not leader or bool(status.store_fault),
    )


def leader_of(status: Any) -> str:
    """Who leads, by a StatusResponse; empty: nobody."""
    return status.leader_name or (status.registry if status.leader else "")


def summary(report: MeshReport, now: float) -> list[str]:
    """The report in some lines, without its troubles."""
    states = Counter(node.state for node in report.nodes)
    counted = ", ".join(f"{count} {state}" for state, count in states.most_common()) or "none"
    versions = Counter(node.version or "unknown" for node in report.nodes if node.state != "revoked")
    lines = [
        f"mesh       {report.trust_domain}, snapshot {report.snapshot}",
        f"registry   {_leader(report)}",
        f"etcd       {'answers' if not report.store_fault else 'DOES NOT ANSWER ' + report.store_fault}",
        f"nodes      {len(report.nodes)}: {counted}",
        f"versions   {', '.join(f'{name} on {count}' for name, count in versions.most_common()) or 'none'}",
    ]
    living = [node for node in report.nodes if node.state != "revoked" and node.expires_unix]
    if living:
        first = min(living, key=lambda node: node.expires_unix)
        lines.append(
            f"identities valid for {say_span(first.expires_unix - now)} or more ({first.name} ends first)"
        )
    ends = sorted((at, what) for what, at in report.certificates.items())
    if ends:
        told = ", ".join(f"{what} {say_span(at - now)}" for at, what in ends)
        lines.append(f"ends in    {told}")
    if report.own_expires:
        lines.append(f"you        your certificate is valid for {say_span(report.own_expires - now)}")
    shown = list(report.models.items())[:_LINES]
    everywhere = [node.name for node in report.nodes if node.models]
    for at, (model, names) in enumerate(shown):
        where = f"all {len(names)}" if len(names) == len(everywhere) > _NAMED else few(names)
        lines.append(f"{'models' if not at else '':<10} {model} on {where}")
    if len(report.models) > len(shown):
        lines.append(f"           and {len(report.models) - len(shown)} more")
    return lines


def few(names: Iterable[str]) -> str:
    """Names while they are few: "node1, node2, node3 and 97 more"."""
    known = list(names)
    left = len(known) - _NAMED
    return ", ".join(known) if left <= 1 else f"{', '.join(known[:_NAMED])} and {left} more"


def _leader(report: MeshReport) -> str:
    version = f", version {report.registry_version}" if report.registry_version else ""
    if not report.leader:
        return f"NOBODY LEADS{version}"
    where = f" at {report.leader_address}" if report.leader_address else ""
    return f"{report.leader} leads{where}{version}"


def _node(one: Any) -> NodeLine:
    return NodeLine(
        name=one.name,
        state=node_state(one.state, instances=bool(one.instances), reports=one.reports),
        since_unix=one.began_unix if one.reports else one.heard_unix,
        version=one.version,
        expires_unix=one.certificate_expires_unix,
        instances=tuple(one.instances),
        models=tuple(display_or_same(name) for name in one.models),
        in_flight=one.in_flight,
        address=one.peer_address,
        safe_to_stop=one.safe_to_stop,
        silent_to={peer.node: peer.since_unix for peer in one.silent_peers} if one.reports else {},
        rejected=one.rejected,
        reports=one.reports,
    )


def _troubles(status: Any, leader: str, nodes: tuple[NodeLine, ...], now: float) -> Iterable[str]:
    if not leader:
        yield "no registry leads: nobody joins, and nothing can be applied"
    if status.store_fault:
        yield "etcd does not answer: nodes serve on from what they know"
    if status.now_unix and abs(status.now_unix - now) > _SKEW_S:
        yield f"this machine's clock and the registry's differ by {say_span(abs(status.now_unix - now))}"
    away = [node for node in nodes if node.state == "away"]
    heard = sorted(
        {f" (last heard {say_span(now - node.since_unix)} ago)" for node in away if node.since_unix}
    )
    if away:
        yield f"{few(node.name for node in away)}: not heard of" + (
            heard[0] if len(away) == 1 and heard else ""
        )
    # Reports are for the leader: any other registry hears of nobody.
    if deaf := [
        node.name for node in nodes if node.state == "serving" and not node.reports and status.leader
    ]:
        yield f"{few(deaf)}: in the mesh, but not in touch with the registry that leads"
    if idle := [node.name for node in nodes if node.state == "no engine"]:
        yield f"{few(idle)}: no engine that is ready"
    yield from _capped(_unreachable(nodes, {node.name for node in away}, now))
    ending = [node for node in nodes if node.state != "revoked" and 0 < node.expires_unix < now + _SOON_S]
    if over := [node.name for node in ending if node.expires_unix <= now]:
        yield f"{few(over)}: certificate EXPIRED; it has to join anew, unless renewalGrace lets it renew"
    if soon := [node.name for node in ending if node.expires_unix > now]:
        yield f"{few(soon)}: certificate ends within {say_span(_SOON_S)} and is not renewed yet"
    yield from _capped(
        f"{node.name} refused the snapshot: {node.rejected}" for node in nodes if node.rejected
    )
    yield from _capped(status.concerns)


def _unreachable(nodes: tuple[NodeLine, ...], away: set[str], now: float) -> Iterable[str]:
    """Who gets no answer from whom, by whom it is that does not answer; the absent are told already."""
    deaf: dict[str, dict[str, int]] = defaultdict(dict)
    for node in nodes:
        for peer, since in node.silent_to.items():
            if peer not in away:
                deaf[peer][node.name] = since
    for peer, askers in sorted(deaf.items(), key=lambda item: -len(item[1])):
        yield f"{few(askers)} cannot reach {peer} (for {say_span(now - min(askers.values()))})"


def _capped(lines: Iterable[str]) -> Iterable[str]:
    known = list(lines)
    yield from known[:_LINES]
    if len(known) > _LINES:
        yield f"and {len(known) - _LINES} more like it (`bridgectl status --json` has all)"
