"""What `bridgectl audit` gets from the nodes, over their peer listeners."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import msgspec

from bridge_cli.access import Access
from bridge_cli.agents import Said, ask_agents
from bridge_cli.audit_verifying import Verdict, verify
from bridge_core.audit import stamps, tiles
from bridge_core.audit.answers import (
    ENTRIES,
    FILES,
    FIND,
    KEY,
    MOST_FILES,
    SEEN,
    STAMPS,
    VOUCHER,
    EntriesAnswer,
    FoundRecord,
    KeyAnswer,
)
from bridge_core.audit.notes import BadNote, Checkpoint, PublicKey, read_checkpoint, read_note
from bridge_core.audit.proofs import Proof, read_proof
from bridge_core.audit.stored import COSIGNED, FAULT
from bridge_core.audit.tiles import WIDTH
from bridge_core.audit.vouchers import Voucher
from bridge_core.audit.witness_rules import Seen
from bridge_core.bounds import Count
from bridge_core.decoding import Undecodable, decode_json
from bridge_core.errors import BridgeError

if TYPE_CHECKING:
    from cryptography import x509

_MOST_STAMPS: Final = 24 * 366
_MOST_ANSWER: Final = 1 << 30
_LAST: Final = 10
_EVERY_S: Final = 1.0
_VOUCHER: Final = msgspec.msgpack.Decoder(Voucher)
_FILES: Final = msgspec.msgpack.Decoder(dict[str, bytes])
# A node signs its first voucher in a process of its own, for which it waits half a minute.
_VOUCHER_WITHIN_S: Final = 40.0


async def fetched(
    to: Access, only: str | None, keep: Path | None, roots: Sequence[x509.Certificate] = ()
) -> tuple[dict[str, Verdict], dict[str, str]]:
    """What came of checking nodes' logs, and why some were not, by node.

    Raises:
        BridgeError: no registry answers, or there is no such node.
    """
    keys, seen = await ask_agents(to, KEY), await ask_agents(to, SEEN)
    silent = {name: why for name, why in keys.silent.items() if only in (None, name)}
    known: dict[str, PublicKey] = {}
    for name, body in keys.bodies.items():
        try:
            known[name] = PublicKey.parse(decode_json(body, KeyAnswer).key)
        except (Undecodable, BadNote) as fault:
            silent[name] = f"its answer cannot be used: {fault.message}"
    verdicts = {}
    temporary = tempfile.TemporaryDirectory() if keep is None else nullcontext(str(keep))
    with temporary as folder:
        for name, key in sorted(known.items()):
            if only not in (None, name):
                continue
            try:
                where = Path(folder) / name
                await _mirror(to, name, where)
                others = [other for node, other in known.items() if node != name]
                verdicts[name] = verify(
                    where, expected=key, witnesses=others, seen=_seen_of(name, key, seen), stamp_roots=roots
                )
            except (BridgeError, OSError) as fault:
                silent[name] = str(fault)
    return verdicts, silent


def _seen_of(node: str, key: PublicKey, seen: Said) -> dict[str, Checkpoint]:
    """The heads of a node's log that others have seen: those of its present key."""
    found = {}
    for witness, body in seen.bodies.items():
        try:
            one = decode_json(body, dict[str, Seen]).get(node)
        except Undecodable:
            continue
        if one is not None and one.key == key.text:
            try:
                found[witness] = one.head
            except BadNote:
                continue
    return found


