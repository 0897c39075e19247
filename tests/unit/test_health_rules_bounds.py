"""Health at its limits: figures, golden prompts and their votes, a moment before and at each mark."""

from __future__ import annotations

from typing import Any

import pytest

from bridge_agent.health.golden_rules import models_to_ask
from bridge_agent.health.infrastructure_rules import Disk, Machine, gpu_findings, machine_findings
from bridge_agent.health.probe_rules import ProbePolicy, ProbeVerdict, judge
from bridge_agent.health.service_rules import Service, service_findings
from bridge_agent.health.verdict_rules import Finding, look, reasons
from bridge_agent.limits.gpu import Gpu
from bridge_core.golden import GoldenAnswer, Token
from bridge_core.names import canonical
from bridge_core.snapshot import MemberModel
from bridge_core.verdicts import Reason
from bridge_registry.health.golden_rules import GoldenBook

MIB, GIB = 1 << 20, 1 << 30

# -- figures of a machine


@pytest.mark.parametrize(
    ("total", "free", "level"),
    [
        (100 * GIB, GIB, "failing"),  # a hundredth
        (100 * GIB, GIB + MIB, "degraded"),
        (10 * GIB, 256 * MIB, "failing"),
        (10 * GIB, 256 * MIB + 1, "degraded"),
        (640 * GIB, 32 * GIB, "degraded"),  # a twentieth, and few bytes
        (640 * GIB, 32 * GIB + 1, None),
        (700 * GIB, 33 * GIB, None),
        (639 * GIB, 32 * GIB, None),
        (8 * GIB, 2 * GIB, "degraded"),
        (8 * GIB, 2 * GIB + 1, None),
        (0, 0, None),
    ],
)
def test_disks(total: int, free: int, level: str | None) -> None:
    found = [one.level for one in machine_findings(Machine(disks=(Disk("models", total, free),)))]
    assert found == ([] if level is None else [level])


def texts(machine: Machine) -> list[str]:
    return [one.text for one in machine_findings(machine)]


def test_what_is_said_of_a_machine() -> None:
    assert texts(Machine()) == []
    assert texts(Machine(memory_total=GIB)) == ["0 B of 1 GiB of memory are left"]
    assert texts(Machine(packets=400, packets_bad=20)) == ["5 % of the packets are lost or damaged"]
    assert texts(Machine(disks=(Disk("models", 10 * GIB, GIB),))) == ["1 GiB of 10 GiB are left for models"]


@pytest.mark.parametrize(
    ("available", "level"), [(150, "failing"), (151, "degraded"), (400, "degraded"), (401, None)]
)
def test_memory(available: int, level: str | None) -> None:
    found = [one.level for one in machine_findings(Machine(memory_total=10_000, memory_available=available))]
    assert found == ([] if level is None else [level])


def test_what_is_gone_is_said_at_the_first_look_and_the_rest_is_not() -> None:
    (lost,) = gpu_findings([Gpu(3, "GPU-1", "H200", 100, 0, fault="it answers no more")], "")
    hot = Gpu(3, "GPU-1", "H200", 100, 0, temperature_c=90)
    (warm,) = gpu_findings([hot], "")
    (out,) = service_findings(Service("ready", 1, 0, fault="its wall fell"))
    (slow,) = service_findings(Service("ready", 1, 4))
    assert [one.sudden for one in (lost, warm, out, slow)] == [True, False, True, False]
    assert reasons(look({}, [lost, out], 7.0)) == (
        Reason("infrastructure", "gpu", "failing", "GPU 3: it answers no more", 7.0),
        Reason("service", "kept-out", "failing", "its wall fell", 7.0),
    )
    assert reasons(look({}, [warm, slow], 7.0)) == ()


