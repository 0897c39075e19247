"""What `bridge-agent explain` asks the agent for."""

from __future__ import annotations

import http.client
from urllib.parse import quote

import msgspec

from bridge_agent.config import AgentConfig
from bridge_agent.gateway.explain import HopReport
from bridge_core.addresses import split_address
from bridge_core.errors import Fatal, Unavailable


def fetch_explanation(settings: AgentConfig, request_id: str, *, timeout_s: float = 10.0) -> list[HopReport]:
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
