"""Join, Renew and Leave against the store. Every attempt is audited, whatever comes of it.

A Join is one transaction: the token's use, the node's record, the issued serial and the revocation
of what the name had before happen together or not at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Protocol

import msgspec
import structlog

from bridge_core import keyspace
from bridge_core.errors import BridgeError, Unavailable
from bridge_core.identity import (
    IdentityFault,
    JoinToken,
    PodToken,
    SpiffeId,
    TokenFault,
    check_node_name,
    parse_token,
)
from bridge_core.identity import certificates as x509
from bridge_core.store.api import Delete, KeyValue, Op, Put, Store, Unchanged
from bridge_core.tls import Peer
from bridge_registry.enrolment import join_rules, pod_rules
from bridge_registry.enrolment.grace_rules import Budgets, check_grace
from bridge_registry.enrolment.join_rules import EnrolmentRefused, JoinRefusal
from bridge_registry.enrolment.late_renewal import LateRenewal, fingerprint, proven
from bridge_registry.enrolment.nonces import Nonces
from bridge_registry.enrolment.pod_rules import Pod
from bridge_registry.enrolment.revoking import batches, live_serials
from bridge_registry.records import NodeRecord, SerialRecord, TokenRecord, decode, encode

log = structlog.get_logger()

_ATTEMPTS: Final = 8  # of a transaction that others keep overtaking
_RENEWALS: Final = 10  # of one node at once,
_RENEWALS_IN_A_LIFE: Final = 50  # and so many more while a certificate lives: one that is well needs two
_LATE: Final = 10  # renewals after the end that one address may ask for at once,
_LATE_EVERY_S: Final = 10.0  # and then one in so many seconds


class JoinRequest(msgspec.Struct, frozen=True):
    """What a node asks for."""

    token: str
    node: str
    csr_pem: bytes
    peer_address: str = ""
    labels: dict[str, str] = {}
    version: str = ""


class Issued(msgspec.Struct, frozen=True):
    """A node's new identity."""

    identity: SpiffeId
    chain_pem: bytes
    bundle_pem: bytes
    issuers_pem: bytes
    serial: str
    expires: float
    issuer: str


class Directory(Protocol):
    """What is known of the mesh's nodes, from the watch."""

    @property
    def nodes(self) -> Mapping[str, NodeRecord]:
        """Enrolled nodes by name."""

    def is_revoked(self, serial: str) -> bool:
        """Whether the certificate of this serial is no longer accepted."""


class Signer(Protocol):
    """The mesh's CAs, as they are at this moment."""

    @property
    def authority(self) -> x509.Authority:
        """The open one that signs for members."""

    @property
    def pins(self) -> Collection[str]:
        """The roots that tokens may name."""

    @property
    def issuers(self) -> Sequence[bytes]:
        """The certificates of all that members' certificates may be of, PEM."""

    @property
    def roots_pem(self) -> bytes:
        """What a member trusts in who calls itself a registry."""

    @property
    def issuers_pem(self) -> bytes:
        """What a member trusts in another member."""


class PodReviewer(Protocol):
    """Has Kubernetes vouch for pods."""

    @property
    def dns_names(self) -> tuple[str, ...]:
        """Host names that certificates of pods may carry."""

    async def review(self, token: str, remote: str) -> Pod:
        """The pod whose token it is, one that may join. Raises EnrolmentRefused or Unavailable."""