@pytest.mark.parametrize(
    ("slots", "waiting", "full"), [(0, 4, True), (0, 3, False), (1, 4, True), (3, 11, False)]
)
def test_queues(slots: int, waiting: int, full: bool) -> None:
    found = list(service_findings(Service("ready", slots, waiting)))
    assert [one.code for one in found] == (["queue"] if full else [])


# -- looks


def test_of_two_findings_of_one_thing_the_worst_and_then_the_first_is_said() -> None:
    def said(*levels: str) -> str:
        found = [
            Finding("infrastructure", "disk", level, f"number {at}", sudden=True)  # type: ignore[arg-type]
            for at, level in enumerate(levels)
        ]
        return reasons(look({}, found, 1.0))[0].text

    assert said("degraded", "degraded") == "number 0"
    assert said("degraded", "failing") == "number 1"
    assert said("failing", "degraded") == "number 0"


def test_what_was_bad_is_known_until_it_has_been_well_for_twenty_looks() -> None:
    bad = Finding("infrastructure", "disk", "failing", "full", sudden=True)
    tracks = look({}, [bad], 1.0)
    for at in range(19):
        tracks = look(tracks, [], 2.0 + at)
        assert reasons(tracks)[0].since == 1.0
    assert look(tracks, [], 21.0) == {}
    again = look(look(tracks, [], 21.0), [bad], 22.0)
    assert reasons(again)[0].since == 22.0


def test_since_when_and_what_is_kept_while_it_changes_its_level() -> None:
    def one(level: Any) -> list[Finding]:
        return [Finding("service", "errors", level, f"it is {level}")]

    tracks: Any = {}
    for at in range(5):
        tracks = look(tracks, one("degraded"), float(at))
    for at in range(5, 10):
        tracks = look(tracks, one("failing"), float(at))
    assert reasons(tracks) == (Reason("service", "errors", "failing", "it is failing", 4.0),)
    for at in range(10, 30):
        tracks = look(tracks, one("degraded"), float(at))
    assert reasons(tracks) == (Reason("service", "errors", "degraded", "it is degraded", 4.0),)


# -- probes


def test_what_cannot_be_seen_at_work_has_three_minutes() -> None:
    def verdict(now: float, **fields: Any) -> ProbeVerdict:
        return judge(
            started=0.0, computed=None, progressed=0.0, now=now, policy=ProbePolicy(), seen=False, **fields
        )

    assert verdict(179.9) is ProbeVerdict.WAIT
    assert verdict(180.0) is ProbeVerdict.HUNG
    assert verdict(359.9, false_alarms=1) is ProbeVerdict.WAIT
    assert verdict(360.0, false_alarms=1) is ProbeVerdict.HUNG
    assert verdict(599.9, false_alarms=10**9) is ProbeVerdict.WAIT, "and no number is too large"
    assert verdict(600.0, false_alarms=10**9) is ProbeVerdict.HUNG


def test_up_to_three_models_are_asked_in_every_round() -> None:
    models = [MemberModel(name) for name in "abcd"]
    names = [one.name for one in models]

    def asked(count: int, round_: int) -> tuple[str, ...]:
        return models_to_ask(models, names[:count], {}, round_=round_, now=0.0, out=False)

    three = tuple(canonical(name) for name in "abc")
    assert asked(3, 0) == asked(3, 1) == asked(3, 2) == three
    assert asked(4, 1) == tuple(canonical(name) for name in "dab")


# -- the vote

MODEL = canonical("tiny")
RIGHT = (Token("yes", 4.0),)
WRONG = (Token("no", 4.0),)
UNSURE = (Token("perhaps", 0.1),)


