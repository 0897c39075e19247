"""Where requests meet quotas: each is admitted before it is sent, and settled when it is over.

Nothing here waits: what a node may use it has leased already (`leasing`). Called on the gateway's loop alone.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Final

import msgspec

from bridge_agent.quotas.answer_rules import AnswerTokens
from bridge_agent.quotas.estimate_rules import Outputs, prompt_estimate, stated_limit
from bridge_agent.quotas.limit_headers import limit_lines, pairs_of
from bridge_agent.quotas.quota_rules import QuotaBook, Refusal, Reservation
from bridge_agent.quotas.usage_rules import UsageBook
from bridge_agent.routing.view import Index, MeshView
from bridge_core.http1 import Pair
from bridge_core.identity.principal import Principal
from bridge_core.quantities import say_duration
from bridge_core.snapshot import Snapshot

_WORDS: Final = {
    "requests": "requests",
    "prompt_tokens": "prompt tokens",
    "output_tokens": "output tokens",
    "concurrency": "requests at once",
}
_MESSAGES: Final = "/v1/messages"
_EMBEDS: Final = frozenset({"/api/embed", "/api/embeddings", "/v1/embeddings"})


def _unix_ms() -> int:
    return int(time.time() * 1000)


class Ticket:
    """What is known of one admitted request until it is over.

    Attributes:
        who: Who asks.
        model: For what, in canonical form.
        prompt: Tokens that it was taken for.
        unlimited: It states no limit of its answer.
        reservation: What it holds; None where no quota is about it.
        answer: Follows what it is answered.
    """

    __slots__ = ("answer", "model", "prompt", "reservation", "unlimited", "who")

    def __init__(
        self, who: Principal, model: str, prompt: int, *, unlimited: bool, reservation: Reservation | None
    ) -> None:
        self.who = who
        self.model = model
        self.prompt = prompt
        self.unlimited = unlimited
        self.reservation = reservation
        self.answer = AnswerTokens()

    @property
    def quota(self) -> str:
        """For the record: the quota in shadow that would have refused it."""
        shadowed = "" if self.reservation is None else self.reservation.shadowed
        return f"shadow:{shadowed}" if shadowed else ""


class OverQuota(msgspec.Struct, frozen=True):
    """Why a request is answered 429.

    Attributes:
        quota: Which quota refuses it.
        message: A sentence for the client.
        retry_after: When to come again, in whole seconds.
        pairs: What its answer says of the quotas.
    """

    quota: str
    message: str
    retry_after: int
    pairs: tuple[Pair, ...]


class Meter:
    """See the module.

    Args:
        node: This node's name.
        view: The mesh.
        now: Monotonic seconds.
        unix_ms: Unix milliseconds.

    Attributes:
        book: The buckets.
        usage: What was used.
        quiet: The mesh has no quotas.
        refused: Requests that were refused, by quota and resource.
        shadowed: Requests that would have been, by quota.
        hurry: Called when a bucket runs short.
    """

    def __init__(
        self,
        node: str,
        view: MeshView,
        *,
        now: Callable[[], float] = monotonic,
        unix_ms: Callable[[], int] = _unix_ms,
    ) -> None:
        self.book = QuotaBook(node)
        self.usage = UsageBook()
        self.quiet = True
        self.refused: Counter[tuple[str, str]] = Counter()
        self.shadowed: Counter[str] = Counter()
        self.hurry: Callable[[], None] | None = None
        self._outputs = Outputs()
        self._view = view
        self._now = now
        self._unix_ms = unix_ms
        self._snapshot: Snapshot | None = None
        self._follow(view.index)
        view.subscribe(self._follow)

    def admit(
        self, who: Principal, path: str, model: str, fields: Mapping[str, msgspec.Raw]
    ) -> Ticket | OverQuota:
        """Lets a request begin, or says why not.

        Args:
            who: Who asks.
            path: By which route.
            model: For what, in canonical form: as it was asked for.
            fields: The body's top-level values, undecoded; images may be cut short.
        """
        prompt = prompt_estimate(sum(map(len, fields.values())) - len(fields.get("images", b"")))
        if self.quiet:
            return Ticket(who, model, prompt, unlimited=False, reservation=None)
        limit = 0 if path in _EMBEDS else stated_limit(fields, native=path.startswith("/api/"))
        output = self._outputs.expected(who.text) if limit is None else limit
        now_ms = self._unix_ms()
        got = self.book.reserve(who, model, prompt, output, now=self._now(), now_ms=now_ms)
        if self.book.hurried and self.hurry is not None:
            self.hurry()
        if isinstance(got, Refusal):
            self.refused[got.quota, got.resource] += 1
            self.usage.count(who.text, who.groups, model, now_ms, refused=True)
            return self._over(got, who, model, path, now_ms)
        ticket = Ticket(who, model, prompt, unlimited=limit is None, reservation=got)
        if got is not None and got.shadowed:
            self.shadowed[got.shadowed] += 1
        return ticket

    def settle(self, ticket: Ticket, status: int, *, begun: bool) -> tuple[int, int]:
        """The request is over; the tokens that it read and generated.

        Args:
            ticket: Of the request.
            status: What it was answered.
            begun: Its answer had begun.
        """
        reservation = ticket.reservation
        if not begun or status >= 500:  # nobody did anything for it
            if reservation is not None:
                reservation.give_back()
            return 0, 0
        prompt = output = 0
        if status == 200:
            tokens = ticket.answer.tokens()
            prompt = ticket.prompt if tokens.prompt is None else tokens.prompt
            output = tokens.output
            if ticket.unlimited and not tokens.estimated:
                self._outputs.observed(ticket.who.text, output)
        if reservation is not None:
            reservation.settle(prompt, output)
        who = ticket.who
        self.usage.count(who.text, who.groups, ticket.model, self._unix_ms(), prompt=prompt, output=output)
        return prompt, output

    def lines(self, ticket: Ticket, path: str) -> bytes:
        """The header lines that say how the quotas stand; empty where none is about the request."""
        reservation = ticket.reservation
        if reservation is None:
            return b""
        quotas = self.book.quotas
        cells = [
            (cell, quota.window_ms)
            for cell, _ in reservation.parts
            if (quota := quotas.get(cell.bucket.quota)) is not None and not quota.shadow
        ]
        return limit_lines(cells, self._unix_ms(), anthropic=path == _MESSAGES) if cells else b""

    def _over(self, refusal: Refusal, who: Principal, model: str, path: str, now_ms: int) -> OverQuota:
        cells = [
            (cell, quota.window_ms)
            for cell, quota in self.book.standing(who, model, now_ms)
            if not quota.shadow
        ]
        what = _WORDS[refusal.resource]
        per = "" if refusal.resource == "concurrency" else f" in {say_duration(refusal.window_s)}"
        after = max(1, -(-int(refusal.retry_after_s * 1000) // 1000))
        return OverQuota(
            refusal.quota,
            f"quota {refusal.quota} is used up: {refusal.amount} {what}{per}; try again in {after} s",
            after,
            tuple(pairs_of(limit_lines(cells, now_ms, anthropic=path == _MESSAGES))),
        )

    def _follow(self, _index: Index) -> None:
        snapshot = self._view.current
        if snapshot is self._snapshot:
            return
        self._snapshot = snapshot
        active = [node.name for node in snapshot.nodes.values() if node.state == "active"]
        self.book.follow(snapshot.quotas, active)
        self.quiet = not snapshot.quotas
        names = self.book.quotas
        for key in [key for key in self.refused if key[0] not in names]:
            del self.refused[key]
        for name in [name for name in self.shadowed if name not in names]:
            del self.shadowed[name]
