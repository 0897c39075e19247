"""What admins call."""

# ruff: noqa: N802 - the methods are named by gRPC

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import Final

import msgspec
import structlog

from bridge_core.errors import BridgeError, Unavailable
from bridge_core.store.api import Put, Store, Unchanged
from bridge_core.tls import Peer
from bridge_core.traffic import shares
from bridge_registry import keyspace
from bridge_registry.enrolment.enroller import Enroller
from bridge_registry.enrolment.token_desk import TokenDesk
from bridge_registry.membership.drain_rules import reports, safe_to_stop
from bridge_registry.membership.load_book import LoadReports
from bridge_registry.membership.mesh_table import MeshTable
from bridge_registry.publication.hub import Hub
from bridge_registry.records import NodeRecord, decode, encode
from bridge_registry.rollouts.controller import RolloutController
from bridge_registry.rollouts.plan import RolloutPlan
from bridge_registry.rollouts.rollout_rules import RolloutPosition
from bridge_registry.rpc import messages
from bridge_registry.rpc.gate import Context, Gate
from bridge_registry.rpc.load_messages import rollout_message
from bridge_registry.traffic.config_desk import ConfigDesk
from bridge_wire.v1 import registry_pb2 as pb
from bridge_wire.v1 import registry_pb2_grpc as rpc

log = structlog.get_logger()

_MOST_FAULTS: Final = 20


class Standing(msgspec.Struct, frozen=True):
    """How this registry stands.

    Attributes:
        leader: Whether it leads.
        store_fault: Why the store does not answer, if so.
        name: Its own.
        leader_name: Who leads, as far as it knows; empty: nobody.
        leader_address: Where that one is reached.
    """

    leader: bool
    store_fault: str
    name: str = ""
    leader_name: str = ""
    leader_address: str = ""


