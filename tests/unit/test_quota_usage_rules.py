"""Usage: nothing lost, nothing counted twice, whatever becomes of reports, agents and registries."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bridge_agent.quotas.usage_rules import OTHERS, UsageBook
from bridge_agent.quotas.uses import Use, UseKey
from bridge_core.store.api import KeyValue
from bridge_registry.quotas.usage_rules import UsageDays, UsageKey, UsageRecord, Used
from bridge_registry.records import encode, pack, unpack

DAY_MS = 86_400_000
TODAY = 20_000


class Counting(RuleBasedStateMachine):
    """One node's agent that begins anew, reports that repeat, and a registry that goes and comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.began = 1
        self.agent = UsageBook()
        self.registry = UsageDays()
        self.stored: dict[tuple[int, str], UsageRecord] = {}
        self.told: dict[UseKey, Use] = {}
        self.counted: dict[str, int] = {}  # the model: what was ever reported, by principal
        self.unreported: dict[str, int] = {}
        self.old: list[tuple[int, list[tuple[int, UsageKey, Used]]]] = []

    @rule(who=st.sampled_from("ab"), tokens=st.integers(0, 9))
    def use(self, who: str, tokens: int) -> None:
        self.agent.count(who, (), "m", TODAY * DAY_MS, prompt=tokens, output=1)
        self.unreported[who] = self.unreported.get(who, 0) + tokens

    @rule(lost=st.booleans())
    def report(self, lost: bool) -> None:
        news = self.agent.news({}, TODAY * DAY_MS)
        uses = [
            (key.day, UsageKey(key.principal, key.groups, key.model), Used(*_tuple(use)))
            for key, use in news.items()
        ]
        if not lost:
            self.registry.take("n", self.began, uses, TODAY)
            self.old.append((self.began, uses))
            for who, tokens in self.unreported.items():
                self.counted[who] = self.counted.get(who, 0) + tokens
            self.unreported = {}

    @rule(data=st.data())
    def an_old_report_of_this_run_comes_again(self, data: st.DataObject) -> None:
        fresh = [uses for began, uses in self.old if began == self.began]
        if fresh:
            self.registry.take("n", self.began, data.draw(st.sampled_from(fresh)), TODAY)

    @rule()
    def agent_begins_anew(self) -> None:
        self.report(lost=False)
        self.agent, self.began, self.unreported = UsageBook(), self.began + 1, {}

    @rule()
    def another_registry_leads(self) -> None:
        for place in list(self.registry.changed):
            item = KeyValue("k", pack(self.registry.record(*place)), 1, 1)
            self.stored[place] = unpack(item, UsageRecord)
        self.registry = UsageDays()
        for (day, node), record in self.stored.items():
            self.registry.restore(day, node, record)

    @invariant()
    def everything_reported_is_there_once(self) -> None:
        found: dict[str, int] = {}
        for one in self.registry.uses(days=(TODAY, TODAY)):
            found[one.key.principal] = found.get(one.key.principal, 0) + one.used.prompt_tokens
        assert {who: count for who, count in found.items() if count} == {
            who: count for who, count in self.counted.items() if count
        }


def _tuple(use: Use) -> tuple[int, int, int, int]:
    return use.requests, use.refused, use.prompt_tokens, use.output_tokens


TestCounting = Counting.TestCase
TestCounting.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_so_many_are_kept_apart_and_none_is_lost() -> None:
    agent = UsageBook()
    for number in range(4106):
        agent.count(f"u{number}", (), "m", TODAY * DAY_MS)
    assert len(agent.uses) == 4097
    assert agent.uses[UseKey(OTHERS, (), OTHERS, TODAY)].requests == 10
    registry = UsageDays()
    uses = [(TODAY, UsageKey(f"u{number}", (), "m"), Used(1)) for number in range(2010)]
    registry.take("n", 1, uses, TODAY)
    assert len(registry.record(TODAY, "n").entries) == 2001


def test_days_go_when_they_are_over_and_those_that_cannot_be_are_not_taken() -> None:
    registry = UsageDays()
    key = UsageKey("a", (), "m")
    registry.take("n", 1, [(TODAY + day, key, Used(1)) for day in (-9, -4, -3, 0, 1, 2)], TODAY)
    assert [one.day - TODAY for one in registry.uses(days=(0, TODAY + 9))] == [-3, 0, 1]
    assert [one.day - TODAY for one in registry.uses(days=(TODAY - 3, TODAY))] == [-3, 0]
    assert list(registry.over(TODAY + 36)) == []
    assert list(registry.over(TODAY + 39)) == [(TODAY - 3, "n")]
    assert list(registry.over(TODAY + 40)) == [(TODAY, "n")]
    assert not registry.uses(days=(TODAY, TODAY))


