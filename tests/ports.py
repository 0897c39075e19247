"""Ports for what tests start: chosen now, listened on later, and nobody else's in between.

The kernel gives ports of a range of its own (`ip_local_port_range`) to connections and to whoever listens
on port 0, so a port of that range that was free a moment ago may be anybody's. These lie below it, and the
workers of one run draw from ranges of their own.
"""

from __future__ import annotations

import itertools
import os
import random
import socket

_FIRST, _EACH, _WORKERS = 30_000, 500, 5
_MESHES, _MESH_EACH = 12_000, 200
_PLACES = itertools.count(random.randrange(_EACH))


def _worker() -> int:
    """The number of this process among those of one run."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS


def free_port() -> int:
    """A port of the loopback on which nobody listens, and which nobody is given by chance."""
    first = _FIRST + _EACH * _worker()
    for _ in range(_EACH):
        port = first + next(_PLACES) % _EACH
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError(f"no free port from {first} to {first + _EACH}")


def any_base_port(nodes: int) -> int:
    """A base port for `bridgectl up`: no port of its mesh is one of a mesh of another worker's."""
    thousands = random.randrange(18 - nodes)
    return _MESHES + 1000 * thousands + _MESH_EACH * _worker() + 40 + random.randrange(40)
