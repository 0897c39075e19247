"""Whose answers contradict everybody else's: the vote over golden prompts. Pure.

Rules:
1. An answer is compared with the last ones to the same question of every instance on another node that has a
   model of the same digest. What a model answers greedily does not age, so an answer stays good for `GOOD_S`.
   Those who are convicted have no vote.
2. It is *wrong* when those that contradict it agree with one another, stand on two nodes at least, and are
   more than it and those that agree with it. It is *right* when somebody agrees with it and they are more.
   Where two stand against each other and nobody decides, both are told of and neither is touched.
3. An instance is convicted when its last two decided answers with a model are wrong and two different nodes
   brought them: one node that lies convicts nobody.
4. It is acquitted after `RIGHT_IN_A_ROW` right answers of that model in a row; each conviction doubles that.
5. So there are always two nodes left with an instance that is not taken out: whoever convicts agrees.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from bridge_core.golden import GoldenAnswer, Likeness, compare
from bridge_core.names import InvalidName, display
from bridge_core.verdicts import Reason

Outcome: TypeAlias = Literal["right", "wrong", "split", "alone", "unclear", "fault"]

GOOD_S: Final = 86_400.0
RIGHT_IN_A_ROW: Final = 3
_MOST_IN_A_ROW: Final = 96
_REMEMBERED: Final = 8
_FAULTS: Final = 3  # without an answer, in a row, until that is said
_ANY_MODEL: Final = ""  # of what an earlier leader found, nobody knows with which
_SHOWN: Final = 48  # characters of an answer


@dataclass(frozen=True, slots=True)
class Judged:
    """What one answer came to, and in which round by whom it was brought."""

    round: int
    asker: str
    outcome: Outcome
    says: str
    at: float


@dataclass(slots=True)
class _Record:
    """What is known of one instance with one model."""

    judged: deque[Judged] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    rounds: deque[tuple[int, str]] = field(default_factory=lambda: deque(maxlen=4 * _REMEMBERED))
    digest: str = ""
    convictions: int = 0
    since: float | None = None  # convicted since then
    says: str = ""
    rights: int = 0
    # The first of a run is what is told: what is still so changes no snapshot.
    faults: int = 0
    fault: Judged | None = None
    split: Judged | None = None

    @property
    def convicted(self) -> bool:
        return self.since is not None


class GoldenBook:
    """Takes answers and knows whom they convict; one task feeds it. Times are Unix seconds."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, int], dict[str, GoldenAnswer]] = {}
        self._records: dict[str, dict[str, _Record]] = {}  # by instance, by model

    def take(self, asker: str, answer: GoldenAnswer, *, digest: str, nodes: Mapping[str, str]) -> None:
        """Takes in what `asker` brought.

        Args:
            asker: A node whose turn it was.
            answer: Of another node's instance.
            digest: Of the model that was asked.
            nodes: The node of every instance there is.
        """
        record = self._record(answer, digest)
        if (answer.round, asker) in record.rounds:
            return  # reports repeat themselves
        record.rounds.append((answer.round, asker))
        if answer.fault:
            outcome, says = self._fault(answer)
        else:
            outcome, says = self._judge(answer, digest, nodes)
            if answer.comparable:
                self._answers.setdefault((digest, answer.question), {})[answer.instance] = answer
        judged = Judged(answer.round, asker, outcome, says, answer.at)
        for one in (record, self._records[answer.instance].get(_ANY_MODEL)):
            if one is not None:
                one.judged.append(judged)
                _settle(one)

    def forget_all_but(self, models: Mapping[str, Mapping[str, str] | None]) -> None:
        """What is there, by instance its models' digests by name; of others nothing is kept.

        None: which models an instance has is not known yet, and all that is known of it is kept.
        """
        for id_, records in list(self._records.items()):
            kept = {model: one for model, one in records.items() if _is_there(id_, model, one.digest, models)}
            if kept:
                self._records[id_] = kept
            else:
                del self._records[id_]
        for (digest, question), answers in list(self._answers.items()):
            left = {id_: one for id_, one in answers.items() if _is_there(id_, one.model, digest, models)}
            if left:
                self._answers[digest, question] = left
            else:
                del self._answers[digest, question]

    def resume(self, instance: str, reason: Reason) -> None:
        """An earlier leader convicted this instance: it stays so until it is acquitted here."""
        record = self._records.setdefault(instance, {}).setdefault(_ANY_MODEL, _Record())
        record.convictions, record.since, record.says = 1, reason.since, reason.text

    def convicted(self, instance: str) -> bool:
        """Whether its answers are taken for wrong."""
        return any(one.convicted for one in self._records.get(instance, {}).values())

    def reasons(self, instance: str) -> Iterable[Reason]:
        """What there is to say against its answers."""
        for record in self._records.get(instance, {}).values():
            if record.since is not None:
                yield Reason("business", "wrong-answers", "failing", record.says, record.since)
                continue
            if record.fault is not None and record.faults >= _FAULTS:
                yield Reason("business", "no-answer", "degraded", record.fault.says, record.fault.at)
            if record.split is not None:
                yield Reason("business", "split-answers", "degraded", record.split.says, record.split.at)

    def compared(self, instance: str) -> str:
        """What came of the last comparison, in words."""
        found = [one.judged[-1] for one in self._records.get(instance, {}).values() if one.judged]
        return max(found, key=lambda one: one.round).says if found else "not asked yet"

    def _record(self, answer: GoldenAnswer, digest: str) -> _Record:
        """What is known of who answered; of a model that became another by the same name, nothing."""
        records = self._records.setdefault(answer.instance, {})
        found = records.get(answer.model)
        if found is None or found.digest != digest:
            found = records[answer.model] = _Record(digest=digest)
        return found

    def _judge(self, answer: GoldenAnswer, digest: str, nodes: Mapping[str, str]) -> tuple[Outcome, str]:
        if not answer.comparable:
            return "unclear", "its engine tells no log probabilities: its answers cannot be compared"
        own = nodes.get(answer.instance, "")
        others = [
            one
            for id_, one in self._answers.get((digest, answer.question), {}).items()
            if nodes.get(id_, own) != own and answer.at - one.at < GOOD_S and not self.convicted(id_)
        ]
        if not others:
            return "alone", "no other node has answered the same with a model of this digest"
        same = [one for one in others if compare(answer, one) is Likeness.SAME]
        contrary = _largest_party([one for one in others if compare(answer, one) is Likeness.CONTRARY])
        among = len({nodes[one.instance] for one in contrary})
        if len(contrary) > len(same) + 1 and among > 1:
            return "wrong", _contradiction(answer, contrary)
        if same and len(same) + 1 > len(contrary):
            return "right", f"agrees with {len(same)} other{'s' if len(same) > 1 else ''}"
        if contrary:
            return "split", f"{_contradiction(answer, contrary)}; there is no majority"
        return "unclear", "its answer and the others' part where none of them was sure"

    @staticmethod
    def _fault(answer: GoldenAnswer) -> tuple[Outcome, str]:
        return "fault", f"a golden prompt to {_model(answer)} was not answered: {answer.fault}"