class Enroller:
    """Grants identities.

    Args:
        store: etcd.
        signer: The mesh's CAs.
        trust_domain: The mesh.
        directory: The mesh's nodes.
        certificate_ttl_s: Gives the lifetime of a node's certificate now.
        renewal_grace_s: Gives for how long after its end one may still renew itself.
        nonces: What is signed for that.
        fence: Gives the condition under which this registry may write; raises when it does not lead.
        clock: Unix seconds.
        pods: Vouches for pods that join by their service account; None: none may.
    """

    def __init__(
        self,
        *,
        store: Store,
        signer: Signer,
        trust_domain: str,
        directory: Directory,
        certificate_ttl_s: Callable[[], float],
        renewal_grace_s: Callable[[], float],
        nonces: Nonces,
        fence: Callable[[], Unchanged],
        clock: Callable[[], float],
        pods: PodReviewer | None = None,
    ) -> None:
        self._pods = pods
        self._store = store
        self._signer = signer
        self._trust_domain = trust_domain
        self._directory = directory
        self._certificate_ttl_s = certificate_ttl_s
        self._renewal_grace_s = renewal_grace_s
        self._nonces = nonces
        self._renewals = Budgets(_RENEWALS, 1.0)
        self._late = Budgets(_LATE, _LATE_EVERY_S)
        self._fence = fence
        self._clock = clock

    async def join(self, request: JoinRequest, *, remote: str) -> Issued:
        """A node's first certificate, against a join token, or a pod's of its service account.

        Raises:
            EnrolmentRefused: the reason is for the caller.
            Unavailable: the store does not answer; the same request may be repeated.
        """
        audit = log.bind(node=request.node[:80], remote=remote)
        try:
            token = parse_token(request.token)
            if isinstance(token, PodToken):
                issued = await self._join_pod(token, request, remote)
            else:
                audit = audit.bind(token=token.id)
                issued = await self._join(token, request)
        except (TokenFault, EnrolmentRefused) as fault:
            audit.warning("join_refused", reason=fault.message)
            if isinstance(fault, TokenFault):
                raise EnrolmentRefused(JoinRefusal.UNAUTHENTICATED, fault.message, hint=fault.hint) from fault
            raise
        except BridgeError as fault:
            audit.warning("join_failed", reason=fault.message)
            raise
        audit.info("join_granted", serial=issued.serial, expires=issued.expires)
        return issued

    async def renew(self, peer: Peer, csr_pem: bytes, peer_address: str, version: str) -> Issued:
        """A fresh certificate for the node that `peer` is.

        Raises:
            EnrolmentRefused: it is revoked or unknown, or the request is bad.
            Unavailable: the store does not answer; the same request may be repeated.
        """
        name = peer.identity.name
        try:
            issued = await self._renew(peer, csr_pem, peer_address, version)
        except BridgeError as fault:
            log.warning("renewal_refused", node=name, serial=peer.serial, reason=fault.message)
            raise
        log.info("renewal_granted", node=name, serial=issued.serial, expires=issued.expires)
        return issued

    async def renew_expired(self, request: LateRenewal, *, remote: str) -> Issued:
        """A fresh certificate for a node whose own has ended, by its old key; see `grace_rules`.

        Raises:
            EnrolmentRefused: it may not; the reason is for the caller.
            Unavailable: the store does not answer; asked again with another nonce it may.
        """
        audit = log.bind(remote=remote)
        try:
            name, issued = await self._renew_expired(request, remote)
        except BridgeError as fault:
            audit.warning("late_renewal_refused", reason=fault.message)
            raise
        audit.warning("late_renewal_granted", node=name, serial=issued.serial, expires=issued.expires)
        return issued

    async def leave(self, peer: Peer) -> None:
        """The node goes for good: its certificates are revoked, its name is free.

        Raises:
            EnrolmentRefused: it is revoked or unknown.
            Unavailable: the store does not answer; the same request may be repeated.
        """
        self._fence()  # while the store is not the mesh's, that a record is not there means nothing
        name = peer.identity.name
        item, record = self._check_member(peer, await self._store.get(keyspace.NODES + name))
        # Also when its serial's record is gone or was never written.
        own = SerialRecord(str(peer.identity), record.expires, "left")
        others = await self._live_serials(name, "left")
        unchanged = [Unchanged(item.key, item.mod_revision)]
        # Its own with its record: a node whose leaving broke off can ask again.
        own = others.pop(peer.serial, own)
        ops: list[Op] = [
            Delete(item.key),
            Delete(keyspace.members_of(name), prefix=True),
            *await self._revoking(others, unchanged),
            Put(keyspace.REVOKED + peer.serial, encode(own)),
        ]
        await self._commit_or_retry(ops, unchanged)
        log.info("node_left", node=name, serial=peer.serial)

    async def revoke(self, name: str, author: str) -> None:
        """Throws a node out: no certificate of its is accepted any more, nor another given to it.

        The name stays taken until a token that was made for it lets a machine join in its place.

        Raises:
            BridgeError: there is no such node.
            Unavailable, StoreRefused: the store did not take it.
        """
        self._fence()
        item = await self._store.get(keyspace.NODES + name)
        if item is None:
            raise BridgeError(f"there is no node {name!r}", hint="`bridgectl status` lists them")
        record = msgspec.structs.replace(decode(item, NodeRecord), state="revoked")
        revocations = await self._live_serials(name, f"revoked by {author}")
        unchanged = [Unchanged(item.key, item.mod_revision)]
        ops: list[Op] = [
            Put(item.key, encode(record)),
            Delete(keyspace.members_of(name), prefix=True),
            *await self._revoking(revocations, unchanged),
        ]
        await self._commit_or_retry(ops, unchanged)
        log.warning("node_revoked", node=name, by=author, certificates=sorted(revocations))

    async def _join(self, token: JoinToken, request: JoinRequest) -> Issued:
        identity, csr, request = self._check_request(request)
        self._fence()
        for attempt in range(_ATTEMPTS):
            token_item = await self._store.get(keyspace.TOKENS + token.id)
            found = decode(token_item, TokenRecord) if token_item is not None else None
            record = join_rules.check_token(token, found, self._signer.pins)
            node_item = await self._store.get(keyspace.NODES + request.node)
            existing = decode(node_item, NodeRecord) if node_item is not None else None
            key = fingerprint(csr.public_key)
            repeated = join_rules.is_repetition(existing, token.id, key)
            if not repeated:
                join_rules.check_use(record, self._clock())
                join_rules.check_name(request.node, record, existing)
            issued = self._issue(identity, csr, request.peer_address, record.dns_names)
            asked = msgspec.structs.replace(request, labels={**request.labels, **record.labels})
            node = _record(asked, issued, token.id, key, record.dns_names)
            ops: list[Op] = [
                Put(keyspace.NODES + request.node, encode(node)),
                self._serial_op(issued),
            ]
            conditions = [
                Unchanged(keyspace.TOKENS + token.id, token_item.mod_revision if token_item else 0),
                Unchanged(keyspace.NODES + request.node, node_item.mod_revision if node_item else 0),
            ]
            if not repeated:
                used = msgspec.structs.replace(record, uses_left=record.uses_left - 1)
                ops.append(Put(keyspace.TOKENS + token.id, encode(used)))
                if existing is not None:
                    replaced = await self._live_serials(request.node, "replaced")
                    ops += await self._revoking(replaced, conditions)
            outcome = await self._store.commit(ops, if_=[*conditions, self._fence()])
            if outcome.committed:
                return issued
            await asyncio.sleep(0.01 * attempt)  # others use the same token at the same moment
        raise Unavailable("too many joins at once with this token", hint="try again")

    async def _join_pod(self, token: PodToken, request: JoinRequest, remote: str) -> Issued:
        identity, csr, request = self._check_request(request)
        if self._pods is None:
            raise EnrolmentRefused(
                JoinRefusal.UNAUTHENTICATED,
                "this registry lets no pods join by their service account",
                hint="--kubernetes-join of the registry names those that may; else a join token is needed",
            )
        join_rules.check_pin(token.ca_pin, self._signer.pins)
        self._fence()
        pod = await self._pods.review(token.token, remote)
        place, key = keyspace.NODES + request.node, fingerprint(csr.public_key)
        for attempt in range(_ATTEMPTS):
            item = await self._store.get(place)
            existing = decode(item, NodeRecord) if item is not None else None
            pod_rules.check_name(pod, request.node, existing)
            issued = self._issue(identity, csr, request.peer_address, self._pods.dns_names)
            node = _record(request, issued, pod.token_id, key, self._pods.dns_names)
            if existing is not None and existing.state == "drained":
                node = msgspec.structs.replace(node, state="drained")
            ops: list[Op] = [Put(place, encode(node)), self._serial_op(issued)]
            conditions = [Unchanged(place, item.mod_revision if item else 0)]
            if existing is not None and not join_rules.is_repetition(existing, pod.token_id, key):
                ops += await self._revoking(await self._live_serials(request.node, "replaced"), conditions)
            outcome = await self._store.commit(ops, if_=[*conditions, self._fence()])
            if outcome.committed:
                log.info("pod_vouched_for", node=request.node, account=pod.account, uid=pod.uid)
                return issued
            await asyncio.sleep(0.01 * attempt)
        raise Unavailable("the node's record changed meanwhile", hint="try again")

    async def _renew(self, peer: Peer, csr_pem: bytes, peer_address: str, version: str) -> Issued:
        try:
            csr = x509.read_csr(csr_pem)
        except IdentityFault as fault:
            raise join_rules.as_refusal(fault) from fault
        name = peer.identity.name
        ttl_s = self._certificate_ttl_s()
        if not self._renewals.take(name, self._clock(), ttl_s / _RENEWALS_IN_A_LIFE):
            raise EnrolmentRefused(
                JoinRefusal.TOO_OFTEN, f"{name} renews its certificate too often", hint="wait"
            )
        self._fence()  # while the store is not the mesh's, that a record is not there means nothing
        item, record = self._check_member(peer, await self._store.get(keyspace.NODES + name))
        return await self._reissue(peer.identity, item, record, _Asked(csr, peer_address, version), [])

    async def _reissue(
        self,
        identity: SpiffeId,
        item: KeyValue,
        record: NodeRecord,
        asked: _Asked,
        conditions: list[Unchanged],
    ) -> Issued:
        join_rules.check_version(asked.version)
        address = join_rules.check_peer_address(asked.peer_address) if asked.peer_address else record.peer
        issued = self._issue(identity, asked.csr, address, record.dns_names)
        node = msgspec.structs.replace(
            record,
            peer=address,
            serial=issued.serial,
            expires=issued.expires,
            version=asked.version or record.version,
            key=fingerprint(asked.csr.public_key),
            issuer=issued.issuer,
        )
        ops: list[Op] = [Put(item.key, encode(node)), self._serial_op(issued)]
        await self._commit_or_retry(ops, [Unchanged(item.key, item.mod_revision), *conditions])
        return issued

    async def _renew_expired(self, request: LateRenewal, remote: str) -> tuple[str, Issued]:
        # In the order of what each step costs.
        if not self._late.take(remote.rpartition(":")[0], self._clock()):
            raise EnrolmentRefused(JoinRefusal.TOO_OFTEN, "asked too often", hint="wait")
        self._fence()  # while the store is not the mesh's, that a record is not there means nothing
        shown = proven(request, self._signer.issuers, self._trust_domain)
        name = shown.identity.name
        if self._directory.is_revoked(shown.serial):
            raise _revoked(name)
        item = await self._store.get(keyspace.NODES + name)
        record = check_grace(
            name,
            None if item is None else decode(item, NodeRecord),
            shown.key,
            expired=shown.ended,
            now=self._clock(),
            grace_s=self._renewal_grace_s(),
        )
        assert item is not None  # noqa: S101 - there is a record
        if not self._nonces.spend(request.nonce):
            raise EnrolmentRefused(
                JoinRefusal.UNAUTHENTICATED, "what was signed is not of this registry, or was used or is over"
            )
        try:
            csr = x509.read_csr(request.csr_pem)
        except IdentityFault as fault:
            raise join_rules.as_refusal(fault) from fault
        asked = _Asked(csr, request.peer_address, request.version)
        unrevoked = Unchanged(keyspace.REVOKED + shown.serial, 0)
        return name, await self._reissue(shown.identity, item, record, asked, [unrevoked])

    def _check_request(self, request: JoinRequest) -> tuple[SpiffeId, x509.CertificateRequest, JoinRequest]:
        try:
            check_node_name(request.node)
            csr = x509.read_csr(request.csr_pem)
        except IdentityFault as fault:
            raise join_rules.as_refusal(fault) from fault
        join_rules.check_labels(request.labels)
        join_rules.check_version(request.version)
        if request.peer_address:
            address = join_rules.check_peer_address(request.peer_address)
            request = msgspec.structs.replace(request, peer_address=address)
        return SpiffeId.make(self._trust_domain, "node", request.node), csr, request

    def _check_member(self, peer: Peer, item: KeyValue | None) -> tuple[KeyValue, NodeRecord]:
        name = peer.identity.name
        if self._directory.is_revoked(peer.serial):
            raise _revoked(name)
        record = decode(item, NodeRecord) if item is not None else None
        if item is None or record is None or record.state == "revoked":
            raise EnrolmentRefused(
                JoinRefusal.DENIED,
                f"{name} is not a node of this mesh any more",
                hint="join again with a new token",
            )
        return item, record

    def _issue(
        self,
        identity: SpiffeId,
        csr: x509.CertificateRequest,
        peer_address: str,
        allowed: tuple[str, ...],
    ) -> Issued:
        asked = (*csr.dns_names, *csr.addresses)
        names = join_rules.grantable_names(identity.name, peer_address, asked, self._directory.nodes, allowed)
        if names.left_out:
            log.info(
                "certificate_names_left_out",
                node=identity.name,
                names=names.left_out,
                hint="a token made with --dns-name lets its nodes have host names",
            )
        signer, authority = self._signer, self._signer.authority
        try:
            leaf = x509.issue(
                authority,
                csr.public_key,
                identity,
                now=self._clock(),
                ttl_s=self._certificate_ttl_s(),
                dns_names=names.dns_names,
                addresses=names.addresses,
            )
        except IdentityFault as fault:
            raise join_rules.as_refusal(fault) from fault
        return Issued(
            identity,
            x509.to_pem(leaf) + authority.chain,
            signer.roots_pem,
            signer.issuers_pem,
            f"{leaf.serial_number:x}",
            leaf.not_valid_after_utc.timestamp(),
            authority.pin,
        )

    def _serial_op(self, issued: Issued) -> Put:
        record = SerialRecord(str(issued.identity), issued.expires, issuer=issued.issuer)
        return Put(keyspace.SERIALS + issued.serial, encode(record))

    async def _live_serials(self, node: str, reason: str) -> dict[str, SerialRecord]:
        """The node's certificates that could still be used, ready to be revoked."""
        listing = await self._store.list(keyspace.SERIALS)
        return live_serials(listing.items, SpiffeId(self._trust_domain, "node", node), self._clock(), reason)

    async def _revoking(
        self, revocations: Mapping[str, SerialRecord], conditions: list[Unchanged]
    ) -> list[Op]:
        """The writes that revoke certificates; what does not fit the caller's transaction is written now."""
        ahead, rest = batches(revocations)
        for ops in ahead:
            await self._commit_or_retry(ops, conditions)
        return rest

    async def _commit_or_retry(self, ops: list[Op], conditions: list[Unchanged]) -> None:
        outcome = await self._store.commit(ops, if_=[*conditions, self._fence()])
        if not outcome.committed:
            raise Unavailable("the node's record changed meanwhile", hint="try again")


class _Asked(msgspec.Struct, frozen=True):
    """What a renewal is to certify."""

    csr: x509.CertificateRequest
    peer_address: str
    version: str


def _record(
    request: JoinRequest,
    issued: Issued,
    token_id: str,
    key: str,
    dns_names: tuple[str, ...],
) -> NodeRecord:
    """The record of a node that has joined."""
    return NodeRecord(
        name=request.node,
        peer=request.peer_address,
        labels=request.labels,
        serial=issued.serial,
        expires=issued.expires,
        version=request.version,
        token=token_id,
        key=key,
        dns_names=dns_names,
        issuer=issued.issuer,
    )


def _revoked(name: str) -> EnrolmentRefused:
    return EnrolmentRefused(
        JoinRefusal.DENIED, f"the certificate of {name} was revoked", hint="join again with a new token"
    )