class Vote:
    """One question that is put round after round; every node has one instance, or two ("b0", "b1")."""

    def __init__(self, *instances: str) -> None:
        self.nodes = {id_: id_[0] for id_ in (*instances, "z0")}
        self.book = GoldenBook()

    def say(self, id_: str, tokens: tuple[Token, ...], *, at: float = 100.0, **fields: Any) -> str:
        """What comes of one more answer to the same question."""
        fields = {"round": 0, "asker": "q", "fault": "", **fields}
        asker = fields.pop("asker")
        answer = GoldenAnswer(id_, MODEL, fields["round"], 0, tokens, fault=fields["fault"], at=at)
        self.book.take(asker, answer, digest="d", nodes=self.nodes)
        return self.book.compared(id_)

    def codes(self, id_: str = "z0") -> list[str]:
        return [one.code for one in self.book.reasons(id_)]


@pytest.mark.parametrize(
    ("same", "contrary", "says"),
    [
        ("", "a0", "there is no majority"),
        ("", "a0 b0", "wrong"),
        ("", "b0 b1", "there is no majority"),  # two instances of one node
        ("c0", "a0", "agrees with 1 other"),
        ("c0", "a0 b0", "there is no majority"),
        ("c0", "a0 b0 d0", "wrong"),
        ("c0 d0", "a0 b0", "agrees with 2 others"),
        ("c0 d0", "a0 b0 e0", "there is no majority"),
        ("c0 d0", "a0 b0 e0 f0", "wrong"),
        ("c0", "", "agrees with 1 other"),
    ],
)
def test_who_is_in_the_majority(same: str, contrary: str, says: str) -> None:
    vote = Vote(*same.split(), *contrary.split())
    for id_ in same.split():
        vote.say(id_, RIGHT)
    for id_ in contrary.split():
        vote.say(id_, WRONG)
    found = vote.say("z0", RIGHT)
    if says == "wrong":
        assert "majority" not in found
        assert found.startswith('tiny:latest answers "yes" where a0')
        vote.say("z0", RIGHT, round=1, asker="r")
        assert vote.codes() == ["wrong-answers"]
    else:
        assert found.endswith(says)
        vote.say("z0", RIGHT, round=1, asker="r")
        assert vote.codes() == (["split-answers"] if "majority" in says else [])


def test_answers_part_where_nobody_was_sure() -> None:
    vote = Vote("a0")
    vote.say("a0", (Token("maybe", 0.1),))
    assert vote.say("z0", UNSURE) == "its answer and the others' part where none of them was sure"


def test_those_who_contradict_it_and_one_another_are_no_party() -> None:
    vote = Vote("a0", "b0")
    vote.say("a0", WRONG)
    vote.say("b0", (Token("never", 4.0),))
    assert vote.say("z0", RIGHT).endswith("there is no majority")


def convicted() -> Vote:
    vote = Vote("a0", "b0")
    vote.say("a0", RIGHT)
    vote.say("b0", RIGHT)
    vote.say("z0", WRONG, at=200.0)
    vote.say("z0", WRONG, at=300.0, round=1, asker="r")
    assert vote.codes() == ["wrong-answers"]
    return vote


def test_since_when_it_is_convicted_and_in_which_words() -> None:
    (reason,) = convicted().book.reasons("z0")
    assert reason.since == 200.0
    assert reason.text == 'tiny:latest answers "no" where a0 and b0 answer "yes"'
    vote = Vote("a0")
    vote.say("a0", RIGHT)
    assert vote.say("z0", WRONG).startswith('tiny:latest answers "no" where a0 answers "yes"')


def test_three_names_are_enough() -> None:
    vote = Vote("a0", "b0", "c0", "d0")
    for id_ in ("a0", "b0", "c0", "d0"):
        vote.say(id_, RIGHT)
    assert "where a0 and b0 and c0 answer" in vote.say("z0", WRONG)


@pytest.mark.parametrize(("length", "shown"), [(48, "x" * 48), (49, "x" * 47 + "…")])
def test_a_long_answer_is_cut(length: int, shown: str) -> None:
    vote = Vote("a0")
    vote.say("a0", RIGHT)
    assert f'answers "{shown}" where' in vote.say("z0", (Token("x" * length, 4.0),))


