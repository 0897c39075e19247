"""Streams through a real mesh while the process that speaks dies: no client sees an error."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.cluster.mesh_bed import TALKER, Mesh
from tests.cluster.survival import (
    CHAT,
    DEATHS,
    GENERATE,
    OPENAI,
    PATHS,
    SPARED,
    Seen,
    asked,
    one_stream,
    resumed_streams,
    survive,
)

ROUNDS = 5

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.faults,
    pytest.mark.etcd,
    pytest.mark.llamacpp,
    pytest.mark.timeout(400),  # rounds are played until a death cut something
]


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


@pytest.mark.parametrize("death", ["frozen", "paused"])
async def test_one_that_wakes_after_its_streams_went_on_adds_nothing(mesh: Mesh, death: str) -> None:
    """It was stopped with text under way; should any of that still come, there were more pieces."""
    chance, tokens = random.Random(death), 500
    bodies = [(path, asked(path, "tiny", f"{number} bears", tokens)) for number, path in enumerate(PATHS * 2)]
    for _ in range(ROUNDS):
        before = await resumed_streams(mesh)

        async def gone_on(before: int = before) -> bool:
            return await resumed_streams(mesh) > before

        seen = await survive(mesh, bodies, death, chance, window_s=0.1, wakes=gone_on)
        assert [one.error for one in seen] == [""] * len(seen)
        assert all(one.complete and one.pieces <= tokens for one in seen)
        if any(one.resumed for one in seen):
            return
    pytest.fail(f"no stream had to be continued in {ROUNDS} rounds")


async def test_streams_that_cannot_be_continued_say_so(mesh: Mesh) -> None:
    """A list that its grammar keeps from ending early, from a model that every node has."""
    schema = {"type": "array", "items": {"type": "string", "maxLength": 8}, "minItems": 400}
    shaped: dict[str, dict[str, object]] = {
        GENERATE: {"format": schema},
        CHAT: {"format": schema},
        OPENAI: {"response_format": {"type": "json_schema", "json_schema": {"name": "l", "schema": schema}}},
    }
    bodies = [
        (path, asked(path, "tiny", f"{number} owls", 500) | shaped[path])
        for number, path in enumerate([*shaped] * 3)
    ]
    chance = random.Random(1)
    for _ in range(ROUNDS):
        seen = await survive(mesh, bodies, "agent", chance, window_s=0.1)
        told = [one.error for one in seen if one.error]
        assert all(one.complete != bool(one.error) for one in seen), "told or complete, never cut silently"
        assert not any(error.startswith("cut:") for error in told), "told in the protocol's own words"
        assert not any(one.resumed for one in seen if one.begun and one.error)
        if told:
            return
        await mesh.repair()
        await mesh.whole()
    pytest.fail(f"no stream died in {ROUNDS} rounds")


async def test_a_continued_text_is_the_uninterrupted_one(mesh: Mesh) -> None:
    body = asked(GENERATE, TALKER, "Tell me about the sea.", 60)
    whole = Seen()
    async with httpx.AsyncClient(timeout=120) as client:
        await one_stream(client, mesh.url(SPARED), GENERATE, body, whole)
    (seen,) = await survive(mesh, [(GENERATE, body)], "engine", random.Random(1), window_s=0.1)
    assert (seen.error, seen.resumed) == ("", 1)
    assert seen.text == whole.text
