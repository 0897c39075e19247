"""What admins call about clients, and about one another."""

# ruff: noqa: N802 - the methods are named by gRPC

from __future__ import annotations

from collections.abc import Callable

from bridge_core.tls import Peer
from bridge_registry.clients.admin_desk import AdminDesk
from bridge_registry.clients.certifier import Certified
from bridge_registry.clients.client_desk import ClientDesk
from bridge_registry.records import AdminRecord, ClientRecord
from bridge_registry.rpc.gate import Context, Gate
from bridge_wire.v1 import clients_pb2 as pb
from bridge_wire.v1 import clients_pb2_grpc as rpc


class ClientsService(rpc.ClientsServicer):
    """See clients.proto.

    Args:
        gate: Admits calls.
        clients: Writes and reads clients.
        admins: Writes and reads admins.
        last_used: When a client last called, Unix seconds, as far as agents said; 0: not yet.
    """

    def __init__(
        self, gate: Gate, clients: ClientDesk, admins: AdminDesk, last_used: Callable[[str], int]
    ) -> None:
        self._gate = gate
        self._clients = clients
        self._admins = admins
        self._last_used = last_used

    async def CreateClient(
        self, request: pb.CreateClientRequest, context: Context
    ) -> pb.CreateClientResponse:
        """See clients.proto."""
        async with self._gate.admit(context, "admin", role="operator") as peer:
            key, record = await self._clients.create(
                request.name,
                tuple(request.groups),
                dict(request.attributes),
                expires=float(request.expires_unix),
                with_key=not request.without_key,
                author=_author(peer),
            )
            return pb.CreateClientResponse(key=key, client=self._client(record))

    async def ListClients(self, request: pb.ListClientsRequest, context: Context) -> pb.ListClientsResponse:
        """See clients.proto."""
        async with self._gate.admit(context, "admin", role="viewer"):
            found = await self._clients.records(request.name)
            return pb.ListClientsResponse(clients=[self._client(record) for record in found])

    async def RotateClient(
        self, request: pb.RotateClientRequest, context: Context
    ) -> pb.CreateClientResponse:
        """See clients.proto."""
        async with self._gate.admit(context, "admin", role="operator") as peer:
            key, record = await self._clients.rotate(
                request.name, overlap_s=float(request.overlap_seconds), author=_author(peer)
            )
            return pb.CreateClientResponse(key=key, client=self._client(record))

    async def BlockClient(self, request: pb.BlockClientRequest, context: Context) -> pb.BlockClientResponse:
        """See clients.proto."""
        async with self._gate.admit(context, "admin", role="operator") as peer:
            await self._clients.block(request.name, blocked=request.blocked, author=_author(peer))
            return pb.BlockClientResponse()

    async def DeleteClient(
        self, request: pb.DeleteClientRequest, context: Context
    ) -> pb.DeleteClientResponse:
        """See clients.proto."""
        async with self._gate.admit(context, "admin", role="operator") as peer:
            await self._clients.delete(request.name, _author(peer))
            return pb.DeleteClientResponse()

    async def CertifyClient(
        self, request: pb.CertifyClientRequest, context: Context
    ) -> pb.CertifyClientResponse:
        """See clients.proto."""
        async with self._gate.admit(context, "admin", role="operator") as peer:
            ttl_s, author = float(request.ttl_seconds), _author(peer)
            return _certified(
                await self._clients.certify(request.name, request.csr_pem, ttl_s=ttl_s, author=author)
            )

    async def CreateAdmin(self, request: pb.CreateAdminRequest, context: Context) -> pb.CertifyClientResponse:
        """See clients.proto."""
        async with self._gate.admit(context, "admin", role="admin") as peer:
            return _certified(
                await self._admins.create(
                    request.name,
                    request.role,
                    request.csr_pem,
                    ttl_s=float(request.ttl_seconds),
                    author=_author(peer),
                )
            )

    async def ListAdmins(self, request: pb.ListAdminsRequest, context: Context) -> pb.ListAdminsResponse:
        """See clients.proto."""
        async with self._gate.admit(context, "admin", role="viewer"):
            return pb.ListAdminsResponse(admins=[_admin(record) for record in await self._admins.records()])

    async def DeleteAdmin(self, request: pb.DeleteAdminRequest, context: Context) -> pb.DeleteAdminResponse:
        """See clients.proto."""
        async with self._gate.admit(context, "admin", role="admin") as peer:
            await self._admins.delete(request.name, _author(peer))
            return pb.DeleteAdminResponse()

    def _client(self, record: ClientRecord) -> pb.ClientInfo:
        client, used = record.client, self._last_used(record.client.name)
        return pb.ClientInfo(
            name=client.name,
            groups=client.groups,
            attributes=client.attributes,
            blocked=client.blocked,
            expires_unix=int(client.expires),
            keys=[
                pb.KeyInfo(
                    id=one.id,
                    created_unix=int(record.key_times.get(one.id, 0.0)),
                    expires_unix=int(one.expires),
                )
                for one in client.keys
            ],
            created_unix=int(record.created),
            created_by=record.created_by,
            last_used_unix=used if used >= int(record.created) else 0,  # else another of this name was used
        )


def _certified(made: Certified) -> pb.CertifyClientResponse:
    return pb.CertifyClientResponse(
        certificate_chain_pem=made.chain_pem,
        trust_bundle_pem=made.bundle_pem,
        expires_unix=int(made.expires),
    )


def _admin(record: AdminRecord) -> pb.AdminInfo:
    return pb.AdminInfo(
        name=record.admin.name,
        role=record.admin.role,
        created_unix=int(record.created),
        created_by=record.created_by,
    )


def _author(peer: Peer | None) -> str:
    return str(peer.identity) if peer is not None else "unknown"
