"""Golden prompts: who asks whom, what contradicts what, whom that convicts."""

from __future__ import annotations

import hashlib
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.health.golden_rules import (
    models_to_ask,
    not_now,
    reference_to_load,
)
from bridge_core import golden
from bridge_core.golden import CLEAR, Copy, GoldenAnswer, Likeness, Token, compare
from bridge_core.names import canonical
from bridge_core.snapshot import MemberModel
from bridge_core.verdicts import Reason
from bridge_registry.health.golden_rules import GoldenBook

MODEL = canonical("tiny")
NODES = {"a/0": "a", "b/0": "b", "c/0": "c", "c/1": "c"}
ASKERS = ("a", "b", "c")
RIGHT = (Token(" Paris", 4.0), Token(".", 2.0))
WRONG = (Token(" Rome", 3.0), Token("!", 2.0))


def answer(
    instance: str, tokens: tuple[Token, ...] = RIGHT, *, round_: int = 0, **more: object
) -> GoldenAnswer:
    made = GoldenAnswer(instance, MODEL, round_, golden.question_of(round_), tokens, at=100.0 + 8 * round_)
    return msgspec.structs.replace(made, **more)


class Mesh:
    """A book, and who asks in which round."""

    def __init__(self) -> None:
        self.book = GoldenBook()
        self.round = 0

    def go(self, rounds: int, **says: tuple[Token, ...] | str) -> None:
        """Every instance is asked in each of so many rounds; what is not said is right."""
        for _ in range(rounds):
            for id_, node in NODES.items():
                said = says.get(id_.replace("/", ""), RIGHT)
                asker = golden.asker_of(id_, node, ASKERS, self.round)
                one = answer(id_, () if isinstance(said, str) else said, round_=self.round)
                one = msgspec.structs.replace(one, fault=said if isinstance(said, str) else "")
                self.book.take(asker, one, digest="d", nodes=NODES)
            self.round += 1

    def out(self) -> set[str]:
        return {id_ for id_ in NODES if self.book.convicted(id_)}


def test_two_of_three_convict_the_third_within_two_rounds_of_a_question_that_all_answered() -> None:
    mesh = Mesh()
    mesh.go(4)
    assert not mesh.out()
    mesh.go(1, b0=WRONG)
    assert not mesh.out()
    mesh.go(1, b0=WRONG)
    assert mesh.out() == {"b/0"}
    (reason,) = mesh.book.reasons("b/0")
    assert (reason.aspect, reason.code, reason.level) == ("business", "wrong-answers", "failing")
    assert reason.text == ('tiny:latest answers " Rome!" where a/0 and c/0 and c/1 answer " Paris."')
    assert mesh.book.compared("a/0") == "agrees with 3 others"


def test_one_wrong_answer_alone_convicts_nobody() -> None:
    mesh = Mesh()
    mesh.go(4)
    for _ in range(5):
        mesh.go(1, b0=WRONG)
        mesh.go(1)
    assert not mesh.out()


def test_it_comes_back_after_right_answers_in_a_row_and_each_time_later() -> None:
    mesh = Mesh()
    mesh.go(4)
    for times in (1, 2, 4):
        mesh.go(2, b0=WRONG)
        assert mesh.out() == {"b/0"}
        mesh.go(3 * times - 1)
        assert mesh.out() == {"b/0"}
        mesh.go(1)
        assert not mesh.out()


def test_two_that_contradict_each_other_are_told_of_and_left() -> None:
    book, nodes = GoldenBook(), {"a/0": "a", "b/0": "b"}
    for round_ in range(6):
        book.take("b", answer("a/0", round_=round_), digest="d", nodes=nodes)
        book.take("a", answer("b/0", WRONG, round_=round_), digest="d", nodes=nodes)
    assert not book.convicted("a/0")
    assert not book.convicted("b/0")
    (reason,) = book.reasons("b/0")
    assert (reason.code, reason.level) == ("split-answers", "degraded")
    assert "there is no majority" in reason.text


def test_two_instances_of_one_node_are_one_voice() -> None:
    book, nodes = GoldenBook(), {"a/0": "a", "b/0": "b", "b/1": "b"}
    for round_ in range(6):
        book.take("a", answer("b/0", WRONG, round_=round_), digest="d", nodes=nodes)
        book.take("a", answer("b/1", WRONG, round_=round_), digest="d", nodes=nodes)
        book.take("b", answer("a/0", round_=round_), digest="d", nodes=nodes)
    assert not any(map(book.convicted, nodes))


