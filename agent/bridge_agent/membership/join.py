"""Enrolling this machine as a node: one call to a registry, then everything on disk or nothing."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import msgspec
import structlog

from bridge_agent.config import (
    AgentConfig,
    Listeners,
    SealSection,
    StateDir,
    save_config,
)
from bridge_agent.engines.config import EngineConfig
from bridge_agent.membership.advertise import reachable_host, subject_names
from bridge_agent.membership.clock import check_clock
from bridge_agent.membership.follow_rules import judge
from bridge_agent.membership.identity_files import remove_identity, write_identity
from bridge_agent.membership.registry_client import update_of
from bridge_agent.models.section import ModelsSection
from bridge_agent.tracing.section import TracesSection
from bridge_core.addresses import join_address, split_address
from bridge_core.errors import BridgeError, Fatal, Unavailable
from bridge_core.files import write_atomically
from bridge_core.identity import (
    IdentityFault,
    JoinToken,
    PodToken,
    SpiffeId,
    check_node_name,
    parse_token,
)
from bridge_core.identity.certificates import create_csr, from_pem, generate_key, key_to_pem, pin, uris_of
from bridge_core.registry_channel import fetch_ca, open_channel
from bridge_core.sealing import Sealer, open_sealer
from bridge_core.snapshot import EMPTY
from bridge_core.snapshot_file import SnapshotFile
from bridge_wire.v1 import registry_pb2 as pb
from bridge_wire.v1.registry_pb2_grpc import EnrolmentStub, MeshStub

log = structlog.get_logger()

_CALL_S = 20.0
_PATIENCE_S = 10.0  # an election after a leader's hard end takes a lease's time
_PAUSE_S = 0.25
_MOST_BYTES = 64 * 1024  # of a pod's token, or of a CA's certificate


class JoinRefused(BridgeError):
    """The registry answered and did not enrol this node."""


class JoinPlan(msgspec.Struct, frozen=True):
    """What the operator asked for.

    Attributes:
        registries: Where the mesh's registries are.
        token: What `bridgectl token create` printed, or what `pod_token` made.
        name: The node's.
        listeners: Where it listens.
        engines: What it runs.
        labels: What routes and classes may choose it by.
        advertise: The host that other agents reach this one at; None: looked up.
        node_class: Its own NodeClass's `spec`.
        seal: How its files are sealed.
        models: How models come to it.
        replace: The node that is enrolled here already, to be given a new key and certificate.
        traces: Where its traces go; None: it makes none.
    """

    registries: tuple[str, ...]
    token: str
    name: str
    listeners: Listeners = Listeners()
    engines: tuple[EngineConfig, ...] = (EngineConfig(index=0),)
    labels: dict[str, str] = {}
    advertise: str | None = None
    node_class: dict[str, Any] | None = None
    seal: SealSection = SealSection()
    models: ModelsSection = ModelsSection()
    replace: AgentConfig | None = None
    traces: TracesSection | None = None


def replacing(
    settings: AgentConfig, registries: tuple[str, ...], token: str, *, advertise: str | None = None
) -> JoinPlan:
    """The plan that gives an enrolled node a new key and certificate and leaves all else as it is.

    Raises:
        Fatal: the address that it advertised is none any more.
    """
    before = split_address(settings.peer_address, flag="peer_address")[0]
    return JoinPlan(
        registries,
        token,
        settings.name,
        settings.listeners,
        settings.engines,
        settings.labels,
        advertise if advertise is not None else before,
        settings.node_class,
        settings.seal,
        replace=settings,
    )


async def join(plan: JoinPlan, state: StateDir, *, now: Callable[[], float] = time.time) -> AgentConfig:
    """Enrols the node and writes its identity, first snapshot and settings into `state`.

    With `plan.replace` the node that is enrolled there gets a new identity, also while its agent runs,
    which takes it up by itself.

    Args:
        plan: Who joins what.
        state: Where; a failed join leaves nothing in it that was not there before, and all that was.

        now: The wall clock in seconds: it has to agree with the registry's before the token is spent.

    Raises:
        BridgeError: a sentence for the operator: bad token, name taken, foreign CA, registry
            unreachable, folder not writable, node already enrolled here, clock wrong.
    """
    token = parse_token(plan.token)
    check_node_name(plan.name)
    if state.joined and plan.replace is None:
        raise Fatal(
            f"a node is enrolled in {state.root} already",
            hint="--replace gives it a new certificate and keeps its engines, models and settings; "
            "bridge-agent leave takes it out; --state-dir makes a second node on this machine",
        )
    if not plan.registries:
        raise Fatal("no registry was given", hint="bridge-agent join HOST:PORT --token TOKEN")
    with _scratch(state):
        sealer = open_sealer(state.seal_folder(plan.seal))
        address, ca_pem = await _first_pinned(plan.registries, token)
        _check_mesh(plan, ca_pem)
        await check_clock(address, ca_pem, now)
        advertise = plan.advertise or reachable_host(plan.listeners.peer, address)
        key = generate_key()
        # The registry names the mesh; until then the id only has to be well-formed.
        identity = SpiffeId.make("joining", "node", plan.name)
        names = subject_names(advertise)
        csr = create_csr(key, identity, dns_names=names.dns_names, addresses=names.addresses)
        port = split_address(plan.listeners.peer, flag="--peer")[1]
        peer_address = join_address(advertise, port)
        facts = pb.NodeFacts(
            labels=plan.labels,
            # Port 0, any: told once the agent listens.
            peer_address=peer_address if port else "",
            version=version("deepseek-ollama-bridge"),
        )
        request = pb.JoinRequest(token=str(token), node_name=plan.name, csr_pem=csr, facts=facts)
        response = await _call_join(plan.registries, ca_pem, request)
        key_pem = key_to_pem(key)
        try:
            return _keep(plan, state, sealer, response, key_pem, peer_address=peer_address)
        except OSError as fault:
            await _undo(plan.registries, response, key_pem)
            raise Fatal(
                f"cannot write to {state.root}: {fault.strerror}", hint="the node was not enrolled"
            ) from fault


@contextlib.contextmanager
def _scratch(state: StateDir) -> Iterator[None]:
    """Proves, before the token is spent, that the folder can be written; cleans up after a failure."""
    existed = state.root.exists()
    try:
        state.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = state.root / ".join-probe"
        write_atomically(probe, b"x" * 65_536)
        probe.unlink()
    except OSError as fault:
        raise Fatal(
            f"cannot write to {state.root}: {fault.strerror}",
            hint="run as a user that may, or name another folder with --state-dir",
        ) from fault
    enrolled, keyed = state.joined, state.seal.exists()
    try:
        yield
    except BaseException:
        if not enrolled:
            with contextlib.suppress(OSError):
                remove_identity(state.identity)
                state.snapshot.unlink(missing_ok=True)
                state.secrets.unlink(missing_ok=True)
                state.settings.unlink(missing_ok=True)
        if not keyed:
            shutil.rmtree(state.seal, ignore_errors=True)
        if not existed:
            shutil.rmtree(state.root, ignore_errors=True)
        raise


def _check_mesh(plan: JoinPlan, ca_pem: bytes) -> None:
    """Refuses, before the token is spent, a token of another mesh than the one that the node is of."""
    if plan.replace is None:
        return
    mesh = f"spiffe://{plan.replace.trust_domain}"
    found = uris_of(from_pem(ca_pem))
    if mesh not in found:
        raise Fatal(
            f"{plan.name} is a node of {mesh}, and the token is of {', '.join(found) or 'another mesh'}",
            hint="bridge-agent leave takes it out of its mesh first; --state-dir makes a second node here",
        )


def _keep(
    plan: JoinPlan,
    state: StateDir,
    sealer: Sealer,
    response: pb.JoinResponse,
    key_pem: bytes,
    *,
    peer_address: str,
) -> AgentConfig:
    identity = response.identity
    write_identity(
        state.identity,
        key=key_pem,
        certificate_chain=identity.certificate_chain_pem,
        trust_bundle=identity.trust_bundle_pem,
        issuers=identity.issuers_pem,
    )
    judged = judge(EMPTY, update_of(response.snapshot))
    if judged.rejected:
        log.warning("first_snapshot_rejected", reason=judged.rejected)
    elif plan.replace is None:  # else there is one, which the running agent keeps current
        SnapshotFile(state.snapshot, sealer, now=time.time).write(judged.snapshot)
    before = plan.replace or AgentConfig(
        name="",
        trust_domain="",
        registries=(),
        etcd=(),
        peer_address="",
        listeners=plan.listeners,
        engines=plan.engines,
        labels=plan.labels,
        node_class=plan.node_class,
        seal=plan.seal,
        models=plan.models,
        traces=plan.traces,
    )
    settings = msgspec.structs.replace(
        before,
        name=identity.node_name,
        trust_domain=identity.trust_domain,
        registries=plan.registries,
        etcd=tuple(response.etcd.endpoints),
        peer_address=peer_address,
    )
    save_config(state, settings)
    return settings


async def _first_pinned(registries: Iterable[str], token: JoinToken | PodToken) -> tuple[str, bytes]:
    """The first registry that answers, and its CA; one of another mesh ends the search."""
    unreachable: Unavailable | None = None
    for address in registries:
        try:
            return address, await fetch_ca(address, token.ca_pin)
        except Unavailable as fault:
            unreachable = unreachable or fault
    assert unreachable is not None  # noqa: S101 - `registries` is not empty
    raise unreachable


async def _call_join(registries: Sequence[str], ca_pem: bytes, request: pb.JoinRequest) -> pb.JoinResponse:
    """Asks each registry in turn, and again for a while when none can answer: they may be electing.

    The registry knows a repeated request by its key, so it costs the token no second use.
    """
    until = time.monotonic() + _PATIENCE_S
    while True:
        answer = await _ask_each(registries, ca_pem, request)
        if isinstance(answer, pb.JoinResponse):
            return answer
        if time.monotonic() > until:
            raise answer
        await asyncio.sleep(_PAUSE_S)


async def _ask_each(
    registries: Iterable[str], ca_pem: bytes, request: pb.JoinRequest
) -> pb.JoinResponse | BridgeError:
    """The first registry's answer, or what the last of those said that cannot answer now."""
    last: BridgeError | None = None
    for address in registries:
        try:
            async with open_channel(address, ca_pem) as channel:
                stub: Any = EnrolmentStub(channel)  # type: ignore[no-untyped-call]  # generated
                response: pb.JoinResponse = await stub.Join(request, timeout=_CALL_S)
                return response
        except Unavailable as fault:
            last = fault
        except grpc.aio.AioRpcError as fault:
            last = _refusal(address, fault)
            if fault.code() is not grpc.StatusCode.UNAVAILABLE:
                raise last from fault
    assert last is not None  # noqa: S101 - `registries` is not empty
    return last


