"""What admins call to rotate the mesh's CAs."""

# ruff: noqa: N802 - the methods are named by gRPC

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from bridge_core.identity import certificates as x509
from bridge_registry.enrolment import authority_rules as rules
from bridge_registry.enrolment.authority_desk import AuthorityDesk, Step
from bridge_registry.enrolment.authority_keeper import AuthorityKeeper
from bridge_registry.enrolment.authority_rules import Authorities, Holders
from bridge_registry.rpc.gate import Context, Gate
from bridge_wire.v1 import authority_pb2 as pb
from bridge_wire.v1 import authority_pb2_grpc as rpc


class AuthorityService(rpc.AuthorityServicer):
    """See authority.proto."""

    def __init__(self, gate: Gate, desk: AuthorityDesk, keeper: AuthorityKeeper) -> None:
        self._gate = gate
        self._desk = desk
        self._keeper = keeper

    async def GetAuthorities(
        self, request: pb.GetAuthoritiesRequest, context: Context
    ) -> pb.GetAuthoritiesResponse:
        """See authority.proto."""
        async with self._gate.admit(context, "admin", role="viewer"):
            return await self._answer()

    async def RotateAuthority(
        self, request: pb.RotateAuthorityRequest, context: Context
    ) -> pb.GetAuthoritiesResponse:
        """See authority.proto."""
        async with self._gate.admit(context, "admin", role="admin") as peer:
            step = Step(
                request.step,
                request.certificate_chain_pem,
                request.key_pem,
                request.new_root,
                request.force,
            )
            await self._desk.rotate(step, str(peer.identity) if peer is not None else "")
            return await self._answer()

    async def _answer(self) -> pb.GetAuthoritiesResponse:
        authorities, holders = await self._desk.standing()
        return pb.GetAuthoritiesResponse(
            authorities=self._infos(authorities, holders), next=rules.next_step(authorities, holders)
        )

    def _infos(self, authorities: Authorities, holders: Holders) -> Iterator[pb.AuthorityInfo]:
        held = Counter(one.issuer for one in holders.nodes.values())
        said = Counter(pin for one in holders.nodes.values() for pin in one.trusts)
        seen = set[str]()
        for one in authorities.issuers:
            if one.root_pin not in seen:
                seen.add(one.root_pin)
                info = _info(one.root, "root", one.state)
                info.key_here = self._keeper.pki.root_key(one.root_pin).exists()
                yield info
        for one in authorities.issuers:
            info = _info(one.certificate, "intermediate", one.state)
            info.nodes, info.trusted_by, info.key_here = held[one.pin], said[one.pin], True
            yield info


def _info(pem: str, kind: str, state: str) -> pb.AuthorityInfo:
    certificate = x509.from_pem(pem.encode())
    return pb.AuthorityInfo(
        pin=x509.pin(certificate),
        subject=certificate.subject.rfc4514_string(),
        kind=kind,
        expires_unix=int(certificate.not_valid_after_utc.timestamp()),
        state=state,
    )
