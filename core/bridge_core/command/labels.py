"""`--label KEY=VALUE`, as several commands take it."""

from __future__ import annotations

from collections.abc import Iterable

from bridge_core.errors import Fatal


def labels_of(pairs: Iterable[str]) -> dict[str, str]:
    """The labels that were given.

    Raises:
        Fatal: one of them is not KEY=VALUE.
    """
    labels = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise Fatal(f"--label {pair!r} is not KEY=VALUE", hint="such as --label gpu=a100")
        labels[key] = value
    return labels
