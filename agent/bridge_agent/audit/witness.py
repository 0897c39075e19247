"""Cosigning what other nodes show of their logs, and remembering it.

A folder holds a file for each node that ever asked: the newest head of its log that was cosigned. It is
written before the cosignature is given. What was found of a log is kept beside it, with the two heads that
contradict each other, and goes on this node's own record.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import structlog

from bridge_core.audit.answers import LOGGED, file_of
from bridge_core.audit.entries import FindingRecord
from bridge_core.audit.notes import BadNote, PublicKey, Signer
from bridge_core.audit.queue import AuditLog
from bridge_core.audit.witness_rules import Answer, Seen, judge, read_request
from bridge_core.decoding import Undecodable, decode_json
from bridge_core.files import write_atomically
from bridge_core.identity.spiffe import IdentityFault, SpiffeId

log = structlog.get_logger()

_SAYS: Final = {
    "forked": "it signed two histories: its records were rewritten",
    "rolled back": "it signed fewer records than it had",
    "new key": "its log is another one, with another key",
}
_MOST_FINDINGS: Final = 256


class Witness:
    """What this node saw of others' logs.

    Args:
        folder: Where it is remembered.
        record: Puts what was found on record.
        now: Unix seconds.

    Attributes:
        findings: What was found, by node, the newest of each.
        cosigned: Heads cosigned since this began.
    """

    def __init__(
        self, folder: Path, record: Callable[[FindingRecord], None], now: Callable[[], float]
    ) -> None:
        self._folder = folder
        self._record = record
        self._now = now
        self._writing = asyncio.Lock()
        self._seen: dict[str, Seen | None] = {}
        self.findings: dict[str, FindingRecord] = {}
        self.cosigned = 0
        for path in sorted(folder.glob("*.finding.json"))[:_MOST_FINDINGS]:
            try:
                found = decode_json(path.read_bytes(), FindingRecord)
            except (OSError, Undecodable):
                continue
            self.findings[path.name.removesuffix(".finding.json")] = found

    async def add_checkpoint(
        self, identity: str | None, key: str, data: bytes, signer: Signer
    ) -> tuple[int, bytes]:
        """Whoever has this identity asks to have its log's newest head cosigned: status and body."""
        async with self._writing:
            try:
                return await asyncio.to_thread(self._add, identity, key, data, signer)
            except OSError as fault:
                return 503, f"what was cosigned cannot be remembered: {fault.strerror}".encode()

    def _add(self, identity: str | None, key_text: str, data: bytes, signer: Signer) -> tuple[int, bytes]:
        try:
            who = SpiffeId.parse(identity or "")
            key = PublicKey.parse(key_text)
            asked = read_request(data)
        except (BadNote, IdentityFault) as fault:
            return 400, fault.message.encode()
        if key.name != str(who).removeprefix("spiffe://"):
            return 404, f"{key.name} is not the log of {who}".encode()
        if who.kind not in LOGGED:
            return 403, f"{who} has no log".encode()
        node = file_of(who.kind, who.name)
        seen = self.seen(node)
        answer = judge(asked, key, seen)
        if answer.finding:
            self._found(node, key, answer, seen)
        if answer.head is None or answer.note is None:
            return answer.status, answer.detail.encode() + b"\n"
        at = int(self._now())
        root = base64.b64encode(answer.head.root).decode()
        kept = Seen(key.text, answer.head.size, root, answer.note.data.decode(), float(at))
        if seen is None or (seen.key, seen.size) != (kept.key, kept.size):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self._folder / f"{node}.json", msgspec.json.encode(kept))
        self._seen[node] = kept
        self.cosigned += 1
        return 200, signer.cosign(answer.head.text, at).line.encode()

    def seen(self, node: str) -> Seen | None:
        """The newest head of a log that was cosigned here, by the name of its file.

        Raises:
            OSError: the file is there and cannot be read.
        """
        if node not in self._seen:
            try:
                self._seen[node] = decode_json((self._folder / f"{node}.json").read_bytes(), Seen)
            except FileNotFoundError:
                self._seen[node] = None
            except Undecodable as fault:
                raise OSError(0, f"{node}.json in {self._folder} cannot be used: {fault.message}") from fault
        return self._seen[node]

    def all_seen(self) -> dict[str, Seen]:
        """Of every node that ever asked."""
        found = {}
        for path in self._folder.glob("*.json"):
            node = path.name.removesuffix(".json")
            if not node.endswith(".finding"):
                try:
                    one = self.seen(node)
                except OSError:
                    continue
                if one is not None:
                    found[node] = one
        return found

    def concerns(self) -> list[str]:
        """What an operator should know of, a sentence each."""
        return [
            f"the audit log of {one.origin} is not to be trusted: {one.detail} (Unix time {one.at:.0f}); "
            "`bridgectl audit verify` says more"
            for _, one in sorted(self.findings.items())
        ]

    def _found(self, node: str, key: PublicKey, answer: Answer, seen: Seen | None) -> None:
        before = self.findings.get(node)
        note = "" if answer.note is None else answer.note.data.decode()
        detail = _SAYS[answer.finding]
        evidence = ("" if seen is None else seen.note, note)
        if before is not None and before.what == answer.finding != "new key":
            return  # said already, while it goes on asking
        log.error("audit_log_convicted", node=node, what=answer.finding, key=key.text)
        found = FindingRecord(self._now(), key.name, answer.finding, detail, evidence)
        self.findings[node] = found
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(self._folder / f"{node}.finding.json", msgspec.json.encode(found))
        self._record(found)


def witness_of(folder: Path, audit: AuditLog) -> Witness:
    """What this node saw of others' logs, under the node's folder for its audit."""
    return Witness(folder / "witness", audit.put_from_thread, time.time)
