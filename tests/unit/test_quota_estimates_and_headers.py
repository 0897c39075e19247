"""What a request is taken for before it is answered, and what its answer says of the quotas."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.quotas.answer_rules import AnswerTokens, Tokens
from bridge_agent.quotas.cell_rules import Cell
from bridge_agent.quotas.estimate_rules import Outputs, prompt_estimate, stated_limit
from bridge_agent.quotas.limit_headers import limit_lines, pairs_of
from bridge_core.quotas import Bucket, Resource

NOW_MS = 1_800_000_000_000


def fields(**values: Any) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(json.dumps(values), type=dict[str, msgspec.Raw])


@pytest.mark.parametrize(
    ("body", "native", "limit"),
    [
        ({}, True, None),
        ({"options": {"num_predict": 7}}, True, 7),
        ({"options": {"num_predict": -1}}, True, None),
        ({"options": {"num_predict": "many"}}, True, None),
        ({"options": None}, True, None),
        ({"max_tokens": 5}, True, None),  # which /api routes do not know
        ({"max_tokens": 5}, False, 5),
        ({"max_tokens": 5, "max_completion_tokens": 9}, False, 9),
        ({"max_output_tokens": 4}, False, 4),
        ({"max_tokens": 0}, False, None),
        ({"max_tokens": None}, False, None),
        ({"max_tokens": 1e99}, False, None),
        ({"options": {"num_predict": 7}}, False, None),
    ],
)
def test_the_limit_that_a_request_states(body: dict[str, Any], native: bool, limit: int | None) -> None:
    assert stated_limit(fields(**body), native=native) == limit


def test_a_prompt_is_at_least_one_token_and_no_longer_than_any_model_reads() -> None:
    assert [prompt_estimate(size) for size in (0, 4, 400, 1 << 30)] == [1, 1, 100, 131_072]


def test_a_client_is_expected_to_answer_as_it_did() -> None:
    outputs = Outputs()
    assert outputs.expected("a") == 512
    for tokens in [10] * 39 + [900]:
        outputs.observed("a", tokens)
    assert outputs.expected("a") == 10
    outputs.observed("a", 800)
    outputs.observed("a", 800)
    assert outputs.expected("a") == 800
    for number in range(5_000):
        outputs.observed(f"c{number}", 3)
    assert outputs.expected("a") == 512  # forgotten, so that it stays bounded


def test_a_text_that_looks_like_a_count_is_none() -> None:
    answer = AnswerTokens()
    text = json.dumps({"response": '"eval_count":999', "done": True, "eval_count": 3, "prompt_eval_count": 2})
    answer.records(text.encode() + b"\n")
    assert answer.tokens() == Tokens(2, 3)


@pytest.mark.parametrize(
    "lie", [b'{"eval_count":"9"}', b'{"eval_count":1e400}', b"[" * 100_000, b"\xff{", b'{"usage":[]}']
)
def test_what_cannot_be_read_is_an_estimate(lie: bytes) -> None:
    answer = AnswerTokens()
    answer.whole(lie)
    assert answer.tokens().estimated


def test_counts_beyond_all_measure_are_cut() -> None:
    answer = AnswerTokens()
    answer.whole(b'{"prompt_eval_count":-5,"eval_count":9223372036854775807}')
    assert answer.tokens() == Tokens(0, 1 << 40)


def test_an_answer_in_parts_is_kept_up_to_a_bound() -> None:
    answer = AnswerTokens()
    for _ in range((16 << 20) // (1 << 20) + 2):
        answer.part(b" " * (1 << 20))
    assert answer.tokens().estimated


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_no_bytes_of_an_engine_break_the_counting(parts: list[bytes]) -> None:
    records, whole = AnswerTokens(), AnswerTokens()
    for part in parts:
        records.records(part + b"\n")
        whole.part(part)
    assert records.tokens().output >= 0
    assert whole.tokens().output >= 0


def cell(resource: Resource, amount: int, used: int, others: int = 0) -> Cell:
    made = Cell(Bucket("q", "", 0 if resource == "concurrency" else NOW_MS, resource), amount, amount)
    made.used, made.others = used, others
    return made


def test_headers_name_the_quota_with_the_least_left() -> None:
    cells = [
        (cell("requests", 100, 10, others=20), 60_000),
        (cell("requests", 50, 45), 3_600_000),
        (cell("prompt_tokens", 1_000, 10), 60_000),
        (cell("output_tokens", 500, 600), 60_000),
        (cell("concurrency", 4, 1), 60_000),
    ]
    text = limit_lines(cells, NOW_MS, anthropic=True)
    found = {name.decode(): value.decode() for name, value in pairs_of(text)}
    assert found == {
        "x-ratelimit-limit-requests": "50",
        "x-ratelimit-remaining-requests": "5",
        "x-ratelimit-reset-requests": "1h0m0s",
        "x-ratelimit-limit-prompt-tokens": "1000",
        "x-ratelimit-remaining-prompt-tokens": "990",
        "x-ratelimit-reset-prompt-tokens": "1m0s",
        "x-ratelimit-limit-output-tokens": "500",
        "x-ratelimit-remaining-output-tokens": "0",
        "x-ratelimit-reset-output-tokens": "1m0s",
        "x-ratelimit-limit-concurrency": "4",
        "x-ratelimit-remaining-concurrency": "3",
        "x-ratelimit-limit-tokens": "500",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "1m0s",
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "5",
        "anthropic-ratelimit-requests-reset": "2027-01-15T09:00:00Z",
        "anthropic-ratelimit-input-tokens-limit": "1000",
        "anthropic-ratelimit-input-tokens-remaining": "990",
        "anthropic-ratelimit-input-tokens-reset": "2027-01-15T08:01:00Z",
        "anthropic-ratelimit-output-tokens-limit": "500",
        "anthropic-ratelimit-output-tokens-remaining": "0",
        "anthropic-ratelimit-output-tokens-reset": "2027-01-15T08:01:00Z",
    }


def test_without_cells_nothing_is_said() -> None:
    assert limit_lines([], NOW_MS, anthropic=True) == b""
    assert pairs_of(b"") == []
