"""How far each node may use each bucket of the mesh's quotas: pure.

A node that was told nothing may use its equal share. The registry moves what some do not need to those that
need more, in amounts that the nodes report; no request waits for it.

Rules:
1. A node's **claim** on a bucket is the furthest that it may be using it, as far as anybody can know: its
   equal share until it reports, its limit or what it used, and whatever was sent to it and may have arrived.
2. A limit is raised only out of what no claim covers: the claims on a bucket never exceed its amount by the
   registry's doing. A limit that is lowered lowers the claim when the node has reported it, not before.
3. A node whose stream has ended keeps its claim for SILENT_S, which is longer than its lease (LEASE_S);
   then it counts for its equal share, or what it used if that is more: that is all that it uses by itself.
4. A registry that begins to lead knows no limits. It lends nothing until it has heard every active node, or
   for SILENT_S, when the leases of whoever led before are over.
5. An agent that began anew has the equal share again; what it used before it did counts on.
6. What runs short is divided in proportion to what is needed, and taken in proportion to what is spare.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from bridge_core.quotas import MAX_CELLS, SILENT_S, Bucket, CellLimit, CellUse, Quota, equal_share, ranks
from bridge_registry.quotas.division_rules import divide

_MOST: Final = 1 << 53
_LONGEST_OF: Final = 1024
_CLOCKS_MS: Final = 10_000  # that a node's clock may differ from the registry's


class Holding:
    """What one node has of one bucket.

    Attributes:
        claim: As far as it may be using it now.
        sent: The limit that it was last sent, or reported.
        sequence: Of the grants that `sent` went with.
        used: As it last reported.
        wanted: The same.
        spent: What agents of this node used that ended within the window.
    """

    __slots__ = ("claim", "sent", "sequence", "spent", "used", "wanted")

    def __init__(self, share: int) -> None:
        self.claim = share
        self.sent = share
        self.sequence = 0
        self.used = 0
        self.wanted = 0
        self.spent = 0

    def need(self, amount: int) -> int:
        """What it lacks of what it could use."""
        return max(0, min(self.used + self.wanted, amount) - self.claim)

    def spare(self, amount: int) -> int:
        """What it has, and will still have, beyond what it could use."""
        return max(0, min(self.claim, self.sent) - max(self.used, min(self.used + self.wanted, amount)))

    @property
    def unused(self) -> int:
        """What it has, and will still have, beyond what it used."""
        return max(0, min(self.claim, self.sent) - self.used)

    @property
    def returning(self) -> int:
        """What it will have given up once it has heard of it."""
        return max(0, self.claim - max(self.sent, self.used))


class _Node:
    """One agent's stream, and what is known of it.

    Attributes:
        open: It has a stream.
        heard: Monotonic time of its last report.
        began: Which run of the agent it is.
        sequence: Of the last grants that were sent on this stream.
        due: Buckets that it is to be told about.
        cells: Buckets that it reported or was told about.
        untaken: Of these, those whose last grant it has not said to have taken.
    """

    __slots__ = ("began", "cells", "due", "heard", "open", "sequence", "untaken")

    def __init__(self, now: float) -> None:
        self.began = 0
        self.due: set[Bucket] = set()
        self.cells: set[Bucket] = set()
        self.untaken: set[Bucket] = set()
        self.opens(now)

    def opens(self, now: float) -> None:
        """A stream of it begins."""
        self.open, self.heard, self.sequence = True, now, 0
        self.due.clear()
        self.untaken.clear()


class BucketUse(msgspec.Struct, frozen=True):
    """How a bucket stands, for admins."""

    bucket: Bucket
    quota: Quota
    used: int
    nodes: int


class LeaseBook:
    """See the module.

    Args:
        now: Monotonic time since which this registry leads.
    """

    def __init__(self, now: float) -> None:
        self._lends_from = now + SILENT_S
        self._quotas: dict[str, Quota] = {}
        self._ranks: dict[str, int] = {}
        self._nodes: dict[str, _Node] = {}
        self._buckets: dict[Bucket, dict[str, Holding]] = {}
        self._hungry: set[Bucket] = set()

    def follow(self, quotas: Iterable[Quota], nodes: Iterable[str]) -> None:
        """The mesh has these quotas and these active nodes."""
        self._quotas = {quota.name: quota for quota in quotas}
        self._ranks = ranks(nodes)
        for bucket in [bucket for bucket in self._buckets if not self._amount(bucket)]:
            self._drop(bucket)
        self._hungry |= self._buckets.keys()  # to be looked at once: there may be less than was lent

    def opened(self, node: str, now: float) -> None:
        """A stream of this node begins; its first report has all that is not as it begins."""
        known = self._nodes.get(node)
        if known is None:
            self._nodes[node] = _Node(now)
        else:
            known.opens(now)

    def closed(self, node: str) -> None:
        """Its stream has ended."""
        self._nodes[node].open = False

    def report(
        self,
        node: str,
        cells: Iterable[CellUse],
        *,
        began: int,
        acknowledged: int,
        first: bool,
        now: float,
        now_ms: int,
    ) -> None:
        """What a node says of its cells.

        Args:
            node: Which; its stream is open.
            cells: Those that changed.
            began: Which run of its agent says so.
            acknowledged: The last grants that it has taken.
            first: It is the first report of the stream: what is not in it is as it begins.
            now: Monotonic seconds.
            now_ms: Unix milliseconds.
        """
        known = self._nodes[node]
        known.heard = now
        touched = set[Bucket]()
        if began != known.began:
            self._began_anew(node, known)
            known.began = began
        said: dict[Bucket, CellUse] = {}
        for cell in cells:
            if self._takes(cell.bucket, known, now_ms):
                said[cell.bucket] = cell
                known.cells.add(cell.bucket)
        if first:
            for bucket in known.cells - said.keys():
                self._buckets[bucket][node].claim = self._share(bucket, node)
                self._as_it_begins(bucket, node)
                touched.add(bucket)
        for bucket, cell in said.items():
            holding = self._holding(bucket, node)
            holding.used, holding.wanted = min(cell.used, _MOST), min(cell.wanted, _MOST)
            holds = max(min(cell.limit, self._amount(bucket)), holding.used)
            if first:
                holding.sequence = 0
                known.untaken.discard(bucket)
            if acknowledged >= holding.sequence:
                holding.claim, holding.sent = holds, min(cell.limit, self._amount(bucket))
            else:  # what it was sent since may be in force by now
                holding.claim = max(holding.claim, holds)
            touched.add(bucket)
        for bucket in [one for one in known.untaken if self._taken(one, node, acknowledged)]:
            known.untaken.discard(bucket)
            if bucket not in said:  # nothing changed since but that, or it would have been said
                holding = self._buckets[bucket][node]
                holding.claim = max(holding.sent, holding.used)
                touched.add(bucket)
        known.due |= said.keys()
        for bucket in touched:
            self._settle(bucket, now)

    def tick(self, now: float, now_ms: int) -> None:
        """Time passes: forgets windows that are over, and looks again at who runs short."""
        over = [
            bucket
            for bucket in self._buckets
            if bucket.begins and bucket.begins + self._quotas[bucket.quota].window_ms + _CLOCKS_MS < now_ms
        ]
        for bucket in over:
            self._drop(bucket)
        for bucket in list(self._hungry):
            self._settle(bucket, now)

    def due(self, node: str) -> bool:
        """Whether a node is to be told something."""
        return bool(self._nodes[node].due)

    def grants(self, node: str) -> tuple[int, list[CellLimit]]:
        """What a node is told now, and the number of the message that does; each of them has to be sent."""
        known = self._nodes[node]
        known.sequence += 1
        told = []
        for bucket in known.due:
            holdings = self._buckets.get(bucket)
            if holdings is None or node not in holdings:
                continue
            holding = holdings[node]
            holding.sequence = known.sequence
            known.untaken.add(bucket)
            others = sum(one.used + one.spent for name, one in holdings.items() if name != node)
            told.append(CellLimit(bucket, holding.sent, others + holding.spent))
        known.due.clear()
        return known.sequence, told

    def uses(self) -> Iterator[BucketUse]:
        """How every bucket stands."""
        for bucket, holdings in self._buckets.items():
            used = sum(one.used + one.spent for one in holdings.values())
            nodes = sum(1 for one in holdings.values() if one.used + one.spent)
            yield BucketUse(bucket, self._quotas[bucket.quota], used, nodes)

    def claims(self, bucket: Bucket, now: float) -> int:
        """What all nodes together may be using of a bucket."""
        holdings = self._buckets.get(bucket, {})
        return sum(self._claim(bucket, node, holdings.get(node), now) for node in {*self._ranks, *holdings})

    # -- who has what

    def _settle(self, bucket: Bucket, now: float) -> None:
        """Moves what is there to where it is needed."""
        amount, holdings = self._amount(bucket), self._buckets.get(bucket)
        if holdings is None:
            return
        free = amount - self.claims(bucket, now)
        there = {node: one for node, one in holdings.items() if self._there(node)}
        needs = {node: need for node, one in there.items() if (need := one.need(amount))}
        if not needs and free >= 0:
            self._hungry.discard(bucket)
            if not bucket.begins and self._lends(now):
                self._settle_down(bucket, there, free)
            return
        self._hungry.add(bucket)
        if self._lends(now):
            for node, more in divide(max(0, free), needs).items():
                holding = there[node]
                holding.claim += more
                holding.sent = holding.claim
                self._tell(bucket, node)
                needs[node] -= more
                free -= more
        short = sum(needs.values()) - free - sum(one.returning for one in there.values())
        if short > 0:
            self._take_back(bucket, short, over=-free)

    def _take_back(self, bucket: Bucket, short: int, over: int) -> None:
        """Lowers limits of nodes that hear it: what they have to spare, up to what is short.

        Of what is `over` the amount, also what they could use and have not.
        """
        amount, holdings = self._amount(bucket), self._buckets[bucket]
        for node, known in self._nodes.items():
            if known.open and node in self._ranks and node not in holdings and len(known.cells) < MAX_CELLS:
                self._holding(bucket, node)
        there = {node: holding for node, holding in holdings.items() if self._there(node)}
        self._lower(bucket, short, {node: one.spare(amount) for node, one in there.items()})
        over -= sum(one.returning for one in there.values())
        self._lower(bucket, over, {node: one.unused for node, one in there.items()})

    def _lower(self, bucket: Bucket, by: int, left: Mapping[str, int]) -> None:
        for node, less in divide(by, left).items():
            holding = self._buckets[bucket][node]
            holding.sent = min(holding.claim, holding.sent) - less
            self._tell(bucket, node)

    def _settle_down(self, bucket: Bucket, there: Mapping[str, Holding], free: int) -> None:
        """Nobody lacks anything of a bucket that has no window: whoever is idle goes back to the share."""
        if any(one.used or one.wanted for one in self._buckets[bucket].values()):
            return
        for node, holding in list(there.items()):
            share = self._share(bucket, node)
            if holding.sent > share:
                holding.sent = share
                self._tell(bucket, node)
            elif holding.claim < share and free > 0:
                more = min(free, share - holding.claim)
                free -= more
                holding.claim += more
                holding.sent = holding.claim
                self._tell(bucket, node)
            elif holding.claim == share == holding.sent and bucket not in self._nodes[node].due:
                self._as_it_begins(bucket, node)

    def _lends(self, now: float) -> bool:
        if now >= self._lends_from:
            return True
        return all(node in self._nodes and self._nodes[node].began for node in self._ranks)

    def _there(self, node: str) -> bool:
        known = self._nodes.get(node)
        return known is not None and known.open

    def _claim(self, bucket: Bucket, node: str, holding: Holding | None, now: float) -> int:
        share = self._share(bucket, node)
        if holding is None:
            return share
        if now - self._nodes[node].heard > SILENT_S:
            return holding.spent + max(share, holding.used)
        return holding.spent + holding.claim

    # -- what is kept

    def _amount(self, bucket: Bucket) -> int:
        quota = self._quotas.get(bucket.quota)
        return 0 if quota is None else quota.amount(bucket.resource)

    def _share(self, bucket: Bucket, node: str) -> int:
        return equal_share(self._amount(bucket), self._ranks.get(node), len(self._ranks))

    def _takes(self, bucket: Bucket, known: _Node, now_ms: int) -> bool:
        """Whether a node's word about a bucket counts: there is such a one, and it is of now."""
        quota = self._quotas.get(bucket.quota)
        if quota is None or not quota.amount(bucket.resource) or len(bucket.of) > _LONGEST_OF:
            return False
        if bucket not in known.cells and len(known.cells) >= MAX_CELLS:
            return False
        if bucket.resource == "concurrency":
            return not bucket.begins
        in_time = bucket.begins - _CLOCKS_MS <= now_ms < bucket.begins + quota.window_ms + _CLOCKS_MS
        return in_time and bucket.begins > 0 and bucket.begins % quota.window_ms == 0

    def _holding(self, bucket: Bucket, node: str) -> Holding:
        holdings = self._buckets.setdefault(bucket, {})
        held = holdings.get(node)
        if held is None:
            held = holdings[node] = Holding(self._share(bucket, node))
            self._nodes[node].cells.add(bucket)
        return held

    def _taken(self, bucket: Bucket, node: str, acknowledged: int) -> bool:
        return self._buckets[bucket][node].sequence <= acknowledged

    def _tell(self, bucket: Bucket, node: str) -> None:
        self._nodes[node].due.add(bucket)

    def _began_anew(self, node: str, known: _Node) -> None:
        known.untaken.clear()
        for bucket in list(known.cells):
            holding = self._buckets[bucket][node]
            if bucket.begins:
                holding.spent += holding.used
            holding.used = holding.wanted = 0
            holding.claim = holding.sent = self._share(bucket, node)
            holding.sequence = 0

    def _as_it_begins(self, bucket: Bucket, node: str) -> None:
        """The node has its share and uses none of it: there is nothing to remember but what was spent."""
        holding = self._buckets[bucket][node]
        holding.used = holding.wanted = holding.sequence = 0
        holding.sent = holding.claim
        if not holding.spent:
            del self._buckets[bucket][node]
            self._nodes[node].cells.discard(bucket)
            self._nodes[node].untaken.discard(bucket)
            if not self._buckets[bucket]:
                self._drop(bucket)

    def _drop(self, bucket: Bucket) -> None:
        for node in self._buckets.pop(bucket, {}):
            self._nodes[node].cells.discard(bucket)
            self._nodes[node].due.discard(bucket)
            self._nodes[node].untaken.discard(bucket)
        self._hungry.discard(bucket)
