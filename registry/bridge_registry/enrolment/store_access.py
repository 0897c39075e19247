"""etcd's own RBAC, the wall behind the store guard: registries may do all, the guard what it forwards.

etcd takes the common name of a client certificate as the user. Its CA signs for nobody but registries
and guards, so these two users are all there are. The guard's role keeps a fault in it from reaching
tokens and keys, on an etcd that looks into nested transactions (`etcd_server.trusted_alone`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, Protocol

import grpc
import grpc.aio
import structlog

from bridge_core import keyspace
from bridge_core.store.api import StoreRefused
from bridge_core.store.convert import key_range
from bridge_wire.etcd.auth_pb2 import Permission, UserAddOptions
from bridge_wire.etcd.rpc_pb2 import (
    AuthEnableRequest,
    AuthRoleAddRequest,
    AuthRoleGrantPermissionRequest,
    AuthUserAddRequest,
    AuthUserGrantRoleRequest,
)
from bridge_wire.etcd.rpc_pb2_grpc import AuthStub

log = structlog.get_logger()

Rpc = Callable[[AuthStub, float], Awaitable[Any]]

_GUARD_MAY: Final = (
    (keyspace.MEMBERS, Permission.READWRITE),
    (keyspace.LEASES, Permission.READWRITE),
    (keyspace.GUARDS, Permission.READWRITE),
    (keyspace.NODES, Permission.READ),
    (keyspace.REVOKED, Permission.READ),
)


class StoreAccess(Protocol):
    """Who may write what in the store."""

    async def prepare(self) -> None:
        """Makes the store enforce access. May be repeated. Raises StoreUnavailable, StoreRefused."""


class OpenAccess:
    """For a store whose access somebody else administers: does nothing."""

    async def prepare(self) -> None:
        """Nothing to do."""


class EtcdAccess:
    """The real one.

    Args:
        write: Sends one call to an endpoint that can be reached, translating its errors
            (`bridge_core.store.endpoints.Endpoints.write`).
        registry_user: The registries' user: the common name of their certificates for etcd.
        guard_user: The guards'.
    """

    def __init__(
        self,
        write: Callable[[Callable[[grpc.aio.Channel, float], Awaitable[Any]]], Awaitable[Any]],
        registry_user: str,
        guard_user: str,
    ) -> None:
        self._write = write
        self._registry_user = registry_user
        self._guard_user = guard_user

    async def prepare(self) -> None:
        """See `StoreAccess`. `root` itself has no password and no certificate: nobody is it."""
        # Whether it is enabled already cannot be asked before etcd 3.5; every step may be repeated.
        await self._add_role("root")
        for user in ("root", self._registry_user):
            await self._add_user(user, "root")
        await self._add_role(self._guard_user)
        for prefix, permitted in _GUARD_MAY:
            key, range_end = key_range(prefix)
            permission = Permission(permType=permitted, key=key, range_end=range_end)
            request = AuthRoleGrantPermissionRequest(name=self._guard_user, perm=permission)
            await self._call(lambda stub, t, r=request: stub.RoleGrantPermission(r, timeout=t))  # type: ignore[misc]  # the default binds it
        await self._add_user(self._guard_user, self._guard_user)
        await self._call(lambda stub, t: stub.AuthEnable(AuthEnableRequest(), timeout=t))
        log.info("etcd_access_control_enabled", root=self._registry_user, guard=self._guard_user)

    async def _add_role(self, role: str) -> None:
        request = AuthRoleAddRequest(name=role)
        await self._add(f"the role {role}", lambda stub, t: stub.RoleAdd(request, timeout=t))

    async def _add_user(self, user: str, role: str) -> None:
        request = AuthUserAddRequest(name=user, options=UserAddOptions(no_password=True))
        await self._add(f"the user {user}", lambda stub, t: stub.UserAdd(request, timeout=t))
        grant = AuthUserGrantRoleRequest(user=user, role=role)
        await self._call(lambda stub, t: stub.UserGrantRole(grant, timeout=t))

    async def _add(self, what: str, rpc: Rpc) -> None:
        with _tolerating("already exists"):
            await self._call(rpc)
            log.info("etcd_access_added", what=what)

    async def _call(self, rpc: Rpc) -> Any:
        def send(channel: grpc.aio.Channel, timeout: float) -> Awaitable[Any]:
            return rpc(AuthStub(channel), timeout)  # type: ignore[no-untyped-call]  # generated

        return await self._write(send)


@contextlib.contextmanager
def _tolerating(reason: str) -> Iterator[None]:
    # Each step is repeated after a failure half-way; what is there already is as good.
    try:
        yield
    except StoreRefused as fault:
        if reason not in fault.message:
            raise
