"""What admins call."""

# ruff: noqa: N802 - the methods are named by gRPC

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from importlib.metadata import version

import msgspec
import structlog

from bridge_core import keyspace
from bridge_core.config import load
from bridge_core.errors import BridgeError, Unavailable
from bridge_core.formats import WRITTEN
from bridge_core.identity.expiry_rules import Expiry
from bridge_core.store.api import Put, Store, Unchanged
from bridge_core.tls import Peer
from bridge_core.traffic import shares
from bridge_registry.enrolment.enroller import Enroller
from bridge_registry.enrolment.token_desk import TokenDesk
from bridge_registry.membership.load_book import LoadReports
from bridge_registry.membership.mesh_table import MeshTable
from bridge_registry.membership.node_status import standings
from bridge_registry.publication.hub import Hub
from bridge_registry.records import NodeRecord, decode, encode
from bridge_registry.restore import Restorer
from bridge_registry.rollouts.controller import RolloutController
from bridge_registry.rollouts.plan import RolloutPlan
from bridge_registry.rollouts.rollout_rules import RolloutPosition
from bridge_registry.rpc import messages
from bridge_registry.rpc.gate import Context, Gate
from bridge_registry.rpc.load_messages import rollout_message
from bridge_registry.standing import Standing
from bridge_registry.traffic.config_desk import Applied, ConfigDesk
from bridge_registry.traffic.policy_warning_rules import There, suspect_policies
from bridge_registry.traffic.warning_rules import unserved
from bridge_wire.v1 import registry_pb2 as pb
from bridge_wire.v1 import registry_pb2_grpc as rpc

