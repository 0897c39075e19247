"""Requests, in the words of the audit log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import repeat
from operator import attrgetter
from time import monotonic, time
from typing import Any, Final

from bridge_agent.audit.input_keys import InputKeys
from bridge_agent.gateway.config import RequestRecord
from bridge_core.audit.entries import AuditRecord, ContentRecord, Entry
from bridge_core.names import canonical_or_same
from bridge_core.snapshot import Snapshot

_MOST_DIGESTS: Final = 10_000
_PART: Final = 45_000  # bytes of content in one entry, which holds them as base64


# Of many records at once, without an instruction of the interpreter for each of them.
_Column = Callable[[Any], Any]
_BEFORE: Final[tuple[_Column, ...]] = tuple(
    map(
        attrgetter,
        (
            "request_id",
            "caller.who.text",
            "caller.listener._value_",  # what `value` gives, without the descriptor's Python call
            "method",
            "path",
            "status",
            "outcome._value_",
        ),
    )
)
_BETWEEN: Final[tuple[_Column, ...]] = tuple(
    map(attrgetter, ("bytes_in", "bytes_out", "model", "instance", "caller.via"))
)
_DECISION: Final[_Column] = attrgetter("decision")
_RULE: Final[_Column] = attrgetter("rule")
_AFTER: Final[tuple[_Column, ...]] = tuple(
    map(attrgetter, ("prompt_tokens", "tokens", "reason", "quota", "shadowed"))
)


class Rendering:
    """Makes entries of requests that were over a moment ago. Lives in the thread that writes.

    Args:
        node: This node's name.
        keys: What makes the hashes of what was asked.
        snapshot: The mesh's, now; in it is how the log is kept.
        seen: All that are told of each request with its record, in that thread.
    """

    def __init__(
        self,
        node: str,
        keys: InputKeys,
        snapshot: Callable[[], Snapshot],
        *,
        seen: Sequence[Callable[[RequestRecord, AuditRecord], None]] = (),
    ) -> None:
        self._node = node
        self._keys = keys
        self._snapshot = snapshot
        self._seen = seen
        self._follow(snapshot())

    def __call__(self, record: RequestRecord | Entry, body: bytes | None) -> Sequence[Entry]:
        """The entries of one request; what is one already stays as it is."""
        if not isinstance(record, RequestRecord):
            return (record,)
        self._keep_up()
        at = time() - (monotonic() - record.began)
        hashed, key = self._keys.hashed(body, at, self._key_period_s) if body else ("", "")
        digest = self._digest(record)
        found = audited(record, at, node=self._node, digest=digest, input_hash=hashed, input_key=key)
        for seen in self._seen:
            seen(record, found)
        if not self._content or not body:
            return (found,)
        parts = [body[at : at + _PART] for at in range(0, len(body), _PART)]
        return (
            found,
            *(
                ContentRecord(at, record.request_id, number, len(parts), part)
                for number, part in enumerate(parts)
            ),
        )

    def together(self, batch: Sequence[tuple[Any, bytes | None]]) -> list[Entry] | None:
        """What a call for each of these gives, in half the time; None: each has to be asked for by itself.

        Raises:
            OSError: there is no key for their hashes.
            Exception: one of them cannot be rendered; nobody was told of any.
        """
        self._keep_up()
        records = [one for one, body in batch if body and isinstance(one, RequestRecord)]
        if self._seen or self._content or not records or len(records) < len(batch):
            return None
        offset = time() - monotonic()
        ats = [offset + record.began for record in records]
        bodies = [body for _, body in batch if body]
        hashed = self._keys.hashed_all(bodies, min(ats), max(ats), self._key_period_s)
        if hashed is None:
            return None
        return [*audited_together(records, ats, self._node, list(map(self._digest, records)), hashed)]

    def _keep_up(self) -> None:
        snapshot = self._snapshot()
        if snapshot is not self._followed:
            self._follow(snapshot)

    def _follow(self, snapshot: Snapshot) -> None:
        """Takes what holds for a snapshot."""
        self._followed = snapshot
        settings = snapshot.mesh.audit
        self._key_period_s = settings.key_period_s
        self._content = settings.content
        self._digests: dict[tuple[str, str], str] = {}

    def _digest(self, record: RequestRecord) -> str:
        """Of the model as the instance has it that was asked; empty where that is not known."""
        instance, decision = record.instance, record.decision
        model = record.model if decision is None else decision.model
        known = self._digests.get((instance, model))
        if known is not None:
            return known
        one = self._followed.instances.get(instance)
        models = () if one is None else one.models
        found = next((had.digest for had in models if canonical_or_same(had.name) == model), "")
        if len(self._digests) >= _MOST_DIGESTS:
            self._digests.clear()  # clients name the models
        self._digests[instance, model] = found
        return found


def audited(
    record: RequestRecord,
    at: float,
    *,
    node: str = "",
    digest: str = "",
    input_hash: str = "",
    input_key: str = "",
) -> AuditRecord:
    """The audit's view of a request that came at this time (Unix seconds)."""
    began, caller, decision = record.began, record.caller, record.decision
    route = backend = key = ""
    if decision is not None:
        route, backend = decision.route, decision.backend
        if decision.key:
            key = decision.key.hex()
    return AuditRecord(
        at,
        record.request_id,
        caller.who.text,
        caller.listener._value_,  # what `value` gives, without the descriptor's Python call
        record.method,
        record.path,
        record.status,
        record.outcome._value_,
        int((record.ended - began) * 1e6) / 1000,
        record.bytes_in,
        record.bytes_out,
        record.model,
        record.instance,
        caller.via,
        _failed(record) if record.failed else (),
        route,
        backend,
        key,
        node,
        record.remote[0] if record.remote else "",
        digest,
        input_hash,
        input_key,
        record.rule,
        int(record.waited * 1e6) / 1000,
        int((record.sent - began) * 1e6) / 1000 if record.sent else 0.0,
        int((record.head - began) * 1e6) / 1000 if record.head else 0.0,
        record.prompt_tokens,
        record.tokens,
        record.reason,
        record.quota,
        record.shadowed,
    )


