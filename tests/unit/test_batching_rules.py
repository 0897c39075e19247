"""Which embedding requests go together, how many, and how an answer is taken apart."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.batching.batching_rules import (
    LARGEST,
    BatchingPolicy,
    Parts,
    Reach,
    Shape,
    Wish,
    alone,
    batch_body,
    company,
    take_apart,
    wish,
)

EMBED, LEGACY, OPENAI = "/api/embed", "/api/embeddings", "/v1/embeddings"


def wished(path: str = EMBED, **fields: Any) -> Wish | None:
    return wish(path, json.dumps({"model": "m", **fields}).encode())


def sure(path: str = EMBED, **fields: Any) -> Wish:
    found = wished(path, **fields)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (EMBED, {"input": "a"}),
        (EMBED, {"input": ["a", "b"], "truncate": True, "dimensions": 0, "keep_alive": None, "options": {}}),
        (EMBED, {"input": "a", "model": "M:latest"}),
        (LEGACY, {"prompt": "a"}),
        (OPENAI, {"input": "a", "encoding_format": "float"}),
        (OPENAI, {"input": ["a"], "encoding_format": "BASE64"}),
    ],
)
def test_what_is_the_same_but_for_its_texts_goes_together(path: str, fields: dict[str, Any]) -> None:
    assert sure(path, **fields).key == sure(input="x").key


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "other"},
        {"truncate": False},
        {"dimensions": 8},
        {"keep_alive": 0},
        {"keep_alive": "5m"},
        {"options": {"num_ctx": 512}},
    ],
)
def test_what_asks_for_something_else_does_not(fields: dict[str, Any]) -> None:
    assert sure(input="x", **fields).key != sure(input="x").key


def test_options_are_the_same_in_any_order() -> None:
    one, other = ({"num_ctx": 512, "num_thread": 2}, {"num_thread": 2, "num_ctx": 512})
    assert sure(input="x", options=one).key == sure(input="x", options=other).key


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (EMBED, b""),
        (EMBED, b"[]"),
        (EMBED, b'{"model":"m"}'),
        (EMBED, b'{"model":"m","input":""}'),
        (EMBED, b'{"model":"m","input":[]}'),
        (EMBED, b'{"model":"m","input":["a",""]}'),
        (EMBED, b'{"model":"m","input":["a",1]}'),
        (EMBED, b'{"model":"m","input":{"a":1}}'),
        (EMBED, b'{"model":"m","input":"a","prompt":"b"}'),
        (EMBED, b'{"model":"m","input":"a","Input":"b"}'),
        (EMBED, b'{"model":"m","input":"a","dimensions":-1}'),
        (EMBED, b'{"model":"m","input":"a","dimensions":true}'),
        (EMBED, b'{"model":"m","input":"a","truncate":1}'),
        (EMBED, b'{"model":"m","input":"a","options":{"stop":[1]}}'),
        (EMBED, b'{"model":"m","input":"a","options":{"a":{"b":1}}}'),
        (EMBED, b'{"model":"m","input":"a","encoding_format":"float"}'),
        (EMBED, b'{"model":"","input":"a"}'),
        (EMBED, b'{"input":"a"}'),
        (EMBED, b'{"model":"m","input":"\xff"}'),
        (EMBED, b'{"model":"m","input":"a"} x'),
        (EMBED, b'{"model":"m","input":"' + b"a" * LARGEST + b'"}'),
        (EMBED, b'{"model":"m","input":"a","prompt_eval_counts":true}'),
        (LEGACY, b'{"model":"m","prompt":""}'),
        (LEGACY, b'{"model":"m","input":"a"}'),
        (LEGACY, b'{"model":"m","prompt":"a","dimensions":8}'),
        (OPENAI, b'{"model":"m","input":"a","encoding_format":"hex"}'),
        (OPENAI, b'{"model":"m","input":"a","truncate":false}'),
        (OPENAI, b'{"model":"m","input":"a","options":{"num_ctx":9}}'),
        (OPENAI, b'{"model":"m","input":[1,2]}'),
    ],
)
def test_what_is_odd_is_asked_for_alone(path: str, body: bytes) -> None:
    assert wish(path, body) is None


def test_who_failed_in_a_batch_is_in_none_again_and_asks_for_the_same() -> None:
    body = b'{"model":"m","input":"a"}'
    marked = alone(body)
    assert wish(EMBED, marked) is None
    assert json.loads(marked) == json.loads(body)
    assert alone(marked) == marked


def test_a_batch_asks_for_all_texts_in_order_and_for_their_counts() -> None:
    both = [sure(input=["a", "b"], keep_alive="5m"), sure(LEGACY, prompt="c", keep_alive="5m")]
    assert json.loads(batch_body(both)) == {
        "model": "m",
        "input": ["a", "b", "c"],
        "dimensions": 0,
        "keep_alive": "5m",
        "options": {},
        "truncate": True,
        "prompt_eval_counts": True,
    }


NUMBER = 0.1
SINGLE = struct.unpack("f", struct.pack("f", NUMBER))[0]


def answer(texts: int, counts: list[int] | None) -> bytes:
    told: dict[str, Any] = {"model": "x", "embeddings": [[NUMBER, number] for number in range(texts)]}
    if counts is not None:
        told["prompt_eval_counts"] = counts
    return json.dumps(told | {"total_duration": 7, "load_duration": 3, "prompt_eval_count": 99}).encode()


def test_each_is_answered_in_its_own_shape_with_its_own_count() -> None:
    wishes = [
        sure(input=["a", "b"], model="M"),
        sure(LEGACY, prompt="c"),
        sure(OPENAI, input="d"),
        sure(OPENAI, input="e", encoding_format="base64"),
    ]
    parts = take_apart(answer(5, [1, 2, 3, 4, 5]), wishes)
    embed, legacy, openai, packed = map(json.loads, parts.bodies)
    assert embed == {
        "model": "M",
        "embeddings": [[NUMBER, 0], [NUMBER, 1]],
        "total_duration": 7,
        "load_duration": 3,
        "prompt_eval_count": 3,
    }
    assert legacy == {"embedding": [SINGLE, 2.0]}
    assert openai == {
        "object": "list",
        "data": [{"object": "embedding", "embedding": [NUMBER, 3], "index": 0}],
        "model": "m",
        "usage": {"prompt_tokens": 4, "total_tokens": 4},
    }
    assert packed["usage"]["prompt_tokens"] == 5
    assert struct.unpack("<2f", base64.b64decode(packed["data"][0]["embedding"])) == (SINGLE, 4.0)


@pytest.mark.parametrize(
    "told",
    [
        b"",
        b"{}",
        b"[]",
        b'{"embeddings":[[1],[2]],"prompt_eval_counts":[1]}',
        b'{"embeddings":[[1]],"prompt_eval_counts":[1,2]}',
        b'{"embeddings":[[1],[2],[3]],"prompt_eval_counts":[1,2,3]}',
        b'{"embeddings":[[1],[2]],"prompt_eval_counts":[1,-2]}',
        b'{"embeddings":[[1],[2]],"prompt_eval_counts":[1,"2"]}',
        b'{"embeddings":[[1],"x"],"prompt_eval_counts":[1,2]}',
        b'{"embeddings":[[1],[1e999]],"prompt_eval_counts":[1,2]}',
        b'{"embeddings":[[1]]}',
        b"\xff",
    ],
)
def test_an_answer_that_does_not_fit_is_nobodys(told: bytes) -> None:
    wishes = [sure(OPENAI, input="a"), sure(LEGACY, prompt="b")]
    assert take_apart(told, wishes) == Parts([])


def test_a_sum_alone_is_nobodys_count() -> None:
    assert take_apart(answer(2, None), [sure(input="a"), sure(input="b")]) == Parts([], uncounted=True)


POLICY = BatchingPolicy(max_size=32, max_delay_s=0.25)


def test_those_that_fit_go_in_their_order() -> None:
    first = sure(input="a")
    waiting = [("other", sure(input="x", truncate=False)), *((n, sure(input=f"{n}")) for n in range(9))]
    found = company(first, waiting, POLICY, Reach(texts=4))
    assert [name for name, _ in found] == [0, 1, 2]
    assert len(company(first, waiting, POLICY, Reach(texts=64))) == 9
    assert company(first, waiting, BatchingPolicy(max_size=1), Reach(texts=4)) == []


def test_what_is_long_is_not_overtaken() -> None:
    waiting = [("long", sure(input=["a", "b", "c"])), ("short", sure(input="d"))]
    assert company(sure(input="e"), waiting, POLICY, Reach(texts=3)) == []
    assert [name for name, _ in company(sure(input="e"), waiting, POLICY, Reach(texts=4))] == ["long"]


def test_a_reach_grows_while_its_batches_are_quick_and_halves_when_they_are_not() -> None:
    reach = Reach()
    for size in (8, 16, 32, 32):
        reach = reach.after(reach.texts, 0.1, POLICY)
        assert reach.texts == size
    assert reach.after(32, 0.1 * 1.02 + 0.25, POLICY).texts == 32
    assert reach.after(32, 0.36, POLICY).texts == 16
    assert reach.after(6, 0.36, POLICY).texts == 3  # a smaller one was slow already
    assert reach.after(2, 0.36, POLICY).texts == 2
    assert Reach(8, 0.1).after(7, 0.1, POLICY).texts == 8  # it was not put to the test


def test_a_batch_is_slow_by_what_it_takes_more_than_the_quickest() -> None:
    assert Reach().after(4, 10.0, POLICY) == Reach(8, 10.0)
    assert Reach(8, 10.0).after(8, 10.2, POLICY).texts == 16
    assert Reach(8, 1.0).after(8, 0.5, POLICY).quickest_s == 0.5
    # That an engine was quick once is forgotten.
    assert Reach(8, 1.0).after(8, 3.0, POLICY).quickest_s == pytest.approx(1.02)


@given(
    st.lists(st.tuples(st.integers(1, 64), st.floats(0, 1e6)), max_size=40),
    st.integers(2, 64),
    st.floats(0, 60),
)
def test_a_reach_stays_within_its_bounds(took: list[tuple[int, float]], most: int, delay: float) -> None:
    policy, reach = BatchingPolicy(max_size=most, max_delay_s=delay), Reach()
    for texts, seconds in took:
        before, reach = reach, reach.after(texts, seconds, policy)
        assert 2 <= reach.texts <= max(most, 4)
        assert reach.texts <= 2 * before.texts
        assert reach.quickest_s <= seconds
        if before.quickest_s and seconds > before.quickest_s * 1.03 + delay + 1e-6:
            assert reach.texts <= max(2, before.texts // 2)


TEXTS = st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=3)


@given(st.lists(st.tuples(st.sampled_from((EMBED, OPENAI)), TEXTS), min_size=1, max_size=6), st.data())
def test_every_text_is_answered_once_by_what_it_got(asked: list[tuple[str, list[str]]], data: Any) -> None:
    wishes = [sure(path, input=texts) for path, texts in asked]
    total = sum(len(texts) for _, texts in asked)
    assert json.loads(batch_body(wishes))["input"] == [text for _, texts in asked for text in texts]
    counts = data.draw(st.lists(st.integers(0, 999), min_size=total, max_size=total))
    bodies = take_apart(answer(total, counts), wishes).bodies
    vectors, told = [], 0
    for one, body in zip(wishes, map(json.loads, bodies), strict=True):
        if one.shape is Shape.EMBED:
            vectors += body["embeddings"]
            told += body["prompt_eval_count"]
        else:
            vectors += [item["embedding"] for item in body["data"]]
            told += body["usage"]["total_tokens"]
    assert vectors == [[NUMBER, number] for number in range(total)]
    assert told == sum(counts)
