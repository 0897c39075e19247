"""Wrong answers: node3's engine loads other weights under the same digest.

Each round asks for the model by another name: what is known of a name goes with it, and a node that was
taken out would otherwise have to answer rightly twice as often after every round.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator

from bench.detection.bed import MODEL, NODE, Bed, mix
from bench.detection.fault import Fault, Fixed
from tests.cluster.mesh_bed import NODES, call
from tests.cluster.survival import kill_engine


@contextlib.asynccontextmanager
async def _happens(bed: Bed) -> AsyncIterator[None]:
    weights = bed.weights(NODE)
    right = bed.folder / "right"
    shutil.copyfile(weights, right)
    await asyncio.to_thread(mix, weights)
    await _reload(bed)
    try:
        yield
    finally:
        shutil.copyfile(right, weights)
        former = bed.model
        await fresh_name(bed)
        await _delete(bed, former)
        await _reload(bed)


async def fresh_name(bed: Bed) -> None:
    """The model under a name that no round has used."""
    bed.wrong += 1
    bed.model = f"{MODEL}-{bed.wrong}"
    for node in NODES:
        body = {"source": MODEL, "destination": bed.model}
        status, _, said = await asyncio.to_thread(call, bed.mesh.address(node), "POST", "/api/copy", body)
        assert status == 200, said


async def _delete(bed: Bed, name: str) -> None:
    if name == MODEL:
        return
    for node in NODES:
        await asyncio.to_thread(call, bed.mesh.address(node), "DELETE", "/api/delete", {"model": name})


async def _reload(bed: Bed) -> None:
    """Unloads the model; the next request loads what lies there now."""
    await asyncio.to_thread(kill_engine, bed.mesh, NODE)


FAULT = Fault(
    "wrong",
    "wrong answers (other weights)",
    _happens,
    in_band=frozenset(),
    out_of_band=frozenset({"registry:out"}),
    bars=(None, 23.0),
    fixed=Fixed("none: it answers 200, and fast", lambda _: False, 0.0),
    limit_s=120.0,
)
