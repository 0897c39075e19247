"""A log's folder checked: that it holds what was signed, and which records it does not hold any more.

What was signed is a root alone. Beside it stand, in the folder, each record and each record's hash, in files
of their own, and an edit of one contradicts the other. So the faults are found in two steps: where records
and hashes contradict, each such tile is taken one way and the other until the signed root comes out; then
every record that is not the one of its hash is named. Where nothing comes out, the records are not those that
were signed, and the newest older head that still fits says behind which of them.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from bridge_cli.audit_parts import Part, read_part
from bridge_cli.audit_stamps import Stamps
from bridge_core.audit import merkle, tiles
from bridge_core.audit.entries import (
    BegunRecord,
    Entry,
    FindingRecord,
    LostRecord,
    RemovedRecord,
    decode,
)
from bridge_core.audit.notes import BadNote, Checkpoint, PublicKey, cosigned_at, open_checkpoint
from bridge_core.audit.sealed import KeyGone
from bridge_core.audit.stored import COSIGNED, StoredLog
from bridge_core.audit.tiles import WIDTH, Damaged
from bridge_core.audit.writing import public_key
from bridge_core.sealing import Sealer

if TYPE_CHECKING:
    from cryptography import x509

_MOST_UNDECIDED: Final = 12  # tiles that are tried either way: 2^12 roots
_MOST_NAMED: Final = 64  # records of one bundle that are named one by one


class Fault(msgspec.Struct, frozen=True):
    """Something that is not as it was signed.

    Attributes:
        first: The first record that it is about; -1: none in particular.
        last: The last one.
        what: `edited`, `dropped`, `reordered`, `added`, `truncated`, `forked`, `altered` (a file whose
            records are whole), `sealed` (with a key that is not there), `unsigned` (no head speaks for it).
        detail: A sentence.
        at: When these records were made, as far as their neighbours tell.
    """

    first: int
    last: int
    what: str
    detail: str
    at: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """What came of it.

    Attributes:
        origin: Whose log.
        key: Its verifier key.
        size: Records that its newest head speaks for.
        kept: Of them, those that are still there.
        unsigned: Records behind them that no head speaks for yet.
        faults: In the order of the records.
        said: What the log says of itself: where it began, what it lost, what it found of others.
        cosigned: By whom, and when, of the newest cosigned head.
        cosigned_size: How many records that head speaks for.
        stamped_at: When the newest time stamp says that its records were there; empty: there is none.
        stamped_size: How many records it speaks for.
        stamped_by: Whether it is known who says so.
    """

    origin: str
    key: str
    size: int
    kept: int
    unsigned: int
    faults: tuple[Fault, ...]
    said: tuple[str, ...]
    cosigned: Mapping[str, int]
    cosigned_size: int
    stamped_at: str = ""
    stamped_size: int = 0
    stamped_by: str = ""


def verify(
    folder: Path,
    *,
    expected: PublicKey | None = None,
    witnesses: Iterable[PublicKey] = (),
    seen: Mapping[str, Checkpoint] | None = None,
    sealer: Sealer | None = None,
    stamp_roots: Sequence[x509.Certificate] = (),
) -> Verdict:
    """Checks a log.

    Args:
        folder: Its files.
        expected: The key it has to be signed with; None: the one beside it.
        witnesses: Keys whose cosignatures count.
        seen: Heads of this log that others have seen, by who: they must fit, too.
        stamp_roots: Of time-stamp authorities that are trusted; none: who signed stamps is not looked at.
        sealer: Opens records that are sealed; None: they are named as sealed, and their hashes are checked.

    Raises:
        BadNote: the folder holds no log.
        OSError: it cannot be read.
    """
    made = _Verification(folder, expected, list(witnesses), dict(seen or {}), sealer)
    made.stamp_roots = stamp_roots
    return made.run()


class _Verification:
    def __init__(
        self,
        folder: Path,
        expected: PublicKey | None,
        witnesses: list[PublicKey],
        seen: dict[str, Checkpoint],
        sealer: Sealer | None = None,
    ) -> None:
        self._stored = StoredLog(folder, sealer)
        self._folder = folder
        self._key = expected or public_key(folder)
        self._witnesses = witnesses
        self._seen = seen
        self._faults: list[Fault] = []
        self._said: list[str] = []
        self._parts: list[Part] = []
        self._removed = 0
        self._begun = ""
        self._kept = self._unsigned = 0
        self._cosigned: dict[str, int] = {}
        self._cosigned_size = 0
        self.stamp_roots: Sequence[x509.Certificate] = ()
        self._stamps: Stamps | None = None

    def run(self) -> Verdict:
        self._read_cosigned()  # before the newest head: the log may grow meanwhile
        head = self._head()
        if head is not None:
            self._parts = self._read(head.size)
            for part in self._parts:
                part.gone = part.missing and part.span[1] < self._removed
                self._kept += len(part.had or ())
            self._check_tail(head.size)
            self._check_root(head)
            self._check_levels(head.size)
            self._check_seen(head)
            self._check_first(head)
            self._check_stamps(head)
        return Verdict(
            self._key.name,
            self._key.text,
            0 if head is None else head.size,
            self._kept,
            self._unsigned,
            tuple(_joined(sorted(self._faults, key=lambda one: (one.first, one.last)))),
            tuple(self._said),
            self._cosigned,
            self._cosigned_size,
            *(("", 0, "") if self._stamps is None else (self._stamps.at, self._stamps.size, self._stamps.by)),
        )

    # -- reading

    def _head(self) -> Checkpoint | None:
        try:
            beside = public_key(self._folder)
            head = open_checkpoint(self._stored.read(tiles.CHECKPOINT), self._key)[0]
        except FileNotFoundError:
            self._fault("truncated", f"{tiles.CHECKPOINT} is gone: nothing says how many records there were")
            return None
        except BadNote as fault:
            self._fault("forked", f"no head is signed with the key {self._key.text}: {fault.message}")
            return None
        if beside != self._key:
            self._fault("forked", f"the key beside the log is {beside.text}, not {self._key.text}")
        return head

    def _read_cosigned(self) -> None:
        try:
            head, note = open_checkpoint(self._stored.read(COSIGNED), self._key)
        except FileNotFoundError:
            return
        except BadNote as fault:
            self._fault("altered", f"{COSIGNED}: {fault.message}")
            return
        self._cosigned_size = head.size
        for key in self._witnesses:
            at = cosigned_at(note, key)
            if at is not None:
                self._cosigned[key.name] = at
            elif any(one.name == key.name for one in note.signatures):
                self._fault("altered", f"{COSIGNED}: what stands there of {key.name} is not of its key")
        known = {self._key.name, *(key.name for key in self._witnesses)}
        if self._witnesses:
            self._said += [
                f"it was cosigned by {one.name}, whose key is not known now"
                for one in note.signatures
                if one.name not in known
            ]
        by = ", ".join(sorted(one.name for one in note.signatures if one.name != self._key.name))
        self._seen = {**self._seen, f"who cosigned it ({by})": head}

    def _read(self, size: int) -> list[Part]:
        parts = [self._part(index, WIDTH) for index in range(size // WIDTH)]
        return parts if size % WIDTH == 0 else [*parts, self._part(size // WIDTH, size % WIDTH)]

    def _part(self, index: int, width: int) -> Part:
        """See `read_part`."""
        part, entries = read_part(self._stored, index, width)
        self._look_at(part, entries)
        return part

    def _look_at(self, part: Part, entries: Sequence[bytes]) -> None:
        """Takes the times of records, and what the log says of itself."""
        times = []
        for number, entry in enumerate(entries):
            record = decode(entry)
            if record is not None:
                times.append(record.at)
                self._hear(record, part.index * WIDTH + number)
        part.times = (times[0], times[-1]) if times else (0.0, 0.0)

    def _hear(self, record: Entry, index: int) -> None:
        when = _when(record.at)
        if isinstance(record, BegunRecord):
            self._begun = record.origin if index == 0 else self._begun
            former = f", after a former one: {record.former}" if record.former else ""
            self._said.append(f"it was begun at {when}{former}")
        elif isinstance(record, LostRecord):
            self._said.append(
                f"{record.count} records were lost between {_when(record.since)} and {when}: {record.why} "
                f"(record {index})"
            )
        elif isinstance(record, RemovedRecord):
            self._removed = max(self._removed, record.before)
        elif isinstance(record, FindingRecord):
            self._said.append(f"it found at {when} of {record.origin}: {record.detail} (record {index})")

    # -- checking

    def _check_tail(self, size: int) -> None:
        """What is behind the signed records has to fit its own hashes. A crash may leave it torn."""
        index = size // WIDTH
        while True:
            tail = self._stored.tail(index)
            entries, hashes = tail.entries, tail.hashes
            behind = max(0, size - index * WIDTH)
            for number in range(behind, min(len(entries), len(hashes))):
                if merkle.leaf_hash(entries[number]) != hashes[number]:
                    at = index * WIDTH + number
                    self._fault("edited", f"record {at}, not signed for yet, is not that of its hash", at)
            full = self._stored.has_bundle(index)  # then what there is of its tail says nothing
            self._unsigned += max(0, (WIDTH if full else len(entries)) - behind)
            if tail.fault is not None and behind <= len(entries) < len(hashes):
                at = index * WIDTH + len(entries)
                detail = f"records from {at} on, not signed for yet: {tail.fault.message}"
                self._fault(_what(tail.fault), detail, at)
            if len(entries) < WIDTH and not full:
                return
            index += 1

    def _check_root(self, head: Checkpoint) -> None:
        undecided = [part for part in self._parts if part.differs]
        choices = self._choices(head, undecided)
        if choices is None:
            self._not_signed(head)
            for part in undecided:
                self._name(part)
            return
        for part, said in zip(undecided, choices, strict=True):
            if said:
                self._name(part)
            else:
                detail = "the hashes of these records are not theirs, the records are whole"
                self._fault("altered", detail, *part.span)
                part.believe_records()
        for part in self._parts:
            if not part.intact and part.had == part.said:
                path = tiles.bundle_path(part.index)
                self._fault("altered", f"{path} is not as it was written, its records are whole", *part.span)

    def _choices(self, head: Checkpoint, undecided: list[Part]) -> tuple[bool, ...] | None:
        """Of each undecided part whether its hashes are the signed ones (else those of its records are)."""
        able = [part.ways for part in undecided]
        if len(undecided) > _MOST_UNDECIDED:  # then the tiles are believed, or nothing is
            able = [ways[:1] for ways in able]
        settled = {part.index: number for number, part in enumerate(undecided)}
        for way in itertools.product(*able):  # none where one of them has none
            row = [
                part.root(said=part.index not in settled or way[settled[part.index]]) for part in self._parts
            ]
            if merkle.root_of(row) == head.root:
                return way
        return None

    def _not_signed(self, head: Checkpoint) -> None:
        """The records are not those that the head speaks for: says behind which."""
        older = [one for one in self._seen.values() if one.size <= head.size]
        fit = max((one.size for one in older if self._fits_head(one)), default=0)
        behind = f"; the first {fit} are those of an older head" if fit else ""
        detail = (
            f"of the records {fit} to {head.size - 1} one at least was changed with its hash, dropped or put "
            f"in, or another head was signed{behind}"
        )
        self._fault("edited", detail, fit, head.size - 1)

    def _name(self, part: Part) -> None:
        """Names the records of a part that are not those of its tile."""
        first, last = part.span
        if part.fault is not None:
            begins = first + len(part.had or ())
            detail = part.fault.message.removeprefix("it ")
            self._fault(_what(part.fault), f"the file of records {begins} to {last} {detail}", begins, last)
        elif part.had is None:
            self._fault("dropped", f"the file of records {first} to {last} is gone", first, last)
        if part.had is None:
            return
        if part.said is None:
            self._fault("dropped", f"the hashes of records {first} to {last} are gone", first, last)
            return
        had, signed = part.had, part.said
        where, own = {hash_: at for at, hash_ in enumerate(had)}, set(signed)
        read = len(signed) if part.fault is None else len(had)
        wrong = [at for at, one in enumerate(signed[:read]) if at >= len(had) or had[at] != one]
        for at in wrong[:_MOST_NAMED]:
            number = first + at
            if signed[at] in where and (at >= len(had) or had[at] in own):
                self._fault("reordered", f"record {number} stands at {first + where[signed[at]]}", number)
            elif len(had) >= len(signed):
                self._fault("edited", f"record {number} is not the one that was signed", number)
            elif at >= len(had) and part is self._parts[-1]:
                self._fault("truncated", f"record {number} is cut off", number)
            else:
                self._fault("dropped", f"record {number} is not there", number)
        if len(wrong) > _MOST_NAMED:
            detail = f"{len(wrong)} of the records {first} to {last} are not those that were signed"
            self._fault(self._faults[-1].what, detail, first, last)
        if len(had) > len(signed):
            self._fault("added", f"{len(had) - len(signed)} records were put in", first, last)

    def _check_levels(self, size: int) -> None:
        """The tiles above those of records."""
        row, level = [part.root() for part in self._parts[: size // WIDTH]], 1
        while len(row) >= WIDTH:
            above = []
            for number in range(len(row) // WIDTH):
                hashes = row[number * WIDTH : (number + 1) * WIDTH]
                above.append(merkle.root_of(hashes))
                if self._stored.tile(level, number) != hashes:
                    path = tiles.tile_path(level, number)
                    self._fault("altered", f"{path} is not the one of the tiles below it")
            row, level = above, level + 1

    def _check_seen(self, head: Checkpoint) -> None:
        for who, one in self._seen.items():
            if one.size > head.size:
                detail = f"{who} has seen {one.size} records, of which {head.size} are left"
                self._fault("truncated", detail, head.size, one.size - 1)
            elif not self._fits_head(one):
                detail = f"{who} has seen other first {one.size} records: this history was rewritten"
                self._fault("forked", detail, 0, one.size - 1)

    def _check_first(self, head: Checkpoint) -> None:
        if self._parts and not self._parts[0].gone and self._begun not in {"", head.origin}:
            self._fault("forked", f"the log was begun as {self._begun}", 0)

    def _check_stamps(self, head: Checkpoint) -> None:
        self._stamps = Stamps(self._folder, self._key, head, self._parts, self.stamp_roots)
        for what, detail, last in self._stamps.faults():
            self._fault(what, detail, min(0, last), last)

    def _fits_head(self, head: Checkpoint) -> bool:
        """Whether the first records here are those that a head speaks for."""
        full, rest = divmod(head.size, WIDTH)
        row = [part.root() for part in self._parts[:full]]
        if rest:
            row.append(merkle.root_of((self._parts[full].said or self._parts[full].had or [])[:rest]))
        return merkle.root_of(row) == head.root

    def _fault(self, what: str, detail: str, first: int = -1, last: int | None = None) -> None:
        last = first if last is None else last
        at = self._made(first, last) if first >= 0 else ""
        self._faults.append(Fault(first, last, what, detail, at))

    def _made(self, first: int, last: int) -> str:
        """When these records were made, from those around them that can be read."""
        times = [part.times for part in self._parts]
        low, high = first // WIDTH, last // WIDTH
        before = next((end for _, end in reversed(times[:low]) if end), 0.0)
        own = times[low] if low < len(times) else (0.0, 0.0)
        after = next((begun for begun, _ in times[high + 1 :] if begun), 0.0)
        since, until = own[0] or before, own[1] or after
        if since and until:
            return f"between {_when(since)} and {_when(until)}"
        return f"after {_when(since)}" if since else f"before {_when(until)}" if until else ""


def _joined(faults: list[Fault]) -> Iterator[Fault]:
    """The faults, with files whose key is gone told as one as far as they follow each other."""
    for what, group in itertools.groupby(faults, key=lambda one: one.what):
        found = list(group)
        if what != "sealed" or len(found) == 1:
            yield from found
            continue
        first, last = found[0], found[-1]
        detail = f"{len(found)} files of records from {first.first} on: {first.detail}"
        yield Fault(first.first, last.last, what, detail, first.at)


def _what(fault: Damaged) -> str:
    return "sealed" if isinstance(fault, KeyGone) else "edited"


def _when(at: float) -> str:
    try:
        return dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return f"{at:.0f}"
