"""A node's traces, put together."""

from __future__ import annotations

from importlib.metadata import version
from random import Random
from typing import NamedTuple

from bridge_agent.tracing.exporter import Exporter
from bridge_agent.tracing.posting import Collector
from bridge_agent.tracing.section import TracesSection
from bridge_agent.tracing.span_maker import SpanMaker
from bridge_agent.tracing.span_queue import SpanQueue
from bridge_agent.tracing.span_rules import resource_of
from bridge_agent.tracing.tracer import Tracer


class Tracing(NamedTuple):
    """The parts, as a span passes them: in the loop, in the audit's thread, in the loop again."""

    tracer: Tracer
    maker: SpanMaker
    queue: SpanQueue
    exporter: Exporter


def tracing_of(section: TracesSection | None, node: str, mesh: str, rng: Random) -> Tracing | None:
    """What makes and sends the traces of a node; None where it makes none.

    Args:
        section: What its `agent.json` says of them.
        node: Its name.
        mesh: The mesh's.
        rng: Gives ids, and spreads retries.
    """
    if section is None:
        return None
    program = version("deepseek-ollama-bridge")
    queue = SpanQueue()
    return Tracing(
        Tracer(section.ratio, section.flagged_per_s, draw=rng.getrandbits),
        SpanMaker(queue, slow_s=section.slow_s, most_per_s=section.most_per_s),
        queue,
        Exporter(queue, Collector(section), resource_of(node, mesh, program), program, rng=rng),
    )
