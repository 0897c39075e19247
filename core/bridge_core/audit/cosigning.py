"""Having a log's heads cosigned by nodes.

Which nodes those are hangs on the names alone (rendezvous hashing), so that a node cannot choose who
watches it. What they signed is kept beside the log: it is what convicts whoever rewrites it.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import quote

import structlog

from bridge_core.audit import merkle
from bridge_core.audit.answers import KEY, KeyAnswer
from bridge_core.audit.notes import (
    BadNote,
    Note,
    PublicKey,
    cosigned_at,
    open_checkpoint,
    read_signature,
    with_signatures,
)
from bridge_core.audit.queue import AuditLog
from bridge_core.audit.stored import COSIGNED, StoredLog
from bridge_core.audit.tiles import CHECKPOINT
from bridge_core.audit.witness_rules import Asked
from bridge_core.decoding import Undecodable, decode_json
from bridge_core.errors import BridgeError
from bridge_core.files import write_atomically
from bridge_core.http1 import Pool
from bridge_core.snapshot import Node

log = structlog.get_logger()

ADD: Final = "/bridge/audit/add-checkpoint"
_EVERY_S: Final = 5.0
_TIMEOUT_S: Final = 5.0
_LATE_S: Final = 60.0
_MOST: Final = 64 * 1024


class Refused(BridgeError):
    """A cosigner does not sign; the message says why."""


def cosigners_of(origin: str, nodes: Iterable[Node], own: str, many: int) -> list[Node]:
    """Who cosigns a log: the same for everybody who knows the same nodes."""
    able = [one for one in nodes if one.name != own and one.peer and one.state == "active"]
    able.sort(key=lambda one: hashlib.sha256(f"{origin}\n{one.name}".encode()).digest())
    return able[:many]


class Cosigning:
    """Asks for cosignatures as long as it runs.

    Args:
        audit: The log.
        nodes: The mesh's, now.
        link: The way to one's peer listener.
        own: The name of the log's own node, which is not asked.
        many: How many others are wanted, now.
        every_s: Between two rounds.
        now: Unix seconds.

    Attributes:
        cosigned: Records that the newest cosigned head speaks for.
    """

    def __init__(
        self,
        audit: AuditLog,
        nodes: Callable[[], Iterable[Node]],
        link: Callable[[Node], Pool],
        *,
        own: str,
        many: Callable[[], int],
        every_s: float = _EVERY_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._audit = audit
        self._nodes = nodes
        self._link = link
        self._own = own
        self._many = many
        self._every_s = every_s
        self._now = now
        self._stored = StoredLog(audit.folder)  # of which it reads hashes and heads, which are never sealed
        self._old: dict[str, int] = {}  # what each cosigner signed last
        self._keys: dict[str, PublicKey] = {}
        self._refused: dict[str, str] = {}
        self._late_since = 0.0
        self.cosigned = 0

    async def run(self) -> None:
        """Asks until cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            await self.ask_all()

    def concerns(self) -> list[str]:
        """What an operator should know of, a sentence each."""
        origin = self._audit.origin
        found = [
            f"{node} does not cosign the audit log of {origin}: {why}"
            for node, why in sorted(self._refused.items())
        ]
        if self._late_since and self._now() - self._late_since > _LATE_S:
            found.append(f"no node has cosigned the audit log of {origin} for a minute")
        return found

    async def ask_all(self) -> None:
        """Asks each cosigner once for the newest head."""
        wanted = cosigners_of(self._audit.origin, self._nodes(), self._own, self._many())
        head, signer = self._audit.head, self._audit.signer
        names = {one.name for one in wanted}
        self._refused = {node: why for node, why in self._refused.items() if node in names}
        if not wanted or head is None or signer is None or head.size <= self.cosigned:
            self._late_since = 0.0
            return
        try:
            data = await asyncio.to_thread(self._stored.read, CHECKPOINT)
            shown, note = open_checkpoint(data, signer.public)
        except (OSError, BadNote) as fault:
            log.warning("audit_head_not_read", reason=str(fault))
            return
        answers = await asyncio.gather(*(self._ask(one, shown.size, note) for one in wanted))
        signed = [one for one in answers if one is not None]
        if not signed:
            self._late_since = self._late_since or self._now()
            return
        self._late_since = 0.0
        whole = with_signatures(note, [signature for answer in signed for signature in answer.signatures])
        try:
            await asyncio.to_thread(write_atomically, self._audit.folder / COSIGNED, whole.data)
        except OSError as fault:
            log.warning("audit_cosignatures_not_kept", reason=fault.strerror)
        self.cosigned = shown.size

    async def _ask(self, node: Node, size: int, note: Note) -> Note | None:
        """The note with that node's cosignature; None without."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                signed = await self._cosigned(node, size, note)
        except Refused as fault:
            if self._refused.get(node.name) != fault.message:
                log.error("audit_not_cosigned", node=node.name, reason=fault.message)
            self._refused[node.name] = fault.message
            return None
        except (BridgeError, OSError, TimeoutError) as fault:
            log.info("audit_cosigner_away", node=node.name, reason=str(fault) or "it did not answer in time")
            return None
        self._refused.pop(node.name, None)
        return signed

    async def _cosigned(self, node: Node, size: int, note: Note) -> Note:
        old = self._old.get(node.name, 0)
        for _ in range(3):  # it may know the log, or not any more
            path = await asyncio.to_thread(merkle.consistency_path, self._stored, old, size)
            status, body = await self._send(node, Asked(old, tuple(path), note.data))
            said = body.decode("ascii", "replace").strip()
            if status == 200:
                signed = with_signatures(Note(note.text, ()), [read_signature(body.decode().rstrip("\n"))])
                if cosigned_at(signed, await self._key(node)) is None:
                    self._keys.pop(node.name, None)  # it may have another
                    raise Refused("what it signed is not of its key")
                self._old[node.name] = size
                return signed
            if status != 409 or not said.isdigit() or len(said) > 16:
                if status in (409, 422, 403):
                    raise Refused(said[:500])
                raise BridgeError(f"it answered {status}: {said[:200]}")
            if int(said) > size or int(said) == old == size:
                raise Refused(f"it has seen {said} records with another history; this node has {size}")
            old = int(said)
        raise BridgeError("it does not say what it signed last")

    async def _send(self, node: Node, asked: Asked) -> tuple[int, bytes]:
        signer = self._audit.signer
        key = "" if signer is None else quote(signer.public.text, safe="")
        pool = self._link(node)
        async with pool.request("POST", f"{ADD}?key={key}", (), asked.data) as response:
            return response.status, await response.read(_MOST)

    async def _key(self, node: Node) -> PublicKey:
        known = self._keys.get(node.name)
        if known is None:
            pool = self._link(node)
            async with pool.request("GET", KEY, ()) as response:
                body = await response.read(_MOST * 4)
            try:
                known = PublicKey.parse(decode_json(body, KeyAnswer).key)
            except (Undecodable, BadNote) as fault:
                raise BridgeError(f"it does not say the key of its log: {fault.message}") from fault
            self._keys[node.name] = known
        return known