def _refusal(address: str, fault: grpc.aio.AioRpcError) -> BridgeError:
    words = (fault.details() or fault.code().name).rstrip(".")
    match fault.code():
        # The registry's words say what next.
        case (
            grpc.StatusCode.UNAUTHENTICATED
            | grpc.StatusCode.ALREADY_EXISTS
            | grpc.StatusCode.INVALID_ARGUMENT
            | grpc.StatusCode.PERMISSION_DENIED
        ):
            return JoinRefused(words)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return Unavailable(
                f"registry {address} did not answer within {_CALL_S:.0f} s",
                hint="look at its log; the token may have been spent",
            )
        case _:
            return Unavailable(f"registry {address} does not answer: {words}")


async def _undo(registries: Iterable[str], response: pb.JoinResponse, key_pem: bytes) -> None:
    """Frees the name again after the answer could not be kept. Best effort."""
    identity = response.identity
    for address in registries:
        with contextlib.suppress(grpc.aio.AioRpcError, BridgeError):
            async with open_channel(
                address,
                identity.trust_bundle_pem,
                cert_pem=identity.certificate_chain_pem,
                key_pem=key_pem,
            ) as channel:
                stub: Any = MeshStub(channel)  # type: ignore[no-untyped-call]  # generated
                await stub.Leave(pb.LeaveRequest(), timeout=_CALL_S)
                return


def pod_token(token: Path, ca: Path) -> str:
    """What a pod joins with in a join token's place, of its service account's token and the mesh's CA.

    Raises:
        Fatal: a file cannot be read, or is not what it should be.
    """
    try:
        text, ca_pem = _small(token), _small(ca)
    except OSError as fault:
        raise Fatal(
            f"cannot read {fault.filename}: {fault.strerror}", hint="the pod has to have it mounted"
        ) from fault
    try:
        return str(PodToken.parse(str(PodToken(pin(from_pem(ca_pem)), text.decode().strip()))))
    except IdentityFault as fault:
        raise Fatal(f"{ca} is no CA's certificate: {fault.message}") from fault
    except UnicodeDecodeError as fault:
        raise Fatal(f"{token} is no token of a service account") from fault


def _small(path: Path) -> bytes:
    # The kubelet's files are links to others, readable for a group.
    with path.open("rb") as file:
        return file.read(_MOST_BYTES)


def default_name() -> str:
    """This machine's short host name, as far as a node may have it."""
    return socket.gethostname().split(".")[0].lower()
