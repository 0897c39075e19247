"""The agent's watch over health, put together."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from bridge_agent.engines.client import EngineClient
from bridge_agent.engines.proc import striving
from bridge_agent.engines.supervisor import EngineSupervisor
from bridge_agent.engines.view import LocalInstance
from bridge_agent.gateway.gateway import Gateway
from bridge_agent.health.golden_asking import GoldenAsker
from bridge_agent.health.golden_page import GoldenPage
from bridge_agent.health.health_watch import HealthSources, HealthWatch
from bridge_agent.health.infrastructure import MachineReader
from bridge_agent.health.service_tally import ServiceTally
from bridge_agent.health.silence_rules import Process
from bridge_agent.limits.node_isolation import NodeIsolation
from bridge_agent.peers.upstreams import Upstreams
from bridge_agent.routing.view import MeshView
from bridge_core.proc import families

_EXPECTED: Final = frozenset({"ready", "draining"})


def connect(instance: LocalInstance) -> EngineClient:
    """An engine's own door."""
    return EngineClient(instance.host, instance.port, instance.network_pid)


def page_of(view: MeshView, engines: EngineSupervisor, gateway: Gateway) -> GoldenPage:
    """What answers other nodes' golden prompts."""
    return GoldenPage(
        engines.instances,
        connect,
        work=lambda instance: gateway.known_work().get(instance, 0),
        is_out=lambda instance: (told := view.current.verdicts.get(instance)) is not None and told.out,
        now=time.monotonic,
    )


def asker_of(view: MeshView, upstreams: Upstreams) -> GoldenAsker:
    """Who asks other nodes' instances golden prompts."""
    return GoldenAsker(
        view.index.node,
        lambda: view.current,
        lambda node: upstreams.link(node.name, node.peer),
        now=time.time,
        clock=time.monotonic,
    )


def watch_of(
    root: Path,
    *,
    view: MeshView,
    engines: EngineSupervisor,
    isolation: NodeIsolation,
    gateway: Gateway,
    tally: ServiceTally,
    asker: GoldenAsker,
) -> HealthWatch:
    """Who looks how this node's instances are; `root` is the agent's state folder."""

    def reasons() -> Mapping[str, str]:
        if all(one.state in _EXPECTED for one in engines.instances()):
            return {}
        return engines.reasons(failing=True)

    return HealthWatch(
        HealthSources(
            machine=MachineReader({"state": root, "models": root / "models", "audit": root / "audit"}),
            gpus=isolation.gpus,
            device=lambda instance: isolation.report(instance).device,
            instances=engines.instances,
            reason=reasons,
            waiting=gateway.waiting,
            in_flight=lambda: gateway.counters.in_flight,
            served=gateway.served,
            process=engines.process,
            striving=_striving,
            ejected=gateway.ejections,
            tally=tally,
            answers=lambda: asker.recent,
            verdicts=lambda: view.current.verdicts,
        )
    )


def _striving(engines: Collection[Process]) -> dict[Process, float | None]:
    """Of each engine what the processes below it did: those compute."""
    return {
        engine: striving(one.pid for one in members if one.pid != engine[0])
        for engine, members in families(engines).items()
    }
