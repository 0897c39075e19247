"""At the edge of every call: who may call it, and what errors become.

Enrolment takes anybody; Mesh takes nodes of this mesh whose certificate is not revoked; all else takes
admins with the role that the call needs, as it is on record at that moment. Only the leader writes: others
answer UNAVAILABLE and name it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
import structlog

from bridge_core.clients import Role
from bridge_core.errors import BridgeError, Reaction
from bridge_core.store.api import StoreRefused
from bridge_core.tls import Peer
from bridge_registry.clients.role_rules import suffices
from bridge_registry.enrolment.authority_rules import StepRefused
from bridge_registry.enrolment.join_rules import EnrolmentRefused, JoinRefusal
from bridge_registry.rpc.tls_front import RpcCaller

log = structlog.get_logger()

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

_STATUS: Final = {
    JoinRefusal.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    JoinRefusal.TAKEN: grpc.StatusCode.ALREADY_EXISTS,
    JoinRefusal.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    JoinRefusal.DENIED: grpc.StatusCode.PERMISSION_DENIED,
    JoinRefusal.TOO_OFTEN: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_BY_REACTION: Final = {
    Reaction.RETRY: grpc.StatusCode.UNAVAILABLE,
    Reaction.ELSEWHERE: grpc.StatusCode.UNAVAILABLE,
    Reaction.REFUSE: grpc.StatusCode.INVALID_ARGUMENT,
    Reaction.STOP: grpc.StatusCode.INTERNAL,
}


def status_of(fault: BridgeError) -> grpc.StatusCode:
    """The gRPC status that says what `fault` says."""
    if isinstance(fault, EnrolmentRefused):
        return _STATUS[fault.refusal]
    if isinstance(fault, StoreRefused | StepRefused):
        return grpc.StatusCode.FAILED_PRECONDITION
    return _BY_REACTION[fault.reaction]


def admission_fault(
    caller: RpcCaller,
    kind: str,
    trust_domain: str,
    is_revoked: Callable[[str], bool],
    *,
    role_of: Callable[[str], Role | None],
    needed: Role,
) -> tuple[grpc.StatusCode, str] | None:
    """Why `caller` may not call what is for identities of `kind`; None: it may."""
    peer = caller.peer
    if peer is None:
        return grpc.StatusCode.UNAUTHENTICATED, f"this call needs a client certificate of the kind {kind}"
    identity = peer.identity
    if identity.trust_domain != trust_domain or identity.kind != kind:
        return grpc.StatusCode.PERMISSION_DENIED, f"this call is for the kind {kind}, not for {identity}"
    if is_revoked(peer.serial):
        return grpc.StatusCode.PERMISSION_DENIED, f"the certificate of {identity} was revoked"
    if kind != "admin":
        return None
    role = role_of(identity.name)
    if role is None:
        return grpc.StatusCode.PERMISSION_DENIED, f"{identity} is no admin of this mesh, or not any more"
    if not suffices(role, needed):
        says = f"this call needs the role {needed}, and {identity.name} has the role {role}"
        return grpc.StatusCode.PERMISSION_DENIED, says
    return None


class Gate:
    """Stands in front of every call.

    Args:
        caller_of: Who is behind a gRPC peer name.
        trust_domain: The mesh.
        is_revoked: Whether the certificate of a serial is no longer accepted.
        role_of: What an admin may, by name; None: there is no such admin.

    Attributes:
        role_of: The same.
    """

    def __init__(
        self,
        caller_of: Callable[[str], RpcCaller],
        trust_domain: str,
        is_revoked: Callable[[str], bool],
        role_of: Callable[[str], Role | None],
    ) -> None:
        self._caller_of = caller_of
        self._trust_domain = trust_domain
        self._is_revoked = is_revoked
        self.role_of = role_of

    def remote(self, context: Context) -> str:
        """The caller's address."""
        return self._caller_of(context.peer()).remote

    @asynccontextmanager
    async def admit(
        self, context: Context, kind: str | None, *, role: Role = "admin"
    ) -> AsyncIterator[Peer | None]:
        """Runs a call's body for a caller of `kind`; None: anybody. Its errors become statuses.

        An admin needs `role` at least.
        """
        caller = self._caller_of(context.peer())
        if kind is not None:
            fault = self._fault(caller, kind, role)
            if fault is not None:
                log.warning("call_refused", remote=caller.remote, reason=fault[1])
                await context.abort(*fault)
        try:
            yield caller.peer
        except BridgeError as error:
            await context.abort(status_of(error), str(error))
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception:  # the call's root: logged whole, answered without detail
            log.exception("call_failed", remote=caller.remote)
            await context.abort(grpc.StatusCode.INTERNAL, "internal error: see the registry's log")

    def still_admitted(self, context: Context, kind: str) -> bool:
        """Whether a long call's caller may go on."""
        return self._fault(self._caller_of(context.peer()), kind, "viewer") is None

    def _fault(self, caller: RpcCaller, kind: str, role: Role) -> tuple[grpc.StatusCode, str] | None:
        return admission_fault(
            caller, kind, self._trust_domain, self._is_revoked, role_of=self.role_of, needed=role
        )
