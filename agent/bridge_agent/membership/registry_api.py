"""A registry as the agent sees it; `registry_client` is the real one.

Every call raises a `BridgeError`: `Unavailable` when the registry does not answer, `NotAMember` when it
does not know this node any more, another refusal otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from bridge_agent.health.report import HealthReport
from bridge_agent.models.shared.hold import PublishCall
from bridge_agent.quotas.stream_rules import QuotaReport
from bridge_core.counts import Counts
from bridge_core.errors import BridgeError
from bridge_core.probe import ProbeResult
from bridge_core.quotas import CellLimit
from bridge_core.snapshot import Delta, Version


class NotAMember(BridgeError):
    """The registry no longer takes this node for one of the mesh: revoked, gone, or replaced."""


class Update(msgspec.Struct, frozen=True):
    """A published change, and the digest of the ring that its result makes.

    `secrets` are what the mesh tells beside it, all of them; empty: nothing new.
    """

    delta: Delta
    ring_digest: bytes
    secrets: Mapping[str, bytes] = {}


class IssuedIdentity(msgspec.Struct, frozen=True):
    """A certificate chain (leaf first), and roots and issuers to trust, PEM."""

    certificate_chain: bytes
    trust_bundle: bytes
    issuers: bytes


class InstanceLoad(msgspec.Struct, frozen=True):
    """One instance at a moment."""

    id: str
    in_flight: int
    queued: int
    slots: int


class ModelDemand(msgspec.Struct, frozen=True):
    """One model at this node's instances since the agent began; see registry.proto."""

    model: str
    asked: int
    counts: Counts


class LoadReport(msgspec.Struct, frozen=True):
    """How a node stands.

    Attributes:
        began_unix_ms: When its counters began.
        in_flight: Requests in flight, from clients and peers.
        version: Of the snapshot it acts on.
        instances: Its own.
        backends: Counters by route and backend.
        results: Of the probes' present rounds.
        silent_peers: Nodes that do not answer this one, with the Unix time since when.
        trusts: The CAs that it trusts in other members.
        clients: When clients last called here, Unix seconds.
        health: Of its instances, and what others' answered it.
        models: Counters by model.
        demand: Of models that are scaled.
        program: The version of the agent.
        now: When this is, by this machine's clock, Unix seconds.
    """

    began_unix_ms: int
    in_flight: int
    version: Version
    instances: tuple[InstanceLoad, ...] = ()
    backends: Mapping[tuple[str, str], Counts] = {}
    results: tuple[ProbeResult, ...] = ()
    silent_peers: Mapping[str, float] = {}
    trusts: tuple[str, ...] = ()
    clients: Mapping[str, int] = {}
    health: HealthReport = HealthReport()
    models: Mapping[str, Counts] = {}
    demand: tuple[ModelDemand, ...] = ()
    program: str = ""
    now: float = 0.0


class Grants(msgspec.Struct, frozen=True):
    """What the registry says of quotas; see quota.proto."""

    sequence: int
    answered: int
    limits: tuple[CellLimit, ...]


class LoadStream(Protocol):
    """One open stream of reports."""

    async def send(self, report: LoadReport, news: Mapping[tuple[str, str], Counts]) -> None:
        """Sends a report, of its counters only `news`: those that changed since the one before.

        Of `report.clients` and `report.models`, too, there are only those.
        """


class QuotaCall(Protocol):
    """One open stream of quota leases."""

    async def send(self, began_unix_ms: int, report: QuotaReport) -> None:
        """Sends a report of an agent that began then."""

    async def receive(self) -> Grants:
        """What the registry says next."""


class SnapshotStream(Protocol):
    """One open subscription."""

    async def send(self, have: Version | None, rejected: str = "") -> None:
        """Says what this agent has; `rejected` why the last update was not taken."""

    async def receive(self) -> Update:
        """The next update."""


class RegistryApi(Protocol):
    """One registry."""

    @property
    def address(self) -> str:
        """Its host:port."""

    def watch(self) -> AbstractAsyncContextManager[SnapshotStream]:
        """Opens a subscription; leaving the context ends it."""

    def report_load(self) -> AbstractAsyncContextManager[LoadStream]:
        """Opens a stream of reports; leaving the context ends it."""

    def lease_cells(self) -> AbstractAsyncContextManager[QuotaCall]:
        """Opens a stream of quota leases; leaving the context ends it."""

    def publish(self) -> AbstractAsyncContextManager[PublishCall]:
        """Opens a stream that holds the lease of a model in shared storage; leaving the context ends it."""

    async def renew(self, csr: bytes) -> IssuedIdentity:
        """A fresh certificate for the calling node and the CSR's key (PKCS#10, PEM)."""

    async def nonce(self) -> bytes:
        """What is to be signed for `renew_expired` at this registry, within a minute."""

    async def renew_expired(
        self, csr: bytes, certificate: bytes, *, nonce: bytes, signature: bytes
    ) -> IssuedIdentity:
        """As `renew`, for a node whose certificate has ended, by what its key signed."""

    async def check(self) -> None:
        """Returns when the registry answers and takes the calling node for a member."""

    async def leave(self) -> None:
        """The calling node goes for good."""
