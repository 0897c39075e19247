"""Lists of texts at the embedded engine: read together by one model, each with its own tokens counted."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from bridge_agent.engines.view import LocalInstance
from bridge_core.snapshot import MemberModel
from tests.contract.ollama_target import Engine, Received, ask, engine, seeded
from tests.lone_gateway import gateway_before

pytestmark = [pytest.mark.llamacpp]

CONTEXT = 2048  # of the model; a token is a byte
TEXTS = ("a cat", "é", "", "the <|eot|> of it", "x" * 700, "y" * 900, "z" * 1100)
LONG = "w" * (CONTEXT + 100)


@pytest.fixture(scope="module")
def running(tmp_path_factory: Any) -> Iterator[Engine]:
    with engine(seeded(tmp_path_factory, "embeddings", "tiny-embed")) as started:
        yield started


def asked(running: Engine, body: dict[str, Any]) -> Received:
    return ask(running.base, "POST", "/api/embed", json.dumps({"model": "tiny-embed", **body}).encode())


def embed(running: Engine, texts: Any, **more: Any) -> dict[str, Any]:
    received = asked(running, {"input": texts, **more})
    assert received.status == 200, received.body
    answer: dict[str, Any] = received.json()
    return answer


def test_a_list_is_answered_as_its_texts_are_alone(running: Engine) -> None:
    together = embed(running, list(TEXTS), prompt_eval_counts=True)
    alone = [embed(running, [text]) for text in TEXTS]
    # More tokens than the context has: they share it, and are read in turns.
    assert together["prompt_eval_count"] > CONTEXT
    assert together["prompt_eval_counts"] == [one["prompt_eval_count"] for one in alone]
    assert sum(together["prompt_eval_counts"]) == together["prompt_eval_count"]
    for vector, one in zip(together["embeddings"], alone, strict=True):
        assert vector == pytest.approx(one["embeddings"][0], abs=1e-3)


def test_counts_are_told_to_who_asks(running: Engine) -> None:
    assert "prompt_eval_counts" not in embed(running, ["a", "b"])
    assert embed(running, "a cat", prompt_eval_counts=True)["prompt_eval_counts"] == [6]


def test_what_is_cut_is_counted_as_it_was_read(running: Engine) -> None:
    found = embed(running, ["a cat", LONG], prompt_eval_counts=True)
    assert found["prompt_eval_counts"] == [6, CONTEXT - 1]


def test_counts_that_cannot_be_told_are_not(running: Engine) -> None:
    # The byte whose token stands between texts.
    found = embed(running, ["a\0cat", "b"], prompt_eval_counts=True)
    assert "prompt_eval_counts" not in found
    assert found["prompt_eval_count"] > 0


def test_a_text_that_is_too_long_is_refused_where_it_must_not_be_cut(running: Engine) -> None:
    received = asked(running, {"input": ["a", LONG], "truncate": False})
    assert (received.status, received.json()) == (
        400,
        {"error": "the input length exceeds the context length"},
    )


async def test_clients_of_a_gateway_are_answered_by_it_as_by_the_engine(running: Engine) -> None:
    bodies = [
        ("/api/embed", {"input": "a cat"}),
        ("/api/embeddings", {"prompt": "a dog"}),
        ("/v1/embeddings", {"input": ["é", "the sea"]}),
        ("/v1/embeddings", {"input": "a tree", "encoding_format": "base64"}),
        ("/api/embed", {"input": "it rains"}),
    ]
    where = urlsplit(running.base)
    instance = LocalInstance(
        "bench/0", where.hostname or "", where.port or 0, "ready", (MemberModel("tiny-embed"),), (), 1
    )
    async with gateway_before([instance]) as (_, pool):

        async def answer(path: str, fields: dict[str, Any]) -> tuple[int, dict[str, Any]]:
            body = json.dumps({"model": "tiny-embed", **fields}).encode()
            async with pool.request("POST", path, (), body) as response:
                assert response.status == 200, await response.read()
                return int(response.headers.get(b"x-bridge-batch") or 1), json.loads(await response.read())

        alone = [plain(await answer(*one)) for one in bodies]
        assert all(size == 1 for size, *_ in alone)
        largest = 1
        for _ in range(50):  # until some of them have met
            together = [plain(one) for one in await asyncio.gather(*(answer(*one) for one in bodies))]
            for (_, before, vectors), (size, after, found) in zip(alone, together, strict=True):
                assert after == before
                assert found == pytest.approx(vectors, abs=1e-3)
                largest = max(largest, size)
            if largest > 1:
                break
        assert largest > 1


def plain(answered: tuple[int, dict[str, Any]]) -> tuple[int, dict[str, Any], list[float]]:
    """How many went together, an answer without what differs each time, and its vectors' numbers."""
    size, answer = answered
    vectors = answer.pop("embeddings", None) or [answer.pop("embedding", [])]
    for one in answer.get("data", ()):
        found = one.pop("embedding")
        if isinstance(found, str):
            data = base64.b64decode(found)
            found = struct.unpack(f"<{len(data) // 4}f", data)
        vectors = [*vectors, found]
    for name in ("total_duration", "load_duration"):
        answer.pop(name, None)
    return size, answer, [number for vector in vectors for number in vector]
