"""Chats of several turns over three real engines: by conversation on the ring, and round robin."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench import results
from bridge_agent.engines.view import LocalInstance
from bridge_core import http1
from bridge_core.snapshot import MemberModel, RoutePolicy
from bridge_engine import seed
from tests.lone_gateway import gateway_before

# On a machine that is too busy for a model that speaks, BRIDGE_BENCH_MODEL=tiny shows the shares.
MODEL = os.environ.get("BRIDGE_BENCH_MODEL", seed.SMOLLM2)
ENGINES, SLOTS, CHATS, TURNS, AT_ONCE = 3, 2, 12, 6, 3
_ANSWER_TOKENS = 8
_FOLLOW_UPS = (
    "Tell me more of it, and say why people came to care about it in the first place.",
    "What would somebody who has never heard of it get wrong at first?",
    "Give me an example from everyday life, in a sentence or two.",
)
_JSON = [(b"content-type", b"application/json")]


@dataclass
class Measured:
    """Of one strategy's run."""

    evaluated: int = 0
    cached: int = 0
    possible: int = 0  # tokens of its own earlier turns that a turn could have found cached
    first_token: list[float] = field(default_factory=list)
    prompts: list[int] = field(default_factory=list)  # tokens, in the order of the rounds
    moved: int = 0

    @property
    def hit_rate(self) -> float:
        """The share of prompt tokens that came from a KV cache."""
        return self.cached / max(1, self.cached + self.evaluated)


def affinity(folder: Path, _seconds: float, versions: list[str], command: str) -> None:
    """Runs the same chats under each policy, with fresh engines each time."""
    models = folder / "models"
    seed.seed(models, [MODEL], folder / "cache")
    policies = {
        "round robin": RoutePolicy(strategy="round_robin", affinity="none"),
        "ring hash by conversation": RoutePolicy(strategy="ring_hash", affinity="conversation"),
    }
    found = {}
    for name, policy in policies.items():
        with started_engines(models, folder / name.replace(" ", "-")) as ports:
            found[name] = asyncio.run(_run(policy, ports))
        one = found[name]
        print(
            f"{name}: {one.hit_rate:.1%} from cache, TTFT {_ms(one, 0.5)} / {_ms(one, 0.95)} ms", flush=True
        )
    base = found["round robin"].hit_rate
    rows = [
        (
            name,
            f"{one.cached + one.evaluated:,}",
            f"{one.cached:,} ({one.hit_rate:.1%})",
            f"{one.cached / max(1, one.possible):.1%}",
            f"{one.hit_rate / base - 1:+.0%}" if base else "",
            f"{_ms(one, 0.5)} / {_ms(one, 0.95)}",
            f"{one.moved} of {CHATS * (TURNS - 1)}",
        )
        for name, one in found.items()
    ]
    prompts = found["round robin"].prompts
    opening, closing = statistics.mean(prompts[:CHATS]), statistics.mean(prompts[-CHATS:])
    text = (
        f"{CHATS} chats of {TURNS} turns, {AT_ONCE} turns at a time in another order each round, {MODEL} on "
        f"{ENGINES} embedded engines of {SLOTS} slots behind one gateway: twice as many chats as slots. "
        f"Each chat has a system prompt of its own; first prompts have {opening:.0f} tokens, the last "
        f"{closing:.0f}, each answer {_ANSWER_TOKENS}. Cached are the prompt tokens that llama.cpp took "
        "from a slot's KV cache or from its own prompt cache in memory; possible is what a chat's own "
        "earlier turns, answers included, would give. First token as the client sees it, from the second "
        "turn on. Engines share this machine's cores, so times are high for all.\n\n"
        + results.table(
            (
                "policy",
                "prompt tokens",
                "from cache",
                "of what is possible",
                "against round robin",
                "TTFT p50 / p95 ms",
                "turns that moved",
            ),
            rows,
        )
    )
    results.record("affinity", "Conversations that stay where their KV cache is", command, versions, text)