def test_other_digests_are_not_compared() -> None:
    book = GoldenBook()
    for round_ in range(6):
        for id_, node in NODES.items():
            asker = golden.asker_of(id_, node, ASKERS, round_)
            says, digest = (WRONG, "other") if id_ == "b/0" else (RIGHT, "d")
            book.take(asker, answer(id_, says, round_=round_), digest=digest, nodes=NODES)
    assert not book.convicted("b/0")
    assert "no other node" in book.compared("b/0")


def test_what_was_answered_too_long_ago_counts_no_more() -> None:
    book = GoldenBook()
    for id_ in ("a/0", "c/0"):
        book.take("b", answer(id_), digest="d", nodes=NODES)
    late = answer("b/0", WRONG, at=86_500.0)
    book.take("a", late, digest="d", nodes=NODES)
    assert "no other node" in book.compared("b/0")
    book.take("c", msgspec.structs.replace(late, at=86_499.0, round=1), digest="d", nodes=NODES)
    assert "where a/0 and c/0 answer" in book.compared("b/0")


def test_the_same_report_twice_is_one() -> None:
    mesh = Mesh()
    mesh.go(4)
    wrong = answer("b/0", WRONG, round_=4)
    for asker in ("a", "a", "a"):
        mesh.book.take(asker, wrong, digest="d", nodes=NODES)
    assert not mesh.out()


@given(st.lists(st.sampled_from([RIGHT, WRONG, (), (Token(" Lyon", 0.1),)]), max_size=40))
def test_a_single_node_that_lies_convicts_nobody(lies: list[tuple[Token, ...]]) -> None:
    mesh = Mesh()
    mesh.go(4)
    for at, lie in enumerate(lies):
        round_ = 4 + at
        for id_, node in NODES.items():
            asker = golden.asker_of(id_, node, ASKERS, round_)
            said = lie if asker == "c" and lie else RIGHT
            mesh.book.take(asker, answer(id_, said, round_=round_), digest="d", nodes=NODES)
        assert not {"a/0", "b/0"} & mesh.out()


@given(st.lists(st.fixed_dictionaries({id_: st.sampled_from([RIGHT, WRONG]) for id_ in NODES}), max_size=24))
def test_whatever_is_answered_two_nodes_stay_and_agree(
    rounds: list[dict[str, tuple[Token, ...]]],
) -> None:
    mesh = Mesh()
    mesh.go(4)
    for says in rounds:
        mesh.go(1, **{id_.replace("/", ""): said for id_, said in says.items()})
        assert len({NODES[id_] for id_ in NODES.keys() - mesh.out()}) >= 2


def test_without_an_answer_three_times_that_is_said_and_nobody_is_taken_out() -> None:
    mesh = Mesh()
    mesh.go(2, a0="it\x1b[2J hangs")
    assert not list(mesh.book.reasons("a/0"))
    mesh.go(1, a0="it hangs")
    (reason,) = mesh.book.reasons("a/0")
    assert (reason.code, reason.level) == ("no-answer", "degraded")
    assert not mesh.out()


def test_what_an_earlier_leader_found_holds_until_it_is_disproved() -> None:
    mesh = Mesh()
    mesh.book.resume("b/0", Reason("business", "wrong-answers", "failing", "said before", 50.0))
    assert mesh.out() == {"b/0"}
    mesh.go(1)
    mesh.go(3)
    assert not mesh.out()


def test_who_is_gone_is_forgotten() -> None:
    mesh = Mesh()
    mesh.go(4)
    mesh.go(2, b0=WRONG)
    mesh.book.forget_all_but({"a/0": {MODEL: "d"}, "c/0": {MODEL: "d"}})
    assert not mesh.book.convicted("b/0")


@pytest.mark.parametrize("models", [{}, {MODEL: "another"}])
def test_a_conviction_ends_with_the_model_that_answered(models: dict[str, str]) -> None:
    mesh = Mesh()
    mesh.go(4)
    mesh.go(2, b0=WRONG)
    there = {id_: {MODEL: "d"} for id_ in NODES}
    mesh.book.forget_all_but(there)
    mesh.book.forget_all_but({**there, "b/0": None})
    assert mesh.out() == {"b/0"}, "which models it has is not known yet"
    mesh.book.forget_all_but({**there, "b/0": models})
    assert not mesh.out()
    mesh.book.resume("b/0", Reason("business", "wrong-answers", "failing", "said before", 50.0))
    mesh.book.forget_all_but({**there, "b/0": models})
    assert mesh.out() == {"b/0"}, "of which model nobody knows"


