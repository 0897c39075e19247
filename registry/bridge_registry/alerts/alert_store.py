"""What of alerts is kept in etcd, so that whoever leads next goes on from it."""

from __future__ import annotations

from typing import Annotated, Final, TypeVar

import msgspec
import structlog

from bridge_core import keyspace
from bridge_core.errors import Unavailable
from bridge_core.store.api import Delete, Op, Put, Store
from bridge_registry.alerts.alert_rules import KEPT, MOST, Alert
from bridge_registry.alerts.delivery_rules import Telling
from bridge_registry.alerts.silence_rules import Silence
from bridge_registry.positions import Office
from bridge_registry.records import RecordFault, pack, unpack

log = structlog.get_logger()

T = TypeVar("T", bound=msgspec.Struct)

_LASTING: Final = keyspace.ALERTS + "known"
_TOLD: Final = keyspace.ALERTS + "told/"
_SILENCES: Final = keyspace.ALERTS + "silences/"


class KnownAlerts(msgspec.Struct, frozen=True):
    """The alerts, as the leader has them."""

    alerts: Annotated[tuple[Alert, ...], msgspec.Meta(max_length=MOST + KEPT)] = ()


class AlertStore:
    """Reads and writes the records, as the leader.

    Args:
        store: etcd.
        leadership: Only the leader writes.
    """

    def __init__(self, store: Store, leadership: Office) -> None:
        self._store = store
        self._leadership = leadership

    @property
    def term(self) -> str:
        """Under which candidacy this registry leads; empty: it does not, or may not write.

        Every term begins with what is stored.
        """
        try:
            return self._leadership.fence().key
        except Unavailable:
            return ""

    async def known(self) -> tuple[Alert, ...]:
        """The alerts that are stored; none where they do not decode.

        Raises:
            BridgeError: the store does not answer.
        """
        item = await self._store.get(_LASTING)
        if item is None:
            return ()
        try:
            return unpack(item, KnownAlerts).alerts
        except RecordFault as fault:
            log.warning("alert_record_ignored", key=item.key, reason=fault.message)
            return ()

    async def told(self) -> dict[str, Telling]:
        """Who was told of what, by receiver.

        Raises:
            BridgeError: the store does not answer.
        """
        return await self._list(_TOLD, Telling)

    async def silences(self) -> dict[str, Silence]:
        """What people silenced, by id.

        Raises:
            BridgeError: the store does not answer.
        """
        return await self._list(_SILENCES, Silence)

    async def save_known(self, alerts: tuple[Alert, ...]) -> None:
        """Stores the alerts.

        Raises:
            BridgeError: they are not stored, or nobody knows.
        """
        await self._commit(Put(_LASTING, pack(KnownAlerts(alerts))))

    async def save_told(self, receiver: str, telling: Telling | None) -> None:
        """Stores who was told of what; None: the receiver is gone.

        Raises:
            BridgeError: as `save_known`.
        """
        key = _TOLD + receiver
        await self._commit(Delete(key) if telling is None else Put(key, pack(telling)))

    async def save_silence(self, id_: str, silence: Silence | None) -> None:
        """Stores a silence; None: it is over.

        Raises:
            BridgeError: as `save_known`.
        """
        key = _SILENCES + id_
        await self._commit(Delete(key) if silence is None else Put(key, pack(silence)))

    async def _list(self, prefix: str, kind: type[T]) -> dict[str, T]:
        found = {}
        for item in (await self._store.list(prefix)).items:
            try:
                found[item.key.removeprefix(prefix)] = unpack(item, kind)
            except RecordFault as fault:
                log.warning("alert_record_ignored", key=item.key, reason=fault.message)
        return found

    async def _commit(self, op: Op) -> None:
        if not (await self._store.commit([op], if_=[self._leadership.fence()])).committed:
            raise Unavailable("another registry leads")
