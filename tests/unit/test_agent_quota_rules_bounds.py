"""The agent's quotas at their limits: what answers say that they cost, cells, estimates and buckets."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from bridge_agent.quotas import estimate_rules
from bridge_agent.quotas.answer_rules import AnswerTokens, Tokens
from bridge_agent.quotas.cell_rules import Cell
from bridge_agent.quotas.estimate_rules import Outputs, prompt_estimate, stated_limit
from bridge_agent.quotas.quota_rules import QuotaBook, Refusal, Reservation
from bridge_agent.quotas.stream_rules import QuotaStream
from bridge_agent.quotas.usage_rules import UsageBook
from bridge_agent.quotas.uses import Use, UseKey
from bridge_core.identity.principal import Principal
from bridge_core.quotas import Bucket, CellLimit, CellUse, Quota

# -- answers


def whole(answer: Any) -> Tokens:
    found = AnswerTokens()
    found.whole(json.dumps(answer).encode())
    return found.tokens()


@pytest.mark.parametrize(
    ("answer", "tokens"),
    [
        ({"prompt_eval_count": 3, "eval_count": 5}, Tokens(3, 5)),
        ({"prompt_eval_count": 3}, Tokens(3, 0)),
        ({"eval_count": 5}, Tokens(None, 5)),
        ({"eval_count": 0}, Tokens(None, 0)),
        ({"eval_count": -4}, Tokens(None, 0)),
        ({"eval_count": (1 << 40) + 7}, Tokens(None, 1 << 40)),
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 5}}, Tokens(3, 5)),
        ({"usage": {"prompt_tokens": 0, "input_tokens": 9}}, Tokens(0, 0)),
        ({"usage": {"completion_tokens": 0, "output_tokens": 9}}, Tokens(None, 0)),
        ({"usage": {"input_tokens": 3, "output_tokens": 5}}, Tokens(3, 5)),
        (
            {"usage": {"input_tokens": 3, "cache_read_input_tokens": 10, "cache_creation_input_tokens": 100}},
            Tokens(113, 0),
        ),
        ({"usage": {"input_tokens": 3, "cache_read_input_tokens": 10}}, Tokens(13, 0)),
        ({"usage": {"input_tokens": 3, "cache_creation_input_tokens": 100}}, Tokens(103, 0)),
        ({"usage": {"cache_read_input_tokens": 10}}, Tokens(None, 0, estimated=True)),
        ({"message": {"usage": {"input_tokens": 3}}}, Tokens(3, 0)),
        ({"response": {"usage": {"input_tokens": 3, "output_tokens": 5}}}, Tokens(3, 5)),
        ({"response": "text", "eval_count": 5}, Tokens(None, 5)),
        ({"usage": {"input_tokens": 1}, "message": {"usage": {"input_tokens": 3}}}, Tokens(1, 0)),
        ({}, Tokens(None, 0, estimated=True)),
        ({"eval_count": "5"}, Tokens(None, 0, estimated=True)),
        ([], Tokens(None, 0, estimated=True)),
    ],
)
def test_what_a_whole_answer_says(answer: Any, tokens: Tokens) -> None:
    assert whole(answer) == tokens


def stream(*chunks: str) -> Tokens:
    found = AnswerTokens()
    for chunk in chunks:
        found.records(chunk.encode())
    return found.tokens()


def test_what_a_stream_says() -> None:
    usage = 'data: {"usage": {"prompt_tokens": 3, "completion_tokens": 5}}\n\n'
    start = 'data: {"message": {"usage": {"input_tokens": 7}}}\n\n'
    end = 'data: {"usage": {"output_tokens": 9}}\n\n'
    assert stream('data: {"x": 1}\n\n', usage, "data: [DONE]\n\n") == Tokens(3, 5)
    assert stream("event: message_start\n" + start, 'data: {"y": 2}\n\n', end) == Tokens(7, 9)
    # Broken off: what the prompt had is known, the answer is taken for a token a record.
    assert stream(start, *['data: {"y": 2}\n\n'] * 6) == Tokens(7, 5, estimated=True)
    assert stream(start) == Tokens(7, 0, estimated=True)
    assert stream('{"response": "a"}\n', '{"eval_count": 4, "prompt_eval_count": 2}\n') == Tokens(2, 4)
    assert stream('{"response": "a"}\n' * 3, '{"response": "b"}\n') == Tokens(None, 2, estimated=True)


@pytest.mark.parametrize(("records", "output"), [(0, 0), (1, 0), (2, 0), (3, 1), (9, 7)])
def test_a_silent_stream_is_a_token_a_record_but_what_wraps_it(records: int, output: int) -> None:
    each = 'data: {"x": 1}\n\n'
    assert stream(*[each] * records) == Tokens(None, output, estimated=True)
    assert stream(each * records) == Tokens(None, output, estimated=True)
    assert stream(*[f"event: delta\n{each}"] * records) == Tokens(None, output, estimated=True)


@pytest.mark.parametrize(("more", "output"), [(0, 5), (1, None)])
def test_of_an_answer_in_parts_sixteen_mebibytes_are_read(more: int, output: int | None) -> None:
    found, end = AnswerTokens(), b'{"eval_count": 5}'
    found.part(b" " * ((16 << 20) - len(end) + more))
    found.part(end)
    expected = Tokens(None, 0, estimated=True) if output is None else Tokens(None, output)
    assert found.tokens() == expected


# -- cells

BUCKET = Bucket("q", "ann", 60_000, "requests")


def test_a_cell_as_it_begins() -> None:
    cell = Cell(BUCKET, 30, 10)
    assert (cell.used, cell.reserved, cell.others, cell.refused, cell.told) == (0, 0, 0, 0, False)
    assert (cell.limit, cell.left, cell.claimed, cell.idle) == (10, 30, 0, True)
    assert cell.wanted() == 0
    assert cell.fits(10)
    assert not cell.fits(11)


def test_what_is_left_in_the_mesh() -> None:
    cell = Cell(BUCKET, 30, 10)
    cell.tell(12, 15)
    cell.reserved = 4
    cell.settle(3, 5)
    assert (cell.used, cell.reserved, cell.left) == (5, 1, 9)
    cell.tell(12, 40)
    assert cell.left == 0


@pytest.mark.parametrize(
    ("changes", "idle"),
    [
        ({}, True),
        ({"used": 1}, False),
        ({"reserved": 1}, False),
        ({"refused": 1}, False),
        ({"limit": 9}, False),
    ],
)
def test_an_idle_cell_is_one_as_it_begins(changes: dict[str, int], idle: bool) -> None:
    cell = Cell(BUCKET, 30, 10)
    for name, value in changes.items():
        setattr(cell, name, value)
    assert cell.idle is idle


def test_what_was_told_holds_until_its_lease_is_over() -> None:
    cell = Cell(BUCKET, 30, 10)
    cell.resize(60, 20)
    assert (cell.amount, cell.limit) == (60, 20)
    cell.tell(25, 3)
    cell.resize(90, 30)
    assert (cell.limit, cell.share) == (25, 30)
    cell.lapse()
    assert (cell.limit, cell.told) == (30, False)
    cell.resize(30, 10)
    assert cell.limit == 10


def test_what_a_cell_wants_fades_by_half_each_report() -> None:
    cell = Cell(BUCKET, 1000, 500)
    cell.reserved = 8
    assert [cell.wanted() for _ in range(6)] == [8, 8, 8, 8, 0, 0]
    cell.reserved = 0
    cell.used = 20
    cell.refused = 3
    assert cell.wanted() == 23
    assert cell.refused == 0
    assert Cell(BUCKET, 10, 5).wanted() == 0
    full = Cell(BUCKET, 10, 5)
    full.reserved = 7
    assert full.wanted() == 3, "no more than there is"
    full.reserved = 12
    assert full.wanted() == 0


@pytest.mark.parametrize(
    ("limit", "used", "short"),
    [(10, 5, False), (10, 6, True), (10, 10, True), (30, 29, False), (29, 29, True)],
)
def test_it_runs_short_when_less_is_left_than_was_claimed(limit: int, used: int, short: bool) -> None:
    cell = Cell(BUCKET, 30, 10)
    cell.limit, cell.used = limit, used
    assert cell.runs_short is short
    cell.used, cell.reserved = 0, used
    assert cell.runs_short is short


# -- estimates


@pytest.mark.parametrize(
    ("size", "tokens"), [(0, 1), (7, 1), (8, 2), (524_287, 131_071), (524_288, 131_072), (1 << 30, 131_072)]
)
def test_a_token_is_four_bytes_of_a_prompt(size: int, tokens: int) -> None:
    assert prompt_estimate(size) == tokens


def fields(**said: str) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(text.encode()) for name, text in said.items()}


@pytest.mark.parametrize(
    ("said", "native", "limit"),
    [
        ({"max_tokens": "5"}, False, 5),
        ({"max_tokens": "1"}, False, 1),
        ({"max_tokens": "0"}, False, None),
        ({"max_tokens": "-1"}, False, None),
        ({"max_tokens": "null"}, False, None),
        ({"max_tokens": '"5"'}, False, None),
        ({"max_tokens": "5", "max_completion_tokens": "9"}, False, 9),
        ({"max_output_tokens": "7"}, False, 7),
        ({"max_tokens": "5"}, True, None),
        ({"options": '{"num_predict": 6}'}, True, 6),
        ({"options": '{"num_predict": 1}'}, True, 1),
        ({"options": '{"num_predict": 0}'}, True, None),
        ({"options": '{"num_predict": -2}'}, True, None),
        ({"options": "{}"}, True, None),
        ({"options": "null"}, True, None),
        ({"options": "[]"}, True, None),
        ({"options": '{"num_predict": 6}'}, False, None),
        ({}, True, None),
        ({}, False, None),
    ],
)
def test_the_limit_that_a_request_states(said: dict[str, str], native: bool, limit: int | None) -> None:
    assert stated_limit(fields(**said), native=native) == limit


def test_nineteen_in_twenty_of_the_last_forty_answers() -> None:
    outputs = Outputs()
    assert outputs.expected("ann") == 512
    outputs.observed("ann", 0)
    assert outputs.expected("ann") == 1
    for length in range(1, 20):
        outputs.observed("ann", length)
    assert outputs.expected("ann") == 18  # of 0 to 19
    outputs.observed("ann", 20)
    assert outputs.expected("ann") == 19  # of 0 to 20
    for _ in range(40):
        outputs.observed("eve", 1000)
    for length in range(1, 41):
        outputs.observed("eve", length)
    assert outputs.expected("eve") == 38, "the forty before are forgotten"
    assert outputs.expected("bob") == 512
    for _ in range(40):
        outputs.observed("bob", 1 << 30)
    assert outputs.expected("bob") == 131_072


def test_lengths_are_remembered_of_4096_clients() -> None:
    outputs = Outputs()
    for number in range(4097):
        outputs.observed(f"c{number}", 7)
    assert (outputs.expected("c0"), outputs.expected("c1")) == (512, 7)
    outputs.observed("c1", 7)
    assert outputs.expected("c2") == 7


# -- buckets

NOW_MS = 1_800_000_000_000
ANN = Principal("client", "ann", "ann", ("staff",))
QUOTA = Quota("q", requests=30, window_s=60.0)


def book(*quotas: Quota, nodes: tuple[str, ...] = ("a", "b", "c")) -> QuotaBook:
    made = QuotaBook("a")
    made.follow(quotas or [QUOTA], nodes)
    return made


def reserve(made: QuotaBook, prompt: int = 1, output: int = 1, **at: Any) -> Reservation | Refusal | None:
    return made.reserve(ANN, "m", prompt, output, **{"now": 0.0, "now_ms": NOW_MS, **at})


def test_what_is_larger_than_a_bucket_passes_where_nothing_else_was_used() -> None:
    made = book(Quota("q", output_tokens=30, window_s=60.0), nodes=("a",))
    assert isinstance(reserve(made, output=1000), Reservation)
    assert isinstance(reserve(made, output=1), Refusal)
    small = book(Quota("q", prompt_tokens=30, window_s=60.0), nodes=("a",))
    assert isinstance(reserve(small, prompt=29, output=500), Reservation)
    assert isinstance(reserve(small, prompt=1, output=500), Reservation)
    assert isinstance(reserve(small, prompt=1), Refusal)


def test_how_long_a_refused_one_waits() -> None:
    made = book(nodes=("a",))
    for _ in range(30):
        assert isinstance(reserve(made), Reservation)
    refused = reserve(made, now_ms=NOW_MS + 20_000)
    assert isinstance(refused, Refusal)
    assert refused.retry_after_s == 40.0
    shared = book()  # ten of thirty are this node's: others may leave it more at any time
    for _ in range(10):
        reserve(shared)
    refused = reserve(shared)
    assert isinstance(refused, Refusal)
    assert refused.retry_after_s == 1.0
    running = book(Quota("q", concurrency=1), nodes=("a",))
    reserve(running)
    refused = reserve(running)
    assert isinstance(refused, Refusal)
    assert refused.retry_after_s == 1.0


def test_a_shadow_counts_and_refuses_nobody() -> None:
    made = book(Quota("q", requests=1, window_s=60.0, shadow=True), Quota("r", requests=2), nodes=("a",))
    first, second, third = (reserve(made) for _ in range(3))
    assert isinstance(first, Reservation)
    assert first.shadowed == ""
    assert isinstance(second, Reservation)
    assert second.shadowed == "q"
    assert isinstance(third, Refusal)
    assert {cell.bucket.quota: cell.claimed for cell in made.cells} == {"q": 2, "r": 2}


def test_a_node_that_runs_short_reports_before_its_time() -> None:
    made = book()
    for _ in range(5):
        reserve(made)
    assert not made.hurried
    reserve(made)
    assert made.hurried
    made.report({}, 0.0, NOW_MS)
    assert not made.hurried
    alone = book(nodes=("a",))
    for _ in range(31):
        reserve(alone)
    assert not alone.hurried, "nobody else has any of it"


def test_a_lease_lasts_ten_seconds_from_the_report_that_was_answered() -> None:
    made = book()
    assert made.leased_until == 0.0
    reserve(made)
    (cell,) = made.cells
    made.take([CellLimit(cell.bucket, 25, 5)], sent=100.0, now_ms=NOW_MS)
    assert (made.leased_until, cell.limit, cell.others) == (110.0, 25, 5)
    made.take([], sent=90.0, now_ms=NOW_MS)
    assert made.leased_until == 110.0
    made.take([], sent=None, now_ms=NOW_MS)
    assert made.leased_until == 110.0
    reserve(made, now=109.9)
    assert cell.limit == 25
    reserve(made, now=110.0)
    assert (cell.limit, made.leased_until) == (10, 0.0)


def test_what_is_said_of_another_window_or_quota_is_not_taken() -> None:
    made = book()
    begins = NOW_MS - NOW_MS % 60_000

    def kept(quota: str, at: int) -> bool:
        bucket = Bucket(quota, "ann", at, "requests")
        made.take([CellLimit(bucket, 25, 5)], sent=None, now_ms=NOW_MS)
        return any(cell.bucket == bucket for cell in made.cells)

    assert kept("q", begins)
    assert not kept("none", begins)
    assert not kept("q", begins - 60_000)
    assert not kept("q", NOW_MS + 10_001)
    assert kept("q", NOW_MS + 10_000)
    made.take([CellLimit(Bucket("q", "ann", begins, "output_tokens"), 1, 1)], sent=None, now_ms=NOW_MS)
    assert len(list(made.cells)) == 2


def test_a_window_ends_when_it_is_over() -> None:
    made = book(nodes=("a",))
    begins = NOW_MS - NOW_MS % 60_000
    reserve(made, now_ms=begins + 59_999)
    reserve(made, now_ms=begins + 60_000)
    assert sorted(cell.bucket.begins - begins for cell in made.cells) == [0, 60_000]
    made.report({}, 0.0, begins + 60_000)
    assert [cell.bucket.begins - begins for cell in made.cells] == [60_000]


def test_a_report_says_what_changed_and_forgets_what_is_as_it_begins() -> None:
    made = book(Quota("q", concurrency=9), nodes=("a",))
    told: dict[Bucket, CellUse] = {}
    held = reserve(made)
    assert isinstance(held, Reservation)
    (news,) = made.report(told, 0.0, NOW_MS)
    assert (news.used, news.wanted, news.limit) == (1, 1, 9)
    held.parts[0][0].settle(1, 0)
    said = [made.report(told, 0.0, NOW_MS) for _ in range(4)]
    assert [len(one) for one in said] == [1, 0, 0, 0]
    assert list(made.cells) == []
    assert told == {}


def test_a_quota_that_is_gone_or_smaller_is_followed_at_once() -> None:
    made = book(QUOTA, Quota("r", requests=3, output_tokens=30, window_s=60.0))
    reserve(made)
    made.follow([Quota("r", requests=60, window_s=60.0)], ("a", "b"))
    assert [(cell.bucket.quota, cell.bucket.resource, cell.amount, cell.limit) for cell in made.cells] == [
        ("r", "requests", 60, 30)
    ]
    made.follow([QUOTA], ("b", "c"))
    refused = reserve(made)
    assert isinstance(refused, Refusal), "a node that is not one of the mesh's has no share"


def test_no_quota_about_it_is_no_reservation() -> None:
    assert reserve(book(Quota("q", requests=1, models=("other",)))) is None
    assert book(Quota("q", models=("other", "x*"), requests=1)).about(ANN, "m") == ()


# -- streams


def test_grants_are_of_the_report_that_they_answer() -> None:
    made = book()
    stream_ = QuotaStream(made, UsageBook())
    assert not stream_.answered
    first = stream_.report(100.0, NOW_MS)
    second = stream_.report(105.0, NOW_MS)
    assert [(one.sequence, one.acknowledged) for one in (first, second)] == [(1, 0), (2, 0)]
    stream_.take(1, 1, [], NOW_MS)
    assert stream_.answered
    stream_.take(7, 1, [], NOW_MS)
    assert made.leased_until == 110.0
    assert stream_.report(106.0, NOW_MS).acknowledged == 7
    stream_.take(8, 2, [], NOW_MS)
    assert made.leased_until == 115.0
    stream_.take(9, 2, [], NOW_MS)
    assert made.leased_until == 115.0
    stream_.take(9, 99, [], NOW_MS)
    assert made.leased_until == 115.0


# -- usage


def test_days_of_use_are_told_for_two_days_more() -> None:
    usage, day_ms = UsageBook(), 86_400_000
    usage.count("ann", (), "m", 10 * day_ms - 1, prompt=3, output=4)
    usage.count("ann", (), "m", 10 * day_ms, refused=True)
    assert usage.uses == {
        UseKey("ann", (), "m", 9): Use(1, 0, 3, 4),
        UseKey("ann", (), "m", 10): Use(0, 1, 0, 0),
    }
    assert len(usage.news({}, 12 * day_ms - 1)) == 2
    assert len(usage.news({}, 12 * day_ms)) == 1
    told = dict(usage.uses)
    assert usage.news(told, 12 * day_ms) == {}
    assert Use() == Use(0, 0, 0, 0)


def test_the_longest_that_any_model_reads_and_writes() -> None:
    assert estimate_rules.prompt_estimate(10**9) == 131_072


def test_what_is_refused_here_while_the_mesh_has_it_is_reported_before_its_time() -> None:
    made = book()
    for _ in range(10):
        reserve(made)
    (cell,) = made.cells

    def hurries(others: int) -> bool:
        made.take([CellLimit(cell.bucket, 10, others)], sent=None, now_ms=NOW_MS)
        made.report({}, 0.0, NOW_MS)
        assert isinstance(reserve(made), Refusal)
        return made.hurried

    assert [hurries(others) for others in (0, 19, 20)] == [True, True, False]


def test_a_bucket_that_was_forgotten_is_begun_anew() -> None:
    made, told = book(Quota("q", concurrency=9), nodes=("a",)), dict[Bucket, CellUse]()
    held = reserve(made)
    assert isinstance(held, Reservation)
    held.parts[0][0].settle(1, 0)
    for _ in range(4):
        made.report(told, 0.0, NOW_MS)
    assert list(made.cells) == []
    reserve(made)
    assert [cell.claimed for cell in made.cells] == [1]