async def _mirror(to: Access, node: str, folder: Path) -> None:
    """Gets the files of a node's log that are not there yet."""
    # In this order: what a later one speaks for is in the files that are asked for after it.
    await _get(to, node, folder, ["key.pub", COSIGNED])
    await _mirror_stamps(to, node, folder)
    await _get(to, node, folder, [tiles.CHECKPOINT])
    try:
        size = read_checkpoint(read_note((folder / tiles.CHECKPOINT).read_bytes()).text).size
    except (OSError, BadNote) as fault:
        raise BridgeError(f"it has no signed head: {fault}") from fault
    full = size // WIDTH
    wanted = [path for index in range(full) for path in (tiles.bundle_path(index), tiles.tile_path(0, index))]
    level, count = 1, full // WIDTH
    while count:
        wanted += [tiles.tile_path(level, index) for index in range(count)]
        level, count = level + 1, count // WIDTH
    wanted = [path for path in wanted if not (folder / path).exists()]
    for at in range(0, len(wanted), MOST_FILES):
        await _get(to, node, folder, wanted[at : at + MOST_FILES])
    if size % WIDTH:
        await _get(to, node, folder, [*reversed(tiles.tail_paths(full))])
        if not (folder / tiles.tail_paths(full)[0]).exists():  # it has become full meanwhile
            await _get(to, node, folder, [tiles.bundle_path(full), tiles.tile_path(0, full)])


async def _mirror_stamps(to: Access, node: str, folder: Path) -> None:
    said = await ask_agents(to, STAMPS, only=node)
    try:
        sizes = decode_json(said.bodies.get(node, b"[]"), list[Count])
    except Undecodable:  # of an earlier version
        return
    wanted = [path for size in sizes[-_MOST_STAMPS:] for path in stamps.paths(size)]
    wanted = [path for path in wanted if not (folder / path).exists()]
    for at in range(0, len(wanted), MOST_FILES):
        await _get(to, node, folder, wanted[at : at + MOST_FILES])


async def _get(to: Access, node: str, folder: Path, paths: list[str]) -> None:
    query = "&".join(f"path={quote(path)}" for path in paths)
    said = await ask_agents(to, f"{FILES}?{query}", only=node)
    body = said.bodies.get(node)
    if body is None:
        raise BridgeError(said.silent.get(node, "it does not answer"))
    try:
        files = _FILES.decode(body)
    except (ValueError, RecursionError) as fault:
        raise BridgeError(f"its files do not decode: {fault}") from fault
    for path, data in files.items():
        if path.removesuffix(FAULT) in paths:  # and so no name that it made up
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
    missing = [path for path in paths if path not in files and path + FAULT not in files]
    if files and missing and len(files) < len(paths) and sum(map(len, files.values())) > 1 << 24:
        await _get(to, node, folder, missing)  # they were too large for one answer


async def proofs(to: Access, request_id: str) -> tuple[list[tuple[str, Proof]], Mapping[str, str]]:
    """The proofs of a request's records, with the nodes that have them; cosigners' keys are put in.

    Raises:
        BridgeError: no registry answers.
    """
    keys, said = await ask_agents(to, KEY), await ask_agents(to, f"{FIND}?id={quote(request_id, safe='')}")
    known = []
    for body in keys.bodies.values():
        try:
            known.append(PublicKey.parse(decode_json(body, KeyAnswer).key))
        except (Undecodable, BadNote):
            continue
    found = []
    silent = dict(said.silent)
    for name, body in sorted(said.bodies.items()):
        try:
            for record in decode_json(body, list[FoundRecord], most=_MOST_ANSWER):
                if record.proof:
                    proof = read_proof(record.proof.encode())
                    proof.check()
                    names = {one.name for one in proof.note.signatures}
                    signers = tuple(
                        sorted(
                            (one.text for one in known if one.name in names),
                            key=lambda t: not t.startswith(proof.head.origin),
                        )
                    )
                    extra = msgspec.structs.replace(proof.extra, keys=signers)
                    found.append((name, msgspec.structs.replace(proof, extra=extra)))
        except (Undecodable, BridgeError) as fault:
            silent[name] = f"its answer does not hold: {fault.message}"
    return found, silent


async def vouchers(to: Access) -> tuple[dict[str, Voucher], Mapping[str, str]]:
    """What nodes' identities say of the keys of their logs, and why some say nothing, by node.

    Raises:
        BridgeError: no registry answers.
    """
    said = await ask_agents(to, VOUCHER, within_s=_VOUCHER_WITHIN_S)
    found, silent = {}, dict(said.silent)
    for name, body in said.bodies.items():
        try:
            found[name] = _VOUCHER.decode(body)
        except (ValueError, RecursionError) as fault:
            silent[name] = f"its answer does not decode: {fault}"
    return found, silent


