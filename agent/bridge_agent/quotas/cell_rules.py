"""One node's part of one bucket: pure.

Rules:
1. `used + reserved` is claimed. A reservation is made only where all of it fits under `limit`; it is
   settled once with what was truly used, or given back once whole.
2. Therefore claimed <= max(limit, what was claimed when the limit was lowered) + the excess of the requests
   that were settled with more than they had reserved: that is the overshoot, and there is no other.
3. The limit is the node's equal share until the registry tells another one, and again once the lease on
   what it told is over.
"""

from __future__ import annotations

from typing import Final

from bridge_core.quotas import Bucket

_FORGET: Final = 2  # how demand fades from report to report


class Cell:
    """See the module.

    Attributes:
        bucket: Which it is a part of.
        amount: The whole bucket's.
        share: The node's equal share of it.
        limit: As far as the node may use it.
        told: The limit is the registry's word.
        used: Settled.
        reserved: Of requests that run.
        others: What other nodes had used, as last told.
        refused: What was asked for in vain since the last report.
    """

    __slots__ = (
        "_demand",
        "_reported",
        "amount",
        "bucket",
        "limit",
        "others",
        "refused",
        "reserved",
        "share",
        "told",
        "used",
    )

    def __init__(self, bucket: Bucket, amount: int, share: int) -> None:
        self.bucket = bucket
        self.amount = amount
        self.share = share
        self.limit = share
        self.told = False
        self.used = 0
        self.reserved = 0
        self.others = 0
        self.refused = 0
        self._demand = 0
        self._reported = 0

    @property
    def claimed(self) -> int:
        """Used and reserved."""
        return self.used + self.reserved

    @property
    def left(self) -> int:
        """What the mesh has left of the bucket, as far as this node knows."""
        return max(0, self.amount - self.others - self.claimed)

    @property
    def idle(self) -> bool:
        """Nothing is claimed and nothing is told: a new one would be the same."""
        return not self.claimed and not self.refused and self.limit == self.share

    def fits(self, amount: int) -> bool:
        """Whether so much may be reserved now."""
        return self.used + self.reserved + amount <= self.limit

    def settle(self, reserved: int, used: int) -> None:
        """What was reserved is over, and `used` is what it came to."""
        self.reserved -= reserved
        self.used += used

    def tell(self, limit: int, others: int) -> None:
        """The registry's word: how far it may be used, and what others used."""
        self.limit, self.others, self.told = limit, others, True

    def resize(self, amount: int, share: int) -> None:
        """The quota or the mesh changed; what was told holds until it is told anew."""
        self.amount, self.share = amount, share
        if not self.told:
            self.limit = share

    def lapse(self) -> None:
        """The lease is over: what is left is the equal share."""
        self.limit, self.told = self.share, False

    def wanted(self) -> int:
        """What it could use besides, by what came since the last report; to be asked once a report.

        As much again while somebody comes, so that one whose use grows has room before it needs it; nothing
        after some reports in which nobody came.
        """
        claimed = self.claimed
        self._demand = max(claimed - self._reported, self._demand // _FORGET)
        self._reported = claimed
        wanted = (max(self._demand, claimed) if self._demand else 0) + self.refused
        self.refused = 0
        return max(0, min(wanted, self.amount - claimed))

    @property
    def runs_short(self) -> bool:
        """It is worth telling the registry before its time: less is left than was claimed so far."""
        return self.limit < self.amount and self.limit < 2 * (self.used + self.reserved)