def test_what_is_asked_for_by_client_group_or_model() -> None:
    registry = UsageDays()
    ann = UsageKey("spiffe://m/client/ann", ("staff",), "m")
    registry.take("n", 1, [(TODAY, ann, Used(1)), (TODAY, UsageKey("idp#x", (), "k"), Used(2))], TODAY)
    registry.take("o", 1, [(TODAY, ann, Used(3))], TODAY)

    def asked(**by: str) -> list[int]:
        return [one.used.requests for one in registry.uses(days=(TODAY, TODAY), **by)]

    assert asked(principal="ann") == asked(principal=ann.principal) == asked(group="staff") == [4]
    assert asked(model="k") == [2]
    assert asked(principal="nobody") == []


def test_the_stored_form_is_the_one_that_was_agreed() -> None:
    registry = UsageDays()
    registry.take("n", 7, [(TODAY, UsageKey("a", ("g",), "m"), Used(1, 2, 3, 4))], TODAY)
    registry.take("n", 8, [(TODAY, UsageKey("a", ("g",), "m"), Used(5, 0, 0, 0))], TODAY)
    frozen = b'{"began":8,"entries":[[["a",["g"],"m"],[5,0,0,0],[1,2,3,4]]]}'
    assert encode(registry.record(TODAY, "n")) == frozen


def test_a_report_that_says_no_more_than_before_is_nothing_to_store() -> None:
    registry, key = UsageDays(), UsageKey("a", (), "m")
    registry.take("n", 1, [(TODAY, key, Used(2, 0, 5, 5))], TODAY)
    assert registry.changed == {(TODAY, "n")}
    registry.changed.clear()
    registry.take("n", 1, [(TODAY, key, Used(1, 0, 5, 5))], TODAY)
    assert registry.changed == set()
    registry.take("n", 1, [(TODAY, key, Used(1, 1, 0, 0))], TODAY)
    assert registry.changed == {(TODAY, "n")}
    assert registry.record(TODAY, "n").entries[0].now == Used(2, 1, 5, 5)
    list(registry.over(TODAY + 40))
    assert registry.changed == set()


def test_what_is_stored_does_not_stand_over_what_is_known() -> None:
    registry, key = UsageDays(), UsageKey("a", (), "m")
    registry.take("n", 1, [(TODAY, key, Used(2))], TODAY)
    stored = registry.record(TODAY, "n")
    registry.take("n", 1, [(TODAY, key, Used(3))], TODAY)
    registry.restore(TODAY, "n", stored)
    assert registry.record(TODAY, "n").entries[0].now == Used(3)
    other = UsageDays()
    other.restore(TODAY, "n", stored)
    assert other.record(TODAY, "n") == stored


def test_what_former_runs_counted_is_restored_with_what_the_last_one_did() -> None:
    registry = UsageDays()
    key, other = UsageKey("a", (), "m"), UsageKey("b", (), "m")
    registry.take("n", 1, [(TODAY, key, Used(3))], TODAY)
    registry.take("n", 2, [(TODAY, key, Used(4)), (TODAY, other, Used(1))], TODAY)
    again = UsageDays()
    again.restore(TODAY, "n", registry.record(TODAY, "n"))
    assert {one.key: one.used for one in again.uses(days=(TODAY, TODAY))} == {key: Used(7), other: Used(1)}


def test_keys_of_former_runs_count_among_those_that_are_kept_apart() -> None:
    registry = UsageDays()
    first = [(TODAY, UsageKey(f"u{number}", (), "m"), Used(1)) for number in range(1999)]
    registry.take("n", 1, first, TODAY)
    new = [(TODAY, UsageKey(name, (), "m"), Used(1)) for name in ("u0", "v", "w")]
    registry.take("n", 2, new, TODAY)
    names = {entry.key.principal for entry in registry.record(TODAY, "n").entries}
    assert len(names) == 2000
    assert OTHERS in names
    assert "w" not in names


def test_a_stored_day_has_room_for_the_others_and_no_more() -> None:
    def decoded(count: int) -> int:
        entry = [["a", [], "m"], [1, 0, 0, 0], [0, 0, 0, 0]]
        return len(msgspec.convert({"began": 1, "entries": [entry] * count}, UsageRecord).entries)

    assert decoded(2001) == 2001
    with pytest.raises(msgspec.ValidationError, match="2001"):
        decoded(2002)


def test_nothing_was_used_until_it_is_said() -> None:
    assert Used() == Used(0, 0, 0, 0)
    assert Used(1, 2, 3, 4).plus(Used()) == Used(1, 2, 3, 4)
