"""etcd's own RBAC: each node's certificate may write its members prefix and nothing else.

etcd takes the common name of a client certificate as the user. The registries' user has the role
root; a node's user has one role of its own that covers `/bridge/v1/members/<node>/`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Protocol

import grpc
import grpc.aio
import structlog
from etcd3aio._protobuf import (
    AuthEnableRequest,
    AuthRoleAddRequest,
    AuthRoleDeleteRequest,
    AuthRoleGrantPermissionRequest,
    AuthStatusRequest,
    AuthStub,
    AuthUserAddRequest,
    AuthUserDeleteRequest,
    AuthUserGrantRoleRequest,
    Permission,
    UserAddOptions,
)

from bridge_core.keyspace import members_of
from bridge_core.store.api import StoreRefused

log = structlog.get_logger()

Rpc = Callable[[AuthStub, float], Awaitable[Any]]


class StoreAccess(Protocol):
    """Who may write what in the store."""

    async def prepare(self) -> None:
        """Makes the store enforce access. May be repeated. Raises StoreUnavailable, StoreRefused."""

    async def admit(self, node: str) -> None:
        """Lets `node` write its members prefix. May be repeated. Raises as `prepare`."""

    async def expel(self, node: str) -> None:
        """Takes that back; its open connections lose it, too. May be repeated. Raises as `prepare`."""


class OpenAccess:
    """For a store whose access somebody else administers: does nothing."""

    async def prepare(self) -> None:
        """Nothing to do."""

    async def admit(self, node: str) -> None:
        """Nothing to do."""

    async def expel(self, node: str) -> None:
        """Nothing to do."""


class EtcdAccess:
    """The real one.

    Args:
        write: Sends one call to an endpoint that can be reached, translating its errors
            (`bridge_core.store.endpoints.Endpoints.write`).
        own_user: The registries' user: the common name of their certificates.
    """

    def __init__(
        self,
        write: Callable[[Callable[[grpc.aio.Channel, float], Awaitable[Any]]], Awaitable[Any]],
        own_user: str,
    ) -> None:
        self._write = write
        self._own_user = own_user

    async def prepare(self) -> None:
        """See `StoreAccess`. `root` itself has no password and no certificate: nobody is it."""
        status = await self._call(lambda stub, t: stub.AuthStatus(AuthStatusRequest(), timeout=t))
        users = [self._own_user] if status.enabled else ["root", self._own_user]
        if not status.enabled:
            await self._add(
                "the role root", lambda s, t: s.RoleAdd(AuthRoleAddRequest(name="root"), timeout=t)
            )
        for user in users:
            await self._add_user(user, "root")
        if not status.enabled:
            await self._call(lambda stub, t: stub.AuthEnable(AuthEnableRequest(), timeout=t))
            log.info("etcd_access_control_enabled", root=self._own_user)

    async def admit(self, node: str) -> None:
        """See `StoreAccess`."""
        role = user = _user(node)
        await self._add(f"the role {role}", lambda s, t: s.RoleAdd(AuthRoleAddRequest(name=role), timeout=t))
        prefix = members_of(node).encode()
        permission = Permission(
            permType=Permission.READWRITE, key=prefix, range_end=prefix[:-1] + bytes([prefix[-1] + 1])
        )
        request = AuthRoleGrantPermissionRequest(name=role, perm=permission)
        await self._call(lambda stub, t: stub.RoleGrantPermission(request, timeout=t))
        await self._add_user(user, role)

    async def expel(self, node: str) -> None:
        """See `StoreAccess`."""
        name = _user(node)
        with _tolerating("not found"):
            await self._call(lambda s, t: s.UserDelete(AuthUserDeleteRequest(name=name), timeout=t))
        with _tolerating("not found"):
            await self._call(lambda s, t: s.RoleDelete(AuthRoleDeleteRequest(role=name), timeout=t))

    async def _add_user(self, user: str, role: str) -> None:
        options = UserAddOptions(no_password=True)
        request = AuthUserAddRequest(name=user, options=options)
        await self._add(f"the user {user}", lambda stub, t: stub.UserAdd(request, timeout=t))
        grant = AuthUserGrantRoleRequest(user=user, role=role)
        await self._call(lambda stub, t: stub.UserGrantRole(grant, timeout=t))

    async def _add(self, what: str, rpc: Rpc) -> None:
        with _tolerating("already exists"):
            await self._call(rpc)
            log.info("etcd_access_added", what=what)

    async def _call(self, rpc: Rpc) -> Any:
        return await self._write(lambda channel, timeout: rpc(AuthStub(channel), timeout))


def _user(node: str) -> str:
    return f"node/{node}"


@contextlib.contextmanager
def _tolerating(reason: str) -> Iterator[None]:
    # Each step is repeated after a failure half-way; what is there already is as good.
    try:
        yield
    except StoreRefused as fault:
        if reason not in fault.message:
            raise
