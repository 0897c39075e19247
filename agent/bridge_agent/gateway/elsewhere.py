"""Mutations of models that the node which is to carry them out does not have, and others have.

A list shows what any node has; a mutation acts on one node. So whoever wants to delete, copy, push or
build on a model of another node's is told whose it is and how to ask there, or is sent there where the
configuration says so (`GatewayConfig.ask_owner`).
"""

from __future__ import annotations

from typing import Final

import msgspec

from bridge_agent.gateway.peek import BadBody, peek, text
from bridge_agent.gateway.reading import names_in
from bridge_agent.gateway.routes import HttpRoute
from bridge_agent.gateway.state import GatewayState
from bridge_core.names import InvalidName, canonical

# Where a mutation says which model must be there.
_NEEDED: Final = {
    "/api/copy": ("source",),
    "/api/create": ("from",),
    "/api/delete": ("model", "name"),
    "/api/push": ("model", "name"),
}


class Elsewhere(msgspec.Struct, frozen=True):
    """Why a node cannot carry out a mutation.

    Attributes:
        name: The model that it lacks, in canonical form.
        names: All models that the mutation names.
        message: What to tell the client.
        owners: Nodes that have the model.
    """

    name: str
    names: tuple[str, ...]
    message: str
    owners: tuple[str, ...] = ()


def found_elsewhere(state: GatewayState, route: HttpRoute, body: bytes, node: str) -> Elsewhere | None:
    """Who has what a mutation needs and `node` lacks; None where it has it, or nobody is known to."""
    keys = _NEEDED.get(route.path)
    if keys is None or route.shape is None:
        return None
    try:
        peeked = peek(body, route.shape)
        asked = next((name for key in keys if (name := text(peeked, key, route.shape))), "")
        names, name = names_in(peeked, route), canonical(asked)
    except (BadBody, InvalidName):
        return None  # whoever sends it on refuses it
    index = state.view.index
    copies = index.copies(name).values()
    maker = state.maker(name)
    if (
        any(copy.node == node for copy in copies)
        or node in index.withheld(name)
        or (maker is not None and maker.node == node)
    ):
        return None
    owners = tuple(dict.fromkeys(copy.node for copy in copies))
    if owners:
        return Elsewhere(name, names, _of_others(route, asked, node, owners), owners)
    if name in index.routes:
        backends = ", ".join(backend.model for backend in index.routes[name].backends)
        message = (
            f"model '{asked}' not found: it is a route of the mesh, to {backends}; name the model itself"
        )
        return Elsewhere(name, names, message)
    return None


def _of_others(route: HttpRoute, asked: str, node: str, owners: tuple[str, ...]) -> str:
    quoted = f'"{asked}"' if route.path == "/api/copy" else f"'{asked}'"  # as Ollama writes it there
    if len(owners) == 1:
        whose, way = f"{owners[0]} has it", f"ask again with the header X-Bridge-Node: {owners[0]}"
    else:
        names = ", ".join(owners)
        whose, way = f"{names} have it", f"ask again with the header X-Bridge-Node and one of {names}"
    pull = ", or pull it to this node first" if route.path == "/api/create" else ""
    return f"model {quoted} not found on node {node}; {whose}: {way}{pull}"
