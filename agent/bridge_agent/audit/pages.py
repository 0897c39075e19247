"""What the peer listener answers about audit logs: nodes ask to cosign, admins ask for everything.

| page | for | what |
|---|---|---|
| `POST /bridge/audit/add-checkpoint?key=` | nodes | C2SP tlog-witness |
| `GET /bridge/audit/key` | both | the log's verifier key and its newest heads |
| `GET /bridge/audit/seen` | both | the newest heads that this node cosigned, by node |
| `GET /bridge/audit/files?path=…` | admins | files of the log |
| `GET /bridge/audit/stamps` | admins | sizes of the heads that have a time stamp |
| `GET /bridge/audit/find?id=` | admins | the records of a request, each with its proof |
| `GET /bridge/audit/voucher` | admins | the node's identity vouches for the log's key |
| `GET /bridge/audit/entries?from=&since=` | admins | records from an index, or a time, on |
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs

import msgspec

from bridge_agent.audit.vouching import Vouching
from bridge_agent.audit.witness import Witness
from bridge_core.audit import tiles
from bridge_core.audit.answers import (
    ENTRIES,
    FILES,
    FIND,
    KEY,
    MOST_ENTRIES,
    MOST_FILES,
    SEEN,
    STAMPS,
    VOUCHER,
    EntriesAnswer,
    FoundRecord,
    KeyAnswer,
)
from bridge_core.audit.cosigning import ADD
from bridge_core.audit.entries import decode
from bridge_core.audit.notes import BadNote, read_note
from bridge_core.audit.proofs import prove
from bridge_core.audit.queue import AuditLog
from bridge_core.audit.stamps import is_file_of_stamps, sizes
from bridge_core.audit.stored import COSIGNED, FAULT, StoredLog, fault_text
from bridge_core.audit.tiles import WIDTH, Damaged
from bridge_core.errors import BridgeError
from bridge_core.http1 import App, Exchange, coroutine_app

_JSON: Final = ((b"content-type", b"application/json"),)
_TEXT: Final = ((b"content-type", b"text/plain; charset=utf-8"),)
_SIZE: Final = ((b"content-type", b"text/x.tlog.size"),)
_PACKED: Final = ((b"content-type", b"application/x-msgpack"),)
_MOST_FOUND: Final = 64
_MOST_BYTES: Final = 32 << 20


def node_pages(audit: AuditLog, witness: Witness, group: asyncio.TaskGroup) -> dict[str, App]:
    """The pages that nodes may ask for."""

    async def add(exchange: Exchange) -> None:
        request = exchange.request
        key = "".join(parse_qs(request.query).get("key", []))
        signer = audit.signer
        if request.method != "POST":
            exchange.respond(405, [(b"allow", b"POST")], b"")
            return
        if signer is None:
            exchange.respond(503, _TEXT, b"this node has no audit log of its own yet")
            return
        status, body = await witness.add_checkpoint(request.identity, key, request.body, signer)
        exchange.respond(status, _SIZE if status == 409 else _TEXT, body)

    return {ADD: coroutine_app(add, group), **_for_both(audit, witness, group)}


def admin_pages(
    audit: AuditLog, witness: Witness, vouching: Vouching, group: asyncio.TaskGroup
) -> dict[str, App]:
    """The pages that admins may ask for."""
    reading = _Reading(audit)

    def page(render: Callable[[dict[str, list[str]]], bytes], kind: tuple[tuple[bytes, bytes], ...]) -> App:
        async def answer(exchange: Exchange) -> None:
            try:
                body = await asyncio.to_thread(render, parse_qs(exchange.request.query))
            except (BridgeError, ValueError) as fault:
                exchange.respond(400, _TEXT, str(fault).encode())
            except OSError as fault:
                exchange.respond(503, _TEXT, f"the log cannot be read: {fault.strerror}".encode())
            else:
                exchange.respond(200, kind, body)

        return coroutine_app(answer, group)

    async def voucher(exchange: Exchange) -> None:
        signer = audit.signer
        if signer is None:
            exchange.respond(503, _TEXT, b"there is no audit log yet")
            return
        try:
            made = await vouching.voucher(signer.public.name, signer.public)
        except BridgeError as fault:
            exchange.respond(503, _TEXT, fault.message.encode())
        else:
            exchange.respond(200, _PACKED, msgspec.msgpack.encode(made))

    return {
        **_for_both(audit, witness, group),
        VOUCHER: coroutine_app(voucher, group),
        STAMPS: page(reading.stamps, _JSON),
        FILES: page(reading.files, _PACKED),
        FIND: page(reading.find, _JSON),
        ENTRIES: page(reading.entries, _JSON),
    }


def _for_both(audit: AuditLog, witness: Witness, group: asyncio.TaskGroup) -> dict[str, App]:
    async def key(exchange: Exchange) -> None:
        signer = audit.signer
        if signer is None:
            exchange.respond(503, _TEXT, b"there is no audit log yet")
            return
        heads = await asyncio.to_thread(_heads, audit.stored())
        exchange.respond(200, _JSON, msgspec.json.encode(KeyAnswer(signer.public.text, *heads)))

    async def seen(exchange: Exchange) -> None:
        found = await asyncio.to_thread(witness.all_seen)
        exchange.respond(200, _JSON, msgspec.json.encode(found))

    return {KEY: coroutine_app(key, group), SEEN: coroutine_app(seen, group)}


def _heads(stored: StoredLog) -> tuple[str, str]:
    return _text(stored, tiles.CHECKPOINT), _text(stored, COSIGNED)


def _text(stored: StoredLog, path: str) -> str:
    try:
        return stored.read(path).decode("utf-8", "replace")
    except OSError:
        return ""


class _Reading:
    """Renders pages, in threads, each from files alone."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit

    def files(self, asked: dict[str, list[str]]) -> bytes:
        """The files of these paths that there are, by path, as msgpack; of one that is sealed what is in it.

        Of one that does not open there is `<path>.fault`, which says why.
        """
        stored, found, size = self._audit.stored(), {}, 0
        for path in asked.get("path", [])[:MOST_FILES]:
            if not (tiles.is_file_of_log(path) or is_file_of_stamps(path) or path in {COSIGNED, "key.pub"}):
                raise ValueError(f"{path[:80]!r} is no file of a log")
            try:
                found[path] = stored.read(path)
            except FileNotFoundError:
                continue
            except Damaged as fault:
                found[path + FAULT] = fault_text(fault)
                continue
            size += len(found[path])
            if size > _MOST_BYTES:
                break
        return msgspec.msgpack.encode(found)

    def stamps(self, _asked: dict[str, list[str]]) -> bytes:
        """The sizes of the stamped heads."""
        return msgspec.json.encode(sizes(self._audit.folder))

    def find(self, asked: dict[str, list[str]]) -> bytes:
        """The records with a request id, the newest first, each proved in the newest head that has it."""
        stored, wanted = self._audit.stored(), "".join(asked.get("id", []))
        needle, found = msgspec.json.encode(wanted), []
        for index, entries in stored.bundles_down(stored.length()):
            for number, entry in enumerate(entries):
                # A look at the bytes first: decoding is many times slower.
                if needle in entry and getattr(decode(entry), "request_id", None) == wanted:
                    found.append((index * WIDTH + number, entry))
            if len(found) >= _MOST_FOUND:
                break
        return msgspec.json.encode([self._proved(stored, index, entry) for index, entry in found])

    def entries(self, asked: dict[str, list[str]]) -> bytes:
        """Records from an index on, or of a time on."""
        stored = self._audit.stored()
        size = stored.length()
        first = int("".join(asked.get("from", ["0"])))
        since = float("".join(asked.get("since", ["0"])))
        index = max(first // WIDTH, stored.oldest_bundle(size // WIDTH))
        if since:
            index = max(index, _bundle_of(stored, since, index, size // WIDTH))
        found: list[str] = []
        first = max(first, index * WIDTH)
        while first < size and len(found) < MOST_ENTRIES:
            try:
                entries = stored.entries(first // WIDTH)
            except Damaged:
                entries = []
            part = entries[first % WIDTH : size - first // WIDTH * WIDTH]
            found += [entry.decode("utf-8", "replace") for entry in part]
            first += len(part) or WIDTH - first % WIDTH
        return msgspec.json.encode(EntriesAnswer(found, min(first, size), size))

    def _proved(self, stored: StoredLog, index: int, entry: bytes) -> FoundRecord:
        keys = "" if self._audit.signer is None else self._audit.signer.public.text
        for head in (COSIGNED, tiles.CHECKPOINT):
            try:
                note = read_note(stored.read(head))
                proof = prove(stored, entry, index, note, (keys,))
            except (BadNote, Damaged, FileNotFoundError):
                continue
            return FoundRecord(index, entry.decode("utf-8", "replace"), proof.text.decode())
        return FoundRecord(index, entry.decode("utf-8", "replace"), "")


def _bundle_of(stored: StoredLog, since: float, low: int, high: int) -> int:
    """The first bundle that may have records of that time: they are in the order in which they ended."""
    while low < high:
        middle = (low + high) // 2
        try:
            record = decode(stored.bundle(middle)[0][-1])
        except (Damaged, FileNotFoundError):
            record = None
        if record is not None and record.at < since:
            low = middle + 1
        else:
            high = middle
    return low
