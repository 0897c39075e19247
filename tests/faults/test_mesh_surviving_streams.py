"""Streams through a real mesh while the process that speaks dies: no client sees an error."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.cluster.mesh_bed import TALKER, Mesh
from tests.cluster.survival import DEATHS, GENERATE, PATHS, SPARED, Seen, asked, one_stream, survive

ROUNDS = 5

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.etcd, pytest.mark.llamacpp]


@pytest.fixture
async def mesh(harmed_mesh: Mesh) -> AsyncIterator[Mesh]:
    yield harmed_mesh
    await harmed_mesh.repair()
    await harmed_mesh.whole()


@pytest.mark.parametrize("death", DEATHS)
async def test_no_client_sees_an_error_when_the_speaker_dies(mesh: Mesh, death: str) -> None:
    """Rounds are played until the death cut a stream that was still speaking."""
    chance = random.Random(death)
    bodies = [(path, asked(path, "tiny", f"{number} foxes", 500)) for number, path in enumerate(PATHS * 2)]
    for _ in range(ROUNDS):
        seen = await survive(mesh, bodies, death, chance, window_s=0.1)
        assert [one.error for one in seen] == [""] * len(seen)
        assert all(one.complete for one in seen)
        if any(one.resumed for one in seen):
            return
        await mesh.repair()
        await mesh.whole()
    pytest.fail(f"no stream had to be continued in {ROUNDS} rounds")


async def test_a_continued_text_is_the_uninterrupted_one(mesh: Mesh) -> None:
    body = asked(GENERATE, TALKER, "Tell me about the sea.", 60)
    whole = Seen()
    async with httpx.AsyncClient(timeout=120) as client:
        await one_stream(client, mesh.url(SPARED), GENERATE, body, whole)
    (seen,) = await survive(mesh, [(GENERATE, body)], "engine", random.Random(1), window_s=0.1)
    assert (seen.error, seen.resumed) == ("", 1)
    assert seen.text == whole.text