def audited_together(
    records: Sequence[RequestRecord],
    ats: Sequence[float],
    node: str,
    digests: Sequence[str],
    hashed: tuple[Sequence[str], str],
) -> list[AuditRecord]:
    """What `audited` gives for each of these, by column: it is called for every request.

    Args:
        records: The requests.
        ats: When they came, Unix seconds.
        node: This node's name.
        digests: Of the models that served them.
        hashed: The hashes of what they asked, and the name of the key.
    """
    decisions = list(map(_DECISION, records))
    return list(
        map(
            AuditRecord,
            ats,
            *[map(column, records) for column in _BEFORE],
            [int((one.ended - one.began) * 1e6) / 1000 for one in records],
            *[map(column, records) for column in _BETWEEN],
            [_failed(one) if one.failed else () for one in records],
            ["" if one is None else one.route for one in decisions],
            ["" if one is None else one.backend for one in decisions],
            ["" if one is None else one.key.hex() for one in decisions],
            repeat(node),
            [one.remote[0] if one.remote else "" for one in records],
            digests,
            hashed[0],
            repeat(hashed[1]),
            map(_RULE, records),
            [int(one.waited * 1e6) / 1000 if one.waited else 0.0 for one in records],
            [int((one.sent - one.began) * 1e6) / 1000 if one.sent else 0.0 for one in records],
            [int((one.head - one.began) * 1e6) / 1000 if one.head else 0.0 for one in records],
            *[map(column, records) for column in _AFTER],
        )
    )


def _failed(record: RequestRecord) -> tuple[str, ...]:
    return tuple([f"{attempt.instance}: {attempt.detail}" for attempt in record.failed])
