"""What the agent says about itself at /status, and how `bridge-agent status` prints it."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgspec

from bridge_agent.config import AgentConfig
from bridge_agent.engines.view import LocalInstance
from bridge_agent.limits.gpu import Gpu
from bridge_agent.limits.isolation_report import DomainReport, IsolationReport, lines
from bridge_agent.membership.link_status import LinkReport
from bridge_core.addresses import split_address
from bridge_core.errors import Unavailable
from bridge_core.quantities import say_size, say_span
from bridge_core.snapshot import LoadingModel, Snapshot
from bridge_core.verdicts import Verdict

if TYPE_CHECKING:
    from rich.console import Console

    from bridge_agent.engines.instance import InstanceStatus


class SnapshotReport(msgspec.Struct, frozen=True):
    """Which view of the mesh the agent serves from."""

    epoch: int
    revision: int
    nodes: int
    instances: int
    routes: int

    @classmethod
    def of(cls, snapshot: Snapshot) -> SnapshotReport:
        """What there is to say of a snapshot."""
        version = snapshot.version
        return cls(
            version.epoch,
            version.revision,
            len(snapshot.nodes),
            len(snapshot.instances),
            len(snapshot.routes),
        )


class CertificateReport(msgspec.Struct, frozen=True):
    """The node's certificate."""

    serial: str
    expires_unix: float
    refused: str = ""  # why the mesh takes it no more, though its time is not up


class AuthorityReport(msgspec.Struct, frozen=True):
    """A CA that the node trusts; `kind` is "root" or "intermediate"."""

    kind: str
    name: str
    expires_unix: float


class InstanceReport(msgspec.Struct, frozen=True):
    """One local engine instance."""

    id: str
    state: str
    models: tuple[str, ...]
    loaded: tuple[str, ...]
    slots: int
    detail: str = ""
    pid: int | None = None
    isolation: IsolationReport | None = None
    health: Verdict | None = None
    loading: tuple[LoadingModel, ...] = ()


class AgentReport(msgspec.Struct, frozen=True):
    """All of it. `state` is "starting", "serving" or "draining"; `concerns` are for an operator.

    `form` says whether the way of a request is compiled, see `bridge_core.form`.
    """

    name: str
    trust_domain: str
    version: str
    pid: int
    state: str
    started_unix: float
    listeners: dict[str, str]
    snapshot: SnapshotReport
    certificate: CertificateReport
    links: tuple[LinkReport, ...]
    instances: tuple[InstanceReport, ...]
    node_class: str = ""
    node_class_from: str = ""
    concerns: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    domains: tuple[DomainReport, ...] = ()
    authorities: tuple[AuthorityReport, ...] = ()
    form: str = ""


def instance_reports(
    instances: Iterable[LocalInstance],
    status: Iterable[InstanceStatus],
    isolation: Iterable[IsolationReport],
    verdict: Callable[[str], Verdict] = Verdict,
) -> tuple[InstanceReport, ...]:
    """What is known of each instance, put together."""
    lives = {one.id: one for one in status}
    walls = {one.instance: one for one in isolation}
    return tuple(
        InstanceReport(
            one.id,
            lives[one.id].phase,
            tuple(model.name for model in one.models),
            one.loaded,
            one.slots,
            "" if one.state == "ready" else lives[one.id].reason,
            lives[one.id].pid,
            walls.get(one.id),
            verdict(one.id),
            one.loading,
        )
        for one in instances
    )


def fetch_report(settings: AgentConfig, *, timeout_s: float = 5.0) -> AgentReport:
    """Asks the running agent.

    Raises:
        Unavailable: no agent answers on its admin listener.
    """
    host, port = split_address(settings.listeners.admin, flag="--admin")
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", "/status")
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise Unavailable(f"the agent answered {answer.status} at {settings.listeners.admin}")
        return msgspec.json.decode(body, type=AgentReport)
    except (OSError, http.client.HTTPException) as fault:
        raise Unavailable(
            f"the agent of {settings.name} does not run (nothing answers at {settings.listeners.admin})",
            hint="start it with bridge-agent run",
        ) from fault
    except msgspec.DecodeError as fault:
        raise Unavailable(f"what answers at {settings.listeners.admin} is not this agent") from fault
    finally:
        connection.close()


