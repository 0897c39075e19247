"""Admins: made, listed, deleted. Every change is logged with its author."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec
import structlog

from bridge_core import keyspace
from bridge_core.clients import Admin
from bridge_core.errors import BridgeError, Unavailable
from bridge_core.identity.spiffe import SpiffeId
from bridge_core.store.api import Op, Put, Store, Unchanged
from bridge_registry.clients import role_rules as rules
from bridge_registry.clients.certifier import Certified, Certifier
from bridge_registry.records import AdminRecord, decode, encode

log = structlog.get_logger()

CERTIFICATE_S: Final = 90 * 86_400
MAX_CERTIFICATE_S: Final = 366 * 86_400


class AdminDesk:
    """Writes and reads the records of admins.

    Args:
        store: etcd.
        certifier: Makes certificates.
        trust_domain: The mesh.
        fence: Gives the condition under which this registry may write; raises when it does not lead.
        clock: Unix seconds.
    """

    def __init__(
        self,
        *,
        store: Store,
        certifier: Certifier,
        trust_domain: str,
        fence: Callable[[], Unchanged],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._certifier = certifier
        self._trust_domain = trust_domain
        self._fence = fence
        self._clock = clock

    async def create(self, name: str, role: str, csr_pem: bytes, *, ttl_s: float, author: str) -> Certified:
        """A certificate for an admin's own key. One that there is already, with this role, gets another.

        Raises:
            BridgeError: the name, role or request is not acceptable.
            Unavailable, StoreRefused: the store did not take it.
        """
        SpiffeId.make(self._trust_domain, "admin", name)
        wanted = rules.checked_role(role)
        if ttl_s > MAX_CERTIFICATE_S:
            raise BridgeError(
                f"a certificate lives {MAX_CERTIFICATE_S // 86_400} days at most", hint="lower --ttl"
            )
        records, revisions = await self._records()
        rules.check_new(name, wanted, records)
        made = self._certifier.issue("admin", name, csr_pem, ttl_s or CERTIFICATE_S)
        ops: list[Op] = [made.record]
        if name not in rules.on_record(records):
            record = AdminRecord(Admin(name, wanted), self._clock(), author)
            # The founder is on record from the moment on from which only who is on record counts.
            added = {name: record} if records else {**rules.on_record(records), name: record}
            ops += [Put(keyspace.ADMINS + key, encode(one)) for key, one in added.items()]
        await self._write(ops, {name, *rules.deciding(records)}, revisions)
        log.warning("admin_certified", admin=name, role=wanted, expires=made.expires, by=author)
        return made

    async def records(self) -> list[AdminRecord]:
        """The admins there are, by name."""
        records, _ = await self._records()
        return [one for _, one in sorted(rules.present(records).items())]

    async def delete(self, name: str, author: str) -> None:
        """It may nothing from now on; its certificates are revoked, and its name is not given again.

        Raises:
            BridgeError: there is no such admin, or it is the last.
            Unavailable, StoreRefused: the store did not take it.
        """
        records, revisions = await self._records()
        found = rules.check_deletion(name, records)
        gone = msgspec.structs.replace(found, deleted=self._clock())
        names = {name, *rules.deciding(records)}
        ahead, revocations = await self._certifier.revoking("admin", name, f"deleted by {author}")
        for ops in ahead:
            await self._write(ops, names, revisions)
        await self._write([Put(keyspace.ADMINS + name, encode(gone)), *revocations], names, revisions)
        log.warning("admin_deleted", admin=name, by=author)

    async def _records(self) -> tuple[dict[str, AdminRecord], dict[str, int]]:
        """All there are, and the revision of each."""
        self._fence()  # while the store is not the mesh's, that a record is not there means nothing
        listing = await self._store.list(keyspace.ADMINS)
        records, revisions = dict[str, AdminRecord](), dict[str, int]()
        for item in listing.items:
            name = item.key.removeprefix(keyspace.ADMINS)
            records[name], revisions[name] = decode(item, AdminRecord), item.mod_revision
        return records, revisions

    async def _write(self, ops: list[Op], names: Iterable[str], revisions: Mapping[str, int]) -> None:
        unchanged = [Unchanged(keyspace.ADMINS + name, revisions.get(name, 0)) for name in names]
        if not (await self._store.commit(ops, if_=[*unchanged, self._fence()])).committed:
            raise Unavailable("the admins' records changed meanwhile", hint="try again")
