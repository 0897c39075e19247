# ruff: noqa: E501 - a text and what is found in it stand on one line
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_engine.templates import (
    KNOWN,
    Tags,
    Template,
    ThinkingParser,
    ToolCallParser,
    infer_prefix,
    infer_tags,
)
from tests.unit.test_template_prompts import TOOLS_TEMPLATE

TAGS = Tags("<think>", "</think>")
TOOLS = ("add", "add_all", "f")


def think(pieces, *, opened=False):
    parser = ThinkingParser(TAGS, opened=opened)
    parts = [parser.feed(piece) for piece in pieces] + [parser.finish()]
    return "".join(part.thinking for part in parts), "".join(part.content for part in parts)


def call(pieces, prefix):
    parser = ToolCallParser(prefix, TOOLS)
    found = [parser.feed(piece) for piece in pieces] + [parser.finish()]
    return [tuple(one) for each in found for one in each.calls], "".join(each.content for each in found)


@pytest.mark.parametrize(
    ("text", "thinking", "content"),
    [
        ("<think>a</think>b", "a", "b"),
        ("  \n<think>\n a b</think>\n\n c", "a b", "c"),
        ("no <think>x</think>", "", "no <think>x</think>"),
        ("<thin", "", "<thin"),
        ("<think>never closed </thi", "never closed </thi", ""),
        ("<think></think>x", "", "x"),
        ("<think> </think>x", "", "x"),
        ("", "", ""),
        ("  ", "", "  "),
    ],
)
def test_thinking_is_parted_from_the_answer(text, thinking, content):
    assert think([text]) == (thinking, content)


def test_a_prompt_that_opened_the_tag_starts_in_thinking():
    assert think(["a</think>b"], opened=True) == ("a", "b")


@pytest.mark.parametrize(
    ("prefix", "text", "calls", "content"),
    [
        ("<tool_call>", 'x <tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', [("f", {"a": 1})], "x "),
        (
            "<tool_call>",
            '<tool_call>{"name":"f","arguments":{}}</tool_call>\n<tool_call>{"name":"add","parameters":{"a":"}"}}</tool_call>',
            [("f", {}), ("add", {"a": "}"})],
            "",
        ),
        ("[TOOL_CALLS]", '[TOOL_CALLS] [{"name":"f","arguments":{"a":[1]}},{"name":"add"}]', [("f", {"a": [1]}), ("add", {})], ""),
        ("{", '{"name": "f", "parameters": {"a": "\\"{"}}', [("f", {"a": '"{'})], ""),
        ("{", '[{"name": "f", "arguments": {}}]', [("f", {})], ""),
        ("{", 'hello {"name": "f", "parameters": {}}', [], 'hello {"name": "f", "parameters": {}}'),
        ("{", '{"name": "unknown", "parameters": {}}', [], '{"name": "unknown", "parameters": {}}'),
        ("{", '{"json": "answer"}', [], '{"json": "answer"}'),
        ("{", '{"name": "f", "par', [], '{"name": "f", "par'),
        ("<tool_call>", "just text <tool", [], "just text <tool"),
        ("<tool_call>", '<tool_call>add_all{"a": 1}</tool_call>', [("add_all", {"a": 1})], ""),
        ("<tool_call>", '<tool_call>{"type":"function","function":{"name":"f","arguments":"{\\"a\\":2}"}}', [("f", {"a": 2})], ""),
        ("<tool_call>", "<tool_call>nonsense", [], "<tool_call>nonsense"),
    ],
)  # fmt: skip
def test_tool_calls_are_found(prefix, text, calls, content):
    assert call([text], prefix) == (calls, content)


PIECES = ["<think>", "</think>", " ", "\n", "<", "think", ">", "/", "a", "tool_call>", "<tool_call>", '{"name": "f", "arguments": {"x": "}"}}', '{"name":"add","parameters":{}}', "{", "}", "[", "]", '"', "\\", "f", ",", "é"]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@st.composite
def cut_texts(draw):
    text = draw(TEXTS)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    places = [0, *cuts, len(text)]
    return text, [text[start:stop] for start, stop in itertools.pairwise(places)]


@given(cut_texts(), st.booleans())
def test_thinking_does_not_depend_on_the_cuts(cut, opened):
    text, pieces = cut
    whole = think([text], opened=opened)
    assert think(pieces, opened=opened) == whole
    assert think(list(text), opened=opened) == whole


@given(cut_texts(), st.sampled_from(["{", "[", "<tool_call>", "[TOOL_CALLS]"]))
def test_tool_calls_do_not_depend_on_the_cuts(cut, prefix):
    text, pieces = cut
    whole = call([text], prefix)
    assert call(pieces, prefix) == whole
    assert call(list(text), prefix) == whole


@given(TEXTS)
def test_text_without_the_prefix_passes_unchanged(text):
    if "[TOOL_CALLS]" not in text:
        assert call([text], "[TOOL_CALLS]") == ([], text)


def test_tags_and_prefix_come_from_the_template():
    template = Template(TOOLS_TEMPLATE)
    assert infer_tags(template) == TAGS
    assert infer_prefix(template) == "<tool_call>"
    assert infer_tags(Template(KNOWN["chatml"].text)) is None
    assert infer_prefix(Template(KNOWN["chatml"].text)) == "{"