def _is_there(instance: str, model: str, digest: str, models: Mapping[str, Mapping[str, str] | None]) -> bool:
    """Whether an instance is there and has the model still; see `GoldenBook.forget_all_but`."""
    if instance not in models:
        return False
    own = models[instance]
    return own is None or model == _ANY_MODEL or own.get(model) == digest


def _settle(record: _Record) -> None:
    """Convicts or acquits by what was judged last."""
    last = record.judged[-1]
    _begin_and_end_runs(record, last)
    if last.outcome == "right":
        record.rights += 1
        wanted = min(_MOST_IN_A_ROW, RIGHT_IN_A_ROW * 2 ** max(0, record.convictions - 1))
        if record.convicted and record.rights >= wanted:
            record.since, record.says = None, ""
    elif last.outcome == "wrong":
        record.rights = 0
        decided = [one for one in record.judged if one.outcome in {"right", "wrong"}][-2:]
        both = len(decided) == 2 and all(one.outcome == "wrong" for one in decided)
        if not record.convicted and both and decided[0].asker != decided[1].asker:
            record.convictions += 1
            record.since, record.says = decided[0].at, last.says


def _begin_and_end_runs(record: _Record, last: Judged) -> None:
    """Keeps since when there has been no answer, or no majority."""
    if last.outcome == "fault":
        record.faults += 1
        record.fault = record.fault or last
    else:
        record.faults, record.fault = 0, None
    if last.outcome == "split":
        record.split = record.split or last
    elif last.outcome in {"right", "wrong"} or all(one.outcome != "split" for one in record.judged):
        record.split = None


def _largest_party(answers: list[GoldenAnswer]) -> list[GoldenAnswer]:
    """The most of them that agree with one of them."""
    parties = ([two for two in answers if compare(one, two) is Likeness.SAME] for one in answers)
    return max(parties, key=len, default=[])


def _contradiction(answer: GoldenAnswer, others: list[GoldenAnswer]) -> str:
    names = " and ".join(sorted(one.instance for one in others)[:3])
    them = f"answers {_quoted(others[0].text)}" if len(others) == 1 else f"answer {_quoted(others[0].text)}"
    return f"{_model(answer)} answers {_quoted(answer.text)} where {names} {them}"


def _quoted(text: str) -> str:
    # Whatever an engine says, neither a terminal nor a line of a log is moved by it.
    shown = text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
    return '"' + "".join(one if one.isprintable() and one != '"' else "�" for one in shown) + '"'


def _model(answer: GoldenAnswer) -> str:
    try:
        return display(answer.model)
    except InvalidName:
        return _quoted(answer.model)
