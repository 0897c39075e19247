"""What a queue answers who asks it for a slot (see `admission_rules`)."""

from __future__ import annotations

from typing import Any, Final, Generic, TypeAlias, TypeVar

import msgspec

W = TypeVar("W")


class Admitted(msgspec.Struct, frozen=True):
    """It has a slot."""


class Queued(msgspec.Struct, Generic[W], frozen=True):
    """It waits; in place of `displaced`, where that is not None."""

    displaced: W | None = None


class AdmissionRefused(msgspec.Struct, frozen=True):
    """It should go elsewhere, or come again after so many seconds."""

    reason: str
    retry_after_s: int


AdmissionAnswer: TypeAlias = Admitted | Queued[W] | AdmissionRefused
ADMITTED: Final = Admitted()
QUEUED: Final[Queued[Any]] = Queued()