def print_report(report: AgentReport, console: Console, *, now: float | None = None) -> None:
    """Prints it for people. `now` is the wall clock in seconds."""
    at = time.time() if now is None else now
    snapshot = report.snapshot
    console.print(
        f"{report.name} in {report.trust_domain}: {report.state}, process {report.pid}, "
        f"up {say_span(at - report.started_unix)}, version {report.version}"
        + (f" ({report.form})" if report.form else ""),
        markup=False,
    )
    console.print(
        f"snapshot {snapshot.epoch}.{snapshot.revision}: {snapshot.nodes} nodes, "
        f"{snapshot.instances} instances, {snapshot.routes} routes"
    )
    console.print(f"certificate {_validity(report.certificate, at)}", markup=False, soft_wrap=True)
    if report.authorities:
        lives = (f"{one.kind} {one.name} {_left(one.expires_unix - at)}" for one in report.authorities)
        console.print(f"CAs: {', '.join(lives)}", markup=False, soft_wrap=True)
    for link in report.links:
        since = say_span(at - link.since_unix)
        words = f"{link.name}: in order" if link.up else f"{link.name}: NOT for {since}: {link.reason}"
        console.print(words, markup=False, soft_wrap=True)
    where = ", ".join(f"{name} {address}" for name, address in report.listeners.items())
    console.print(f"listening: {where}", soft_wrap=True)
    from rich.table import Table  # not kept by the agent, which makes reports too

    table = Table("instance", "state", "health", "slots", "loaded", "models")
    for instance in report.instances:
        health = _health(instance.health)
        state = f"{instance.state} ({instance.detail})" if instance.detail else instance.state
        table.add_row(
            instance.id,
            state,
            health,
            str(instance.slots),
            ", ".join((*instance.loaded, *(_loading(one, at) for one in instance.loading))),
            ", ".join(instance.models),
        )
    console.print(table)
    if report.node_class_from:
        console.print(f"NodeClass {report.node_class}, from {report.node_class_from}", markup=False)
    for instance in report.instances:
        for line in lines(instance.isolation) if instance.isolation is not None else ():
            console.print(f"{instance.id} {line}", markup=False, soft_wrap=True)
    for gpu in report.gpus:
        console.print(_gpu(gpu), markup=False, soft_wrap=True)
    for domain in report.domains:
        members = ", ".join(domain.instances)
        console.print(f"MPS {domain.name}: {members}", markup=False, soft_wrap=True)
    for concern in report.concerns:
        console.print(f"! {concern}", markup=False, soft_wrap=True)


def _loading(load: LoadingModel, at: float) -> str:
    share = f" {load.progress(at):.0%}" if load.expected_s else ""
    return f"{load.name} (loading{share})"


def _gpu(gpu: Gpu) -> str:
    words = [f"GPU {gpu.index} {gpu.name} {gpu.uuid}"]
    words.append(f"{say_size(gpu.free_bytes)} of {say_size(gpu.memory_bytes)} free")
    words += [f"{gpu.temperature_c} °C"] if gpu.temperature_c is not None else []
    words += [f"{gpu.power_w:.0f} W"] if gpu.power_w is not None else []
    words += [f"{gpu.utilization} % busy"] if gpu.utilization is not None else []
    words += ["MIG"] if gpu.mig else []
    words += [f"MAY NOT BE USED: {gpu.fault}"] if gpu.fault else []
    return ", ".join(words)


def _health(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    return f"{verdict.level}, taken out" if verdict.out else verdict.level


def _validity(certificate: CertificateReport, at: float) -> str:
    left = certificate.expires_unix - at
    if certificate.refused and left > 0:
        return f"REFUSED by the mesh: {certificate.refused}"
    return _left(left)


def _left(left: float) -> str:
    return f"valid for {say_span(left)}" if left > 0 else f"EXPIRED {say_span(-left)} ago"
