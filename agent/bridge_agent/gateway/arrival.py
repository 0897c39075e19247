"""A request with who sent it and when."""

from __future__ import annotations

from typing import Final

from bridge_agent.gateway.config import Caller, ListenerKind
from bridge_agent.peers.hop import Hop
from bridge_agent.routing.admission_rules import Priority
from bridge_agent.tracing.context_rules import Trace
from bridge_core.http1 import Exchange, Pair
from bridge_core.policy.engine import Verdict

UNASKED: Final = Verdict(True)
"""Before anybody was asked, and of what nobody is asked about."""


class Arrival:
    """A request with who sent it and when: what each handler starts from.

    Attributes:
        exchange: The client's exchange.
        caller: Who asks.
        hop: What the entry agent said, when it came over a hop.
        began: When it arrived.
        request_id: The id in logs and answers.
        deadline: When it must be over; None: no limit.
        cors: What an answer to an allowed origin carries.
        priority: How urgent it is.
        verdict: Whether it may be done, and by which policy, once that was asked.
        trace: Where it stands in its trace; None: this node makes none.
    """

    __slots__ = (
        "began",
        "caller",
        "cors",
        "deadline",
        "exchange",
        "hop",
        "priority",
        "request_id",
        "trace",
        "verdict",
    )

    def __init__(
        self,
        exchange: Exchange,
        caller: Caller,
        hop: Hop | None,
        began: float,
        request_id: str,
        *,
        deadline: float | None = None,
        cors: tuple[Pair, ...] = (),
        priority: Priority = Priority.NORMAL,
        trace: Trace | None = None,
    ) -> None:
        self.priority = priority
        self.trace = trace
        self.verdict = UNASKED
        self.cors = cors
        self.exchange = exchange
        self.caller = caller
        self.hop = hop
        self.began = began
        self.request_id = request_id
        self.deadline = deadline

    @property
    def client(self) -> str:
        """Between whom a queue is fair."""
        caller = self.caller
        if caller.who.kind == "local" and caller.listener is ListenerKind.LOCAL:
            remote = self.exchange.request.remote
            return remote[0] if remote else ""
        return f"{caller.via}/{caller.principal}"

    @property
    def over_hop(self) -> bool:
        """Whether it was forwarded by another agent, and so is answered here or not at all."""
        return self.caller.listener is ListenerKind.PEER
