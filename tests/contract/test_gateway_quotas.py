"""Quotas at the entry node: who is refused and how, and what every answer of every dialect is counted as."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest

from bridge_agent.gateway.config import ResumePolicy
from bridge_agent.quotas.meter import Meter
from bridge_agent.quotas.uses import Use
from bridge_core.quotas import Quota
from bridge_core.snapshot import RoutePolicy
from tests.contract.gateway_bed import Bed, mesh
from tests.contract.resume_bed import PROMPT, WORDS, TalkingEngine
from tests.fakes.recorded_engine import Fault, RecordedEngine, case
from tests.support import eventually

MODEL = "smollm2:135m"
ASK = [{"role": "user", "content": "What is the capital of France?"}]
HOUR = 3600.0


class Metered:
    """One node with the model, and its meter."""

    def __init__(self, bed: Bed, meters: dict[str, Meter]) -> None:
        self.bed, self.node, self.meters = bed, bed["a"], meters
        self.meter = meters["a"]

    def quota(self, name: str = "q", **fields: Any) -> None:
        fields.setdefault("window_s", HOUR)
        self.bed.publish(**{f"quota__{name}": Quota(name, **fields)})

    def use(self) -> Use:
        """Everybody's."""
        uses = self.meter.usage.uses.values()
        return Use(
            sum(one.requests for one in uses),
            sum(one.refused for one in uses),
            sum(one.prompt_tokens for one in uses),
            sum(one.output_tokens for one in uses),
        )

    def claimed(self) -> dict[str, tuple[int, int]]:
        """Used and reserved, by resource."""
        return {cell.bucket.resource: (cell.used, cell.reserved) for cell in self.meter.book.cells}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.node.local.port}"


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[Metered]:
    meters: dict[str, Meter] = {}
    async with mesh(tmp_path, {"a": RecordedEngine((MODEL, "tiny-embed"))}, meters=meters) as bed:
        yield Metered(bed, meters)


# -- what is counted


def recorded(file: str, name: str) -> tuple[int, int]:
    """Prompt and output tokens, as the recorded answer itself says."""
    text = "".join(case(file, name)["chunks"])
    found: dict[str, int] = {}
    for line in text.splitlines():
        record = line.removeprefix("data:").strip()
        if not record.startswith("{"):
            continue
        said = json.loads(record)
        usage = said.get("usage") or {}
        for inner in (said.get("message"), said.get("response")):
            usage = usage or (inner.get("usage") if isinstance(inner, dict) else None) or {}
        found |= {key: count for key, count in {**said, **usage}.items() if isinstance(count, int)}
    prompt = found.get("prompt_eval_count", found.get("prompt_tokens", found.get("input_tokens", 0)))
    output = found.get("eval_count", found.get("completion_tokens", found.get("output_tokens", 0)))
    return prompt, output


@pytest.mark.parametrize(
    ("path", "stream", "file", "name"),
    [
        ("/api/generate", True, "generate", "stream"),
        ("/api/generate", False, "generate", "non-stream"),
        ("/api/chat", True, "chat", "stream"),
        ("/api/chat", False, "chat", "non-stream"),
        ("/v1/chat/completions", False, "openai", "chat"),
        ("/v1/completions", True, "openai", "completions stream"),
        ("/v1/completions", False, "openai", "completions"),
        ("/v1/responses", True, "openai", "responses stream"),
        ("/v1/responses", False, "openai", "responses"),
        ("/v1/messages", True, "anthropic", "messages stream"),
        ("/v1/messages", False, "anthropic", "messages"),
        ("/api/embed", False, "embed", "one"),
        ("/v1/embeddings", False, "openai", "embeddings"),
    ],
)
@pytest.mark.parametrize("crumbs", [False, True], ids=["whole", "crumbs"])
async def test_every_dialect_is_settled_with_what_its_engine_counted(
    one: Metered, path: str, stream: bool, file: str, name: str, crumbs: bool
) -> None:
    one.quota(requests=9, prompt_tokens=9_000, output_tokens=9_000, concurrency=9)
    if crumbs:
        one.node.engine.faults.append(Fault("crumbs"))
    answer = await one.node.infer(path, stream=stream, max_tokens=9, prompt="hi", input="hi")
    assert answer.status == 200
    prompt, output = recorded(file, name)
    assert prompt > 0
    assert output > 0 or "embed" in path
    assert one.claimed() == {
        "requests": (1, 0),
        "prompt_tokens": (prompt, 0),
        "output_tokens": (output, 0),
        "concurrency": (0, 0),
    }
    assert one.use() == Use(1, 0, prompt, output)
    record = one.node.gateway.records()[-1]
    assert (record.prompt_tokens, record.tokens) == (prompt, output)