log = structlog.get_logger()


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
        lives: Callable[[], Iterable[Expiry]],
        restorer: Restorer,
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
        self._lives = lives
        self._restorer = restorer

    async def CreateToken(self, request: pb.CreateTokenRequest, context: Context) -> pb.CreateTokenResponse:
        """See registry.proto."""
        async with self._gate.admit(context, "admin", role="operator") as peer:
            token, record = await self._tokens.create(
                ttl_s=request.ttl_seconds,
                uses=request.uses,
                node_name=request.node_name,
                labels=request.labels,
                dns_names=request.dns_names,
                author=_author(peer),
            )
            return pb.CreateTokenResponse(token=str(token), id=token.id, expires_unix=int(record.expires))

    async def ListTokens(self, request: pb.ListTokensRequest, context: Context) -> pb.ListTokensResponse:
        """See registry.proto."""
        async with self._gate.admit(context, "admin", role="viewer"):
            records = await self._tokens.records()
            return pb.ListTokensResponse(tokens=[messages.token_message(record) for record in records])

    async def RevokeToken(self, request: pb.RevokeTokenRequest, context: Context) -> pb.RevokeTokenResponse:
        """See registry.proto."""
        async with self._gate.admit(context, "admin", role="operator") as peer:
            await self._tokens.revoke(request.id, _author(peer))
            return pb.RevokeTokenResponse()

    async def Apply(self, request: pb.ApplyRequest, context: Context) -> pb.ApplyResponse:
        """See registry.proto."""
        async with self._gate.admit(context, "admin", role="operator") as peer:
            files = _files(request.files)
            applied = await self._config.apply(files, prune=request.prune, author=_author(peer))
            return messages.apply_message(applied, self._warnings(applied))

    async def Diff(self, request: pb.ApplyRequest, context: Context) -> pb.DiffResponse:
        """See registry.proto."""
        async with self._gate.admit(context, "admin", role="viewer"):
            planned = await self._config.diff(_files(request.files), prune=request.prune)
            return pb.DiffResponse(
                unified_diff=planned.change.diff if planned.change is not None else "",
                faults=messages.fault_messages(planned.faults),
                warnings=self._warnings(planned),
            )

    async def GetConfig(self, request: pb.GetConfigRequest, context: Context) -> pb.GetConfigResponse:
        """See registry.proto."""
        async with self._gate.admit(context, "admin", role="viewer"):
            found = await self._config.documents(request.kind, request.name)
            documents = []
            for key, document in sorted(found.items()):
                kind, _, name = key.partition("/")
                documents.append(
                    pb.ConfigDocument(kind=kind, name=name, yaml=document.text, revision=document.changed)
                )
            return pb.GetConfigResponse(documents=documents)

    async def History(self, request: pb.HistoryRequest, context: Context) -> pb.HistoryResponse:
        """See registry.proto."""
        async with self._gate.admit(context, "admin", role="viewer"):
            records = await self._config.history(request.limit)
            return pb.HistoryResponse(revisions=[messages.revision_message(record) for record in records])

    async def Rollback(self, request: pb.RollbackRequest, context: Context) -> pb.ApplyResponse:
        """See registry.proto."""
        async with self._gate.admit(context, "admin", role="operator") as peer:
            applied = await self._config.rollback(request.revision, author=_author(peer))
            return messages.apply_message(applied, self._warnings(applied))

    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainResponse:
        """See registry.proto."""
        async with self._gate.admit(context, "admin", role="operator") as peer:
            self._fence()
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
        async with self._gate.admit(context, "admin", role="operator") as peer:
            await self._enroller.revoke(request.node_name, _author(peer))
            return pb.RevokeResponse()

    async def Rollouts(self, request: pb.RolloutsRequest, context: Context) -> pb.RolloutsResponse:
        """See registry.proto."""
        async with self._gate.admit(context, "admin", role="viewer"):
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
        async with self._gate.admit(context, "admin", role="operator") as peer:
            position = await self._rollouts.command(request.name, request.verb, _author(peer))
            return self._rollout(self._rollouts.plan(request.name), position)

    def _warnings(self, applied: Applied) -> tuple[str, ...]:
        if applied.change is None or applied.faults:
            return ()
        loaded = load(applied.change.documents.items(), alone=True).documents
        members = self._table.membership.members.values()
        changed = [one.parsed for one in loaded if one.key in applied.change.changed]
        current = self._hub.current
        there = There(members, self._table.nodes, current.clients, current.admins)
        return (
            *unserved(changed, members, [one.name for one in loaded if one.kind == "ModelRoute"]),
            *suspect_policies(changed, [one.parsed for one in loaded], there),
        )

    def _rollout(self, plan: RolloutPlan, position: RolloutPosition) -> pb.RolloutStatus:
        route = self._hub.current.routes.get(plan.route)
        return rollout_message(plan, position, shares(route.backends) if route is not None else {})

    async def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusResponse:
        """See registry.proto."""
        async with self._gate.admit(context, "admin", role="viewer"):
            standing = self._standing()
            return pb.StatusResponse(
                trust_domain=self._trust_domain,
                version=messages.version_message(self._hub.current.version),
                nodes=self._node_statuses(),
                leader=standing.leader,
                store_fault=standing.store_fault,
                concerns=standing.concerns,
                registry=standing.name,
                registry_version=version("deepseek-ollama-bridge"),
                leader_name=standing.leader_name,
                leader_address=standing.leader_address,
                now_unix=int(time.time()),
                speaks=WRITTEN,
                certificates=[
                    pb.CertificateLife(
                        kind=one.kind, name=one.name, begins_unix=int(one.begins), ends_unix=int(one.ends)
                    )
                    for one in self._lives()
                ],
            )

    async def Restore(self, request: pb.RestoreRequest, context: Context) -> pb.RestoreResponse:
        """See registry.proto."""
        async with self._gate.admit(context, "admin", role="admin") as peer:
            done = await self._restorer.restore(accept_store=request.accept_store, author=_author(peer))
            return pb.RestoreResponse(
                reason=done.reason,
                nodes=done.count(keyspace.NODES),
                documents=done.documents,
                revocations=done.count(keyspace.REVOKED),
                tokens=done.count(keyspace.TOKENS),
                removed=len(done.removed),
            )

    def _node_statuses(self) -> list[pb.NodeStatus]:
        said = self._hub.acknowledged
        found = standings(
            self._table.nodes.values(),
            self._table.membership.members.values(),
            self._hub.known,
            (one.have for one in said.values()),
            self._load.nodes,
            now=time.monotonic(),
        )
        ahead = time.time() - time.monotonic()  # of the monotonic clock
        return [
            messages.node_status_message(
                one, said.get(one.node.name), one.load.heard + ahead if one.load is not None else 0.0
            )
            for one in found
        ]


def _files(files: Iterable[pb.ConfigFile]) -> list[tuple[str, str]]:
    return [(file.name, file.text) for file in files]


def _author(peer: Peer | None) -> str:
    return str(peer.identity) if peer is not None else "unknown"
