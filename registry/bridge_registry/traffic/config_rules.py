"""What an apply or a rollback changes: pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

import msgspec

from bridge_core.config import Document
from bridge_registry.records import StoredDocument


class Change(msgspec.Struct, frozen=True):
    """From what is applied to what will be.

    Attributes:
        documents: Everything in force after it, "<kind>/<name>" to YAML.
        changed: Keys that are new or different.
        removed: Keys that go.
        diff: Unified diff of all of it; empty when nothing changes.
    """

    documents: dict[str, str]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    diff: str

    @property
    def touched(self) -> tuple[str, ...]:
        """Every key that changes or goes."""
        return (*self.changed, *self.removed)


def change(applied: Mapping[str, str], wanted: Mapping[str, str], *, prune: bool) -> Change:
    """What `wanted` makes of `applied`; with `prune`, what is not in `wanted` goes."""
    after = dict(wanted) if prune else {**applied, **wanted}
    changed = tuple(sorted(key for key, text in after.items() if applied.get(key) != text))
    removed = tuple(sorted(applied.keys() - after.keys()))
    parts: list[str] = []
    for key in sorted({*changed, *removed}):
        old, new = applied.get(key), after.get(key)
        parts += difflib.unified_diff(
            [] if old is None else old.splitlines(keepends=True),
            [] if new is None else new.splitlines(keepends=True),
            "/dev/null" if old is None else f"applied/{key}",
            "/dev/null" if new is None else f"new/{key}",
        )
    return Change(after, changed, removed, "".join(parts))


def stored(
    before: Mapping[str, StoredDocument], after: Mapping[str, str], number: int
) -> dict[str, StoredDocument]:
    """`after` as revision `number` stores it, when `before` was stored."""
    result = {}
    for key, text in after.items():
        old = before.get(key)
        if old is None:
            result[key] = StoredDocument(text, number, number)
        else:
            result[key] = old if old.text == text else StoredDocument(text, number, old.born)
    return result


def texts(documents: Iterable[Document]) -> dict[str, str]:
    """The documents as they are stored."""
    return {document.key: document.text for document in documents}
