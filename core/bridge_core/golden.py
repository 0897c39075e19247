"""Golden prompts: who asks which instance when, and whether two answers contradict each other. Pure.

A node that answers fast and wrong looks healthy to everything that counts errors and seconds. So every
instance is asked the same short prompts as all others that have a model of the same digest, greedily, and
their first tokens are compared with one another; there is no stored right answer to keep up to date.

Rules:
1. Time is cut into rounds of `ROUND_S`. In a round an instance is asked by one other node, which hangs on
   its id, the round and the nodes alone: everybody can tell who may speak of whom, and in the next round it
   is another one, so that no single node can accuse an instance.
2. Two answers agree as far as their tokens are the same. Where they part, they contradict each other only if
   one of them was sure: its token's log probability lies `CLEAR` above that of the next best. Where neither
   was, other kernels or another GPU may well have rounded the other way, and what follows says nothing.
3. Without log probabilities an answer is comparable to none.
4. Three nodes are needed to decide. Where fewer have a model in memory, some that have it on disk, and
   nothing in memory, are asked as well (`references`); what they answered stays good when they have unloaded
   it.
"""

from __future__ import annotations

import enum
import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Annotated, Final

import msgspec

from bridge_core.bounds import Moment, Seconds, Small, Text

PATH: Final = "/bridge/golden"
"""Where the peer listener takes them."""

ROUND_S: Final = 8.0
"""A wrong answer has to be found within 23 s, and takes two rounds."""

CLEAR: Final = 1.0
"""Nats between the best and the next best token. Kernels and GPUs differ by hundredths of one."""

DECIDE: Final = 3
"""Nodes that it takes to tell which of them is wrong."""

MAX_TOKENS: Final = 8
"""Of an answer; enough to tell a wrong model, and some milliseconds of one that is right."""

QUESTIONS: Final = (
    "The capital of France is the city of",
    "Monday, Tuesday, Wednesday, Thursday,",
    "1, 2, 3, 4, 5, 6, 7, 8,",
    "To be, or not to be, that is the",
)
"""Continued raw, without a template: also a base model knows how they go on."""


class Token(msgspec.Struct, frozen=True):
    """One token of an answer, and by how much it was the likeliest, in nats; below zero: not told."""

    text: Text
    margin: Annotated[float, msgspec.Meta(ge=-1.0, le=1e6)]


class GoldenAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of asking one instance.

    Attributes:
        instance: Who was asked.
        model: Which of its models, by its canonical name.
        round: In which it was asked.
        question: Index in `QUESTIONS`.
        tokens: The answer's first ones.
        fault: Why there is none.
        took_s: From the question to the whole answer, over the link and back.
        at: When, Unix seconds.
    """

    instance: Text
    model: Annotated[str, msgspec.Meta(max_length=512)]
    round: Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
    question: Small
    tokens: Annotated[tuple[Token, ...], msgspec.Meta(max_length=MAX_TOKENS)] = ()
    fault: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    took_s: Seconds = 0.0
    at: Moment = 0.0

    @property
    def comparable(self) -> bool:
        """Whether it says anything (rule 3)."""
        return bool(self.tokens) and all(token.margin >= 0.0 for token in self.tokens)

    @property
    def text(self) -> str:
        """The answer in one piece."""
        return "".join(token.text for token in self.tokens)


class Likeness(enum.Enum):
    """How two answers to the same question stand to each other."""

    SAME = "same"
    UNCLEAR = "unclear"
    CONTRARY = "contrary"


def compare(one: GoldenAnswer, other: GoldenAnswer) -> Likeness:
    """See rule 2; the order of the two does not matter."""
    if not (one.comparable and other.comparable):
        return Likeness.UNCLEAR
    for mine, theirs in zip(one.tokens, other.tokens, strict=False):
        if mine.text != theirs.text:
            sure = max(mine.margin, theirs.margin) >= CLEAR
            return Likeness.CONTRARY if sure else Likeness.UNCLEAR
    return Likeness.SAME  # one that stopped earlier said nothing else


class Copy(msgspec.Struct, frozen=True):
    """A model of an instance, as far as it is compared."""

    instance: str
    node: str
    model: str
    digest: str
    loaded: bool
    empty: bool  # the instance has nothing in memory: loading it there drives out nothing


def references(copies: Iterable[Copy]) -> dict[str, str]:
    """Whom else to ask (rule 4): by instance the one model that it should load for it."""
    by_digest: dict[tuple[str, str], list[Copy]] = {}
    for copy in copies:
        if copy.digest:
            by_digest.setdefault((copy.model, copy.digest), []).append(copy)
    found: dict[str, str] = {}
    for (model, digest), same in sorted(by_digest.items()):
        nodes = {copy.node for copy in same if copy.loaded}
        if not nodes:
            continue
        for copy in sorted(same, key=lambda one: _rank(one.instance, digest)):
            if len(nodes) >= DECIDE:
                break
            if copy.empty and copy.node not in nodes and copy.instance not in found:
                found[copy.instance] = model
                nodes.add(copy.node)
    return found


def _rank(instance: str, digest: str) -> bytes:
    return hashlib.sha256(f"{digest}\n{instance}".encode()).digest()


def round_of(now: float) -> int:
    """The round of a moment, Unix seconds."""
    return int(max(0.0, now) // ROUND_S)


def question_of(round_: int) -> int:
    """What is asked in a round."""
    return round_ % len(QUESTIONS)


def asker_of(instance: str, owner: str, nodes: Sequence[str], round_: int) -> str:
    """Which node asks an instance of node `owner` in a round; empty: there is no other.

    Args:
        instance: Who is asked.
        owner: Its node, which may be among the others or not.
        nodes: Every node that may ask: sorted, each once. This is asked of every instance in every second.
        round_: In which.
    """
    at = bisect_left(nodes, owner)
    there = at < len(nodes) and nodes[at] == owner
    others = len(nodes) - there
    if not others:
        return ""
    first = int.from_bytes(hashlib.sha256(instance.encode()).digest()[:8], "big")
    place = (first + round_) % others
    return nodes[place + (there and place >= at)]
