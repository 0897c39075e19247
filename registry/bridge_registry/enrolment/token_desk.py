"""Join tokens: made, listed, revoked, and cleared away some time after their end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec
import structlog

from bridge_core import keyspace
from bridge_core.errors import BridgeError, Unavailable
from bridge_core.identity import JoinToken, check_node_name
from bridge_core.store.api import Put, Store, Unchanged
from bridge_registry.enrolment.join_rules import check_dns_names, check_labels
from bridge_registry.records import TokenRecord, decode, encode

log = structlog.get_logger()

MAX_TTL_S: Final = 30 * 86_400
MAX_USES: Final = 10_000
DEFAULT_TTL_S: Final = 3_600


class TokenDesk:
    """Writes and reads token records.

    Args:
        store: etcd.
        ca_pin: Gives the SHA-256 of the root that a new token names.
        fence: Gives the condition under which this registry may write; raises when it does not lead.
        clock: Unix seconds.
    """

    def __init__(
        self,
        store: Store,
        ca_pin: Callable[[], str],
        fence: Callable[[], Unchanged],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._ca_pin = ca_pin
        self._fence = fence
        self._clock = clock

    async def create(
        self,
        *,
        ttl_s: int,
        uses: int,
        node_name: str,
        labels: Mapping[str, str],
        author: str,
        dns_names: Iterable[str] = (),
    ) -> tuple[JoinToken, TokenRecord]:
        """A new token. 0 as `ttl_s` or `uses`: an hour, once.

        Raises:
            BridgeError: a constraint is out of range.
            Unavailable, StoreRefused: the store did not take it.
        """
        ttl_s, uses = ttl_s or DEFAULT_TTL_S, uses or 1
        if ttl_s > MAX_TTL_S:
            raise BridgeError(f"a token lives {MAX_TTL_S // 86_400} days at most", hint="lower --ttl")
        if uses > MAX_USES:
            raise BridgeError(f"a token has {MAX_USES} uses at most", hint="lower --uses")
        if node_name:
            check_node_name(node_name)
        check_labels(labels)
        token = JoinToken.mint(self._ca_pin(), os.urandom(40))
        record = TokenRecord(
            id=token.id,
            secret_hash=token.secret_hash,
            expires=self._clock() + ttl_s,
            uses_left=uses,
            node_name=node_name,
            labels=dict(labels),
            created_by=author,
            dns_names=check_dns_names(dns_names),
            root=token.ca_pin,
        )
        await self._write(record, 0)
        log.info("token_created", token=token.id, by=author, ttl_s=ttl_s, uses=uses, node=node_name)
        return token, record

    async def records(self) -> list[TokenRecord]:
        """The tokens that can still be used, the soonest to expire first."""
        listing = await self._store.list(keyspace.TOKENS)
        now = self._clock()
        records = (decode(item, TokenRecord) for item in listing.items)
        usable = (r for r in records if r.expires > now and r.uses_left > 0 and not r.revoked)
        return sorted(usable, key=lambda record: record.expires)

    async def revoke(self, token_id: str, author: str) -> None:
        """The token cannot be used from now on.

        Raises:
            BridgeError: there is none of this id.
            Unavailable, StoreRefused: the store did not take it.
        """
        self._fence()  # while the store is not the mesh's, that a record is not there means nothing
        item = await self._store.get(keyspace.TOKENS + token_id)
        if item is None:
            raise BridgeError(f"there is no token {token_id!r}", hint="`bridgectl token list` shows them")
        record = msgspec.structs.replace(decode(item, TokenRecord), revoked=True)
        await self._write(record, item.mod_revision)
        log.info("token_revoked", token=token_id, by=author)

    async def _write(self, record: TokenRecord, expected: int) -> None:
        key = keyspace.TOKENS + record.id
        outcome = await self._store.commit(
            [Put(key, encode(record))], if_=[Unchanged(key, expected), self._fence()]
        )
        if not outcome.committed:
            raise Unavailable("the token changed meanwhile", hint="try again")