async def test_a_stream_that_says_nothing_of_its_tokens_is_taken_for_one_a_record(one: Metered) -> None:
    one.quota(output_tokens=9_000)
    await one.node.infer("/v1/chat/completions", stream=True)
    records = "".join(case("openai", "chat stream")["chunks"]).count("data:")
    used, reserved = one.claimed()["output_tokens"]
    assert (used, reserved) == (records - 2, 0)
    assert abs(used - recorded("openai", "chat")[1]) <= 1


async def test_a_client_that_leaves_before_an_answer_is_given_everything_back(one: Metered) -> None:
    one.quota(requests=9, prompt_tokens=9_000, output_tokens=9_000, concurrency=9)
    one.node.engine.release.clear()
    asking = asyncio.create_task(one.node.infer(stream=False))
    await eventually(lambda: one.claimed().get("requests") == (0, 1))
    await eventually(lambda: one.node.engine.running == 1)
    asking.cancel()
    await eventually(lambda: set(one.claimed().values()) <= {(0, 0)})
    assert one.use() == Use()


async def test_a_client_that_leaves_in_the_middle_pays_for_what_it_got(one: Metered) -> None:
    one.quota(prompt_tokens=9_000, output_tokens=9_000, concurrency=9)
    one.node.engine.release.clear()
    one.node.engine.faults.append(Fault("silent", after=5))
    async with one.node.pool.request(
        "POST", "/api/chat", [], json.dumps({"model": MODEL, "messages": ASK}).encode()
    ) as response:
        got = b""
        async for part in response:
            got += part
            if got.count(b"\n") == 5:
                break
    # Five records, less those around the tokens.
    await eventually(lambda: one.claimed()["output_tokens"] == (3, 0))
    assert one.claimed()["prompt_tokens"][0] > 0
    assert one.claimed()["concurrency"] == (0, 0)


async def test_a_request_that_every_engine_fails_is_given_back(one: Metered) -> None:
    one.quota(requests=9, output_tokens=9_000)
    one.node.engine.faults.append(Fault("close"))
    assert (await one.node.infer(stream=False)).status in (502, 503)
    assert set(one.claimed().values()) == {(0, 0)}


async def test_a_hop_counts_at_the_entry_alone(tmp_path: Path) -> None:
    meters: dict[str, Meter] = {}
    engines = {"a": RecordedEngine(("other",)), "b": RecordedEngine((MODEL,))}
    async with mesh(tmp_path, engines, meters=meters) as bed:
        bed.publish(quota__q=Quota("q", requests=9, window_s=HOUR))
        assert (await bed["a"].infer(stream=False)).status == 200
        assert [cell.used for cell in meters["a"].book.cells] == [1]
        assert not list(meters["b"].book.cells)
        assert not meters["b"].usage.uses


async def test_without_quotas_the_loopback_is_not_counted(one: Metered) -> None:
    assert (await one.node.infer(stream=False)).status == 200
    assert not one.meter.usage.uses
    assert one.node.gateway.records()[-1].prompt_tokens == 0


# -- what is refused


async def test_ollamas_client_is_told(one: Metered) -> None:
    one.quota(requests=1)
    client = ollama.AsyncClient(host=one.url)
    await client.chat(MODEL, messages=ASK)
    with pytest.raises(ollama.ResponseError, match="quota q is used up: 1 requests in 1h; try again") as over:
        await client.chat(MODEL, messages=ASK)
    assert over.value.status_code == 429
    await client._client.aclose()
    assert one.node.gateway.records()[-1].quota == "q"
    assert one.use().refused == 1
    assert one.meter.refused == {("q", "requests"): 1}
    assert len(one.node.engine.inferences()) == 1


