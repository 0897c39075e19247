"""A registry that has a Kubernetes vouch for pods, and pods whose agents join."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc

from bridge_agent.config import StateDir
from bridge_agent.membership.join import JoinPlan, join, pod_token
from bridge_core.identity import PodToken, SpiffeId
from bridge_core.identity.certificates import create_csr, from_pem, generate_key, pin
from bridge_core.registry_channel import open_channel
from bridge_registry.enrolment.pod_rules import KubernetesApi
from bridge_wire.v1 import registry_pb2 as pb
from bridge_wire.v1 import registry_pb2_grpc as rpc
from tests.fakes.store import FakeEtcd, FakeStore
from tests.kubernetes_api import FakeApi
from tests.registry_bed import Bed, make_settings, refused, running


class Cluster:
    """A registry that has a Kubernetes vouch for pods."""

    def __init__(self, folder: Path, api: FakeApi, registry: Bed) -> None:
        self.folder, self.api, self.registry = folder, api, registry
        self._pods = 0

    async def joins(self, name: str, token: str, *, ca: bytes | None = None) -> StateDir:
        """A pod's agent joins; its state."""
        self._pods += 1
        mounted = self.folder / f"pod{self._pods}"
        mounted.mkdir()
        (mounted / "token").write_text(token)
        (mounted / "ca.pem").write_bytes(ca or self.registry.ca_pem)
        state = StateDir(mounted / "state")
        plan = JoinPlan(
            (self.registry.address,),
            pod_token(mounted / "token", mounted / "ca.pem"),
            name,
            advertise="127.0.0.1",
        )
        await join(plan, state)
        return state

    async def refused(self, name: str, token: str) -> tuple[grpc.StatusCode, str]:
        """How the registry refuses a Join, asked once."""
        key = generate_key()
        request = pb.JoinRequest(
            token=str(PodToken(pin(from_pem(self.registry.ca_pem)), token)),
            node_name=name,
            csr_pem=create_csr(key, SpiffeId("bridge.local", "node", name)),
            facts=pb.NodeFacts(peer_address="127.0.0.1:11445", version="test"),
        )
        async with open_channel(self.registry.address, self.registry.ca_pem) as channel:
            return await refused(rpc.EnrolmentStub(channel).Join(request))


@contextlib.asynccontextmanager
async def clustered(folder: Path, etcd: FakeEtcd, kubernetes: KubernetesApi | None) -> AsyncIterator[Bed]:
    store = FakeStore(etcd)
    async with running(make_settings(folder / "registry", kubernetes=kubernetes), store) as bed:
        await bed.leads()
        yield bed
    await store.close()
