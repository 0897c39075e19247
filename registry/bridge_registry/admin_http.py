"""The admin listener of a registry and of a guard: /healthz, /readyz, /metrics, and a registry's console."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from bridge_core import exposition
from bridge_core.admin_access import refusal
from bridge_core.http1 import App, Exchange
from bridge_core.identity.expiry_rules import Expiry
from bridge_registry.publication.publisher import Publisher


class Readiness(msgspec.Struct, frozen=True):
    """Whether the process does its work; `reason` says why not, or what is amiss all the same."""

    ready: bool
    reason: str


class AdminApp:
    """Answers the admin listener's requests.

    Args:
        figures: What /metrics shows.
        readiness: Whether it is ready.
        own_name: This machine's, which requests may be for.

    Attributes:
        pages: What it answers besides, by path.
        posts: What it takes by POST, by path; nothing else is more than read.
    """

    def __init__(
        self, figures: Iterable[Collector], readiness: Callable[[], Readiness], own_name: str
    ) -> None:
        self._readiness = readiness
        self._own_name = own_name
        self.pages: Mapping[str, App] = {}
        self.posts: Mapping[str, App] = {}
        self._metrics = CollectorRegistry()
        for one in figures:
            self._metrics.register(one)

    def __call__(self, exchange: Exchange) -> None:
        """Answers one request."""
        path = exchange.request.path
        if reason := refusal(exchange.request, self._own_name):
            _text(exchange, 403, f"{reason}\n")
        elif exchange.request.method == "POST" and path in self.posts:
            self.posts[path](exchange)
        elif exchange.request.method not in {"GET", "HEAD"} or path in self.posts:
            _text(exchange, 405, "method not allowed\n")
        elif path == "/healthz":
            _text(exchange, 200, "ok\n")
        elif path == "/readyz":
            readiness = self._readiness()
            _text(exchange, 200 if readiness.ready else 503, f"{readiness.reason}\n")
        elif path == "/metrics":
            exposition.answer(exchange, self._metrics)
        elif path in self.pages:
            self.pages[path](exchange)
        else:
            _text(exchange, 404, "not found\n")


def _text(exchange: Exchange, status: int, text: str) -> None:
    exchange.respond(status, [(b"content-type", b"text/plain; charset=utf-8")], text.encode())


class RegistryFigures(Collector):
    """Reads the registry's figures when they are asked for.

    Args:
        publisher: Has most of them.
        leads: Whether this registry leads.
        foreign: Whether the store is not the one that the mesh lived in.
        lives: When each of the registry's certificates ends.
    """

    def __init__(
        self,
        publisher: Publisher,
        leads: Callable[[], bool],
        foreign: Callable[[], bool],
        lives: Callable[[], Iterable[Expiry]],
    ) -> None:
        self._lives = lives
        self._foreign = foreign
        self._publisher = publisher
        self._leads = leads

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """See prometheus_client."""
        publisher, hub = self._publisher, self._publisher.hub
        figures = {
            "leader": ("1 while this registry leads", int(self._leads())),
            "store_up": ("1 while etcd answers", int(publisher.store_up)),
            "store_foreign": ("1 while the store is not the one that the mesh knew", int(self._foreign())),
            "snapshot_entries_not_published": (
                "Entries that agents would refuse",
                len(publisher.entry_faults),
            ),
            "snapshot_epoch": ("Epoch of the published snapshot", hub.current.version.epoch),
            "snapshot_revision": ("Revision of the published snapshot", hub.current.version.revision),
            "snapshot_instances": ("Instances in the published snapshot", len(hub.current.instances)),
            "store_guards": ("Store guards that live", len(publisher.table.guards)),
            "nodes": ("Enrolled nodes", len(publisher.table.nodes)),
            "members_missing": ("Members kept by grace alone", len(publisher.table.membership.missing)),
            "agents_connected": ("Agents that follow snapshots here", len(hub.acknowledged)),
            "agents_rejecting": (
                "Agents that refused the last snapshot",
                sum(bool(said.rejected) for said in hub.acknowledged.values()),
            ),
            "store_records_ignored": ("Records in etcd that do not decode", len(publisher.table.faults)),
        }
        for name, (text, value) in figures.items():
            yield GaugeMetricFamily(f"bridge_registry_{name}", text, value=value)
        ends = GaugeMetricFamily(
            "bridge_certificate_expires_seconds",
            "Unix time of the end of the first certificate of a kind that ends.",
            labels=["kind"],
        )
        first: dict[str, float] = {}
        for one in self._lives():
            first[one.kind] = min(one.ends, first.get(one.kind, one.ends))
        for kind, at in first.items():
            ends.add_metric([kind], at)
        yield ends