async def test_openais_client_is_told(one: Metered) -> None:
    one.quota(requests=1)
    async with openai.AsyncOpenAI(base_url=f"{one.url}/v1", api_key="x", max_retries=0) as client:
        ask: dict[str, Any] = {"model": MODEL, "messages": ASK}
        first = await client.chat.completions.with_raw_response.create(**ask)
        assert first.headers["x-ratelimit-limit-requests"] == "1"
        assert first.headers["x-ratelimit-remaining-requests"] == "0"
        assert first.headers["x-ratelimit-reset-requests"].endswith("s")
        with pytest.raises(openai.RateLimitError) as over:
            await client.chat.completions.create(**ask)
    body: Any = over.value.body
    assert (body["type"], body["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert 1 <= int(over.value.response.headers["retry-after"]) <= HOUR
    assert over.value.response.headers["x-ratelimit-remaining-requests"] == "0"


async def test_anthropics_client_is_told(one: Metered) -> None:
    one.quota(requests=1, prompt_tokens=5_000)
    async with anthropic.AsyncAnthropic(base_url=one.url, api_key="x", max_retries=0) as client:
        ask: dict[str, Any] = {"model": MODEL, "messages": ASK, "max_tokens": 12}
        first = await client.messages.with_raw_response.create(**ask)
        assert first.headers["anthropic-ratelimit-requests-limit"] == "1"
        assert first.headers["anthropic-ratelimit-requests-reset"].endswith("Z")
        assert first.headers["anthropic-ratelimit-input-tokens-limit"] == "5000"
        with pytest.raises(anthropic.RateLimitError) as over:
            await client.messages.create(**ask)
    body: Any = over.value.body
    assert body["error"]["type"] == "rate_limit_error"
    assert over.value.response.headers["retry-after"]


async def test_a_request_at_once_too_many_is_told_to_come_again_in_a_second(one: Metered) -> None:
    one.quota(concurrency=1)
    one.node.engine.release.clear()
    first = asyncio.create_task(one.node.infer(stream=False))
    await eventually(lambda: one.node.engine.running == 1)
    over = await one.node.infer(stream=False)
    assert (over.status, over.headers.get(b"retry-after")) == (429, b"1")
    assert over.headers.get(b"x-ratelimit-limit-concurrency") == b"1"
    one.node.engine.release.set()
    assert (await first).status == 200
    assert (await one.node.infer(stream=False)).status == 200


async def test_what_a_request_may_generate_is_reserved_before_it_is_known(one: Metered) -> None:
    one.quota(output_tokens=100)
    one.node.engine.release.clear()
    first = asyncio.create_task(one.node.infer(stream=False, options={"num_predict": 60}))
    await eventually(lambda: one.node.engine.running == 1)
    assert (await one.node.infer(stream=False, options={"num_predict": 60})).status == 429
    one.node.engine.release.set()
    assert (await first).status == 200
    assert (await one.node.infer(stream=False, options={"num_predict": 60})).status == 200


async def test_a_quota_in_shadow_refuses_nothing_and_says_what_it_would_have(one: Metered) -> None:
    one.quota(requests=1, shadow=True)
    answers = [await one.node.infer(stream=False) for _ in range(3)]
    assert [answer.status for answer in answers] == [200] * 3
    assert answers[0].headers.get(b"x-ratelimit-limit-requests") is None
    assert [record.quota for record in one.node.gateway.records()] == ["", "shadow:q", "shadow:q"]
    assert one.meter.shadowed == {"q": 2}


async def test_only_the_models_of_the_quota_count(one: Metered) -> None:
    one.quota(requests=1, models=("smollm2*",))
    assert (await one.node.ask("POST", "/api/embed", {"model": "tiny-embed", "input": "x"})).status == 200
    assert (await one.node.infer(stream=False)).status == 200
    assert (await one.node.infer(stream=False)).status == 429
    assert (await one.node.infer(stream=False, model="SMOLLM2:135M")).status == 429
    assert (await one.node.ask("POST", "/api/embed", {"model": "tiny-embed", "input": "x"})).status == 200


async def test_a_model_that_nobody_has_costs_nothing(one: Metered) -> None:
    one.quota(requests=1)
    assert (await one.node.infer(stream=False, model="nope")).status == 404
    assert (await one.node.infer(stream=False)).status == 200


async def test_unloading_a_model_everywhere_uses_and_holds_nothing(tmp_path: Path) -> None:
    meters: dict[str, Meter] = {}
    engines = {name: RecordedEngine((MODEL,)) for name in "ab"}
    async with mesh(tmp_path, engines, meters=meters) as bed:
        bed.publish(quota__q=Quota("q", requests=1, concurrency=1, window_s=HOUR))
        for _ in range(3):
            await bed["a"].ask("POST", "/api/generate", {"model": MODEL, "keep_alive": 0})
        assert not list(meters["a"].book.cells)


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/api/generate", {"prompt": "hi"}),
        ("/api/chat", {}),
        ("/v1/chat/completions", {"stream_options": {"include_usage": True}}),
        ("/v1/chat/completions", {}),
        ("/v1/responses", {"input": "hi"}),
        ("/v1/messages", {"max_tokens": 99}),
    ],
)
async def test_a_stream_that_goes_on_elsewhere_is_one_request_with_all_its_tokens(
    tmp_path: Path, path: str, more: dict[str, Any]
) -> None:
    meters: dict[str, Meter] = {}
    policy = ResumePolicy(stall_floor=60, patience=60.0)
    engines = {name: TalkingEngine((MODEL,)) for name in "ab"}
    async with mesh(tmp_path, engines, meters=meters, resume=policy) as bed:  # type: ignore[arg-type]  # as the others
        bed.publish(quota__q=Quota("q", requests=9, prompt_tokens=9_999, output_tokens=9_999, concurrency=9))
        faults = [Fault("cut", 3, 1)]
        for engine in engines.values():
            engine.faults = faults
        answer = await bed["a"].infer(path, stream=True, **more)
        assert answer.status == 200
        assert not faults[0].times
        (use,) = meters["a"].usage.uses.values()
        assert use.requests == 1
        stated = path != "/v1/chat/completions" or bool(more)
        assert use.output_tokens == len(WORDS) if stated else abs(use.output_tokens - len(WORDS)) <= 2
        if stated:
            assert use.prompt_tokens == PROMPT
        assert all(not cell.reserved for cell in meters["a"].book.cells)
        assert not meters["b"].usage.uses