async def traced(to: Access, request_id: str) -> tuple[list[dict[str, Any]], Mapping[str, str]]:
    """What is on record of a request, hop by hop.

    Raises:
        BridgeError: no registry answers.
    """
    said = await ask_agents(to, f"{FIND}?id={quote(request_id, safe='')}")
    hops: list[dict[str, Any]] = []
    silent = dict(said.silent)
    for name, body in said.bodies.items():
        try:
            for record in decode_json(body, list[FoundRecord], most=_MOST_ANSWER):
                told = decode_json(record.entry.encode(), dict[str, Any])
                if told.get("kind") == "request":
                    hops.append({"recorded_by": name, "index": record.index, **told})
        except Undecodable as fault:
            silent[name] = f"its answer does not decode: {fault.message}"
    hops.sort(key=lambda hop: (bool(hop.get("via")), hop.get("at", 0)))
    return hops, silent


def unconfirmed(hops: list[dict[str, Any]], silent: Mapping[str, str]) -> list[str]:
    """What is said of hops whose other end has no record of them: a sentence each. Pure.

    A node that forwards records what it forwards. Where it did not, somebody else had its certificate, or it
    keeps its log short of what it does.
    """
    began = {hop["recorded_by"] for hop in hops if not hop.get("via")}
    return [
        f"{hop['recorded_by']} was asked by {hop['via']} for {hop.get('principal') or 'nobody'}, and "
        f"{hop['via']} has no record of it: who has that node's key? (`bridgectl revoke`)"
        for hop in hops
        if hop.get("via") and hop["via"] not in began and hop["via"] not in silent
    ]


async def records_of(
    to: Access, only: str | None, since: float
) -> AsyncIterator[tuple[str, int, dict[str, Any]]]:
    """Each node's records from a time on: node, index, record.

    Raises:
        BridgeError: no registry answers, a node does not, or it sends nonsense.
    """
    names = await _names(to, only)
    for name in names:
        at, asked = 0, f"since={since}"
        while True:
            answer = await _entries(to, name, f"from={at}&{asked}")
            first = answer.next - len(answer.entries)
            for number, entry in enumerate(answer.entries):
                record = _record(entry)
                if record.get("at", 0) >= since:
                    yield name, first + number, record
            if answer.next >= answer.size or answer.next <= at:
                break
            at, asked = answer.next, ""


async def last_records(to: Access, only: str | None, *, follow: bool) -> AsyncIterator[tuple[str, int, str]]:
    """Each node's last records: node, index, record as it is.

    Raises:
        BridgeError: no registry answers, a node does not, or it sends nonsense.
    """
    names = await _names(to, only)
    at: dict[str, int] = {}
    while True:
        for name in names:
            if name not in at:
                size = (await _entries(to, name, f"from={1 << 50}")).size
                at[name] = max(0, size - _LAST)
            answer = await _entries(to, name, f"from={at[name]}")
            first = answer.next - len(answer.entries)
            for number, entry in enumerate(answer.entries):
                yield name, first + number, entry
            at[name] = max(at[name], answer.next)
        if not follow:
            return
        await asyncio.sleep(_EVERY_S)


async def _names(to: Access, only: str | None) -> list[str]:
    said = await ask_agents(to, KEY, only=only)
    if said.silent:
        name, why = min(said.silent.items())
        raise BridgeError(f"{name} does not answer: {why}", hint="--node asks one node alone")
    return sorted(said.bodies)


async def _entries(to: Access, node: str, query: str) -> EntriesAnswer:
    said = await ask_agents(to, f"{ENTRIES}?{query}", only=node)
    if node not in said.bodies:
        raise BridgeError(f"{node} does not answer: {said.silent.get(node, '')}")
    try:
        return decode_json(said.bodies[node], EntriesAnswer, most=_MOST_ANSWER)
    except Undecodable as fault:
        raise BridgeError(f"{node}'s records do not decode: {fault.message}") from fault


def _record(entry: str) -> dict[str, Any]:
    try:
        return decode_json(entry.encode(), dict[str, Any])
    except Undecodable:
        return {"kind": "unreadable"}
