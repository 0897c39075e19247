"""What the agent says about itself at /status, and how `bridge-agent status` prints it."""

from __future__ import annotations

import http.client
import time

import msgspec
from rich.console import Console
from rich.table import Table

from bridge_agent.membership.link_status import LinkReport
from bridge_agent.settings import AgentSettings, split_address
from bridge_core.errors import Unavailable


class SnapshotReport(msgspec.Struct, frozen=True):
    """Which view of the mesh the agent serves from."""

    epoch: int
    revision: int
    nodes: int
    instances: int
    routes: int


class CertificateReport(msgspec.Struct, frozen=True):
    """The node's certificate."""

    serial: str
    expires_unix: float


class InstanceReport(msgspec.Struct, frozen=True):
    """One local engine instance."""

    id: str
    state: str
    models: tuple[str, ...]
    loaded: tuple[str, ...]
    slots: int
    detail: str = ""


class AgentReport(msgspec.Struct, frozen=True):
    """All of it. `state` is "starting", "serving" or "draining"."""

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


def fetch_report(settings: AgentSettings, *, timeout_s: float = 5.0) -> AgentReport:
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
        f"up {_span(at - report.started_unix)}, version {report.version}",
        markup=False,
    )
    console.print(
        f"snapshot {snapshot.epoch}.{snapshot.revision}: {snapshot.nodes} nodes, "
        f"{snapshot.instances} instances, {snapshot.routes} routes"
    )
    console.print(f"certificate {_validity(report.certificate.expires_unix - at)}")
    for link in report.links:
        since = _span(at - link.since_unix)
        words = f"{link.name}: in order" if link.up else f"{link.name}: NOT for {since}: {link.reason}"
        console.print(words, markup=False, soft_wrap=True)
    where = ", ".join(f"{name} {address}" for name, address in report.listeners.items())
    console.print(f"listening: {where}", soft_wrap=True)
    table = Table("instance", "state", "slots", "loaded", "models")
    for instance in report.instances:
        state = f"{instance.state} ({instance.detail})" if instance.detail else instance.state
        table.add_row(
            instance.id, state, str(instance.slots), ", ".join(instance.loaded), ", ".join(instance.models)
        )
    console.print(table)


def _validity(left: float) -> str:
    return f"valid for {_span(left)}" if left > 0 else f"EXPIRED {_span(-left)} ago"


def _span(seconds: float) -> str:
    whole = max(0, int(seconds))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if whole >= 2 * size:
            return f"{whole // size} {unit}"
    return f"{whole} s"
