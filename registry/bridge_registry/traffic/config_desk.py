"""mesh_config applied to the store: one transaction each, with a record of who changed what.

The whole config is checked and written against the revision counter it was read at, so two applies
at once cannot mix: the later one is made again on what the earlier one left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from bridge_core import keyspace
from bridge_core.config import Fault, load
from bridge_core.errors import BridgeError, Unavailable
from bridge_core.store.api import Delete, KeyValue, Op, Put, Store, Unchanged
from bridge_registry.records import RevisionRecord, decode, encode
from bridge_registry.traffic.config_rules import Change, change, texts

log = structlog.get_logger()

_ATTEMPTS: Final = 5
_MAX_DOCUMENTS: Final = 100  # etcd takes 128 operations a transaction
_KEPT_REVISIONS: Final = 100
_COUNTER: Final = keyspace.ROOT + "revision_counter"

Files = Sequence[tuple[str, str]]


class Applied(msgspec.Struct, frozen=True):
    """What came of an apply. With faults nothing was changed."""

    revision: int = 0
    change: Change | None = None
    faults: tuple[Fault, ...] = ()


class _State(msgspec.Struct, frozen=True):
    documents: dict[str, KeyValue]
    number: int
    counter: Unchanged

    @property
    def texts(self) -> dict[str, str]:
        return {key: item.value.decode("utf-8", "replace") for key, item in self.documents.items()}


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
        wanted = decode(item, RevisionRecord).documents
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
        listing = await self._store.list(keyspace.REVISIONS)
        records = sorted(
            (decode(item, RevisionRecord) for item in listing.items), key=lambda r: r.number, reverse=True
        )
        return records[: limit or 20]

    async def documents(self, kind: str, name: str) -> list[KeyValue]:
        """The applied documents, of `kind` and `name` when these are given.

        Raises:
            Unavailable, StoreRefused: the store does not answer.
        """
        listing = await self._store.list(keyspace.CONFIG + (f"{kind}/" if kind else ""))
        return [item for item in listing.items if not name or _name_of(item.key) == name]

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
                return Applied(state.number, planned.change)
            number = state.number + 1
            record = RevisionRecord(
                number,
                author,
                self._clock(),
                planned.change.touched,
                planned.change.diff,
                planned.change.documents,
                restores,
            )
            ops: list[Op] = [
                *(
                    Put(keyspace.CONFIG + key, planned.change.documents[key].encode())
                    for key in planned.change.changed
                ),
                *(Delete(keyspace.CONFIG + key) for key in planned.change.removed),
                Put(_revision_key(number), encode(record)),
                Put(_COUNTER, str(number).encode()),
            ]
            if number > _KEPT_REVISIONS:
                ops.append(Delete(_revision_key(number - _KEPT_REVISIONS)))
            outcome = await self._store.commit(ops, if_=[state.counter, self._fence()])
            if outcome.committed:
                log.info("config_applied", revision=number, by=author, changed=planned.change.touched)
                return Applied(number, planned.change)
        raise Unavailable("others apply config at the same moment", hint="try again")

    async def _read(self) -> _State:
        # The counter first: documents that are newer than it make the commit fail, never pass.
        counter = await self._store.get(_COUNTER)
        listing = await self._store.list(keyspace.CONFIG)
        return _State(
            {item.key.removeprefix(keyspace.CONFIG): item for item in listing.items},
            int(counter.value) if counter is not None else 0,
            Unchanged(_COUNTER, counter.mod_revision if counter is not None else 0),
        )

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
        return Applied(state.number, change(state.texts, texts(loaded.documents), prune=prune))


def _revision_key(number: int) -> str:
    return f"{keyspace.REVISIONS}{number:010d}"


def _name_of(key: str) -> str:
    return key.removeprefix(keyspace.CONFIG).partition("/")[2]
