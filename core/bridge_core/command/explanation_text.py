"""An explanation for people."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.table import Table

from bridge_core.command.plain_text import one_line
from bridge_core.explanation import HopReport
from bridge_core.names import display_or_same

_STRATEGIES: Final = {
    "only": "which one instance alone has",
    "named": "at the instance that the entry node chose",
    "node": "at the node that the request names",
    "just_made": "where it was made a moment ago",
    "ring_hash": "in the ring's order from the conversation's place on (ring_hash)",
    "round_robin": "in turns (round_robin)",
    "least_request": "the least busy first (least_request)",
    "residency": "where it is in memory and idle first (residency)",
}


def print_explanation(hops: list[HopReport], console: Console) -> None:
    """Prints it for people, hop by hop."""
    for hop in hops:
        role = f"forwarded by {hop.via}" if hop.via else f"called by {hop.principal}"
        asked = f"{hop.path} {display_or_same(hop.asked)}".rstrip()
        console.print(_shown(f"{hop.node} ({role}): {asked}"), markup=False, soft_wrap=True)
        where = f"route {hop.route}, backend {hop.backend}: " if hop.route else ""
        how = _STRATEGIES.get(hop.strategy, f"the order is {hop.strategy}'s")
        if not hop.candidates and not hop.passed_over:
            how = "which no instance has"
        panic = "; too few are healthy, so health was not regarded (panic)" if hop.panic else ""
        console.print(
            _shown(f"  {where}{display_or_same(hop.model)}, {how}{panic}"), markup=False, soft_wrap=True
        )
        table = Table("", "instance", "work/slots", "weight", "in memory", "why not")
        failed = {one.instance: _shown(f"{one.failure}: {one.detail}") for one in hop.failed}
        for place, one in enumerate(hop.candidates, 1):
            answered = "→" if one.instance == hop.instance else str(place)
            load = f"{one.work}/{one.slots}"
            memory = "yes" if one.resident else "no"
            table.add_row(
                answered, _shown(one.instance), load, str(one.capacity), memory, failed.get(one.instance, "")
            )
        listed = {one.instance for one in hop.candidates}
        for passed in hop.passed_over:
            if passed.instance not in listed:
                table.add_row("", _shown(passed.instance), "", "", "", _shown(passed.reason))
        if hop.candidates or hop.passed_over:
            console.print(table)
        times = [f"waited {hop.waited_ms:g} ms"] if hop.waited_ms else []
        times += [f"sent at {hop.sent_ms:g} ms"] if hop.sent_ms >= 0 else []
        times += [f"first byte at {hop.first_byte_ms:g} ms"] if hop.first_byte_ms >= 0 else []
        times += [f"over at {hop.ended_ms:g} ms"]
        console.print(f"  {hop.outcome} ({hop.status}): {', '.join(times)}", markup=False, soft_wrap=True)


def _shown(text: str) -> str:
    return one_line(text, 4000)
