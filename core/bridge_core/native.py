"""What the sources tell mypyc, which compiles the hot path; without it nothing of it has an effect."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

T = TypeVar("T")

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr
else:

    def mypyc_attr(**_attributes: bool) -> Callable[[T], T]:
        """Decorates a class: what mypyc is to know of it."""
        return lambda cls: cls


__all__ = ["mypyc_attr"]
