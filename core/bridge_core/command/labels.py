"""`--label KEY=VALUE`, `--registry A,B` and the like, as several commands take them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from bridge_core.errors import Fatal

_SUCH: Final = {"--label": "gpu=a100", "--attr": "department=finance", "--fact": "num_ctx=4096"}


def labels_of(pairs: Iterable[str], flag: str = "--label") -> dict[str, str]:
    """The labels that were given with `flag`.

    Raises:
        Fatal: one of them is not KEY=VALUE.
    """
    labels = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise Fatal(f"{flag} {pair!r} is not KEY=VALUE", hint=f"such as {flag} {_SUCH[flag]}")
        labels[key] = value
    return labels


def listed(text: str) -> tuple[str, ...]:
    """What a flag of several names or addresses, with commas between them, holds."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
