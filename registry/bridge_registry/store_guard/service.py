"""The guard's side of etcd's API: each request is decided on (`guard_rules`), then sent on or refused.

What is not in `_METHODS` is refused by name, so that an attempt shows in the log and in the count.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError, Message

from bridge_core.errors import BridgeError
from bridge_core.store.api import LeaseGone, Store, StoreRefused, StoreUnavailable
from bridge_core.store.endpoints import Endpoints
from bridge_core.tls import Peer
from bridge_registry.rpc.tls_front import RpcCaller
from bridge_registry.store_guard import guard_rules as rules
from bridge_registry.store_guard.budget_rules import AT_ONCE, NodeBudget
from bridge_registry.store_guard.guard_rules import Allowed, Reason, Refused
from bridge_registry.store_guard.guard_table import GuardTable
from bridge_registry.store_guard.refusal_log import RefusalLog
from bridge_registry.store_guard.renewals import Renewals
from bridge_wire.etcd.rpc_pb2 import (
    LeaseGrantRequest,
    LeaseGrantResponse,
    LeaseKeepAliveRequest,
    LeaseKeepAliveResponse,
    LeaseRevokeRequest,
    RangeRequest,
    ResponseHeader,
    StatusRequest,
    StatusResponse,
    TxnRequest,
    TxnResponse,
)
from bridge_wire.etcd.rpc_pb2_grpc import KVStub, LeaseStub, MaintenanceStub

log = structlog.get_logger()

Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]

_MOST_BUDGETS: Final = 4_096

_METHODS: Final[dict[str, type[Message]]] = {
    "/etcdserverpb.KV/Txn": TxnRequest,
    "/etcdserverpb.KV/Range": RangeRequest,
    "/etcdserverpb.Lease/LeaseGrant": LeaseGrantRequest,
    "/etcdserverpb.Lease/LeaseRevoke": LeaseRevokeRequest,
    "/etcdserverpb.Maintenance/Status": StatusRequest,
}
_KEEP_ALIVE: Final = "/etcdserverpb.Lease/LeaseKeepAlive"

_STATUS: Final = {
    Reason.NO_IDENTITY: grpc.StatusCode.UNAUTHENTICATED,
    Reason.MALFORMED: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.OUT_OF_BOUNDS: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.LEASE_GONE: grpc.StatusCode.NOT_FOUND,
    Reason.TOO_OFTEN: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


class _Refusal(Exception):
    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.words)
        self.refused = refused


class StoreGuard(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Answers every method. One loop runs it.

    Args:
        endpoints: etcd, as the guard.
        store: The same, for look-ups.
        table: What is known of the mesh; somebody else feeds it.
        trust_domain: The mesh.
        caller_of: Who is behind a gRPC peer name.
        now: Monotonic seconds.

    Attributes:
        allowed: Requests sent on, by method.
        refused: Requests refused, by reason.
    """

    def __init__(
        self,
        *,
        endpoints: Endpoints,
        store: Store,
        table: GuardTable,
        trust_domain: str,
        caller_of: Callable[[str], RpcCaller],
        now: Callable[[], float],
    ) -> None:
        self._endpoints = endpoints
        self._store = store
        self._table = table
        self._trust_domain = trust_domain
        self._caller_of = caller_of
        self._now = now
        self._renewals = Renewals(endpoints)
        self._budgets: dict[str, NodeBudget] = {}
        self._said = RefusalLog(now)
        self.allowed: Counter[str] = Counter()
        self.refused: Counter[Reason] = Counter()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """The handler of a method; gRPC asks for it."""
        method = handler_call_details.method
        if method == _KEEP_ALIVE:
            return grpc.stream_stream_rpc_method_handler(self._keep_alive)
        kind = _METHODS.get(method)
        if kind is None:

            async def turn_away(_: AsyncIterator[bytes], context: Context) -> None:
                async with self._answering(method, context) as peer:
                    self._check_known(peer)
                    raise _Refusal(Refused(Reason.UNKNOWN_METHOD, f"{method[:80]} is not let through"))

            return grpc.stream_stream_rpc_method_handler(turn_away)

        async def unary(data: bytes, context: Context) -> bytes:
            async with self._answering(method, context) as peer:
                allowed = await self._decided(peer, kind, data)
                answer: bytes = (await self._forward(allowed, peer)).SerializeToString()
                self.allowed[method] += 1
                return answer

        return grpc.unary_unary_rpc_method_handler(unary)

    def close(self) -> None:
        """Ends its streams to etcd."""
        self._renewals.close()

    async def _keep_alive(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async with self._answering(_KEEP_ALIVE, context) as peer:
            async for data in requests:
                yield (await self._renewed(peer, data)).SerializeToString()
                self.allowed[_KEEP_ALIVE] += 1

    async def _renewed(self, peer: Peer | None, data: bytes) -> LeaseKeepAliveResponse:
        try:
            allowed = await self._decided(peer, LeaseKeepAliveRequest, data)
        except _Refusal as refusal:
            if refusal.refused.reason is not Reason.LEASE_GONE:
                raise
            self._count(peer, _KEEP_ALIVE, refusal.refused)
            lease = LeaseKeepAliveRequest.FromString(data).ID
            return LeaseKeepAliveResponse(header=ResponseHeader(), ID=lease, TTL=0)  # as etcd says it
        answer: LeaseKeepAliveResponse = await self._forward(allowed, peer)
        return answer

    @contextlib.asynccontextmanager
    async def _answering(self, method: str, context: Context) -> AsyncIterator[Peer | None]:
        """Runs one call within its node's number of calls at once; its errors become statuses."""
        peer = self._caller_of(context.peer()).peer
        budget = self._budget(peer)
        budget.running += 1
        try:
            _check_running(budget)
            yield peer
        except _Refusal as refusal:
            self._count(peer, method, refusal.refused)
            code = _STATUS.get(refusal.refused.reason, grpc.StatusCode.PERMISSION_DENIED)
            await context.abort(code, refusal.refused.words)
        except LeaseGone:
            await context.abort(grpc.StatusCode.NOT_FOUND, "etcdserver: requested lease not found")
        except StoreRefused as fault:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(fault))
        except BridgeError as fault:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(fault))
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception:  # the call's root: logged whole, answered without detail
            log.exception("guard_call_failed", method=method)
            await context.abort(grpc.StatusCode.INTERNAL, "internal error: see the store guard's log")
        finally:
            budget.running -= 1

    async def _decided(self, peer: Peer | None, kind: type[Message], data: bytes) -> Allowed:
        """In the order of what each step costs: nobody's bytes are parsed who may not ask."""
        known = self._check_known(peer)
        if not self._budget(peer).take(self._now(), len(data)):
            raise _Refusal(Refused(Reason.TOO_OFTEN, "this node asks for more than a node needs: wait"))
        request = _parsed(kind, data)
        state: rules.MeshState = self._table
        lease = rules.named_lease(request)
        if lease and lease not in self._table.leases:
            # Granted a moment ago, or by another guard: the store knows.
            item = await self._store.get(rules.lease_key(lease)) if lease > 0 else None
            if item is not None:
                state = rules.LookedUp(self._table, lease, item.value.decode("utf-8", "replace"))
        verdict = rules.decide(known, request, self._trust_domain, state)
        if isinstance(verdict, Refused):
            raise _Refusal(verdict)
        return verdict

    def _check_known(self, peer: Peer | None) -> Peer:
        """The caller, when it is a node that may ask anything at all."""
        if not self._table.whole:
            raise StoreUnavailable("the store guard has not read the mesh's nodes yet")
        node = rules.admit(peer, self._trust_domain, self._table)
        if isinstance(node, Refused):
            raise _Refusal(node)
        assert peer is not None  # noqa: S101 - nobody without a certificate is admitted
        return peer

    async def _forward(self, allowed: Allowed, peer: Peer | None) -> Any:
        assert peer is not None  # noqa: S101 - as above
        request = allowed.request
        match request:
            case TxnRequest():
                return await self._write(request, allowed.node)
            case LeaseGrantRequest():
                return await self._grant(request, allowed.node, peer.serial)
            case RangeRequest():
                return await self._read(lambda channel, t: _kv(channel).Range(request, timeout=t))
            case LeaseRevokeRequest():
                return await self._read(lambda channel, t: _lease(channel).LeaseRevoke(request, timeout=t))
            case LeaseKeepAliveRequest():
                return await self._renewals.renew(request.ID)
            case StatusRequest():
                await self._read(lambda channel, t: _maintenance(channel).Status(request, timeout=t))
                return StatusResponse()  # that etcd answers is all a node needs to know

    async def _write(self, request: TxnRequest, node: str) -> TxnResponse:
        answer = await self._endpoints.write(lambda channel, t: _kv(channel).Txn(request, timeout=t))
        if not answer.succeeded:  # the store knows more than the table: rule 5
            raise _Refusal(Refused(Reason.REVOKED, f"{node} is not a node of this mesh any more"))
        return TxnResponse(header=answer.header, succeeded=True)

    async def _grant(self, request: LeaseGrantRequest, node: str, serial: str) -> LeaseGrantResponse:
        # A lease that is not noted as somebody's is of no use to anybody and expires.
        granted: LeaseGrantResponse = await self._read(
            lambda channel, t: _lease(channel).LeaseGrant(request, timeout=t)
        )
        await self._write(rules.owned(node, serial, granted.ID), node)
        return granted

    async def _read(self, call: Callable[[grpc.aio.Channel, float], Awaitable[Any]]) -> Any:
        """For what may be repeated."""
        answer, _ = await self._endpoints.read(call)
        return answer

    def _budget(self, peer: Peer | None) -> NodeBudget:
        key = str(peer.identity) if peer is not None else ""
        found = self._budgets.get(key)
        if found is None:
            if len(self._budgets) >= _MOST_BUDGETS:
                now = self._now()
                self._budgets = {name: one for name, one in self._budgets.items() if not one.idle(now)}
            found = self._budgets[key] = NodeBudget(self._now())
        return found

    def _count(self, peer: Peer | None, method: str, refused: Refused) -> None:
        self.refused[refused.reason] += 1
        who = str(peer.identity) if peer is not None else "nobody"
        self._said.say(who, refused.reason.value, method=method[:80], words=refused.words)


def _check_running(budget: NodeBudget) -> None:
    if budget.running > AT_ONCE:
        raise _Refusal(Refused(Reason.TOO_OFTEN, f"more than {AT_ONCE} calls at once"))


def _parsed(kind: type[Message], data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError as fault:  # also of what is nested without end
        raise _Refusal(Refused(Reason.MALFORMED, f"not a {kind.__name__}")) from fault


def _kv(channel: grpc.aio.Channel) -> Any:
    return KVStub(channel)  # type: ignore[no-untyped-call]  # generated


def _lease(channel: grpc.aio.Channel) -> Any:
    return LeaseStub(channel)  # type: ignore[no-untyped-call]  # generated


def _maintenance(channel: grpc.aio.Channel) -> Any:
    return MaintenanceStub(channel)  # type: ignore[no-untyped-call]  # generated
