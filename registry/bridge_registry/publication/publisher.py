"""Feeds the table from the store's watch and publishes what it makes, while this registry leads.

One task (`run`'s) owns table and hub. While the store is away nothing is built, so nothing is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

import structlog

from bridge_core import keyspace
from bridge_core.errors import BridgeError
from bridge_core.snapshot import Snapshot
from bridge_core.snapshot_file import SnapshotFile
from bridge_core.store.api import KeyListing, Store, WatchEvent
from bridge_core.verdicts import Verdict
from bridge_registry.clients.mesh_secrets import MeshSecrets
from bridge_registry.clients.role_rules import present
from bridge_registry.election import Election
from bridge_registry.enrolment.authority_rules import Authorities
from bridge_registry.membership.mesh_table import MeshTable
from bridge_registry.membership.store_identity_rules import epoch_of
from bridge_registry.publication import builder
from bridge_registry.publication.hub import Hub
from bridge_registry.store_memory import StoreMemory

log = structlog.get_logger()

Events: TypeAlias = asyncio.Queue[tuple[WatchEvent, str]]  # with the candidacy it was asked for under

_COALESCE_S: Final = 0.01  # a burst of changes becomes one snapshot
_CHECK_S: Final = 0.25  # how often the store's state is looked at while no event comes
_LOOK_S: Final = 1.0
_SAVE_EVERY_S: Final = 2.0  # disk writes are spread: the file is for restarts


class Publisher:
    """See the module.

    Args:
        store: etcd.
        election: Says whether this registry leads, and since which epoch.
        trust_domain: The mesh.
        file: Where the last snapshot is kept.
        memory: What was last known of the store.
        on_authorities: Told of the mesh's CAs before anything of them is published.
        secrets: Opens what agents are told beside the snapshot.
        verdicts: What there is to say against instances; `touch` when that changed.

    Attributes:
        hub: The published snapshots.
        table: The mesh as the store, as long as it is the known one, last told it.
        entry_faults: What is not published, as agents would refuse it, by key.
    """

    def __init__(
        self,
        store: Store,
        election: Election,
        trust_domain: str,
        file: SnapshotFile,
        memory: StoreMemory,
        *,
        on_authorities: Callable[[Authorities], None],
        secrets: MeshSecrets,
        verdicts: Callable[[], Iterable[Verdict]] = tuple,
    ) -> None:
        self._file = file
        last = self._file.load()
        self._store = store
        self._election = election
        self._trust_domain = trust_domain
        self._saved = last
        self._dirty = True
        self._office = election.office
        self._store_was_away = False
        self.hub = Hub(last)
        self.table = MeshTable(last.instances.values(), ttl_s=last.mesh.lease_ttl_s if last.entries else 5.0)
        self.entry_faults: dict[str, str] = {}
        self._reported: dict[str, str] = {}
        self._memory = memory
        self._on_authorities = on_authorities
        self._another = asyncio.Event()
        self._watched_under = ""
        self._secrets = secrets
        self._verdicts = verdicts
        self.table.remember(memory.records)
        self._tell_secrets()

    @property
    def store_up(self) -> bool:
        """Whether etcd answers, as last seen."""
        return not self._store_was_away

    @property
    def ready(self) -> bool:
        """Whether there is anything to serve."""
        return self.table.revision > 0 or bool(self.hub.current.entries)

    async def run(self) -> None:
        """Works until cancelled; then the last snapshot is on disk."""
        # Bounded, so that a burst waits in the store's client rather than here.
        events: Events = asyncio.Queue(256)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow(events), name="registry-watch")
                group.create_task(self._publish(events), name="registry-publish")
                group.create_task(self._keep_on_disk(), name="registry-snapshot-file")
                group.create_task(self._look_for_another_store(), name="registry-store-identity")
                group.create_task(self._read_anew_when_elected(), name="registry-read-anew")
        finally:
            self._save(math.inf)

    async def _follow(self, events: Events) -> None:
        """Watches; from a new listing on whenever the store may be another."""
        while True:
            self._another.clear()
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(self._watch(events))
                await self._another.wait()
                watching.cancel()

    async def _read_anew_when_elected(self) -> None:
        # Elected perhaps in another store than the one that is watched: nobody can tell before it is read.
        office = self._election.office
        while True:
            if self._candidacy and self._candidacy != self._watched_under:
                self._another.set()
            office = await self._election.changed(office)

    async def _look_for_another_store(self) -> None:
        # A watch that goes on after a pause cannot tell a store that began anew from the one it knew
        # once that has come as far: so the founding record is looked at, too. Twice, as the watch may
        # just be about to tell of it.
        differed = False
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                differs = self._memory.differs(await self._store.get(keyspace.STORE))
            except BridgeError:  # the watch says so
                continue
            if differs and differed:
                self._another.set()
            differed = differs

    async def _watch(self, events: Events) -> None:
        candidacy = self._watched_under = self._candidacy
        async with contextlib.aclosing(self._store.watch(keyspace.ROOT)) as changes:
            async for event in changes:
                await events.put((event, candidacy))

    async def _publish(self, events: Events) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    self._take(*await events.get())
                    await asyncio.sleep(_COALESCE_S)
            while not events.empty():
                self._take(*events.get_nowait())
            now = time.monotonic()
            self._note_store(now)
            if not self._store_was_away and not self._memory.foreign:
                dropped = self.table.membership.settle(now)
                if dropped:
                    log.info("members_dropped", instances=dropped)
                    self._dirty = True
            self.build()

    def touch(self) -> None:
        """Something that is not in the store changed: builds at the next look."""
        self._dirty = True

    def build(self) -> None:
        """Publishes a new snapshot if this registry leads and there is something new."""
        office, table, last = self._election.office, self.table, self.hub.current
        if not (self._dirty or office != self._office) or not table.revision:
            return
        if self._memory.foreign or self._memory.candidacy != self._candidacy:
            return
        if not self._election.leads(time.monotonic()):
            return
        self._dirty, self._office = False, office
        members = table.membership.members
        made = builder.entries(
            trust_domain=self._trust_domain,
            store_id=self._memory.mesh_id,
            spec=table.mesh_spec,
            routes=table.routes,
            nodes=table.nodes,
            members=members.values(),
            revoked=table.revoked,
            authorities=table.authorities,
            rollouts=table.rollouts,
            scaled=table.scaled_positions,
            node_classes=table.node_classes,
            registries=table.candidates.values(),
            verdicts=self._verdicts(),
            security=builder.SecurityDocuments(
                clients=[record.client for record in table.clients.values()],
                admins=[record.admin for record in present(table.admins).values()],
                policies=table.policies,
                signatures=table.signature_policies,
                quotas=table.quotas,
                providers=table.providers,
                key_sets=table.key_sets,
            ),
        )
        entries, faults = builder.checked(made, last.entries)
        for key, fault in faults.items():
            if self.entry_faults.get(key) != fault:
                log.error("snapshot_entry_not_published", entry=key, reason=fault)
        self.entry_faults = faults
        epoch = epoch_of(self._memory.generation, office.epoch)
        if entries == last.entries and epoch <= last.version.epoch:
            return
        version = builder.next_version(last.version, epoch, table.revision)
        self.hub.publish(Snapshot(version, entries))
        log.info(
            "snapshot_published",
            epoch=version.epoch,
            revision=version.revision,
            instances=len(self.hub.current.instances),
            missing=len(table.membership.missing),
        )

    @property
    def _candidacy(self) -> str:
        """The key under which this registry leads; empty: it does not."""
        fence = self._election.office.fence
        return fence.key if fence is not None else ""

    def _take(self, event: WatchEvent, candidacy: str) -> None:
        now = time.monotonic()
        # Before the event: what expired during an outage comes right behind the store's return.
        self._note_store(now)
        if self._store_was_away:  # the event itself shows that it is back
            self.table.membership.store_answers_again(now)
        if isinstance(event, KeyListing):
            same = self._memory.look(event, candidacy)
        else:
            same = self._memory.follow(event)
            if not same and any(one.key == keyspace.STORE for one in event.events):
                self._another.set()  # a restore ends with that
        if not same:
            return
        authorities = self.table.authorities
        self.table.apply(event, now)
        self._tell_secrets()
        self._dirty = True
        if self.table.authorities is not None and self.table.authorities != authorities:
            self._on_authorities(self.table.authorities)
        if self.table.faults != self._reported:
            for key, fault in self.table.faults.items():
                if self._reported.get(key) != fault:
                    log.warning("store_record_ignored", key=key, reason=fault)
            self._reported = dict(self.table.faults)

    def _tell_secrets(self) -> None:
        if self._secrets.take(self.table.sealed):
            self.hub.tell(self._secrets.opened)

    def _note_store(self, now: float) -> None:
        fault = self._store.fault
        if fault is not None and not self._store_was_away:
            log.warning("store_unavailable", reason=fault.reason)
            self._store_was_away = True
        elif fault is None and self._store_was_away:
            log.info("store_available", grace_s=self.table.membership.ttl_s)
            self._store_was_away = False
            self.table.membership.store_answers_again(now)

    def _pause(self) -> float:
        deadline = self.table.membership.deadline()
        if deadline is None or self._store_was_away:
            return _CHECK_S
        return min(_CHECK_S, max(0.0, deadline - time.monotonic()))

    async def _keep_on_disk(self) -> None:
        while True:
            await asyncio.sleep(_SAVE_EVERY_S)
            await asyncio.to_thread(self._save, time.monotonic())

    def _save(self, now: float) -> None:
        records = dict(self.table.records)
        if self._memory.due(records, now):
            self._memory.save(records, now)
        current = self.hub.current
        if current is not self._saved:
            self._file.save(current)
            self._saved = current
