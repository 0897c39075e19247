"""Gathers what an operator should look at from the agent's parts; `concern_rules` says what that is."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bridge_agent.concern_rules import (
    Disk,
    FailureNotes,
    disk_concerns,
    ejection_concerns,
    engine_concerns,
    member_concern,
    store_concern,
    why_not_a_member,
)
from bridge_agent.config import AgentConfig
from bridge_agent.engines.config import EngineConfig
from bridge_agent.engines.instance import InstanceStatus
from bridge_agent.membership.link_status import LinkReport, LinkStatus
from bridge_agent.membership.mesh_trust import MeshTrust
from bridge_agent.membership.presence import Presence
from bridge_agent.membership.registry_api import NotAMember
from bridge_agent.membership.standing_rules import certificate_concern, way_back
from bridge_core.identity.expiry_rules import expiry_concern
from bridge_core.tls import TlsIdentity


class Concerns:
    """Reads the parts when it is asked.

    Args:
        config: The node's.
        state_dir: Where it writes.
        identity: Its certificate.
        grace_s: For how long after its end it may renew itself.
        trust: Whom the node trusts.
        presence: Whether the node runs once.
        clock: How the clocks stand.
        store: Whether the store answers.
        lease_ttl_s: How long the node's lease lives without it.
        registries: What asks registries, and may have been told that the node is none of theirs.
        addresses: Where they are.
        engines: The instances' status.
        ejections: Who is passed over, and for how many seconds more.
        secrets: What is amiss with what the mesh told this node beside the snapshot.

    Attributes:
        failures: To be told of every failed attempt.
    """

    def __init__(
        self,
        config: AgentConfig,
        state_dir: Path,
        *,
        identity: TlsIdentity,
        grace_s: Callable[[], float],
        trust: MeshTrust,
        presence: Presence,
        clock: LinkStatus,
        store: Callable[[], LinkReport],
        lease_ttl_s: float,
        registries: Sequence[LinkStatus],
        addresses: Callable[[], Sequence[str]],
        engines: Callable[[], Sequence[InstanceStatus]],
        ejections: Callable[[], Mapping[str, float]],
        secrets: Callable[[], Sequence[str]],
    ) -> None:
        self._config = config
        self._state_dir = state_dir
        self._identity = identity
        self._grace_s = grace_s
        self._trust = trust
        self._presence = presence
        self._clock = clock
        self._store = store
        self._lease_ttl_s = lease_ttl_s
        self._registries = tuple(registries)
        self._addresses = addresses
        self._engines = engines
        self._ejections = ejections
        self._secrets = secrets
        self.failures = FailureNotes()

    def all(self) -> tuple[str, ...]:
        """Everything, the gravest first."""
        return (
            *self._of_the_node(),
            *self._secrets(),
            *engine_concerns(self._engines()),
            *ejection_concerns(self._ejections(), self.failures),
            *disk_concerns(disks(self._state_dir, self._config.engines)),
        )

    def not_a_member(self) -> str:
        """Why this node is none of its mesh any more; empty: nothing says that."""
        standing, faults = self._presence.standing, [one.fault for one in self._registries]
        refusal = next((str(one) for one in faults if isinstance(one, NotAMember)), "")
        return why_not_a_member(None if standing is None else standing.member, refusal)

    def _of_the_node(self) -> list[str]:
        info, store, now = self._identity.info, self._store(), time.time()
        back = way_back(self._config.name, self._addresses())
        certificate = certificate_concern(info.not_before, info.not_after, now, back, grace_s=self._grace_s())
        fault = self._trust.fault
        trust = f"the mesh's CAs are not taken up: {fault}" if fault else ""
        ending = (expiry_concern(one, now) for one in self._trust.lives)
        told = [certificate, trust, *ending, self._presence.withheld, self._clock.report().reason]
        lost = 0.0 if store.up else now - store.since_unix
        return [
            *(one for one in told if one),
            *member_concern(self.not_a_member(), back),
            *store_concern(lost, self._lease_ttl_s, store.reason),
        ]


def disks(state_dir: Path, engines: Sequence[EngineConfig]) -> list[Disk]:
    """The file systems that the agent and its engines write to, each once."""
    folders = [state_dir, *(Path(one.models_dir) for one in engines if one.models_dir and not one.attach)]
    found: dict[int, Disk] = {}
    for folder in folders:
        try:
            device, usage = folder.stat().st_dev, shutil.disk_usage(folder)
        except OSError:
            continue  # a store that is not there yet, or not any more: its engine says so
        found.setdefault(device, Disk(str(folder), usage.free, usage.total))
    return list(found.values())
