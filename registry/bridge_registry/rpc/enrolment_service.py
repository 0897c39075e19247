"""Enrolment and the parts of Mesh that change who a node is."""

# ruff: noqa: N802 - the methods are named by gRPC

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version

from bridge_registry.enrolment.enroller import Enroller, JoinRequest
from bridge_registry.enrolment.late_renewal import LateRenewal
from bridge_registry.enrolment.nonces import Nonces
from bridge_registry.publication.hub import Hub
from bridge_registry.rpc.gate import Context, Gate
from bridge_registry.rpc.messages import identity_message, update_message
from bridge_wire.v1 import registry_pb2 as pb
from bridge_wire.v1 import registry_pb2_grpc as rpc


class EnrolmentService(rpc.EnrolmentServicer):
    """Hello, Join and RenewExpired: called without a client certificate.

    Args:
        gate: Admits calls.
        enroller: Grants identities.
        hub: Gives the snapshot that comes with one.
        etcd_endpoints: What nodes are told to register at.
        trust_domain: The mesh.
        nonces: What who renews late has to sign.
        clock: Unix seconds.
    """

    def __init__(
        self,
        gate: Gate,
        enroller: Enroller,
        hub: Hub,
        etcd_endpoints: Sequence[str],
        *,
        trust_domain: str,
        nonces: Nonces,
        clock: Callable[[], float],
    ) -> None:
        self._gate = gate
        self._enroller = enroller
        self._hub = hub
        self._etcd_endpoints = tuple(etcd_endpoints)
        self._trust_domain = trust_domain
        self._nonces = nonces
        self._clock = clock

    async def Hello(self, request: pb.HelloRequest, context: Context) -> pb.HelloResponse:
        """See registry.proto."""
        async with self._gate.admit(context, None):
            return pb.HelloResponse(
                trust_domain=self._trust_domain,
                server_time_unix_ms=int(self._clock() * 1000),
                version=version("deepseek-ollama-bridge"),
                nonce=self._nonces.make(),
            )

    async def RenewExpired(self, request: pb.RenewExpiredRequest, context: Context) -> pb.RenewResponse:
        """See registry.proto."""
        async with self._gate.admit(context, None):
            late = LateRenewal(
                request.csr_pem,
                request.certificate_pem,
                request.nonce,
                request.signature,
                request.facts.peer_address,
                request.facts.version,
            )
            issued = await self._enroller.renew_expired(late, remote=self._gate.remote(context))
            return pb.RenewResponse(identity=identity_message(issued))

    async def Join(self, request: pb.JoinRequest, context: Context) -> pb.JoinResponse:
        """See registry.proto."""
        async with self._gate.admit(context, None):
            issued = await self._enroller.join(
                JoinRequest(
                    token=request.token,
                    node=request.node_name,
                    csr_pem=request.csr_pem,
                    peer_address=request.facts.peer_address,
                    labels=dict(request.facts.labels),
                    version=request.facts.version,
                ),
                remote=self._gate.remote(context),
            )
            return pb.JoinResponse(
                identity=identity_message(issued),
                etcd=pb.EtcdAccess(endpoints=self._etcd_endpoints),
                snapshot=update_message(self._hub.delta(None), self._hub.ring_digest),
            )