class AdminService(rpc.AdminServicer):
    """See registry.proto."""

    def __init__(
        self,
        *,
        gate: Gate,
        tokens: TokenDesk,
        config: ConfigDesk,
        enroller: Enroller,
        rollouts: RolloutController,
        load: LoadReports,
        store: Store,
        table: MeshTable,
        hub: Hub,
        trust_domain: str,
        fence: Callable[[], Unchanged],
        standing: Callable[[], Standing],
    ) -> None:
        self._gate = gate
        self._tokens = tokens
        self._config = config
        self._enroller = enroller
        self._rollouts = rollouts
        self._load = load
        self._store = store
        self._table = table
        self._hub = hub
        self._trust_domain = trust_domain
        self._fence = fence
        self._standing = standing

    async def CreateToken(self, request: pb.CreateTokenRequest, context: Context) -> pb.CreateTokenResponse:
        """See registry.proto."""
        async with self._gate.admit(context, "admin") as peer:
            token, record = await self._tokens.create(
                ttl_s=request.ttl_seconds,
                uses=request.uses,
                node_name=request.node_name,
                labels=request.labels,
                author=_author(peer),
            )
            return pb.CreateTokenResponse(token=str(token), id=token.id, expires_unix=int(record.expires))

    async def ListTokens(self, request: pb.ListTokensRequest, context: Context) -> pb.ListTokensResponse:
        """See registry.proto."""
        async with self._gate.admit(context, "admin"):
            records = await self._tokens.records()
            return pb.ListTokensResponse(tokens=[messages.token_message(record) for record in records])

    async def RevokeToken(self, request: pb.RevokeTokenRequest, context: Context) -> pb.RevokeTokenResponse:
        """See registry.proto."""
        async with self._gate.admit(context, "admin") as peer:
            await self._tokens.revoke(request.id, _author(peer))
            return pb.RevokeTokenResponse()

    async def Apply(self, request: pb.ApplyRequest, context: Context) -> pb.ApplyResponse:
        """See registry.proto."""
        async with self._gate.admit(context, "admin") as peer:
            files = _files(request.files)
            applied = await self._config.apply(files, prune=request.prune, author=_author(peer))
            return messages.apply_message(applied)

    async def Diff(self, request: pb.ApplyRequest, context: Context) -> pb.DiffResponse:
        """See registry.proto."""
        async with self._gate.admit(context, "admin"):
            planned = await self._config.diff(_files(request.files), prune=request.prune)
            return pb.DiffResponse(
                unified_diff=planned.change.diff if planned.change is not None else "",
                faults=messages.fault_messages(planned.faults),
            )

    async def GetConfig(self, request: pb.GetConfigRequest, context: Context) -> pb.GetConfigResponse:
        """See registry.proto."""
        async with self._gate.admit(context, "admin"):
            items = await self._config.documents(request.kind, request.name)
            documents = []
            for item in items:
                kind, _, name = item.key.removeprefix(keyspace.CONFIG).partition("/")
                text = item.value.decode("utf-8", "replace")
                documents.append(
                    pb.ConfigDocument(kind=kind, name=name, yaml=text, revision=item.mod_revision)
                )
            return pb.GetConfigResponse(documents=documents)

    async def History(self, request: pb.HistoryRequest, context: Context) -> pb.HistoryResponse:
        """See registry.proto."""
        async with self._gate.admit(context, "admin"):
            records = await self._config.history(request.limit)
            return pb.HistoryResponse(revisions=[messages.revision_message(record) for record in records])

    async def Rollback(self, request: pb.RollbackRequest, context: Context) -> pb.ApplyResponse:
        """See registry.proto."""
        async with self._gate.admit(context, "admin") as peer:
            applied = await self._config.rollback(request.revision, author=_author(peer))
            return messages.apply_message(applied)

    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainResponse:
        """See registry.proto."""
        async with self._gate.admit(context, "admin") as peer:
            item = await self._store.get(keyspace.NODES + request.node_name)
            if item is None:
                raise BridgeError(
                    f"there is no node {request.node_name!r}", hint="`bridgectl status` lists them"
                )
            found = decode(item, NodeRecord)
            if found.state == "revoked":
                raise BridgeError(
                    f"the node {found.name!r} is revoked", hint="a token made for it lets a machine join anew"
                )
            state = "drained" if request.drained else "active"
            record = msgspec.structs.replace(found, state=state)
            conditions = [Unchanged(item.key, item.mod_revision), self._fence()]
            outcome = await self._store.commit([Put(item.key, encode(record))], if_=conditions)
            if not outcome.committed:
                raise Unavailable("the node's record changed meanwhile", hint="try again")
            log.info("node_state_changed", node=record.name, state=state, by=_author(peer))
            return pb.DrainResponse()

    async def Revoke(self, request: pb.RevokeRequest, context: Context) -> pb.RevokeResponse:
        """See registry.proto."""
        async with self._gate.admit(context, "admin") as peer:
            await self._enroller.revoke(request.node_name, _author(peer))
            return pb.RevokeResponse()

    async def Rollouts(self, request: pb.RolloutsRequest, context: Context) -> pb.RolloutsResponse:
        """See registry.proto."""
        async with self._gate.admit(context, "admin"):
            if request.name:
                self._rollouts.plan(request.name)
            return pb.RolloutsResponse(
                rollouts=[
                    self._rollout(plan, position)
                    for plan, position in self._rollouts.positions()
                    if request.name in {"", plan.name}
                ]
            )

    async def CommandRollout(self, request: pb.CommandRolloutRequest, context: Context) -> pb.RolloutStatus:
        """See registry.proto."""
        async with self._gate.admit(context, "admin") as peer:
            position = await self._rollouts.command(request.name, request.verb, _author(peer))
            return self._rollout(self._rollouts.plan(request.name), position)

    def _rollout(self, plan: RolloutPlan, position: RolloutPosition) -> pb.RolloutStatus:
        route = self._hub.current.routes.get(plan.route)
        return rollout_message(plan, position, shares(route.backends) if route is not None else {})

    async def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusResponse:
        """See registry.proto."""
        async with self._gate.admit(context, "admin"):
            standing = self._standing()
            return pb.StatusResponse(
                trust_domain=self._trust_domain,
                version=messages.version_message(self._hub.current.version),
                nodes=[self._node_status(node) for node in self._table.nodes.values()],
                leader=standing.leader,
                store_fault=standing.store_fault,
                registry=standing.name,
                registry_version=version("deepseek-ollama-bridge"),
                leader_name=standing.leader_name,
                leader_address=standing.leader_address,
                concerns=_concerns(self._table.faults),
                now_unix=int(time.time()),
            )

    def _node_status(self, node: NodeRecord) -> pb.NodeStatus:
        said = self._hub.acknowledged.get(node.name)
        have = said.have if said is not None else None
        own = [one for one in self._table.membership.members.values() if one.node == node.name]
        load, now = self._load.nodes.get(node.name), time.monotonic()
        heard = [one.have for one in self._hub.acknowledged.values()]
        return pb.NodeStatus(
            name=node.name,
            state=node.state,
            peer_address=node.peer,
            instances=sorted(instance.id for instance in own),
            models=sorted({model.name for instance in own for model in instance.models}),
            certificate_expires_unix=int(node.expires),
            acknowledged=None if have is None else messages.version_message(have),
            rejected=said.rejected if said is not None else "",
            in_flight=load.in_flight if load is not None else 0,
            reports=reports(load, now),
            safe_to_stop=safe_to_stop(node.name, self._hub.known, heard, load, now),
            version=node.version,
            began_unix=load.began // 1000 if load is not None else 0,
            heard_unix=int(time.time() - (now - load.heard)) if load is not None else 0,
            silent_peers=[
                pb.SilentPeer(node=name, since_unix=since)
                for name, since in (load.silent_peers.items() if load is not None else ())
                if name in self._table.nodes
            ],
        )


def _files(files: Iterable[pb.ConfigFile]) -> list[tuple[str, str]]:
    return [(file.name, file.text) for file in files]


def _author(peer: Peer | None) -> str:
    return str(peer.identity) if peer is not None else "unknown"


def _concerns(faults: Mapping[str, str]) -> list[str]:
    found = sorted(faults.items())[:_MOST_FAULTS]
    return [why if why.startswith(key) else f"{key}: {why}" for key, why in found]