async def test_a_hedged_and_a_retried_request_count_once(tmp_path: Path) -> None:
    meters: dict[str, Meter] = {}
    engines = {name: RecordedEngine((MODEL,)) for name in "abc"}
    policy = RoutePolicy(hedge_after_s=0.01)
    async with mesh(tmp_path, engines, meters=meters, policy=policy) as bed:
        bed.publish(quota__q=Quota("q", requests=9, output_tokens=9_999, concurrency=9, window_s=HOUR))
        slow = [Fault("", slow=True, times=1)]
        for engine in engines.values():
            engine.faults = slow
            engine.release.clear()
        asking = asyncio.create_task(bed["a"].infer(stream=False))
        await eventually(lambda: bed["a"].gateway.counters.hedges == 1)
        for engine in engines.values():
            engine.release.set()
        assert (await asking).status == 200
        died = [Fault("died", times=1)]  # of whichever is asked first
        for engine in engines.values():
            engine.faults = died
        assert (await bed["a"].infer(stream=False)).status == 200
        assert not died[0].times
        await eventually(lambda: all(not cell.reserved for cell in meters["a"].book.cells))
        (use,) = meters["a"].usage.uses.values()
        tokens = recorded("chat", "non-stream")
        assert (use.requests, use.prompt_tokens, use.output_tokens) == (2, 2 * tokens[0], 2 * tokens[1])
