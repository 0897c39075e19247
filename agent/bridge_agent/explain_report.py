"""What `bridge-agent explain` prints."""

from __future__ import annotations

import http.client
from urllib.parse import quote

import msgspec
from rich.console import Console
from rich.table import Table

from bridge_agent.gateway.explain import HopReport
from bridge_agent.settings import AgentSettings
from bridge_core.addresses import split_address
from bridge_core.errors import Fatal, Unavailable


def fetch_explanation(
    settings: AgentSettings, request_id: str, *, timeout_s: float = 10.0
) -> list[HopReport]:
    """Asks the running agent, which asks its peers.

    Raises:
        Unavailable: no agent answers on its admin listener.
        Fatal: nobody remembers such a request.
    """
    host, port = split_address(settings.listeners.admin, flag="--admin")
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", f"/explain?id={quote(request_id, safe='')}")
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise Unavailable(f"the agent answered {answer.status} at {settings.listeners.admin}")
        hops = msgspec.json.decode(body, type=list[HopReport])
    except (OSError, http.client.HTTPException, msgspec.DecodeError) as fault:
        raise Unavailable(
            f"the agent of {settings.name} does not answer at {settings.listeners.admin}",
            hint="start it with bridge-agent run",
        ) from fault
    finally:
        connection.close()
    if not hops:
        raise Fatal(
            f"nobody remembers a request {request_id}",
            hint="the id is in X-Request-Id of the answer; agents remember their last requests only",
        )
    return hops


def print_explanation(hops: list[HopReport], console: Console) -> None:
    """Prints it for people, hop by hop."""
    for hop in hops:
        role = f"forwarded by {hop.via}" if hop.via else f"called by {hop.principal}"
        console.print(f"{hop.node} ({role}): {hop.path} {hop.asked}", markup=False, soft_wrap=True)
        where = f"route {hop.route}, backend {hop.backend}: " if hop.route else ""
        panic = ", health not regarded (panic)" if hop.panic else ""
        console.print(f"  {where}{hop.model} by {hop.strategy}{panic}", markup=False, soft_wrap=True)
        table = Table("", "instance", "work/slots", "share", "in memory", "why not")
        failed = {one.instance: f"{one.failure}: {one.detail}" for one in hop.failed}
        for place, one in enumerate(hop.candidates, 1):
            answered = "→" if one.instance == hop.instance else str(place)
            load = f"{one.work}/{one.slots}"
            memory = "yes" if one.resident else "no"
            table.add_row(
                answered, one.instance, load, str(one.capacity), memory, failed.get(one.instance, "")
            )
        listed = {one.instance for one in hop.candidates}
        for passed in hop.passed_over:
            if passed.instance not in listed:
                table.add_row("", passed.instance, "", "", "", passed.reason)
        if hop.candidates or hop.passed_over:
            console.print(table)
        times = [f"waited {hop.waited_ms:g} ms"] if hop.waited_ms else []
        times += [f"sent at {hop.sent_ms:g} ms"] if hop.sent_ms >= 0 else []
        times += [f"first byte at {hop.first_byte_ms:g} ms"] if hop.first_byte_ms >= 0 else []
        times += [f"over at {hop.ended_ms:g} ms"]
        console.print(f"  {hop.outcome} ({hop.status}): {', '.join(times)}", markup=False, soft_wrap=True)