def test_what_an_instance_no_longer_has_is_compared_with_nothing() -> None:
    mesh = Mesh()
    mesh.go(4)
    mesh.book.forget_all_but({"a/0": {MODEL: "d"}})
    mesh.book.take("b", answer("a/0", round_=4), digest="d", nodes=NODES)
    assert "no other node" in mesh.book.compared("a/0")


def test_what_did_not_change_is_said_in_the_same_words() -> None:
    book, nodes = GoldenBook(), {"a/0": "a", "b/0": "b"}
    said = set()
    for round_ in range(12):
        book.take("b", answer("a/0", round_=round_), digest="d", nodes=nodes)
        book.take("a", answer("b/0", WRONG, round_=round_), digest="d", nodes=nodes)
        said |= set(book.reasons("b/0"))
    assert [one.code for one in said] == ["split-answers"]
    book.take("b", answer("a/0", (), round_=12, fault="it hangs"), digest="d", nodes=nodes)
    for round_ in range(13, 24):
        book.take("b", answer("a/0", (), round_=round_, fault=f"for {round_}"), digest="d", nodes=nodes)
    (reason,) = book.reasons("a/0")
    assert (reason.code, reason.since) == ("no-answer", 100.0 + 8 * 12)
    assert reason.text.endswith("it hangs")
    book.take("b", answer("a/0", round_=24), digest="d", nodes=nodes)
    assert [one.code for one in book.reasons("a/0")] == ["split-answers"]


def test_escape_sequences_of_an_answer_reach_no_terminal() -> None:
    mesh = Mesh()
    mesh.go(4)
    mesh.go(2, b0=(Token('\x1b[31m"\n', 3.0),))
    (reason,) = mesh.book.reasons("b/0")
    assert reason.text.isprintable()


# -- comparing


def test_answers_contradict_each_other_only_where_one_was_sure() -> None:
    sure, unsure = CLEAR, CLEAR - 0.01
    for mine, theirs, likeness in (
        (sure, unsure, Likeness.CONTRARY),
        (unsure, sure, Likeness.CONTRARY),
        (unsure, unsure, Likeness.UNCLEAR),
        (-1.0, sure, Likeness.UNCLEAR),
    ):
        one, other = answer("a/0", (Token("x", mine),)), answer("b/0", (Token("y", theirs),))
        assert compare(one, other) is compare(other, one) is likeness


def test_what_follows_where_nobody_was_sure_says_nothing() -> None:
    one = answer("a/0", (Token("x", 0.1), Token("p", 9.0)))
    other = answer("b/0", (Token("y", 0.1), Token("q", 9.0)))
    assert compare(one, other) is Likeness.UNCLEAR
    assert compare(answer("a/0", RIGHT), answer("b/0", RIGHT[:1])) is Likeness.SAME
    assert compare(answer("a/0", ()), answer("b/0", RIGHT)) is Likeness.UNCLEAR


# -- turns


@given(
    st.sets(st.text("abcdefg", min_size=1, max_size=3), min_size=1, max_size=8),
    st.text("abcdefg", min_size=1, max_size=3),
    st.integers(0, 1 << 40),
)
def test_two_rounds_have_two_askers_who_are_not_the_owner(nodes: set[str], owner: str, round_: int) -> None:
    first, second = (golden.asker_of(f"{owner}/0", owner, sorted(nodes), at) for at in (round_, round_ + 1))
    others = nodes - {owner}
    assert {first, second} <= (others or {""})
    assert owner not in {first, second}
    if len(others) > 1:
        assert first != second


@given(
    st.sets(st.text("abcdefg", max_size=3), max_size=8),
    st.text("abcdefg", max_size=3),
    st.integers(0, 1 << 40),
)
def test_turns_go_round_the_sorted_others(nodes: set[str], owner: str, round_: int) -> None:
    others = sorted(nodes - {owner})
    first = int.from_bytes(hashlib.sha256(f"{owner}/0".encode()).digest()[:8], "big")
    plain = others[(first + round_) % len(others)] if others else ""
    assert golden.asker_of(f"{owner}/0", owner, sorted(nodes), round_) == plain