def test_each_conviction_doubles_what_it_takes_to_come_back_up_to_96() -> None:
    vote, round_ = Vote("a0", "b0"), 0
    vote.say("a0", RIGHT)
    vote.say("b0", RIGHT)
    needed = []
    for _ in range(7):
        for asker in "qr":
            round_ += 1
            vote.say("z0", WRONG, round=round_, asker=asker)
        rights = 0
        while vote.codes():
            round_, rights = round_ + 1, rights + 1
            vote.say("z0", RIGHT, round=round_)
        needed.append(rights)
    assert needed == [3, 6, 12, 24, 48, 96, 96]


def test_what_an_earlier_leader_found_takes_three_right_answers_whenever_it_was() -> None:
    for since in (0.0, 0.5, 50.0):
        vote = Vote("a0")
        vote.book.resume("z0", Reason("business", "wrong-answers", "failing", "said before", since))
        assert list(vote.book.reasons("z0")) == [
            Reason("business", "wrong-answers", "failing", "said before", since)
        ]
        vote.say("a0", RIGHT)
        for round_ in range(3):
            assert vote.book.convicted("z0")
            vote.say("z0", RIGHT, round=round_)
        assert not vote.book.convicted("z0")


@pytest.mark.parametrize(("between", "codes"), [(6, ["wrong-answers"]), (7, [])])
def test_two_wrong_answers_count_together_while_both_are_among_the_last_eight(
    between: int, codes: list[str]
) -> None:
    vote = Vote("a0", "b0")
    vote.say("a0", RIGHT)
    vote.say("b0", RIGHT)
    vote.say("z0", WRONG)
    for round_ in range(1, between + 1):
        vote.say("z0", (), round=round_)  # no log probabilities: it decides nothing
    vote.say("z0", WRONG, round=50, asker="r")
    assert vote.codes() == codes


@pytest.mark.parametrize(("between", "codes"), [(29, []), (30, ["no-answer"])])
def test_a_report_that_repeats_itself_is_known_among_the_last_32(between: int, codes: list[str]) -> None:
    vote = Vote("a0")
    vote.say("z0", (), fault="it hangs")
    for round_ in range(1, between + 1):
        vote.say("z0", RIGHT, round=round_)
    vote.say("z0", (), round=50, fault="it hangs")
    vote.say("z0", (), round=51, fault="it hangs")
    vote.say("z0", (), fault="it hangs")
    assert vote.codes() == codes


def test_one_answer_ends_a_run_without_any() -> None:
    vote = Vote("a0")
    for round_, fault in enumerate(("hangs", "hangs", "", "hangs", "hangs")):
        vote.say("z0", () if fault else RIGHT, round=round_, fault=fault)
    assert vote.codes() == []
    vote.say("z0", (), round=9, fault="hangs")
    assert vote.codes() == ["no-answer"]


@pytest.mark.parametrize(("others", "codes"), [(7, ["split-answers"]), (8, [])])
def test_a_split_is_told_until_it_is_decided_or_eight_answers_old(others: int, codes: list[str]) -> None:
    vote = Vote("a0")
    vote.say("a0", RIGHT)
    vote.say("z0", WRONG)
    for round_ in range(1, others + 1):
        vote.say("z0", (), round=round_)
    assert vote.codes() == codes
    vote.say("z0", RIGHT, round=60)
    assert vote.codes() == []


def test_what_is_still_there_is_still_compared() -> None:
    vote = Vote("a0", "b0")
    vote.say("a0", RIGHT)
    vote.say("b0", RIGHT)
    vote.book.forget_all_but({"a0": {MODEL: "d"}, "z0": {MODEL: "d"}})
    assert vote.say("z0", RIGHT) == "agrees with 1 other"


def test_a_convicted_one_has_no_vote() -> None:
    vote = convicted()
    assert vote.say("a0", (Token("no", 4.0),), round=7).endswith("there is no majority")
