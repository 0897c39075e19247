"""Who may use what at this node: pure.

A request is counted once, where it comes in. Before it is sent it reserves what it may come to in a bucket
of each resource of each quota that is about it; when it is over it is settled with what it came to, or
given back where nothing came of it. What is tried again, hedged or continued is one request.

Rules:
1. A request begins where it fits into every bucket of every quota that refuses; else it leaves no trace but
   in the bucket that it did not fit into. A quota in shadow counts and never refuses.
2. It reserves no more than a whole bucket: what is larger than that passes where nothing else was used.
3. How far a bucket may be used here is the cell's limit (`cell_rules`); the limits of all nodes together
   never exceed the quota while they and the registry hear each other.
4. **Overshoot.** What is used of a bucket in a window exceeds the quota by no more than
   (a) what requests came to beyond what they had reserved: nothing in requests and concurrency, nothing in
   output where the request states a limit that its engine keeps, and in prompts what the estimate was short
   of; a request that states no limit reserves what 19 in 20 of the client's answers stayed under;
   (b) while a node and the registry do not hear each other: what the node used of its lease in LEASE_S
   after its last report, and its equal share where that had been lent to others;
   (c) an equal share each time an agent begins anew, or a node joins, within the window.
5. A request counts in the window in which it begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

import msgspec

from bridge_agent.quotas.cell_rules import Cell
from bridge_agent.quotas.scope_rules import Scope
from bridge_core.identity.principal import Principal
from bridge_core.quotas import (
    LEASE_S,
    MAX_CELLS,
    RESOURCES,
    Bucket,
    CellLimit,
    CellUse,
    Quota,
    Resource,
    equal_share,
    ranks,
)

_REMEMBERED: Final = 4096  # principals and models whose quotas are known
_FOREVER_MS: Final = 1 << 62
_WINDOWS_AHEAD_MS: Final = 10_000  # that a registry's clock may be ahead


# A quota, of what, how much of it there is, and this node's part; None where no more can be kept.
_Place: TypeAlias = tuple[Quota, Resource, int, Cell | None]


class Refusal(msgspec.Struct, frozen=True):
    """Why a request may not begin.

    Attributes:
        quota: Which one it does not fit into.
        resource: Of what.
        amount: The quota's.
        window_s: The quota's.
        retry_after_s: When it may fit.
    """

    quota: str
    resource: Resource
    amount: int
    window_s: float
    retry_after_s: float


class Reservation:
    """What one request holds of its buckets.

    Attributes:
        parts: Each cell, and how much of it.
        shadowed: The quota in shadow that would have refused it; empty: none.
        open: It is neither settled nor given back.
    """

    __slots__ = ("open", "parts", "shadowed")

    def __init__(self, parts: tuple[tuple[Cell, int], ...], shadowed: str) -> None:
        self.parts = parts
        self.shadowed = shadowed
        self.open = True

    def settle(self, prompt: int, output: int) -> None:
        """It is over, and came to this. Once: later calls change nothing."""
        if self.open:
            self.open = False
            for cell, amount in self.parts:
                cell.settle(amount, _came_to(cell.bucket.resource, prompt, output))

    def give_back(self) -> None:
        """Nothing came of it. Once: later calls change nothing."""
        if self.open:
            self.open = False
            for cell, amount in self.parts:
                cell.settle(amount, 0)


def _came_to(resource: Resource, prompt: int, output: int) -> int:
    if resource == "requests":
        return 1
    if resource == "prompt_tokens":
        return prompt
    return output if resource == "output_tokens" else 0


class QuotaBook:
    """The buckets of one node.

    Args:
        node: Its name.

    Attributes:
        quotas: All of the mesh, by name.
        hurried: A bucket runs short: the registry should be told before it is time.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self._rank: int | None = None
        self._nodes = 0
        self.quotas: dict[str, Quota] = {}
        self._scopes: list[Scope] = []
        self._cells: dict[Bucket, Cell] = {}
        self._about: dict[tuple[str, tuple[str, ...], str], tuple[tuple[Quota, str], ...]] = {}
        self._known: dict[tuple[str, tuple[str, ...], str], tuple[int, tuple[_Place, ...]]] = {}
        self._leased_until = 0.0
        self.hurried = False

    @property
    def cells(self) -> Iterable[Cell]:
        """All that are kept."""
        return self._cells.values()

    def follow(self, quotas: Iterable[Quota], nodes: Iterable[str]) -> None:
        """The mesh has these quotas and these active nodes."""
        self.quotas = {quota.name: quota for quota in quotas}
        places = ranks(nodes)
        self._rank, self._nodes = places.get(self._node), len(places)
        self._about, self._known = {}, {}
        self._scopes = [Scope(quota) for quota in self.quotas.values()]
        for bucket, cell in list(self._cells.items()):
            quota = self.quotas.get(bucket.quota)
            amount = 0 if quota is None else quota.amount(bucket.resource)
            if amount:
                cell.resize(amount, equal_share(amount, self._rank, self._nodes))
            else:
                del self._cells[bucket]

    def about(self, who: Principal, model: str) -> tuple[tuple[Quota, str], ...]:
        """The quotas that are about a request for a model, in canonical form, and whose use each counts."""
        key = (who.text, who.groups, model)
        found = self._about.get(key)
        if found is None:
            if len(self._about) >= _REMEMBERED:
                self._about = {}
            found = self._about[key] = tuple(
                (one.quota, of) for one in self._scopes if one.covers(model) for of in one.counted(who)
            )
        return found

    def reserve(
        self, who: Principal, model: str, prompt: int, output: int, *, now: float, now_ms: int
    ) -> Reservation | Refusal | None:
        """What a request holds from now on; why it may not begin; None where no quota is about it.

        Args:
            who: Who asks.
            model: For what, in canonical form.
            prompt: Tokens that it will read, as far as can be said.
            output: Tokens that it may generate.
            now: Monotonic seconds.
            now_ms: Unix milliseconds.
        """
        places = self._places(who, model, now_ms)
        if not places:
            return None
        if self._leased_until:
            self._lapse(now)
        parts: list[tuple[Cell, int]] = []
        shadowed = ""
        for quota, resource, whole, cell in places:
            asked = prompt if resource == "prompt_tokens" else output if resource == "output_tokens" else 1
            amount = min(whole, asked)
            if cell is not None and cell.fits(amount):
                parts.append((cell, amount))
                continue
            if cell is not None:
                cell.refused += amount
                self.hurried = self.hurried or cell.left >= amount
            if not quota.shadow:
                return _refusal(quota, resource, cell, amount, now_ms)
            shadowed = shadowed or quota.name
            if cell is not None:
                parts.append((cell, amount))
        for cell, amount in parts:
            cell.reserved += amount
            self.hurried = self.hurried or cell.runs_short
        return Reservation(tuple(parts), shadowed)

    def _places(self, who: Principal, model: str, now_ms: int) -> tuple[_Place, ...]:
        """Where a request has to fit in: looked up anew when a window ends, or what is kept changes."""
        key = (who.text, who.groups, model)
        known = self._known.get(key)
        if known is not None and now_ms < known[0]:
            return known[1]
        until, found = _FOREVER_MS, list[_Place]()
        for quota, of in self.about(who, model):
            for resource in RESOURCES:
                if whole := quota.amount(resource):
                    begins = quota.begins(resource, now_ms)
                    cell = self._cell(Bucket(quota.name, of, begins, resource), now_ms)
                    found.append((quota, resource, whole, cell))
                    if begins:
                        until = min(until, begins + quota.window_ms)
        places = tuple(found)
        if all(cell is not None for *_, cell in places):
            if len(self._known) >= _REMEMBERED:
                self._known = {}
            self._known[key] = until, places
        return places

    def report(self, told: dict[Bucket, CellUse], now: float, now_ms: int) -> list[CellUse]:
        """What changed since `told`, which is brought up to date; forgets what is over."""
        self._lapse(now)
        self._tidy(now_ms)
        self.hurried = False
        for bucket in [bucket for bucket in told if bucket not in self._cells]:
            del told[bucket]
        news, gone = [], []
        for bucket, cell in self._cells.items():
            use = CellUse(bucket, cell.claimed, cell.wanted(), cell.limit)
            if told.get(bucket) != use:
                told[bucket] = use
                news.append(use)
            elif not bucket.begins and cell.idle:  # the registry knows that, too
                gone.append(bucket)
        for bucket in gone:
            del self._cells[bucket], told[bucket]
        if gone:
            self._known = {}
        return news

    def take(self, limits: Iterable[CellLimit], *, sent: float | None, now_ms: int) -> None:
        """The registry's word, in answer to a report that was sent at monotonic `sent`; None: to none."""
        if sent is not None:
            self._leased_until = max(self._leased_until, sent + LEASE_S)
        for one in limits:
            quota = self.quotas.get(one.bucket.quota)
            if quota is None or _over(one.bucket, quota, now_ms):
                continue
            cell = self._cell(one.bucket, now_ms)
            if cell is not None:
                cell.tell(one.limit, one.others)

    def standing(self, who: Principal, model: str, now_ms: int) -> Iterator[tuple[Cell, Quota]]:
        """The cells that are kept of the quotas that are about a request."""
        for quota, of in self.about(who, model):
            for resource in RESOURCES:
                bucket = Bucket(quota.name, of, quota.begins(resource, now_ms), resource)
                if (cell := self._cells.get(bucket)) is not None:
                    yield cell, quota

    @property
    def leased_until(self) -> float:
        """Until when what the registry told holds, in monotonic seconds; 0: it told nothing."""
        return self._leased_until

    def _lapse(self, now: float) -> None:
        if self._leased_until and now >= self._leased_until:
            self._leased_until = 0.0
            for cell in self._cells.values():
                cell.lapse()

    def _cell(self, bucket: Bucket, now_ms: int) -> Cell | None:
        """The cell of a bucket; None where no more can be kept, or it is nobody's."""
        cell = self._cells.get(bucket)
        if cell is None:
            if len(self._cells) >= MAX_CELLS:
                self._tidy(now_ms)
                if len(self._cells) >= MAX_CELLS:
                    return None
            amount = self.quotas[bucket.quota].amount(bucket.resource)
            if not amount or bucket.begins > now_ms + _WINDOWS_AHEAD_MS:
                return None
            share = equal_share(amount, self._rank, self._nodes)
            cell = self._cells[bucket] = Cell(bucket, amount, share)
        return cell

    def _tidy(self, now_ms: int) -> None:
        gone = [bucket for bucket in self._cells if _over(bucket, self.quotas[bucket.quota], now_ms)]
        for bucket in gone:
            del self._cells[bucket]
        if gone:
            self._known = {}


def _over(bucket: Bucket, quota: Quota, now_ms: int) -> bool:
    return bool(bucket.begins) and bucket.begins + quota.window_ms <= now_ms


def _refusal(quota: Quota, resource: Resource, cell: Cell | None, amount: int, now_ms: int) -> Refusal:
    wait_s = 1.0  # for a request that ends, or for what other nodes have left
    if cell is not None and cell.bucket.begins and cell.left < amount:
        wait_s = (cell.bucket.begins + quota.window_ms - now_ms) / 1000
    return Refusal(quota.name, resource, quota.amount(resource), quota.window_s, wait_s)
