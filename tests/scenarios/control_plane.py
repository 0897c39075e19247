"""An etcd and two registries in one process and in virtual time.

Everything that decides is the product's own: the table, the members' grace, the config desk, the
builder, the rollout controller. Only the clock, the watch and the election are simulated.
"""

from __future__ import annotations

import msgspec

from bridge_core import keyspace
from bridge_core.errors import Unavailable
from bridge_core.snapshot import Snapshot, Version
from bridge_core.store.api import Delete, Put, Unchanged
from bridge_registry.membership.load_book import LoadReports
from bridge_registry.membership.mesh_table import MeshTable
from bridge_registry.publication.builder import entries, next_version
from bridge_registry.records import NodeRecord, decode, encode
from bridge_registry.rollouts.controller import RolloutController
from bridge_registry.traffic.config_desk import ConfigDesk
from tests.fakes.store import FakeEtcd, FakeStore

LEADER_KEY = keyspace.LEADER + "1"


class Registry:
    """One registry's deciding parts on its own view of the store."""

    def __init__(self, plane: ControlPlane, name: str) -> None:
        self.name, self._plane = name, plane
        self.store = FakeStore(plane.etcd)
        self.table = MeshTable(())
        self.load = LoadReports()
        self.snapshot = Snapshot(Version(), {})
        self.alive = True
        self._away = False
        self.config = ConfigDesk(self.store, "m", self.fence, lambda: plane.wall)
        self.controller = RolloutController(
            self.store,
            self,
            self.table,
            self.load,
            lambda: self.snapshot,
            clock=lambda: plane.wall,
            monotonic=lambda: plane.now,
        )

    def leads(self) -> bool:
        item = self._plane.etcd.items.get(LEADER_KEY)
        return self.alive and item is not None and item.value == self.name.encode()

    def fence(self) -> Unchanged:
        if not self.leads():
            raise Unavailable("another registry leads")
        return Unchanged(LEADER_KEY, self._plane.etcd.items[LEADER_KEY].mod_revision)

    def refresh(self) -> None:
        """What the watch and the publisher do."""
        now = self._plane.now
        if not self.alive:
            return
        if not self.store.reachable():
            self._away = True
            return
        if self._away:
            self._away = False
            self.table.membership.store_answers_again(now)
        self.table.apply(self._plane.etcd.listing(keyspace.ROOT), now)
        self.table.membership.settle(now)
        if not self.leads():
            return
        made = entries(
            trust_domain="m",
            spec=self.table.mesh_spec,
            routes=self.table.routes,
            nodes=self.table.nodes,
            members=self.table.membership.members.values(),
            revoked=(),
            rollouts=self.table.rollouts,
        )
        if made != self.snapshot.entries:
            epoch = self._plane.etcd.items[LEADER_KEY].create_revision
            self.snapshot = Snapshot(next_version(self.snapshot.version, epoch, self.table.revision), made)

    async def mark(self, node: str, state: str) -> None:
        """As `bridgectl drain` does. Raises Unavailable."""
        item = await self.store.get(keyspace.NODES + node)
        assert item is not None
        record = msgspec.structs.replace(decode(item, NodeRecord), state=state)
        await self.store.commit([Put(item.key, encode(record))], if_=[self.fence()])


class ControlPlane:
    """See the module. `now` is monotonic, `wall` what people's clocks say."""

    def __init__(self) -> None:
        self.etcd = FakeEtcd()
        self.now, self.wall = 1000.0, 1_800_000_000.0
        self.registries = {name: Registry(self, name) for name in ("r1", "r2")}
        self.elect("r1")

    def elect(self, name: str) -> None:
        """A new leader: the key of the old one is gone."""
        self.etcd.apply([Delete(LEADER_KEY)])
        self.etcd.apply([Put(LEADER_KEY, name.encode())])

    @property
    def leader(self) -> Registry | None:
        return next((one for one in self.registries.values() if one.leads()), None)
