"""What the gateway is told by whoever composes the agent."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Final, TypeAlias

import msgspec

from bridge_agent.batching.batching_rules import BatchingPolicy
from bridge_agent.gateway.admission import SUSPECT_S
from bridge_agent.routing.choose import Decision
from bridge_agent.routing.pulse_rules import PulsePolicy
from bridge_agent.routing.request_rules import FailedAttempt
from bridge_agent.tracing.context_rules import Trace
from bridge_core.bounds import Names
from bridge_core.http_access import Origins
from bridge_core.identity.principal import Principal

LONGEST_S: Final = 366 * 86_400.0
"""The longest time that a request may ask for; what clients mean as "for ever" is no longer."""

_DAY = 86_400.0
_LONGEST_ORIGIN: Final = 300  # characters
_Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0.0, le=_DAY)]
_WholeSeconds: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=86_400)]


class ResumePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
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

    stall_floor: _WholeSeconds = 10
    stall_ceiling: _WholeSeconds = 120
    patience: _Seconds = 20.0
    patience_gone: _Seconds = 3.0
    first_record: _Seconds = 60.0
    deaths: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 4


class GatewaySection(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What `agent.json` may say of the gateway in its section `gateway`; times in seconds, sizes in bytes.

    Attributes:
        origins: Browser origins allowed besides the machine's own.
        host_names: What this machine is called besides, in the Host headers of requests to its loopback.
        max_body: Largest body accepted from a peer once decompressed.
        default_deadline_s: Limit of a request that names none; None: no limit.
        fan_out_s: How long `/api/ps` and the like wait for peers.
        explained: Decisions kept for `explain`.
        suspect_s: For how long a slot counts as taken after a request was cancelled before its first
            byte: an engine finishes the batch of a prefill that nobody wants any more.
        ask_owner: Whether a mutation that names no node and needs a model that one other node has alone
            goes there; else it is refused, and the owner named.
        load_wait_s: How long a request waits for its model to be loaded; the load itself goes on.
        load_keep_alive_s: Between bytes that a stream's client gets while its model is loaded, where the
            policy says nothing of them; 0: none.
        batching: How many embedding requests that wait for a slot go to their engine together; None: none.
        pulse: How peers are watched; None: they are not.
        resume: How streams that died are continued; None: they end with an error.
    """

    origins: Origins = Origins()
    host_names: Names = ()
    max_body: Annotated[int, msgspec.Meta(ge=1, le=1 << 40)] = 100 << 20
    default_deadline_s: Annotated[float, msgspec.Meta(gt=0.0, le=_DAY)] | None = None
    fan_out_s: Annotated[float, msgspec.Meta(gt=0.0, le=600.0)] = 2.0
    explained: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1024
    suspect_s: _Seconds = SUSPECT_S
    ask_owner: bool = False
    load_wait_s: _Seconds = 600.0
    load_keep_alive_s: _Seconds = 20.0
    batching: BatchingPolicy | None = BatchingPolicy()
    pulse: PulsePolicy | None = PulsePolicy()
    resume: ResumePolicy | None = ResumePolicy()

    def __post_init__(self) -> None:
        """Refuses origins that would match no page: a browser sends scheme, host and port alone.

        Raises:
            ValueError: which becomes msgspec.ValidationError when decoding.
        """
        for one in self.origins.extra:
            scheme, separator, host = one.partition("://")
            fits = one == "*" or (separator and scheme and host and "/" not in host)
            if not fits or one.count("*") > 1 or len(one) > _LONGEST_ORIGIN:
                raise ValueError(
                    f"{one[:_LONGEST_ORIGIN]!r} is no origin: scheme://host[:port], with one * at most"
                )


class GatewayConfig(GatewaySection, frozen=True, kw_only=True):
    """That, and whose gateway it is.

    Attributes:
        node: This node's name.
        host_name: This machine's host name, allowed in Host headers.
    """

    node: str
    host_name: str = ""


class ListenerKind(Enum):
    """What a listener's callers may be."""

    LOCAL = "local"  # loopback, no credentials: Ollama's Host and CORS rules guard it
    TLS = "tls"  # client certificate or API key
    PEER = "peer"  # nodes of the mesh only


class Caller(msgspec.Struct, frozen=True, gc=False):
    """Who asks.

    Attributes:
        who: The principal.
        listener: At which it asks.
        via: The node it came through, when over a hop.
        proof: What proves to the owner of a request that they have called here: see `hop_proofs`.
    """

    who: Principal
    listener: ListenerKind
    via: str = ""
    proof: bytes = b""

    def __repr__(self) -> str:
        return f"Caller({self.who.text!r}, {self.listener}, {self.via!r})"  # a repr ends up in logs

    @property
    def principal(self) -> str:
        """As it travels and is recorded."""
        return self.who.text


STRANGERS: Final = {kind: Caller(Principal("client", "", ""), kind) for kind in ListenerKind}
"""Who shows no credentials, by listener: its preflights are answered, and nothing else."""


class Outcome(Enum):
    """How a request ended."""

    OK = "ok"
    REFUSED = "refused"  # answered with an error of ours, nothing was begun
    FAILED = "failed"  # every attempt failed before a byte
    BROKEN = "broken"  # it failed after a byte was delivered
    ENGINE_ERROR = "engine_error"  # the engine's own error, before or in the stream
    CANCELLED = "cancelled"  # the client went away


class RequestRecord(msgspec.Struct, frozen=True, gc=False):
    """One request, when it is over: for audit, metrics and `explain`. Times are monotonic seconds.

    `rule` is the policy that allowed or refused it, empty where the defaults did; `shadowed` are those in
    shadow that would have refused it.
    """

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
    tokens: int = 0  # generated, where the request is metered, or streamed and its last record says
    reason: str = ""  # why somebody was turned away at the door, in a word
    prompt_tokens: int = 0  # read, where the request is metered
    quota: str = ""  # that refused it; "shadow:" before one that would have
    rule: str = ""
    shadowed: tuple[str, ...] = ()
    remote: tuple[str, int] | None = None  # whence it came
    loading: float = 0.0  # of `waited`, for its model to be loaded here
    trace: Trace | None = None  # where it stands in one, where this node makes traces
