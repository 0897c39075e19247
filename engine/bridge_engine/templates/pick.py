"""Finds the known format that a model's own Jinja template is nearest to."""

from __future__ import annotations

from bridge_engine.templates.known import KNOWN, KnownTemplate

FURTHEST = 100
"""Edits from which on a template no longer counts as a known one's relative."""


def pick(jinja: str) -> KnownTemplate | None:
    """The nearest known format, or None when even that is FURTHEST edits or more away."""
    best: KnownTemplate | None = None
    limit = FURTHEST - 1
    for known in KNOWN.values():
        for form in known.jinja:
            distance = edit_distance(jinja, form, limit)
            if distance is not None:
                best, limit = known, distance - 1
    return best


def edit_distance(one: str, other: str, limit: int) -> int | None:
    """Levenshtein distance, or None when it exceeds the limit.

    Only the diagonal band that the limit leaves reachable is computed, so that a template of many
    thousand characters costs no more than its length times the limit.
    """
    if limit < 0 or abs(len(one) - len(other)) > limit:
        return None
    row = {column: column for column in range(min(limit, len(other)) + 1)}
    far = limit + 1
    for line, character in enumerate(one, 1):
        low, high = max(0, line - limit), min(len(other), line + limit)
        following: dict[int, int] = {}
        for column in range(low, high + 1):
            if column == 0:
                following[0] = line
                continue
            following[column] = min(
                row.get(column, far) + 1,
                following.get(column - 1, far) + 1,
                row.get(column - 1, far) + (character != other[column - 1]),
            )
        if min(following.values()) > limit:
            return None
        row = following
    distance = row.get(len(other), far)
    return distance if distance <= limit else None
