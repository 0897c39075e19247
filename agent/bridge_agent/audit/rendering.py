"""Requests, in the words of the audit log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic, time
from typing import Final

from bridge_agent.audit.input_keys import InputKeys
from bridge_agent.gateway.config import RequestRecord
from bridge_core.audit.entries import AuditRecord, ContentRecord, Entry
from bridge_core.names import canonical_or_same
from bridge_core.snapshot import Snapshot

_MOST_DIGESTS: Final = 10_000
_PART: Final = 45_000  # bytes of content in one entry, which holds them as base64


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
        snapshot = self._snapshot()
        if snapshot is not self._followed:
            self._follow(snapshot)
        at = time() - (monotonic() - record.began)
        hashed, key = self._keys.hashed(body, at, self._key_period_s) if body else ("", "")
        decision = record.decision
        model = record.model if decision is None else decision.model
        digest = self._digests.get((record.instance, model))
        if digest is None:
            digest = self._digest(record.instance, model)
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

    def _follow(self, snapshot: Snapshot) -> None:
        """Takes what holds for a snapshot."""
        self._followed = snapshot
        settings = snapshot.mesh.audit
        self._key_period_s = settings.key_period_s
        self._content = settings.content
        self._digests: dict[tuple[str, str], str] = {}

    def _digest(self, instance: str, model: str) -> str:
        """Of a model as an instance has it; empty where that is not known."""
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
        tuple([f"{attempt.instance}: {attempt.detail}" for attempt in record.failed])
        if record.failed
        else (),
        "" if decision is None else decision.route,
        "" if decision is None else decision.backend,
        "" if decision is None else decision.key.hex(),
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
