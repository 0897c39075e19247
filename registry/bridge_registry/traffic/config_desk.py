"""mesh_config applied to the store: one transaction each, with a record of who changed what.

What is applied is one value (`ConfigRecord`), so that whoever reads sees one revision or another and
never a part of one, however many documents change or go: etcd takes 128 operations a transaction and
1.5 MiB a request by default. The value is compressed; what does not fit is refused, with the numbers.

The config is written against the revision that it was read at, so two applies at once cannot mix: the
later one is made again on what the earlier one left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from bridge_core import keyspace
from bridge_core.config import Fault, load
from bridge_core.errors import BridgeError, Unavailable
from bridge_core.store.api import Delete, Op, Put, Store, Unchanged
from bridge_registry.records import ConfigRecord, RevisionRecord, StoredDocument, pack, unpack
from bridge_registry.traffic.config_rules import Change, change, stored, texts

log = structlog.get_logger()

_ATTEMPTS: Final = 5
_MAX_DOCUMENTS: Final = 1_000
_MAX_BYTES: Final = 1_400 * 1024  # of one request, for the config and its revision; etcd's default is 1,536
_KEPT_REVISIONS: Final = 100

Files = Sequence[tuple[str, str]]


class Applied(msgspec.Struct, frozen=True):
    """What came of an apply. With faults nothing was changed."""

    revision: int = 0
    change: Change | None = None
    faults: tuple[Fault, ...] = ()


class _State(msgspec.Struct, frozen=True):
    config: ConfigRecord
    unchanged: Unchanged

    @property
    def texts(self) -> dict[str, str]:
        return {key: document.text for key, document in self.config.documents.items()}


class ConfigDesk:
    """See the module.

    Args:
        store: etcd.
        trust_domain: The mesh.
        fence: Gives the condition under which this registry may write; raises when it does not lead.
        clock: Unix seconds.
    """

    def __init__(
        self,
        store: Store,
        trust_domain: str,
        fence: Callable[[], Unchanged],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._trust_domain = trust_domain
        self._fence = fence
        self._clock = clock

    async def apply(self, files: Files, *, prune: bool, author: str) -> Applied:
        """Checks every document and applies all of them, or none.

        Raises:
            Unavailable, StoreRefused: the store did not take it.
        """

        def plan(state: _State) -> Applied:
            return self._plan(state, files, prune=prune)

        return await self._carry_out(plan, author)

    async def diff(self, files: Files, *, prune: bool) -> Applied:
        """What `apply` would do.

        Raises:
            Unavailable, StoreRefused: the store does not answer.
        """
        return self._plan(await self._read(), files, prune=prune)

    async def rollback(self, revision: int, *, author: str) -> Applied:
        """Restores everything as it was after `revision`; a revision of its own.

        Raises:
            BridgeError: there is no such revision any more.
            Unavailable, StoreRefused: the store did not take it.
        """
        item = await self._store.get(_revision_key(revision))
        if item is None:
            raise BridgeError(f"there is no revision {revision}", hint="`bridgectl history` lists them")
        wanted = unpack(item, RevisionRecord).documents
        loaded = load([(key, text) for key, text in wanted.items()], trust_domain=self._trust_domain)
        if loaded.faults:
            return Applied(faults=loaded.faults)

        def plan(state: _State) -> Applied:
            return Applied(change=change(state.texts, wanted, prune=True))

        return await self._carry_out(plan, author, restores=revision)

    async def history(self, limit: int) -> list[RevisionRecord]:
        """The newest revisions, newest first.

        Raises:
            Unavailable, StoreRefused: the store does not answer.
        """
        newest = (await self._read()).config.number
        count = min(limit or 20, _KEPT_REVISIONS)
        # One by one: together they may be larger than a message.
        numbers = range(newest, max(0, newest - count), -1)
        items = [await self._store.get(_revision_key(number)) for number in numbers]
        return [unpack(item, RevisionRecord) for item in items if item is not None]

    async def documents(self, kind: str, name: str) -> dict[str, StoredDocument]:
        """The applied documents by "<kind>/<name>", those of `kind` and `name` when these are given.

        Raises:
            Unavailable, StoreRefused: the store does not answer.
        """
        found = {}
        for key, document in (await self._read()).config.documents.items():
            its_kind, _, its_name = key.partition("/")
            if kind in {"", its_kind} and name in {"", its_name}:
                found[key] = document
        return found

    async def _carry_out(
        self, plan: Callable[[_State], Applied], author: str, *, restores: int = 0
    ) -> Applied:
        for _ in range(_ATTEMPTS):
            state = await self._read()
            planned = plan(state)
            if planned.faults or planned.change is None:
                log.warning("config_refused", by=author, faults=[str(fault) for fault in planned.faults])
                return planned
            if not planned.change.touched:
                return Applied(state.config.number, planned.change)
            number = state.config.number + 1
            record = RevisionRecord(
                number,
                author,
                self._clock(),
                planned.change.touched,
                planned.change.diff,
                planned.change.documents,
                restores,
            )
            documents = stored(state.config.documents, planned.change.documents, number)
            config, revision = pack(ConfigRecord(number, documents)), pack(record)
            _check_size(len(documents), len(config) + len(revision))
            ops: list[Op] = [Put(keyspace.CONFIG, config), Put(_revision_key(number), revision)]
            if number > _KEPT_REVISIONS:
                ops.append(Delete(_revision_key(number - _KEPT_REVISIONS)))
            outcome = await self._store.commit(ops, if_=[state.unchanged, self._fence()])
            if outcome.committed:
                log.info("config_applied", revision=number, by=author, changed=planned.change.touched)
                return Applied(number, planned.change)
        raise Unavailable("others apply config at the same moment", hint="try again")

    async def _read(self) -> _State:
        item = await self._store.get(keyspace.CONFIG)
        if item is None:
            return _State(ConfigRecord(), Unchanged(keyspace.CONFIG, 0))
        return _State(unpack(item, ConfigRecord), Unchanged(keyspace.CONFIG, item.mod_revision))

    def _plan(self, state: _State, files: Files, *, prune: bool) -> Applied:
        applied = {} if prune else state.texts
        loaded = load(files, trust_domain=self._trust_domain, applied=applied)
        if loaded.faults:
            return Applied(faults=loaded.faults)
        if len(loaded.documents) > _MAX_DOCUMENTS:
            what = f"more than {_MAX_DOCUMENTS} documents at once"
            return Applied(faults=(Fault(loaded.documents[_MAX_DOCUMENTS].file, 1, "", what),))
        if not loaded.documents and not prune:
            return Applied(faults=(Fault(files[0][0] if files else "", 1, "", "there is no document"),))
        return Applied(state.config.number, change(state.texts, texts(loaded.documents), prune=prune))


def _revision_key(number: int) -> str:
    return f"{keyspace.REVISIONS}{number:010d}"


def _check_size(documents: int, size: int) -> None:
    if size > _MAX_BYTES:
        raise BridgeError(
            f"{documents} documents and what changed of them are {size // 1024} KiB compressed; the store "
            f"takes at most {_MAX_BYTES // 1024} KiB at once",
            hint="shorten them (comments are kept, too), or apply them in several steps",
        )
