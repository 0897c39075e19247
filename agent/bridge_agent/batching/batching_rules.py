"""Which embedding requests go to their engine together, and what each is answered of it. Pure.

Rules:
1. A batch is made when a slot becomes free, of requests that wait for it: nobody waits for company.
2. All of a batch ask for the same model with the same options, `truncate`, `dimensions` and `keep_alive`,
   as urgently; by which of the three paths does not matter.
3. A batch grows as long as the largest ones take no longer than the quickest one and the policy's delay:
   that is what its members lose by one another. One that took longer halves those after it (`Reach`).
4. An answer is taken apart only where it has a vector and a count of tokens for each text: each caller is
   told, and billed for, what its own text came to. A sum is nobody's count.
5. What this module does not know (an unknown key, an odd value, an empty text) is asked for alone, and so
   is a body that begins with a blank: its batch failed before (`alone`).
"""

from __future__ import annotations

import base64
import struct
from array import array
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Annotated, Any, Final, NamedTuple, TypeVar

import msgspec

from bridge_core.names import InvalidName, canonical

LARGEST: Final = 16 << 10
"""Bytes of a body that is looked at: what is larger keeps an engine busy by itself."""

_FEWEST: Final = 2
_BEGINS_WITH: Final = 4  # texts, before anything is known
_FORGETS: Final = 1.02  # a batch: how quickly the engine was is not true for ever
_MOST_COUNT: Final = 1 << 40
_ALONE: Final = b" "

W = TypeVar("W")


class BatchingPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much goes together.

    Attributes:
        max_size: Texts of a batch; 1: there are none.
        max_delay_s: By how much a large batch may take longer than a small one, in seconds: so much later
            may a request be answered for the sake of the others.
    """

    max_size: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 32
    max_delay_s: Annotated[float, msgspec.Meta(ge=0.0, le=60.0)] = 0.25


class Shape(Enum):
    """How an answer is written."""

    EMBED = "/api/embed"
    EMBEDDINGS = "/api/embeddings"  # the older one: one vector, and no count
    OPENAI = "/v1/embeddings"
    OPENAI_BASE64 = "base64"

    @property
    def content_type(self) -> bytes:
        """As Ollama has it on each path."""
        openai = self in (Shape.OPENAI, Shape.OPENAI_BASE64)
        return b"application/json" if openai else b"application/json; charset=utf-8"


class Wish(msgspec.Struct, frozen=True):
    """What a request asks for.

    Attributes:
        key: The same for those that can be asked for together.
        texts: In their order; none is empty.
        shape: Of its answer.
        model: As its body names it.
        asked: What a batch of its key asks for, besides the texts.
    """

    key: bytes
    texts: tuple[str, ...]
    shape: Shape
    model: str
    asked: dict[str, Any]


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    """Of all three paths; what one of them does not have makes a request go alone."""

    model: str
    input: str | list[str] | None = None
    prompt: str | None = None
    truncate: bool | None = None
    dimensions: int | None = None
    encoding_format: str | None = None
    keep_alive: str | int | float | None = None
    options: dict[str, str | int | float | bool | list[str] | None] | None = None


_body: Final = msgspec.json.Decoder(_Body)
_encode: Final = msgspec.json.Encoder(order="sorted").encode


def wish(path: str, body: bytes) -> Wish | None:
    """What a request asks for; None: it is asked for alone.

    Args:
        path: Its route.
        body: As it goes to the engine.
    """
    if len(body) > LARGEST or not body.startswith(b"{"):
        return None
    try:
        read = _body.decode(body)
        name = canonical(read.model)
    except (msgspec.DecodeError, UnicodeDecodeError, InvalidName, RecursionError):
        return None
    legacy, openai = path == Shape.EMBEDDINGS.value, path == Shape.OPENAI.value
    given = read.prompt if legacy else read.input
    unused = read.input if legacy else read.prompt
    texts = (given,) if isinstance(given, str) else tuple(given or ())
    dimensions = read.dimensions or 0
    if unused is not None or not texts or not all(texts) or dimensions < 0:
        return None
    if (legacy and read.dimensions is not None) or (openai and (read.options or read.truncate is not None)):
        return None
    shape = Shape.OPENAI if openai else Shape.EMBEDDINGS if legacy else Shape.EMBED
    encoding = (read.encoding_format or "float").lower()
    if openai and encoding == "base64":
        shape = Shape.OPENAI_BASE64
    elif encoding != "float" or (not openai and read.encoding_format is not None):
        return None
    asked = {
        "dimensions": dimensions,
        "keep_alive": read.keep_alive,
        "options": read.options or {},
        "truncate": read.truncate is not False,
    }
    return Wish(_encode([name, asked]), texts, shape, read.model, asked)


def alone(body: bytes) -> bytes:
    """The body of a request that is to be in no batch again, wherever it goes: engines mind no blank."""
    return body if body.startswith(_ALONE) else _ALONE + body


class Reach(msgspec.Struct, frozen=True):
    """How large the batches of one model at one instance may be: learnt from those before.

    Attributes:
        texts: So many at most.
        quickest_s: Seconds that the quickest one took, slowly forgotten; 0: there was none.
    """

    texts: int = _BEGINS_WITH
    quickest_s: float = 0.0

    def after(self, texts: int, took_s: float, policy: BatchingPolicy) -> Reach:
        """What it is after a batch of so many texts that took so many seconds."""
        quickest = min(took_s, self.quickest_s * _FORGETS) if self.quickest_s else took_s
        if took_s - quickest > policy.max_delay_s:
            return Reach(max(_FEWEST, min(self.texts, texts) // 2), quickest)
        grown = self.texts * 2 if texts >= self.texts else self.texts
        return Reach(max(_FEWEST, min(grown, policy.max_size)), quickest)


def company(
    first: Wish, waiting: Iterable[tuple[W, Wish]], policy: BatchingPolicy, reach: Reach
) -> list[tuple[W, Wish]]:
    """Those of the waiting that go with the first one, in their order.

    Args:
        first: Who has the slot.
        waiting: Who waits for one there, as urgently, oldest first.
        policy: How much goes together.
        reach: Of its model there.
    """
    found: list[tuple[W, Wish]] = []
    texts, most = len(first.texts), min(policy.max_size, reach.texts)
    for waiter, other in waiting:
        if other.key != first.key:
            continue
        texts += len(other.texts)
        if texts > most:
            break  # and not the next shorter one: what is long must not be overtaken for ever
        found.append((waiter, other))
    return found


def batch_body(wishes: Sequence[Wish]) -> bytes:
    """The body that asks `/api/embed` for all of them."""
    first = wishes[0]
    texts = [text for one in wishes for text in one.texts]
    asked = {name: value for name, value in first.asked.items() if value is not None}
    return msgspec.json.encode({"model": first.model, "input": texts, **asked, "prompt_eval_counts": True})


class _Answer(msgspec.Struct):
    embeddings: list[msgspec.Raw]
    prompt_eval_counts: list[Annotated[int, msgspec.Meta(ge=0, le=_MOST_COUNT)]] | None = None
    total_duration: int = 0
    load_duration: int = 0


_answer: Final = msgspec.json.Decoder(_Answer)


class Parts(NamedTuple):
    """An answer taken apart.

    Attributes:
        bodies: One for each request of the batch; empty: it could not be.
        uncounted: The engine tells a sum alone.
    """

    bodies: list[bytes]
    uncounted: bool = False


def take_apart(answer: bytes, wishes: Sequence[Wish]) -> Parts:
    """What each of a batch is answered, in its own shape."""
    try:
        read = _answer.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Parts([])
    counts, texts = read.prompt_eval_counts, sum(len(one.texts) for one in wishes)
    if len(read.embeddings) != texts or (counts is not None and len(counts) != texts):
        return Parts([])
    if counts is None:
        return Parts([], uncounted=True)
    bodies, at = [], 0
    for one in wishes:
        end = at + len(one.texts)
        try:
            bodies.append(_written(one, read, at, end, sum(counts[at:end])))
        except (msgspec.DecodeError, OverflowError):
            return Parts([])
        at = end
    return Parts(bodies)


def _written(wish: Wish, read: _Answer, at: int, end: int, tokens: int) -> bytes:
    """The answer to one request, as its engine writes it."""
    vectors = read.embeddings[at:end]
    if wish.shape is Shape.EMBEDDINGS:
        # Single precision is what was computed; this path prints it as doubles.
        return msgspec.json.encode({"embedding": list(array("f", _numbers(vectors[0])))})
    if wish.shape is Shape.EMBED:
        return msgspec.json.encode(
            {
                "model": wish.model,
                "embeddings": vectors,
                "total_duration": read.total_duration,
                "load_duration": read.load_duration,
                "prompt_eval_count": tokens,
            }
        )
    packed = wish.shape is Shape.OPENAI_BASE64
    data = [
        {"object": "embedding", "embedding": _base64(vector) if packed else vector, "index": index}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return msgspec.json.encode({"object": "list", "data": data, "model": wish.model, "usage": usage})


def _numbers(vector: msgspec.Raw) -> list[float]:
    return msgspec.json.decode(vector, type=list[float])


def _base64(vector: msgspec.Raw) -> str:
    numbers = _numbers(vector)
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
