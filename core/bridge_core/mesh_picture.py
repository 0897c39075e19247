"""The mesh as people see it: what a registry paints, and the console and `bridgectl top` show. Pure data.

Every number is of the last minute unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import msgspec

from bridge_core.snapshot import LoadingModel


class InstancePicture(msgspec.Struct, frozen=True):
    """An engine: what it has, what it does at this moment, and how it is.

    `health` is "ok", "degraded" or "failing", `why` says it, `out` whether no request goes there for it.
    """

    id: str
    state: str
    engine: str
    slots: int
    in_flight: int = 0
    queued: int = 0
    weight: int = 100
    models: tuple[str, ...] = ()
    loaded: tuple[str, ...] = ()
    loading: tuple[LoadingModel, ...] = ()
    health: str = "ok"
    why: tuple[str, ...] = ()
    out: bool = False


class GpuPicture(msgspec.Struct, frozen=True):
    """A GPU: how much of its memory is used, in whole percent, and how warm it is, in steps of five degrees;
    so that it is another picture only where people would see a difference. `celsius` is 0 where nobody says.
    """

    uuid: str
    memory_bytes: int
    used_percent: int
    celsius: int = 0


class NodePicture(msgspec.Struct, frozen=True):
    """A node.

    Attributes:
        name: Its name.
        state: See `node_state`.
        since_unix: When its agent began, or, where it is away, when it was last heard of; 0: not known.
        version: Of its agent.
        expires_unix: When its certificate ends.
        address: Where peers reach it.
        in_flight: Requests there, from its clients and from peers.
        safe_to_stop: Whether stopping it now cuts no request.
        silent_to: Nodes that it gets no answer from, with since when.
        rejected: Why it refused the last snapshot, if it did.
        labels: Its own.
        instances: Its engines.
        requests_per_s: That came in there.
        errors_per_s: Of them, those that failed.
        gpus: Its GPUs, as it reports them.
    """

    name: str
    state: str
    since_unix: int = 0
    version: str = ""
    expires_unix: int = 0
    address: str = ""
    in_flight: int = 0
    safe_to_stop: bool = False
    silent_to: dict[str, int] = {}
    rejected: str = ""
    labels: dict[str, str] = {}
    instances: tuple[InstancePicture, ...] = ()
    requests_per_s: float = 0.0
    errors_per_s: float = 0.0
    gpus: tuple[GpuPicture, ...] = ()


class ModelPicture(msgspec.Struct, frozen=True):
    """A model and how it is used. `instances` have it, `loaded` of them in memory; times are seconds."""

    name: str
    instances: int = 0
    loaded: int = 0
    requests_per_s: float = 0.0
    errors_per_s: float = 0.0
    tokens_per_s: float = 0.0
    ttft_p50: float = 0.0
    ttft_p95: float = 0.0


class Backend(msgspec.Struct, frozen=True):
    """A backend of a route with its share of the requests."""

    name: str
    model: str
    share: float


class RoutePicture(msgspec.Struct, frozen=True):
    """A virtual model."""

    name: str
    strategy: str
    backends: tuple[Backend, ...] = ()


class RolloutPicture(msgspec.Struct, frozen=True):
    """Where a rollout stands; rates are shares of requests, times seconds."""

    name: str
    route: str
    phase: str
    step: int
    steps: int
    elapsed_s: float
    hold_s: float
    reason: str
    stable: str
    canary: str
    canary_share: float = 0.0
    stable_error_rate: float = 0.0
    canary_error_rate: float = 0.0
    canary_requests: int = 0
    events: tuple[tuple[float, str], ...] = ()


class AlertPicture(msgspec.Struct, frozen=True):
    """An alert: `name` is its id, `kind` what it is about; times are Unix seconds.

    `ended_unix` is 0 while it lasts; `silenced` says why nobody is told; `command` shows more, and says
    `well` when all is.
    """

    name: str
    kind: str
    severity: str
    summary: str
    node: str = ""
    since_unix: int = 0
    ended_unix: int = 0
    command: str = ""
    well: str = ""
    runbook: str = ""
    silenced: str = ""
    instance: str = ""
    of: str = ""


class SilencePicture(msgspec.Struct, frozen=True):
    """What somebody silenced by hand: `name` is its id, `matchers` what it is about."""

    name: str
    matchers: tuple[str, ...]
    by: str
    reason: str
    ends_unix: int


class RegistryPicture(msgspec.Struct, frozen=True):
    """Who painted it, and what an admin should look after."""

    mesh: str
    name: str
    version: str
    leads: bool
    leader: str = ""
    leader_address: str = ""
    store_fault: str = ""
    epoch: int = 0
    revision: int = 0
    concerns: tuple[str, ...] = ()


class MeshPicture(msgspec.Struct, frozen=True):
    """All of it at `at_unix`."""

    at_unix: float
    registry: RegistryPicture
    nodes: tuple[NodePicture, ...] = ()
    models: tuple[ModelPicture, ...] = ()
    routes: tuple[RoutePicture, ...] = ()
    rollouts: tuple[RolloutPicture, ...] = ()
    alerts: tuple[AlertPicture, ...] = ()
    silences: tuple[SilencePicture, ...] = ()


class Happening(msgspec.Struct, frozen=True):
    """Something that happened. `level` is "info", "warn" or "bad"; `id` counts from 1 within one life."""

    id: int
    at_unix: float
    kind: str
    level: str
    subject: str
    text: str


def node_state(recorded: str, *, instances: bool, reports: bool) -> str:
    """A node's state in a word: "serving", "drained", "revoked", "no engine" or "away" (in service, without
    an instance and not heard of), from what is on record of it.
    """
    if recorded != "active":
        return recorded
    if instances:
        return "serving"
    return "no engine" if reports else "away"


_Member: TypeAlias = (
    NodePicture | ModelPicture | RoutePicture | RolloutPicture | AlertPicture | SilencePicture
)


def parts(picture: MeshPicture) -> dict[str, bytes]:
    """A picture as JSON in pieces that change by themselves, by keys such as "node/node1"."""
    found = {"registry": msgspec.json.encode(picture.registry)}
    groups: Iterable[tuple[str, Iterable[_Member]]] = (
        ("node", picture.nodes),
        ("model", picture.models),
        ("route", picture.routes),
        ("rollout", picture.rollouts),
        ("alert", picture.alerts),
        ("silence", picture.silences),
    )
    for kind, members in groups:
        for one in members:
            found[f"{kind}/{one.name}"] = msgspec.json.encode(one)
    return found
