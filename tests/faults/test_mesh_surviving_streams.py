"""Streams through a real mesh while the process that speaks dies: no client sees an error."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from tests.cluster.mesh_bed import NODES, TALKER, Mesh
from tests.cluster.survival import (
    CHAT,
    DEATHS,
    GENERATE,
    OF_A_NODE,
    OPENAI,
    PATHS,
    SPARED,
    Seen,
    asked,
    believed_in,
    copied,
    one_stream,
    resumed_streams,
    survive,
)

TRIES = 10
FAR = "tiny-far"  # the same model where the clients' own sidecar has it not: all of it is spoken elsewhere
TOKENS = 1000  # long enough for a node that has begun not to be through
EARLY = 200  # pieces after which a stream may be over at its node, however busy its client is

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


async def played(
    mesh: Mesh, play: Callable[[], Awaitable[list[Seen]]], shows: Callable[[Seen], object]
) -> list[Seen]:
    """Rounds until one shows it: in one whose death came behind the last word there is nothing to see."""
    for _ in range(TRIES):
        await believed_in(mesh)
        seen = await play()
        if any(map(shows, seen)):
            return seen
        assert [one.error for one in seen] == [""] * len(seen)
        await mesh.repair()
    pytest.fail(f"no stream was cut in {TRIES} rounds")


async def model_for(mesh: Mesh, death: str) -> str:
    """A model that those speak who may die of it."""
    if death not in OF_A_NODE:
        return "tiny"
    await copied(mesh, "tiny", FAR, [node for node in NODES if node != SPARED])
    return FAR


@pytest.mark.parametrize("death", DEATHS)
async def test_no_client_sees_an_error_when_the_speaker_dies(mesh: Mesh, death: str) -> None:
    chance, model = random.Random(death), await model_for(mesh, death)
    bodies = [(path, asked(path, model, f"{number} foxes", TOKENS)) for number, path in enumerate(PATHS * 2)]
    seen = await played(
        mesh, lambda: survive(mesh, bodies, death, chance, early=EARLY), lambda one: one.resumed or one.error
    )
    assert [one.error for one in seen] == [""] * len(seen)
    assert all(one.complete for one in seen)


@pytest.mark.parametrize("death", ["frozen", "paused"])
async def test_one_that_wakes_after_its_streams_went_on_adds_nothing(mesh: Mesh, death: str) -> None:
    """It was stopped with text under way; should any of that still come, there were more pieces."""
    chance, model = random.Random(death), await model_for(mesh, death)
    bodies = [(path, asked(path, model, f"{number} bears", TOKENS)) for number, path in enumerate(PATHS * 2)]

    async def play() -> list[Seen]:
        before = await resumed_streams(mesh)

        async def gone_on() -> bool:
            return await resumed_streams(mesh) > before

        return await survive(mesh, bodies, death, chance, early=EARLY, wakes=gone_on)

    seen = await played(mesh, play, lambda one: one.resumed or one.error)
    assert [one.error for one in seen] == [""] * len(seen)
    assert all(one.complete and one.pieces <= TOKENS for one in seen)


async def test_streams_that_cannot_be_continued_say_so(mesh: Mesh) -> None:
    """A list that its grammar keeps from ending early."""
    schema = {"type": "array", "items": {"type": "string", "maxLength": 8}, "minItems": 400}
    shaped: dict[str, dict[str, object]] = {
        GENERATE: {"format": schema},
        CHAT: {"format": schema},
        OPENAI: {"response_format": {"type": "json_schema", "json_schema": {"name": "l", "schema": schema}}},
    }
    model = await model_for(mesh, "agent")
    bodies = [
        (path, asked(path, model, f"{number} owls", TOKENS) | shaped[path])
        for number, path in enumerate([*shaped] * 3)
    ]
    chance = random.Random(1)
    seen = await played(
        mesh, lambda: survive(mesh, bodies, "agent", chance, early=EARLY), lambda one: one.error
    )
    assert all(one.complete != bool(one.error) for one in seen), "told or complete, never cut silently"
    told = [one.error for one in seen if one.error]
    assert not any(error.startswith("cut:") for error in told), "told in the protocol's own words"
    assert not any(one.resumed for one in seen if one.begun and one.error)


async def test_a_continued_text_is_the_uninterrupted_one(mesh: Mesh) -> None:
    body = asked(GENERATE, TALKER, "Tell me about the sea.", 60)
    whole, chance = Seen(), random.Random(1)
    async with httpx.AsyncClient(timeout=120) as client:
        await one_stream(client, mesh.url(SPARED), GENERATE, body, whole)
    (seen,) = await played(
        mesh,
        lambda: survive(mesh, [(GENERATE, body)], "engine", chance, early=20),
        lambda one: one.resumed or one.error,
    )
    assert (seen.error, seen.resumed) == ("", 1)
    assert seen.text == whole.text
