"""A whole divided in proportion, in whole parts: pure."""

from __future__ import annotations

from collections.abc import Mapping


def divide(whole: int, among: Mapping[str, int]) -> dict[str, int]:
    """Parts of `whole` in proportion to what each could take, none of them more; those of nothing left out.

    What does not divide goes one by one to whoever comes first.
    """
    total = sum(among.values())
    if not total:
        return {}
    whole = max(0, min(whole, total))
    parts = {name: whole * could // total for name, could in among.items()}
    rest = whole - sum(parts.values())
    for name, could in sorted(among.items()):
        if rest and parts[name] < could:
            parts[name] += 1
            rest -= 1
    return {name: part for name, part in parts.items() if part}