def test_turns_are_the_same_in_every_process() -> None:
    nodes = ("node1", "node2", "node3")
    found = [golden.asker_of("node1/0", "node1", nodes, round_) for round_ in range(4)]
    assert found == ["node2", "node3", "node2", "node3"]
    counted = Counter(golden.asker_of(f"n{at}/0", f"n{at}", nodes, 7) for at in range(300))
    assert min(counted[node] for node in nodes) > 60
    assert golden.round_of(0.0) == golden.round_of(7.99) == 0
    assert golden.round_of(8.0) == 1


def test_three_nodes_are_made_to_decide_where_fewer_have_it_in_memory() -> None:
    def copy(at: int, *, loaded: bool = False, empty: bool = True, digest: str = "d") -> Copy:
        return Copy(f"n{at}/0", f"n{at}", MODEL, digest, loaded, empty)

    many = [copy(at) for at in range(1, 6)]
    found = golden.references([copy(0, loaded=True, empty=False), *many])
    assert len(found) == 2
    assert set(found.values()) == {MODEL}
    assert not golden.references(many), "nobody has it in memory: nobody is asked anything"
    full = [copy(0, loaded=True), copy(1, loaded=True), copy(2, loaded=True), copy(3)]
    assert not golden.references(full)
    assert golden.references([copy(0, loaded=True), copy(1, empty=False), copy(2)]) == {"n2/0": MODEL}
    assert not golden.references([copy(0, loaded=True), copy(1, digest="e")])
    assert not golden.references([copy(0, loaded=True, digest=""), copy(1, digest="")])


# -- whether an own instance is asked


@pytest.mark.parametrize(
    ("work", "since", "out", "asked"),
    [
        (0, 9.0, False, True),
        (0, 1.9, False, False),
        (0, 1.9, True, False),
        (0, 2.0, False, True),
        (1, 9.0, False, True),
        (2, 9.0, False, False),
        (2, 59.9, False, False),
        (2, 60.0, False, True),
        (2, 9.0, True, True),
    ],
)
def test_load_pushes_a_question_back_but_not_for_ever(
    work: int, since: float, out: bool, asked: bool
) -> None:
    why = not_now(work=work, slots=2, asked=100.0 - since, now=100.0, out=out)
    assert bool(why) is not asked


def test_models_that_are_used_are_asked_and_those_that_embed_never() -> None:
    models = [
        MemberModel("a"),
        MemberModel("b", capabilities=("completion", "tools")),
        MemberModel("e", capabilities=("embedding",)),
    ]
    a, b, e = (canonical(name) for name in "abe")
    used = {a: 0.0, b: 100.0, e: 100.0}

    def asked(now: float, *, out: bool = False, loaded: tuple[str, ...] = ("a", "b", "e")) -> tuple[str, ...]:
        return models_to_ask(models, loaded, used, round_=0, now=now, out=out)

    assert asked(100.0) == (a, b)
    assert asked(120.0) == (a, b)
    assert asked(120.1) == (b,)
    assert asked(1e6) == ()
    assert asked(1e6, out=True) == (a, b)
    assert asked(1e6, out=True, loaded=()) == (a, b)
    assert asked(100.0, loaded=()) == ()


def test_of_many_models_each_has_its_turn() -> None:
    models = [MemberModel(f"m{at}") for at in range(7)]
    names = [one.name for one in models]
    seen = Counter(
        name
        for round_ in range(7)
        for name in models_to_ask(models, names, {}, round_=round_, now=0.0, out=False)
    )
    assert set(seen.values()) == {3}


def test_a_model_is_loaded_for_the_others_where_that_costs_nobody_anything() -> None:
    models, name = [MemberModel("a"), MemberModel("e", capabilities=("embedding",))], canonical("a")

    def loads(wanted: str = name, loaded: tuple[str, ...] = (), work: int = 0, given: float = -1e9) -> str:
        return reference_to_load(wanted, models, loaded, work=work, given=given, now=0.0)

    assert loads() == name
    assert not loads("")
    assert not loads(canonical("e"))
    assert not loads(canonical("unknown"))
    assert not loads(loaded=("b",))
    assert not loads(work=1)
    assert not loads(given=-21_599.9)
    assert loads(given=-21_600.0) == name
