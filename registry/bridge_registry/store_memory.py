"""What this registry last knew of the store, kept in its own state folder: which store it is, and all of
its records that are not under somebody's lease.

It is what a store that comes back empty or older is compared with, and what is put back into it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
import structlog

from bridge_core import keyspace
from bridge_core.decoding import Undecodable, decode_json
from bridge_core.errors import Unavailable
from bridge_core.files import write_atomically
from bridge_core.store.api import Changes, KeyListing, KeyValue
from bridge_registry.membership import store_identity_rules as rules
from bridge_registry.membership.store_identity_rules import StoreIdentity, StoreRecord, Verdict

log = structlog.get_logger()

HINT: Final = (
    "`bridgectl restore --from-snapshot` puts back what this registry knows, "
    "`bridgectl restore --accept-store` takes the store as it is"
)
_MAX_BYTES: Final = 512 * 1024 * 1024
_REVISION_EVERY_S: Final = 30.0  # how old the revision in the file may be while records stay


class _File(msgspec.Struct, frozen=True, omit_defaults=True):
    store: StoreIdentity | None
    records: dict[str, bytes] = {}
    history: dict[str, bytes] = {}
    put_back: bool = False


def remembered(store: StoreIdentity, records: dict[str, bytes], history: dict[str, bytes]) -> bytes:
    """The file of a registry that comes from a backup: what it says is put back into an empty store, unasked.

    Args:
        store: The mesh's, as of the backup.
        records: Of it, by key: those that a registry keeps a copy of.
        history: The others that are to be put back.
    """
    return msgspec.json.encode(_File(store, records, history, put_back=True))


class StoreMemory:
    """See the module. One task feeds it; others read.

    Args:
        path: Its file. A damaged one is moved aside; then the next store seen is taken for the known.

    Attributes:
        known: The store that the mesh lives in; None until one was seen.
        records: Its records when this registry began, by key.
        history: Further ones that only a backup has; kept until the mesh has its store again.
        put_back: An admin restored a backup here: an empty store is to be filled again.
        candidacy: Under which the store was last read through.
        foreign: Why the store at hand is not that one; empty: it is, or none was seen since the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        found = self._load()
        self.known = found.store
        self.records: Mapping[str, bytes] = found.records
        self.history: Mapping[str, bytes] = found.history
        self.put_back = found.put_back
        self.foreign = self.candidacy = ""
        self._seen: StoreIdentity | None = None
        self._saved = found
        self._saved_at = 0.0

    @property
    def generation(self) -> int:
        """How often the mesh's store was restored."""
        return self.known.generation if self.known is not None else 0

    @property
    def mesh_id(self) -> str:
        """The mesh's own id in every store; empty until it is founded."""
        return self.known.id if self.known is not None else ""

    @property
    def seen(self) -> StoreIdentity | None:
        """The store at hand; None until it was looked at."""
        return self._seen

    def check(self, candidacy: str) -> None:
        """Returns when the store in which this registry leads under `candidacy` is the known one.

        Raises:
            Unavailable: it is not, or was not looked at yet: nothing may be written, and that a record
                is not there means nothing.
        """
        if self.foreign:
            raise Unavailable(self.foreign, hint=HINT)
        # A candidacy that is new may be one in another store: nothing is known of that before it is read.
        if self._seen is None or self.candidacy != candidacy:
            raise Unavailable("the store was not read yet", hint="try again in some seconds")

    def look(self, listing: KeyListing, candidacy: str) -> bool:
        """Whether `listing`, of all of the mesh's keys, is the known store's.

        Args:
            listing: Asked for after this registry
            candidacy: led under this key of its election; empty: it did not lead.
        """
        self.candidacy = candidacy
        seen = identity_of(listing)
        verdict = rules.judge(self.known, seen)
        self._seen = seen
        if verdict is not Verdict.SAME and self.known is not None:
            if not self.foreign:
                log.error("store_is_not_the_known_one", known=self.known, seen=seen, hint=HINT)
            self.foreign = rules.says(verdict, self.known, seen)
            return False
        if self.foreign:
            log.warning("store_restored", generation=seen.generation)
        self.foreign, self.known = "", seen
        self.history, self.put_back = {}, False
        return True

    def follow(self, changes: Changes) -> bool:
        """Whether `changes` are the known store's; then they are taken note of."""
        if self.foreign or self.known is None:
            return False
        known = msgspec.structs.replace(self.known, revision=changes.revision)
        for event in changes.events:
            if isinstance(event, KeyValue) and event.key == keyspace.STORE:
                record = _record_of(event)
                known = msgspec.structs.replace(known, id=record.id, generation=record.generation)
        self.known = self._seen = known
        return True

    def differs(self, item: KeyValue | None) -> bool:
        """Whether the store whose founding record is `item` now is another than the one looked at."""
        record = _record_of(item)
        return self._seen is not None and (record.id, record.generation) != (
            self._seen.id,
            self._seen.generation,
        )

    def due(self, records: Mapping[str, bytes], now: float) -> bool:
        """Whether there is something to save at monotonic time `now`. A mere revision may wait."""
        if self.foreign or self.known is None or self.known == self._saved.store:
            return False
        before = self._saved.store
        newer = before is None or msgspec.structs.replace(before, revision=self.known.revision) != self.known
        return newer or records != self._saved.records or now > self._saved_at + _REVISION_EVERY_S

    def save(self, records: dict[str, bytes], now: float) -> None:
        """Keeps the known store and `records` of it; a failure (full disk) is logged.

        Args:
            records: Of their own: whoever gives them does not change them any more.
            now: Monotonic seconds.
        """
        file = _File(self.known, records)
        try:
            write_atomically(self._path, msgspec.json.encode(file))
            self._saved, self._saved_at = file, now
        except OSError as fault:
            log.warning("store_memory_not_saved", path=str(self._path), reason=fault.strerror)

    def _load(self) -> _File:
        try:
            return decode_json(self._path.read_bytes(), _File, most=_MAX_BYTES)
        except FileNotFoundError:
            pass
        except OSError as fault:
            log.warning("store_memory_unreadable", path=str(self._path), reason=fault.strerror)
        except Undecodable as fault:
            aside = self._path.with_name(f"{self._path.name}.damaged-{int(time.time())}")
            log.warning("store_memory_damaged", moved_to=str(aside), reason=fault.message)
            try:
                self._path.replace(aside)
            except OSError as kept:
                log.warning("store_memory_not_moved_aside", path=str(self._path), reason=kept.strerror)
        return _File(None)


def identity_of(listing: KeyListing) -> StoreIdentity:
    """Which store a listing of all of the mesh's keys is of."""
    item = next((one for one in listing.items if one.key == keyspace.STORE), None)
    record = _record_of(item)
    return StoreIdentity(record.id, record.generation, listing.cluster_id, listing.revision)


def _record_of(item: KeyValue | None) -> StoreRecord:
    if item is not None:
        try:
            return decode_json(item.value, StoreRecord)
        except Undecodable as fault:
            log.error("store_record_unreadable", key=item.key, reason=fault.message)
    return StoreRecord("")
