"""What the gateway is told by whoever composes the agent."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final, TypeAlias

import msgspec

from bridge_agent.gateway.admission import SUSPECT_S
from bridge_agent.routing.choose import Decision
from bridge_agent.routing.pulse_rules import PulsePolicy
from bridge_agent.routing.request_rules import FailedAttempt
from bridge_core.http_access import Origins

LONGEST_S: Final = 366 * 86_400.0
"""The longest time that a request may ask for; what clients mean as "for ever" is no longer."""


class ResumePolicy(msgspec.Struct, frozen=True):
    """When streams count as dead, and how long their rest is sought; times in seconds.

    Attributes:
        stall_floor: Least silence after the first record that counts as death.
        stall_ceiling: Most silence that a slow model's learnt pace allows.
        patience: How long an instance that can continue is sought after the last record.
        patience_gone: The same while no node of the mesh has the model any more.
        first_record: How long an instance may take to load the model and read the prompt.
        deaths: How many instances in a row may die without a further record, before the request itself
            is taken for what kills them.
    """

    stall_floor: int = 10
    stall_ceiling: int = 120
    patience: float = 20.0
    patience_gone: float = 3.0
    first_record: float = 60.0
    deaths: int = 4


class GatewayConfig(msgspec.Struct, frozen=True):
    """Settings of one agent's gateway; times in seconds, sizes in bytes.

    Attributes:
        node: This node's name.
        host_name: This machine's host name, allowed in Host headers.
        origins: Browser origins allowed besides the machine's own.
        max_body: Largest body accepted from a peer once decompressed.
        default_deadline_s: Limit of a request that names none; None: no limit.
        fan_out_s: How long `/api/ps` and the like wait for peers.
        explained: Decisions kept for `explain`.
        suspect_s: For how long a slot counts as taken after a request was cancelled before its first
            byte: an engine finishes the batch of a prefill that nobody wants any more.
        pulse: How peers are watched; None: they are not.
        resume: How streams that died are continued; None: they end with an error.
    """

    node: str
    host_name: str = ""
    origins: Origins = Origins()
    max_body: int = 100 << 20
    default_deadline_s: float | None = None
    fan_out_s: float = 2.0
    explained: int = 1024
    suspect_s: float = SUSPECT_S
    pulse: PulsePolicy | None = PulsePolicy()
    resume: ResumePolicy | None = ResumePolicy()


class ListenerKind(Enum):
    """What a listener's callers may be."""

    LOCAL = "local"  # loopback, no credentials: Ollama's Host and CORS rules guard it
    TLS = "tls"  # client certificate or API key
    PEER = "peer"  # nodes of the mesh only


class Caller(msgspec.Struct, frozen=True, gc=False):
    """Who asks: a principal, and the node it came through when over a hop."""

    principal: str
    listener: ListenerKind
    via: str = ""


class Denial(msgspec.Struct, frozen=True):
    """Why a caller may not: 401 when unknown, 403 when known."""

    status: int
    message: str


# (caller, action, model in canonical form or "") -> None when allowed.
Authorize: TypeAlias = Callable[[Caller, str, str], Denial | None]


def allow_all(_caller: Caller, _action: str, _model: str) -> Denial | None:
    """The policy of a mesh without policies."""
    return None


class Outcome(Enum):
    """How a request ended."""

    OK = "ok"
    REFUSED = "refused"  # answered with an error of ours, nothing was begun
    FAILED = "failed"  # every attempt failed before a byte
    BROKEN = "broken"  # it failed after a byte was delivered
    ENGINE_ERROR = "engine_error"  # the engine's own error, before or in the stream
    CANCELLED = "cancelled"  # the client went away


class RequestRecord(msgspec.Struct, frozen=True, gc=False):
    """One request, when it is over: for audit, metrics and `explain`. Times are monotonic seconds."""

    request_id: str
    caller: Caller
    method: str
    path: str
    model: str
    status: int
    outcome: Outcome
    began: float
    sent: float
    head: float
    ended: float
    decision: Decision | None
    instance: str
    failed: tuple[FailedAttempt, ...]
    bytes_in: int
    bytes_out: int
    waited: float = 0.0  # for a slot, of the time before `sent`
    tokens: int = 0  # generated, where the request had a route and the stream's last record says
