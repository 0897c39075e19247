"""Clients: made, given keys and certificates, blocked, deleted. Every change is logged with its author."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

import msgspec
import structlog

from bridge_core import keyspace
from bridge_core.clients import ApiKey, Client
from bridge_core.errors import BridgeError, Unavailable
from bridge_core.identity.api_keys import RANDOM_BYTES, id_of, mint
from bridge_core.identity.spiffe import SpiffeId
from bridge_core.store.api import Delete, KeyValue, Op, Put, Store, Unchanged
from bridge_registry.clients import client_rules as rules
from bridge_registry.clients.certifier import Certified, Certifier
from bridge_registry.clients.mesh_secrets import MeshSecrets
from bridge_registry.enrolment.join_rules import EnrolmentRefused, JoinRefusal
from bridge_registry.records import ClientRecord, decode, encode

log = structlog.get_logger()


class ClientDesk:
    """Writes and reads client records.

    Args:
        store: etcd.
        secrets: Has the pepper.
        certifier: Makes certificates.
        trust_domain: The mesh.
        count: How many clients there are.
        fence: Gives the condition under which this registry may write; raises when it does not lead.
        clock: Unix seconds.
    """

    def __init__(
        self,
        *,
        store: Store,
        secrets: MeshSecrets,
        certifier: Certifier,
        trust_domain: str,
        count: Callable[[], int],
        fence: Callable[[], Unchanged],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._secrets = secrets
        self._certifier = certifier
        self._trust_domain = trust_domain
        self._count = count
        self._fence = fence
        self._clock = clock

    async def create(
        self,
        name: str,
        groups: Sequence[str],
        attributes: Mapping[str, str],
        *,
        expires: float,
        with_key: bool,
        author: str,
    ) -> tuple[str, ClientRecord]:
        """A new client, and its key, which nobody sees again; empty: none was asked for.

        Raises:
            BridgeError: a part of it is not acceptable, or the name is taken.
            Unavailable, StoreRefused: the store did not take it.
        """
        now = self._clock()
        client = rules.new_client(name, groups, attributes, expires, trust_domain=self._trust_domain, now=now)
        if self._count() >= rules.MAX_CLIENTS:
            raise BridgeError(f"a mesh has {rules.MAX_CLIENTS} clients at most")
        record = ClientRecord(client, now, author)
        text = ""
        if with_key:
            text, record = self._keyed(record, 0.0, now)
        key = keyspace.CLIENTS + name
        outcome = await self._store.commit([Put(key, encode(record))], if_=[Unchanged(key, 0), self._fence()])
        if not outcome.committed:
            self._fence()
            raise EnrolmentRefused(
                JoinRefusal.TAKEN,
                f"there is a client {name} already",
                hint="`bridgectl client rotate` gives it another key",
            )
        log.info("client_created", client=name, groups=groups, expires=expires, key=bool(text), by=author)
        return text, record

    async def records(self, name: str = "") -> list[ClientRecord]:
        """Every client, or the one of this name.

        Raises:
            BridgeError: there is none of this name.
        """
        if name:
            return [(await self._found(name))[1]]
        listing = await self._store.list(keyspace.CLIENTS)
        return sorted((decode(item, ClientRecord) for item in listing.items), key=lambda one: one.client.name)

    async def rotate(self, name: str, *, overlap_s: float, author: str) -> tuple[str, ClientRecord]:
        """A further key; those before it end after `overlap_s`.

        Raises:
            BridgeError: there is no such client, or it may not have another.
            Unavailable, StoreRefused: the store did not take it.
        """
        item, record = await self._found(name)
        text, record = self._keyed(record, overlap_s, self._clock())
        await self._write(item, [Put(item.key, encode(record))])
        log.info(
            "client_key_made", client=name, key=record.client.keys[-1].id, overlap_s=overlap_s, by=author
        )
        return text, record

    async def block(self, name: str, *, blocked: bool, author: str) -> None:
        """Whether it is refused from now on, whatever it brings.

        Raises:
            BridgeError: there is no such client.
            Unavailable, StoreRefused: the store did not take it.
        """
        item, record = await self._found(name)
        client = msgspec.structs.replace(record.client, blocked=blocked)
        await self._write(item, [Put(item.key, encode(msgspec.structs.replace(record, client=client)))])
        log.warning("client_blocked" if blocked else "client_unblocked", client=name, by=author)

    async def delete(self, name: str, author: str) -> None:
        """It is no client any more; its keys are gone and its certificates revoked.

        Raises:
            BridgeError: there is no such client.
            Unavailable, StoreRefused: the store did not take it.
        """
        item, _ = await self._found(name)
        ahead, revocations = await self._certifier.revoking("client", name, f"deleted by {author}")
        for ops in ahead:
            await self._write(item, ops)
        await self._write(item, [Delete(item.key), *revocations])
        log.warning("client_deleted", client=name, by=author)

    async def certify(self, name: str, csr_pem: bytes, *, ttl_s: float, author: str) -> Certified:
        """A certificate for its own key.

        Raises:
            BridgeError: there is no such client, it may have none, or the request is bad.
            Unavailable, StoreRefused: the store did not take it.
        """
        item, record = await self._found(name)
        lives_s = rules.certificate_ttl_s(ttl_s, record.client, self._clock())
        made = self._certifier.issue("client", name, csr_pem, lives_s)
        await self._write(item, [made.record])
        log.info("client_certified", client=name, expires=made.expires, by=author)
        return made

    def _keyed(self, record: ClientRecord, overlap_s: float, now: float) -> tuple[str, ClientRecord]:
        text = mint(os.urandom(RANDOM_BYTES))
        raw = text.encode()
        key = ApiKey(id_of(raw).decode(), self._secrets.pepper.hash(raw).hex())
        client: Client = rules.with_key(record.client, key, overlap_s, now)
        times = {one.id: record.key_times.get(one.id, now) for one in client.keys}
        return text, msgspec.structs.replace(record, client=client, key_times=times)

    async def _found(self, name: str) -> tuple[KeyValue, ClientRecord]:
        self._fence()  # while the store is not the mesh's, that a record is not there means nothing
        SpiffeId.make(self._trust_domain, "client", name)
        item = await self._store.get(keyspace.CLIENTS + name)
        if item is None:
            raise BridgeError(f"there is no client {name!r}", hint="`bridgectl client list` shows them")
        return item, decode(item, ClientRecord)

    async def _write(self, item: KeyValue, ops: list[Op]) -> None:
        conditions = [Unchanged(item.key, item.mod_revision), self._fence()]
        if not (await self._store.commit(ops, if_=conditions)).committed:
            raise Unavailable("the client's record changed meanwhile", hint="try again")
