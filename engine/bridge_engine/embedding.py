"""`/api/embed` and the older `/api/embeddings`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from bridge_core.dialects.errors import ApiError
from bridge_engine import bounds, requests
from bridge_engine.catalog import Catalog
from bridge_engine.native import Json
from bridge_engine.options import merge, runner_options
from bridge_engine.pools import CORES, Pool
from bridge_engine.runner.process import Runner
from bridge_engine.runner.scheduler import Scheduler

Vector = npt.NDArray[np.float32]
_BATCH = 128  # texts that the runner is given at a time: it must stay able to answer others
_TOO_LONG = "the input length exceeds the context length"
_TOO_LONG_SIGNS = ("too large", "context size", "context length", "physical batch size")
_BETWEEN: Final = 0  # a token, between texts that are tokenised in one call


class Embedded(NamedTuple):
    """Texts as they were embedded.

    Attributes:
        vectors: Normalised, one for each text.
        tokens: Read for all together.
        counts: Read for each; empty: only the sum is known.
    """

    vectors: list[Vector]
    tokens: int
    counts: list[int]

    def __add__(self, other: object) -> Embedded:
        """These, and then those."""
        if not isinstance(other, Embedded):
            return NotImplemented
        known = len(self.counts) == len(self.vectors) and len(other.counts) == len(other.vectors)
        counts = self.counts + other.counts if known else []
        return Embedded(self.vectors + other.vectors, self.tokens + other.tokens, counts)


_NOTHING: Final = Embedded([], 0, [])


class Embedding:
    """The two embedding calls; see `native.NativeApi`."""

    def __init__(self, catalog: Catalog, scheduler: Scheduler, decode: Pool) -> None:
        self._catalog = catalog
        self._scheduler = scheduler
        self._decode = decode

    async def embed(self, body: Json) -> AsyncIterator[Json]:
        """`POST /api/embed`.

        A request with our own `prompt_eval_counts` is told the tokens of each text besides their sum:
        whoever asks for several clients at once has to tell each its own.
        """
        started = time.perf_counter_ns()
        texts = _inputs(body.get("input"))
        embedded, load_ns = await self._embedded(body, texts, started, ApiError(404, "model '' not found"))
        answer: Json = {
            "model": body.get("model", ""),
            "embeddings": await self._decode.run(_numbers, embedded.vectors, body.get("dimensions", 0)),
        }
        if texts:
            answer["total_duration"] = time.perf_counter_ns() - started
            answer["load_duration"] = load_ns
            answer["prompt_eval_count"] = embedded.tokens
            if body.get("prompt_eval_counts") and embedded.counts:
                answer["prompt_eval_counts"] = embedded.counts
        yield answer

    async def embeddings(self, body: Json) -> AsyncIterator[Json]:
        """`POST /api/embeddings`."""
        texts = [body["prompt"]] if body.get("prompt") else []
        (vectors, _, _), _ = await self._embedded(
            body, texts, time.perf_counter_ns(), ApiError(400, "model is required")
        )
        yield {"embedding": [float(number) for number in vectors[0]] if vectors else []}

    async def _embedded(
        self, body: Json, texts: list[str], started: int, unnamed: ApiError
    ) -> tuple[Embedded, int]:
        """The texts as they were embedded, and nanoseconds until the model was there.

        `unnamed` is raised where the request names no model: each route has words of its own.
        """
        keep_alive = requests.keep_alive(body.get("keep_alive"))
        name = body.get("model", "")
        if not name:
            raise unnamed
        missing = f"model {json.dumps(name, ensure_ascii=False)} not found, try pulling it first"
        model = await self._catalog.find(name, missing=missing)
        options = bounds.bounded(merge(model.options, body.get("options") or {}), CORES)
        wanted = runner_options(options, shift=True)
        async with self._scheduler.use(model, wanted, keep_alive) as runner:
            load_ns = time.perf_counter_ns() - started
            if not texts:
                return _NOTHING, load_ns
            truncate, each = body.get("truncate", True), bool(body.get("prompt_eval_counts"))
            return await _embed(runner, texts, truncate=truncate, each=each), load_ns


def _inputs(value: Any) -> list[str]:
    if value is None or value == "":
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        bounds.check_inputs(value)
        return value
    raise ApiError(400, "invalid input type")


async def _embed(runner: Runner, texts: list[str], *, truncate: bool, each: bool) -> Embedded:
    """Embeds the texts, a number of them in one call; `each`: the tokens of each are to be known."""
    found = _NOTHING
    for start in range(0, len(texts), _BATCH):
        found += await _embed_some(runner, texts[start : start + _BATCH], truncate=truncate, each=each)
    return found


async def _embed_some(runner: Runner, texts: list[str], *, truncate: bool, each: bool) -> Embedded:
    """Embeds all texts in one call; where one is too long, one by one with that one cut."""
    for text in texts:
        bounds.check_text(text, runner.spec.num_ctx)
    try:
        if each and len(texts) > 1:
            return await _ask_counting(runner, texts)
        return await _ask(runner, texts)
    except ApiError as fault:
        if not _is_too_long(fault):
            raise _plain(fault) from fault
        if not truncate:
            raise ApiError(400, _TOO_LONG) from fault
    found = _NOTHING
    for text in texts:
        found += await _embed_cut(runner, text)
    return found


async def _ask_counting(runner: Runner, texts: list[str]) -> Embedded:
    """As `_ask`, with the tokens of each text, which are counted meanwhile."""
    counting = asyncio.ensure_future(_tokenised(runner, texts))
    try:
        found = await _ask(runner, texts)
        return found._replace(counts=_counts(await counting, len(texts), found.tokens))
    finally:
        counting.cancel()
        await asyncio.wait([counting])


async def _tokenised(runner: Runner, texts: list[str]) -> list[int]:
    """The tokens of the texts in one call, `_BETWEEN` each two."""
    content: list[Any] = [texts[0]]
    for text in texts[1:]:
        content += [_BETWEEN, text]
    tokens: list[int] = (await runner.call("/tokenize", {"content": content, "add_special": False}))["tokens"]
    return tokens


def _counts(plain: list[int], texts: int, tokens: int) -> list[int]:
    """The tokens of each of so many texts, which together are `tokens`; empty: it cannot be told.

    llama-server says the sum alone. It tokenises a list in one call; a token of ours stands between two
    texts. What it adds to every text is what the sum has besides, the same for each.
    """
    if plain.count(_BETWEEN) != texts - 1:
        return []  # a text has that very token
    ends = [at for at, token in enumerate(plain) if token == _BETWEEN]
    begins = [0, *(end + 1 for end in ends)]
    counts = [end - begin for begin, end in zip(begins, [*ends, len(plain)], strict=True)]
    added, rest = divmod(tokens - sum(counts), texts)
    return [] if rest or added < 0 else [count + added for count in counts]


async def _embed_cut(runner: Runner, text: str) -> Embedded:
    answer = await runner.call("/tokenize", {"content": text, "add_special": True})
    special = len(answer["tokens"])
    tokens = (await runner.call("/tokenize", {"content": text, "add_special": False}))["tokens"]
    special -= len(tokens)
    room = runner.spec.num_ctx - 1 - special
    if len(tokens) > room:
        text = (await runner.call("/detokenize", {"tokens": tokens[:room]}))["content"]
    try:
        return await _ask(runner, [text])
    except ApiError as fault:
        raise _plain(fault) from fault


async def _ask(runner: Runner, texts: list[str]) -> Embedded:
    answer = await runner.call("/v1/embeddings", {"input": texts})
    ordered = sorted(answer["data"], key=lambda one: one["index"])
    vectors = [_normalised(np.asarray(one["embedding"], dtype=np.float32)) for one in ordered]
    tokens = int(answer["usage"]["prompt_tokens"])
    return Embedded(vectors, tokens, [tokens] if len(texts) == 1 else [])


def _numbers(vectors: list[Vector], size: int) -> list[list[float]]:
    """The vectors as they are answered, cut to `size` where that is not 0."""
    cut = [_normalised(vector[:size]) for vector in vectors] if size > 0 else vectors
    return [_shortest(vector) for vector in cut]


def _normalised(vector: Vector) -> Vector:
    length = float(np.linalg.norm(vector.astype(np.float64)))
    return (vector / np.float32(length)).astype(np.float32) if length > 1e-12 else vector


def _shortest(vector: Vector) -> list[float]:
    """The numbers with the fewest digits that tell 32-bit floats apart, as Go prints them."""
    return [float(str(number)) for number in vector]


def _is_too_long(fault: ApiError) -> bool:
    return fault.status in (400, 500) and any(sign in fault.message.lower() for sign in _TOO_LONG_SIGNS)


def _plain(fault: ApiError) -> ApiError:
    """The message inside of llama-server's JSON error."""
    try:
        about = json.loads(fault.message)["error"]
        return ApiError(fault.status, about if isinstance(about, str) else about["message"])
    except (ValueError, KeyError, TypeError):
        return fault
