"""What a client hears whose model nobody is known to serve."""

from __future__ import annotations

from typing import Final, NamedTuple

from bridge_agent.gateway.routes import HttpRoute
from bridge_agent.gateway.state import GatewayState

_RETRY_S: Final = 1


class UnknownModelRefusal(NamedTuple):
    """The answer; `retry_after` in seconds, None where trying again will not help."""

    status: int
    message: str
    retry_after: int | None


def unknown_model(
    state: GatewayState, route: HttpRoute, asked: str, name: str, now: float, *, model: str = ""
) -> UnknownModelRefusal:
    """503 for as long as it may still turn up, 403 where it is withheld, else the route's own 404.

    Args:
        state: Where the request is.
        route: Which words to say it in.
        asked: The model, as the client spelled it.
        name: The same with its tag, for routes that say it so.
        now: Monotonic time.
        model: The one that was to serve it, in canonical form, where the caller may know of it.
    """
    withheld = state.view.index.withheld(model)
    if withheld:
        state.counters.refused["unsigned"] += 1
        return UnknownModelRefusal(403, f"model '{asked}' is not served: {min(withheld.values())}", None)
    why = state.unheard.reason(now)
    if not why:
        return UnknownModelRefusal(404, route.missing.format(asked, name), None)
    state.counters.refused["unheard"] += 1
    return UnknownModelRefusal(503, f"model '{asked}' is not known yet: {why}", _RETRY_S)
