"""The peek against Go's reading rules, written down as a slow second reader."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_agent.gateway.peek import BadBody, Shape, peek, with_model

SHAPE = Shape("ChatRequest", frozenset({"model", "stream", "messages"}), ("model",), True)


def as_go_reads(body: bytes) -> dict[str, Any]:
    """The decision fields as Go's decoder fills them: any case, the last non-null wins, one value."""
    read: dict[str, Any] = {}

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        read.clear()
        for name, value in items:
            if name.casefold() in SHAPE.keys and value is not None:
                read[name.casefold()] = value
        return dict(items)

    json.JSONDecoder(object_pairs_hook=pairs).raw_decode(body.decode("utf-8", "replace").lstrip())
    return read


def spellings(name: str) -> st.SearchStrategy[str]:
    """JSON texts of a key that Go takes for `name`."""
    plain = json.dumps(name)
    upper = json.dumps(name.capitalize())
    escaped = f'"\\u{ord(name[0]):04x}{name[1:]}"'
    long_s = json.dumps(name.replace("s", "\u017f"), ensure_ascii=False)
    return st.sampled_from([plain, plain, plain, upper, escaped, long_s])


values = st.sampled_from(
    ['"a"', '"b"', "null", "true", "false", "[]", '{"model":"c","x":[1]}', '"\\"model\\""']
)
gaps = st.sampled_from(["", "", "", " ", "\n\t"])
keys = st.one_of(*(spellings(name) for name in sorted(SHAPE.keys)), st.sampled_from(['"other"', '"\\u0078"']))


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    members = draw(st.lists(st.tuples(keys, gaps, values, gaps), max_size=5))
    inner = ",".join(f"{gap}{key}{gap}:{after}{value}" for key, gap, value, after in members)
    tail = draw(st.sampled_from(["", "", "", " \n", "x", '{"model":"z"}']))
    return f"{draw(gaps)}{{{inner}}}{tail}".encode()


@settings(max_examples=300)
@given(bodies())
def test_what_is_not_refused_reads_as_the_engine_reads_it(body: bytes) -> None:
    try:
        peeked = peek(body, SHAPE)
    except BadBody:
        return
    theirs = as_go_reads(body)
    assert peeked.model == theirs.get("model", "")
    assert peeked.stream is theirs.get("stream", True)
    assert ("messages" in theirs) == (bytes(peeked.fields.get("messages", b"null")) != b"null")


plain_values = st.one_of(st.text(max_size=5), st.integers(), st.lists(st.text(max_size=3), max_size=2))


@settings(max_examples=80)
@given(st.dictionaries(st.text(max_size=6), plain_values, max_size=4), st.booleans(), st.booleans())
def test_plain_bodies_are_never_refused(extra: dict[str, Any], spaced: bool, ascii_only: bool) -> None:
    extra = {name: value for name, value in extra.items() if name.casefold() not in SHAPE.keys}
    body = {"model": "m", **extra, "stream": False, "messages": [{"role": "user", "content": '"model": "x"'}]}
    separators = (", ", ": ") if spaced else (",", ":")
    data = json.dumps(body, separators=separators, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    peeked = peek(data, SHAPE)
    assert (peeked.model, peeked.stream) == ("m", False)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "missing request body"),
        (b"{", "unexpected EOF"),
        (b'{"model": ', "unexpected EOF"),
        (b"[]", "json: cannot unmarshal array into Go value of type api.ChatRequest"),
        (b"5", "json: cannot unmarshal number into Go value of type api.ChatRequest"),
        (
            b'{"model":5}',
            "json: cannot unmarshal number into Go struct field ChatRequest.model of type string",
        ),
        (
            b'{"model":"a","stream":"yes"}',
            "json: cannot unmarshal string into Go struct field ChatRequest.stream of type bool",
        ),
    ],
)
def test_wording(body: bytes, message: str) -> None:
    with pytest.raises(BadBody) as fault:
        peek(body, SHAPE)
    assert fault.value.message == message


def test_null_is_an_empty_request() -> None:
    assert peek(b"null", SHAPE).model == ""


def test_another_model_changes_nothing_else() -> None:
    body = b'{"n": 1.50, "model": "a", "messages": [ {"content":"\\u00e9"} ]}'
    changed = with_model(peek(body, SHAPE).fields, "model", "b")
    assert changed == b'{"n":1.50,"model":"b","messages":[ {"content":"\\u00e9"} ]}'
