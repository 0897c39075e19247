"""What a rollout asks of its canary's instances, and whether an answer is right: pure."""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import Annotated, Literal

import msgspec

from bridge_core.bounds import Count, Labels, Name, Names, Prompt, Seconds, Share, Small


class Question(msgspec.Struct, frozen=True, omit_defaults=True):
    """A prompt and the answer it should get. See the Rollout document for `match`."""

    prompt: Prompt
    expect: Prompt
    system: Prompt = ""
    match: Literal["contains", "equals", "similar"] = "contains"
    similarity: Share = 0.8

    def fault(self, answer: str) -> str:
        """What is wrong with `answer`; empty when nothing is."""
        got, wanted = _plain(answer), _plain(self.expect)
        if self.match == "contains":
            fits = wanted in got
        elif self.match == "equals":
            fits = wanted == got
        else:
            ratio = SequenceMatcher(None, wanted, got, autojunk=False).ratio()
            fits = ratio >= self.similarity
        if fits:
            return ""
        asked, wrong = _short(self.prompt), _short(answer)
        return f"{asked!r} was answered {wrong!r}, expected {_short(self.expect)!r}"


class Probe(msgspec.Struct, frozen=True, omit_defaults=True):
    """What agents do with their own instances of a backend while a rollout runs.

    Attributes:
        rollout: Its name.
        round: Each round is asked once; results name it.
        model: Asked of each own instance that has it,
        instances: of only these, when any are named,
        labels: on nodes with all of these labels.
        questions: Asked at temperature 0.
        pass_share: Share of the questions that have to be answered rightly.
        max_tokens: Longest answer.
        keep_alive_s: Instead of asking: load the model and keep it loaded for so long; 0: ask.
    """

    rollout: Name
    round: Count
    model: Name
    instances: Names = ()
    labels: Labels = {}
    questions: Annotated[tuple[Question, ...], msgspec.Meta(max_length=1000)] = ()
    pass_share: Share = 1.0
    max_tokens: Small = 64
    keep_alive_s: Seconds = 0.0


class ProbeResult(msgspec.Struct, frozen=True):
    """What came of a round of a rollout's probe on one instance; `detail` says why it failed."""

    rollout: str
    round: int
    instance: str
    passed: bool
    detail: str = ""


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:79] + "…"
