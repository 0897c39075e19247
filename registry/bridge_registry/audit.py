"""What the control plane was asked, on record: a log like the nodes', cosigned by nodes.

One record a call of an admin, and of a node that joins, renews or leaves, whatever came of it; calls that
only look are recorded where they were refused.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
import msgspec

from bridge_core.addresses import split_address
from bridge_core.audit.cosigning import Cosigning
from bridge_core.audit.entries import AdminRecord, Entry
from bridge_core.audit.queue import AuditLog
from bridge_core.http1 import Pool
from bridge_core.sealing import Sealer
from bridge_core.snapshot import Node, Snapshot
from bridge_core.tls import TlsIdentity, verify_peer
from bridge_registry.rpc.tls_front import RpcCaller

LOG: Final = "audit/log"
_LOOKS: Final = frozenset(
    {
        "Status",
        "Rollouts",
        "Hello",
        "GetConfig",
        "History",
        "ListTokens",
        "Diff",
        "WatchSnapshot",
        "ReportLoad",
        "Autoscaling",
        "AlertingStatus",
        "Silences",
        "IsActive",
        "StreamIsActive",
        "GetMetricSpec",
        "StreamMetricSpec",
        "GetMetrics",
        "Look",
        "LookAtConsoleSession",
        "WatchEvents",
        "Instances",
        "Alerts",
        "Forecast",
        "ListClients",
        "ListAdmins",
        "GetAuthorities",
        "TestAccess",
        "Usage",
        "Use",
    }
)
# What is secret, or too long to be of use.
_HIDDEN: Final = frozenset({"token", "csr_pem", "secret", "key", "text", "jwks"})
_MOST_TEXT: Final = 500
_MOST_PARTS: Final = 64

_Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
_Behaviour: TypeAlias = Callable[[Any, _Context], Awaitable[Any]]


def log_of(
    folder: Path, trust_domain: str, name: str, snapshot: Callable[[], Snapshot], sealer: Sealer
) -> AuditLog:
    """A registry's log, under its state dir."""

    def read(record: Entry, _data: bytes | None) -> tuple[Entry]:
        return (record,)

    origin = f"{trust_domain}/registry/{name}"
    return AuditLog(folder / LOG, origin, read, settings=lambda: snapshot().mesh.audit, sealer=sealer)


class AuditInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Puts every call on record.

    Args:
        audit: The log.
        caller_of: Who is behind a gRPC peer name.
        name: This registry's.
    """

    def __init__(self, audit: AuditLog, caller_of: Callable[[str], RpcCaller], name: str) -> None:
        self._audit = audit
        self._caller_of = caller_of
        self._name = name

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """See grpc.aio.ServerInterceptor."""
        handler = await continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler
        return grpc.unary_unary_rpc_method_handler(
            self.recorded(handler.unary_unary, details.method.rpartition("/")[2]),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def recorded(self, behaviour: _Behaviour, call: str) -> _Behaviour:
        """A method of a service whose calls are put on record as those of `call`."""

        async def answer(request: Any, context: _Context) -> Any:
            began = time.monotonic()
            record = self._asked(call, request, context)
            try:
                if call not in _LOOKS and self._audit.refusal:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, self._audit.refusal)
                return await behaviour(request, context)
            except BaseException:
                outcome, reason = _ended(context)
                record = msgspec.structs.replace(record, outcome=outcome, reason=reason[:_MOST_TEXT])
                raise
            finally:
                if call not in _LOOKS or record.outcome != "OK":
                    took = int((time.monotonic() - began) * 1e6) / 1000
                    self._audit.put(msgspec.structs.replace(record, duration_ms=took))

        return answer

    def _asked(self, call: str, request: Any, context: _Context) -> AdminRecord:
        caller = self._caller_of(context.peer())
        return AdminRecord(
            time.time(),
            secrets.token_hex(8),
            "" if caller.peer is None else str(caller.peer.identity),
            caller.remote,
            call,
            msgspec.json.encode(_summary(request)).decode(),
            "OK",
            0.0,
            node=self._name,
        )


def cosigning_of(
    audit: AuditLog, identity: TlsIdentity, trust_domain: str, snapshot: Callable[[], Snapshot]
) -> tuple[Cosigning, Links]:
    """Who has the log's heads cosigned by nodes, and the ways to them, to be closed at the end."""
    links = Links(identity, trust_domain)
    made = Cosigning(
        audit,
        lambda: list(snapshot().nodes.values()),
        links.to,
        own="",
        many=lambda: snapshot().mesh.audit.cosigners,
    )
    return made, links


class Links:
    """Connections to nodes' peer listeners; of nodes that went or moved none is kept."""

    def __init__(self, identity: TlsIdentity, trust_domain: str) -> None:
        self._identity = identity
        self._trust_domain = trust_domain
        self._context: Any = None
        self._pools: dict[tuple[str, str], Pool] = {}

    def to(self, node: Node) -> Pool:
        """The way to one node.

        Raises:
            BridgeError: its address is none.
        """
        known = self._pools.get((node.name, node.peer))
        if known is None:
            # Idle connections end by themselves. A pool without any is of a node that went, or is made anew.
            self._pools = {key: pool for key, pool in self._pools.items() if pool.size}
            self._context = self._context or self._identity.client()

            def check(ssl_object: Any) -> None:
                verify_peer(ssl_object, trust_domain=self._trust_domain, kind="node", name=node.name)

            known = Pool(
                split_address(node.peer), ssl=self._context, verify_peer=check, label=f"node {node.name}"
            )
            self._pools[node.name, node.peer] = known
        return known

    async def close(self) -> None:
        """Closes all of them."""
        pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            await pool.close()


def _ended(context: _Context) -> tuple[str, str]:
    """How a call ended that raised: in gRPC's word, and why."""
    code, details = context.code(), context.details()
    if isinstance(code, int):
        code = next((one for one in grpc.StatusCode if one.value[0] == code), None)
    text = details.decode("utf-8", "replace") if isinstance(details, bytes) else str(details or "")
    return ("CANCELLED" if code in (None, grpc.StatusCode.OK) else code.name), text


def _summary(message: Any) -> dict[str, Any]:
    """What a call asked for, without what is secret in it."""
    found: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.name == "text":
            found["sha256"] = hashlib.sha256(value.encode()).hexdigest()
        elif field.name not in _HIDDEN and not isinstance(value, bytes):
            found[field.name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value[:_MOST_TEXT]
    if isinstance(value, bool | int | float):
        return value
    if hasattr(value, "ListFields"):
        return _summary(value)
    if hasattr(value, "items"):
        return {str(key)[:_MOST_TEXT]: _plain(one) for key, one in list(value.items())[:_MOST_PARTS]}
    if isinstance(value, Iterable):
        return [_plain(one) for one in list(value)[:_MOST_PARTS]]
    return str(value)[:_MOST_TEXT]
