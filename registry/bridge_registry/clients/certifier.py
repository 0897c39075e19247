"""Certificates of people and programs outside the mesh: clients' and admins'."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from bridge_core import keyspace
from bridge_core.identity import SpiffeId
from bridge_core.identity import certificates as x509
from bridge_core.store.api import Op, Put, Store
from bridge_registry.enrolment.enroller import Signer
from bridge_registry.enrolment.revoking import batches, live_serials
from bridge_registry.records import SerialRecord, encode


class Certified(msgspec.Struct, frozen=True):
    """A certificate that was made, and the record that lets it be revoked."""

    chain_pem: bytes
    bundle_pem: bytes
    expires: float
    record: Put


class Certifier:
    """Issues them, and says what revokes them.

    Args:
        store: etcd.
        signer: The mesh's CAs.
        trust_domain: The mesh.
        clock: Unix seconds.
    """

    def __init__(self, store: Store, signer: Signer, trust_domain: str, clock: Callable[[], float]) -> None:
        self._store = store
        self._signer = signer
        self._trust_domain = trust_domain
        self._clock = clock

    def issue(self, kind: str, name: str, csr_pem: bytes, ttl_s: float) -> Certified:
        """A certificate for the holder's own key; it counts once its record is written.

        Raises:
            IdentityFault: the name or the request is none.
        """
        identity = SpiffeId.make(self._trust_domain, kind, name)
        csr, authority = x509.read_csr(csr_pem), self._signer.authority
        leaf = x509.issue(authority, csr.public_key, identity, now=self._clock(), ttl_s=ttl_s)
        expires = leaf.not_valid_after_utc.timestamp()
        record = SerialRecord(str(identity), expires, issuer=authority.pin)
        put = Put(f"{keyspace.SERIALS}{leaf.serial_number:x}", encode(record))
        return Certified(x509.to_pem(leaf) + authority.chain, self._signer.roots_pem, expires, put)

    async def revoking(self, kind: str, name: str, reason: str) -> tuple[list[list[Op]], list[Op]]:
        """What revokes every certificate that is recorded for somebody; see `revoking.batches`."""
        identity = SpiffeId.make(self._trust_domain, kind, name)
        listing = await self._store.list(keyspace.SERIALS)
        return batches(live_serials(listing.items, identity, self._clock(), reason))
