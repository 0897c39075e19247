"""The steps of a writer: each is given up after its time, and says what could not be done."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final, TypeVar

from bridge_agent.models.shared.patience import Patience, StorageHangs
from bridge_agent.models.shared.storage import PublishFault, reason_of

T = TypeVar("T")

_HINTS: Final = {
    errno.ENOSPC: "give it more room",
    errno.EDQUOT: "give it more room",
    errno.EROFS: "it is mounted read-only here: publish from a node that may write there",
}


class Steps:
    """Does steps.

    Args:
        where: What the storage is called, asked when there is something to say.
        patience: Runs them.
    """

    def __init__(self, where: Callable[[], str], patience: Patience) -> None:
        self._where = where
        self.patience: Final = patience

    def do(
        self,
        doing: str,
        work: Callable[[], T],
        *,
        late: Callable[[T | None], None] = lambda _: None,
        within_s: float = 0.0,
    ) -> T:
        """What `work` returns; see `Patience.call`.

        Raises:
            PublishFault: the storage refuses, or hangs; `doing` says what.
        """
        try:
            return self.patience.call(work, late=late, within_s=within_s)
        except OSError as fault:
            message = f"cannot {doing} the shared storage {self._where()}: {reason_of(fault)}"
            raise PublishFault(message, hint=_HINTS.get(fault.errno or 0, "")) from fault
        except StorageHangs as fault:
            raise PublishFault(f"the shared storage {self._where()} is away: {fault.message}") from fault
