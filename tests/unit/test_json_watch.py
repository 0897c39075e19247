"""Answers that a schema was to hold: who leaves JSON is found out, and told the client as a refusal."""

from __future__ import annotations

import json
import types
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_core.dialects.errors import ApiError
from bridge_engine.generation import Generation, GenerationRequest, Prepared
from bridge_engine.json_watch import JsonWatch
from bridge_engine.options import Options
from bridge_engine.pools import Pools

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def holds(parts: list[str]) -> bool:
    watch = JsonWatch()
    return all(watch.feed(part) for part in parts)


@given(VALUES, st.booleans(), st.lists(st.integers(0, 300)))
def test_json_is_json_however_it_is_cut(value: Any, escaped: bool, cuts: list[int]) -> None:
    text = json.dumps(value, ensure_ascii=escaped, indent=1)
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    assert holds([text[one:other] for one, other in pairwise(places)])


@pytest.mark.parametrize(
    "text",
    ["Sure, here it is", "```json\n{}", '{"a": 1} and so on', "1384\ufffd", '{"a": yes}', "'a'", '"a\\" " b'],
)
def test_what_is_no_json_is_found_out_however_it_is_cut(text: str) -> None:
    assert not holds([text])
    assert not holds(list(text))


class Prosaic:
    """A runner that goes on without a schema in the middle of a text."""

    spec = types.SimpleNamespace(num_ctx=2048)
    marker = ""

    async def stream(self, _path: str, _body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        for text in ('{"n": 1', "384 is what I", " would say"):
            yield {"content": text}
        yield {"content": "", "stop": True}


async def said(format_: dict[str, Any] | None, told: list[str]) -> None:
    """Fills `told` with what that runner's client is told."""
    pools = Pools()
    model = types.SimpleNamespace(adds_bos=False, stored=types.SimpleNamespace(digest=""))
    request = GenerationRequest(
        name="m",
        model=model,  # type: ignore[arg-type]  # what of it is asked
        body={"format": format_},
        options=Options(),
        keep_alive=None,
        think=None,
        started=0,
    )
    generation = Generation(None, None, pools.decode)  # type: ignore[arg-type]  # neither is asked
    try:
        records = generation._complete(request, Prosaic(), Prepared(prompt="x"))  # type: ignore[arg-type]  # is one
        told += [str(record["response"]) async for record, _, _ in records]
    finally:
        pools.close()


async def test_a_runner_that_leaves_the_schema_is_no_success() -> None:
    with pytest.raises(ApiError, match="could not hold the answer to the schema") as fault:
        await said({"type": "object"}, [])
    assert fault.value.status == 400


async def test_without_a_schema_a_text_may_be_any() -> None:
    told: list[str] = []
    await said(None, told)
    assert "".join(told) == '{"n": 1384 is what I would say'
