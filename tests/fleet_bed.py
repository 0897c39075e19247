"""Nodes that load the models that an AutoscalePolicy has them load, against a registry in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from bridge_core.errors import BridgeError
from bridge_core.holders import ModelHolders
from bridge_core.snapshot import Instance, MemberModel, encode_entry
from bridge_core.store.api import Put
from bridge_wire.v1 import registry_pb2 as pb
from tests.fakes.store import FakeEtcd, FakeStore
from tests.registry_bed import Bed, Node
from tests.support import eventually

POLICY = """\
apiVersion: bridge.deepseek.io/v1
kind: AutoscalePolicy
metadata: {name: p}
spec: {model: m, min: 1, max: 3, coolDowns: {scaleOut: 0s}}
"""


class Fleet:
    """Three nodes that load what they are told to, and report."""

    def __init__(self, bed: Bed, etcd: FakeEtcd) -> None:
        self.bed, self.store = bed, FakeStore(etcd)
        self.nodes: dict[str, Node] = {}
        self.calls: dict[str, Any] = {}
        self.leases: dict[str, Any] = {}
        self.queued = dict.fromkeys(("n1", "n2", "n3"), 0)

    async def begin(self, stack: contextlib.AsyncExitStack) -> None:
        for name in self.queued:
            node = self.nodes[name] = await self.bed.join(name)
            self.leases[name] = await node.register(self.store, models=(MemberModel("m:latest"),), slots=2)
            stub = await stack.enter_async_context(node.mesh())
            self.calls[name] = stub.ReportLoad()
            stack.callback(self.calls[name].cancel)

    @property
    def holders(self) -> ModelHolders:
        found = self.bed.registry.publisher.hub.current.holders
        return found[0] if found else ModelHolders("", "")

    async def step(self) -> None:
        """Agents report and do what they are told; the registry decides."""
        held = {*self.holders.active, *self.holders.held}
        for name in self.nodes:
            loaded = ("m:latest",) if f"{name}/0" in held else ()
            found = Instance(f"{name}/0", name, models=(MemberModel("m:latest"),), slots=2, loaded=loaded)
            key, lease = f"/bridge/v1/members/{name}/0", self.leases[name].id
            await self.store.commit([Put(key, encode_entry(found), lease=lease)])
            queued = self.queued[name]
            figures = pb.InstanceLoad(
                instance=f"{name}/0", in_flight=queued + 2 if queued else 0, queued=queued, slots=2
            )
            await self.calls[name].write(pb.LoadReport(began_unix_ms=1, instances=[figures]))
        with contextlib.suppress(BridgeError):  # the registry's own tick may just save: the next one does
            await self.bed.registry.scaling.tick()

    async def until(self, predicate: Callable[[], bool]) -> None:
        async def stepped() -> bool:
            await self.step()
            return predicate()

        await eventually(stepped, 30.0)


async def apply(bed: Bed, text: str = POLICY) -> None:
    """Applies a policy."""
    async with bed.admin() as admin:
        found = await admin.Apply(pb.ApplyRequest(files=[pb.ConfigFile(name="p.yaml", text=text)]))
        assert not found.faults