@contextlib.contextmanager
def started_engines(models: Path, folder: Path, *, engines: int = ENGINES, slots: int = SLOTS):
    """Runs so many embedded engines; yields their ports."""
    folder.mkdir()
    started, ports = [], []
    try:
        for number in range(engines):
            ready = folder / f"{number}.json"
            log = (folder / f"{number}.log").open("wb")
            command = [sys.executable, "-m", "bench.cached_engine", "serve", "--models", str(models)]
            command += ["--listen", "127.0.0.1:0", "--ready-file", str(ready)]
            command += ["--num-parallel", str(slots)]
            started.append(subprocess.Popen(command, stdout=log, stderr=log))
            log.close()
        for number, process in enumerate(started):
            ports.append(_port(folder / f"{number}.json", process))
        yield ports
    finally:
        for process in started:
            process.terminate()
        for process in started:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _port(ready: Path, process: subprocess.Popen[bytes]) -> int:
    end = time.monotonic() + 30
    while time.monotonic() < end and process.poll() is None:
        if ready.exists():
            return int(json.loads(ready.read_text())["port"])
        time.sleep(0.05)
    raise RuntimeError("an engine did not start")


async def _run(policy: RoutePolicy, ports: list[int]) -> Measured:
    measured = Measured()
    engines = [
        LocalInstance(f"bench/{at}", "127.0.0.1", port, "ready", (MemberModel(MODEL),), (MODEL,), SLOTS)
        for at, port in enumerate(ports)
    ]
    async with gateway_before(engines, policy=policy) as (gateway, pool):
        for port in ports:  # loaded before anything is measured
            await _ask(http1.Pool(("127.0.0.1", port)), [{"role": "user", "content": "hi"}], 1)
        turn_of = asyncio.Semaphore(AT_ONCE)
        chats = [_chat(number) for number in range(CHATS)]
        owners: dict[int, str] = {}
        so_far = dict.fromkeys(range(CHATS), 0)

        async def turn(number: int, first: bool) -> None:
            async with turn_of:
                messages = chats[number]
                request_id = f"chat{number}-{len(messages)}"
                done, text, took = await _ask(pool, messages, _ANSWER_TOKENS, request_id)
            messages += [
                {"role": "assistant", "content": text},
                {"role": "user", "content": _FOLLOW_UPS[len(messages) // 2 % len(_FOLLOW_UPS)]},
            ]
            owner = gateway.records(request_id)[0].instance
            measured.moved += not first and owners[number] != owner
            owners[number] = owner
            measured.prompts.append(done["prompt_eval_count"])
            measured.possible += so_far[number]
            so_far[number] = done["prompt_eval_count"] + done["eval_count"]
            measured.cached += done["prompt_cached_count"]
            measured.evaluated += done["prompt_eval_count"] - done["prompt_cached_count"]
            if not first:
                measured.first_token.append(took)

        for round_ in range(TURNS):
            # In another order each time: people do not take turns, and rotations must not fall in step.
            order = random.Random(round_).sample(range(CHATS), CHATS)
            await asyncio.gather(*(turn(number, round_ == 0) for number in order))
    return measured


def _chat(number: int) -> list[dict[str, str]]:
    topics = (
        "rivers",
        "trees",
        "bread",
        "glass",
        "ships",
        "clocks",
        "salt",
        "bees",
        "paper",
        "roads",
        "wool",
    )
    topic = topics[number % len(topics)]
    rules = " ".join(
        f"Rule {at} of {topic}: when asked about {topic}, say {at * 7 + number} and stay polite."
        for at in range(1, 7)
    )
    return [
        {"role": "system", "content": f"You know everything about {topic}. {rules}"},
        {"role": "user", "content": f"What should I know about {topic}?"},
    ]


async def _ask(
    pool: http1.Pool, messages: list[dict[str, str]], tokens: int, request_id: str = "warm"
) -> tuple[dict[str, int], str, float]:
    """The final record, the text, and the seconds until the first record."""
    body = {
        "model": MODEL,
        "messages": messages,
        "options": {"num_predict": tokens, "temperature": 0, "seed": 1},
    }
    began, first, data = time.monotonic(), 0.0, b""
    pairs = [*_JSON, (b"x-request-id", request_id.encode())]
    async with pool.request("POST", "/api/chat", pairs, json.dumps(body).encode()) as response:
        async for part in response:
            first = first or time.monotonic() - began
            data += part
    if pool.label.startswith("127") and request_id == "warm":
        await pool.close()
    records = [json.loads(line) for line in data.splitlines() if line.strip()]
    text = "".join(record["message"]["content"] for record in records if "message" in record)
    return records[-1], text, first


def _ms(one: Measured, share: float) -> str:
    ordered = sorted(one.first_token)
    value = statistics.median(ordered) if share == 0.5 else ordered[int(share * (len(ordered) - 1))]
    return f"{value * 1000:.0f}"
