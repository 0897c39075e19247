"""Rotating the mesh's CAs, as an admin asks for it step by step; `authority_rules` says what may be done.

Each step is one write of the one record that holds them all; registries take it up by their watch, and
agents by the snapshot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
import structlog

from bridge_core import keyspace
from bridge_core.errors import BridgeError, Unavailable
from bridge_core.identity import IdentityFault
from bridge_core.identity import certificates as x509
from bridge_core.identity.spiffe import SpiffeId
from bridge_core.store.api import Put, Store, Unchanged
from bridge_registry.enrolment import authority_rules as rules
from bridge_registry.enrolment import pki_files
from bridge_registry.enrolment.authority_keeper import AuthorityKeeper
from bridge_registry.enrolment.authority_rules import Authorities, Holders, Issuer, NodeTrust, StepRefused
from bridge_registry.records import NodeRecord, SerialRecord, TokenRecord, decode, decode_authorities, encode

log = structlog.get_logger()

_PATIENCE_S: Final = 5.0  # for this registry's own watch
_HELD_BY: Final = frozenset({"admin", "client"})


class Step(msgspec.Struct, frozen=True):
    """What an admin asks for; see RotateAuthorityRequest."""

    name: str
    chain_pem: bytes = b""
    key_pem: bytes = b""
    new_root: bool = False
    force: bool = False


class AuthorityDesk:
    """See the module.

    Args:
        store: etcd.
        keeper: The CAs as this registry has them.
        trusts: Gives what nodes said that they trust, by node.
        trust_domain: The mesh.
        fence: Gives the condition under which this registry may write; raises when it does not lead.
        clock: Unix seconds.
    """

    def __init__(
        self,
        *,
        store: Store,
        keeper: AuthorityKeeper,
        trusts: Callable[[], Mapping[str, frozenset[str]]],
        trust_domain: str,
        fence: Callable[[], Unchanged],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._keeper = keeper
        self._trusts = trusts
        self._trust_domain = trust_domain
        self._fence = fence
        self._clock = clock

    async def standing(self) -> tuple[Authorities, Holders]:
        """The CAs, and who holds what.

        Raises:
            Unavailable: the store does not answer, or this registry does not lead: nobody reports to it.
        """
        self._fence()
        return (await self._read())[0], await self._holders()

    async def rotate(self, step: Step, author: str) -> None:
        """Takes a step.

        Raises:
            StepRefused: not now, and why.
            BridgeError: what was given cannot be used.
            Unavailable: the store did not take it, or this registry does not lead; may be repeated.
        """
        fence = self._fence()
        now, revision = await self._read()
        root: x509.Authority | None = None
        match step.name:
            case "begin":
                made, root = self._new(now, step)
                wanted = rules.begin(now, made, self._clock())
                if root is not None:
                    pki_files.keep_root(self._keeper.pki, root, self._keeper.sealer)
            case "issue":
                wanted = rules.issue(now, await self._holders(), self._clock(), force=step.force)
            case "finish":
                wanted = rules.finish(now, await self._holders(), force=step.force)
            case "abort":
                wanted = rules.abort(now, self._clock())
            case _:
                raise BridgeError(f"{step.name!r} is no step", hint="begin, issue, finish or abort")
        put = Put(keyspace.AUTHORITIES, encode(wanted))
        condition = Unchanged(keyspace.AUTHORITIES, revision)
        if not (await self._store.commit([put], if_=[condition, fence])).committed:
            if root is not None:
                self._keeper.pki.root_key(root.pin).unlink(missing_ok=True)
            raise Unavailable("the CAs were changed by somebody else meanwhile", hint="look, and try again")
        log.warning("authority_rotation", step=step.name, by=author, force=step.force)
        await self._taken_up(wanted)

    async def _read(self) -> tuple[Authorities, int]:
        item = await self._store.get(keyspace.AUTHORITIES)
        if item is None:  # the mesh is being founded
            return self._keeper.authorities, 0
        return decode_authorities(item.value), item.mod_revision

    async def _taken_up(self, wanted: Authorities) -> None:
        """Returns when this registry acts on it, so that its answer is of what is now."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while True:
                    change = self._keeper.next_change
                    if self._keeper.authorities == wanted:
                        return
                    await change.wait()
        except TimeoutError:
            raise Unavailable(
                f"the step is taken, and this registry does not act on it: {self._keeper.fault or 'yet'}"
            ) from None

    async def _holders(self) -> Holders:
        at, trusts = self._clock(), self._trusts()
        revoked = {
            item.key.removeprefix(keyspace.REVOKED)
            for item in (await self._store.list(keyspace.REVOKED)).items
        }
        nodes, others, tokens = dict[str, NodeTrust](), dict[str, str](), dict[str, str]()
        for item in (await self._store.list(keyspace.NODES)).items:
            node = decode(item, NodeRecord)
            if node.state != "revoked" and node.expires > at:
                nodes[node.name] = NodeTrust(node.issuer, trusts.get(node.name, frozenset()))
        issuing, moved = self._keeper.authorities.issuing.pin, set[str]()
        for item in (await self._store.list(keyspace.SERIALS)).items:
            record, serial = decode(item, SerialRecord), item.key.removeprefix(keyspace.SERIALS)
            if record.expires <= at or serial in revoked or _kind(record.identity) not in _HELD_BY:
                continue
            if record.issuer == issuing:
                moved.add(record.identity)  # who was given a new one does without the former
            else:
                others[record.identity] = record.issuer
        for item in (await self._store.list(keyspace.TOKENS)).items:
            token = decode(item, TokenRecord)
            if token.expires > at and token.uses_left > 0 and not token.revoked:
                tokens[token.id] = token.root
        return Holders(nodes, {who: of for who, of in others.items() if who not in moved}, tokens)

    def _new(self, now: Authorities, step: Step) -> tuple[Issuer, x509.Authority | None]:
        """The issuer to begin with, and the root that was made for it."""
        at, keeper, domain = self._clock(), self._keeper, self._trust_domain
        if step.chain_pem:
            return self._given(now, step), None
        root = pki_files.open_root(keeper.pki, now.issuing.root, keeper.sealer)
        if root is None:
            raise BridgeError(
                "this registry does not have the root's key: it is offline, or at another registry",
                hint="have the root sign an intermediate, and give it with --chain and --chain-key",
            )
        made: x509.Authority | None = None
        further = b""
        if step.new_root:
            made = x509.create_root(domain, now=at, ttl_s=pki_files.CA_TTL_S)
            further = x509.cross_certify(root, made.certificate, domain, now=at)
            root = made
        authority = x509.create_intermediate(root, domain, now=at, ttl_s=pki_files.INTERMEDIATE_TTL_S)
        authority = msgspec.structs.replace(authority, further=further)
        return pki_files.make_issuer(authority, root.pem.decode(), keeper.sealer, now=at), made

    def _given(self, now: Authorities, step: Step) -> Issuer:
        key = x509.key_from_pem(step.key_pem)
        authority, root = x509.read_chain(step.chain_pem, key, self._trust_domain, now=self._clock())
        known = x509.from_pem(now.issuing.root.encode())
        if root != known and not step.force and not x509.leads_to(authority.further, root, known):
            raise StepRefused(
                "nothing in the chain leads from the new root to the one before: who knows only that one, "
                "as clients from outside and unused tokens do, would believe nobody",
                hint="put the new root as signed by the former one between intermediate and root, or --force",
            )
        pem = x509.to_pem(root).decode()
        return pki_files.make_issuer(authority, pem, self._keeper.sealer, now=self._clock())


def _kind(identity: str) -> str:
    try:
        return SpiffeId.parse(identity).kind
    except IdentityFault:
        return ""
