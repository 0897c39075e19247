"""What goes wrong with a bucket."""

from __future__ import annotations

from bridge_agent.models.shared.storage import StorageFault


class S3Fault(StorageFault):
    """The store refuses, is away, or answers what no store answers.

    Attributes:
        status: Of its answer; 0: there was none.
        code: As the store calls it, such as `NoSuchKey`; empty: it did not say.
    """

    def __init__(self, message: str, *, status: int = 0, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Cut(S3Fault):
    """The answer ended before its end."""


def is_missing(fault: S3Fault) -> bool:
    """Whether it says that there is no such object, in a bucket that is there."""
    return fault.status == 404 and fault.code in ("", "NoSuchKey")
