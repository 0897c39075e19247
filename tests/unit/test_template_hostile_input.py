# ruff: noqa: E501 - the words of the language stand in a few long lines
"""A template may come with a request: whatever it holds, it renders or is refused by a TemplateFault."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_engine.templates import (
    Template,
    TemplateFault,
    ToolCallParser,
    Values,
    infer_prefix,
    infer_tags,
    of_template,
)

FRAGMENTS = [
    "{{",
    "}}",
    "{{-",
    "-}}",
    "if",
    "else",
    "end",
    "range",
    "with",
    "define",
    "template",
    "block",
    "break",
    "continue",
    ".",
    ".Messages",
    ".Role",
    ".Content\n.Response",
    ".Prompt",
    ".System",
    ".Tools",
    "$",
    "$x",
    "$i",
    ":=",
    "=",
    ",",
    "|",
    "(",
    ")",
    '"a"',
    "`b`",
    "'c'",
    "1",
    "-1",
    "1.5",
    "0x",
    "9e9",
    "true",
    "nil",
    "eq",
    "ne",
    "lt",
    "len",
    "index",
    "slice\nprint",
    "printf",
    '"%d"',
    '"%v"',
    '"%-9s"',
    '"%99999d"',
    "json",
    "not",
    "and",
    "or",
    "currentDate",
    "html",
    "urlquery",
    "js",
    "toTypeScriptType",
    "/*",
    "*/",
    "\\",
    "é",
    "\n",
]

VALUES = Values(
    messages=[{"role": "user", "content": "hi", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}],
    tools=[{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": ["string", "null"]}}}}}],
)  # fmt: skip
PIECES = st.lists(st.sampled_from(FRAGMENTS), max_size=14).map(" ".join)
ACTIONS = st.lists(PIECES.map(lambda inside: "{{ " + inside + " }}x"), max_size=4).map("".join)


@settings(max_examples=300)
@given(st.one_of(PIECES, ACTIONS, st.text(max_size=40), st.text("{}-./$\"`' \n", max_size=40)))
def test_it_renders_or_is_refused(source):
    with contextlib.suppress(TemplateFault):
        template = Template(source)
        of_template(template)
        infer_tags(template)
        infer_prefix(template)
        template.render(VALUES).encode()
        template.render(Values(prompt="a", suffix="b"))


@pytest.mark.parametrize(
    ("source", "printed"),
    [
        ('{{ "\\ud800" }}', "\ufffd"),
        ('{{ "\\U99999999" }}', "\ufffd"),
        ("{{ printf `%c` 9999999999 }}", "\ufffd"),
    ],
)
def test_characters_that_utf8_cannot_carry_are_replaced(source, printed):
    assert Template(source + "{{ range .Messages }}{{ end }}").render(Values()) == printed


@pytest.mark.parametrize(
    "source", ["{{ index .Messages .Messages }}", "{{ index $ .Messages }}", "{{ slice .Messages 1 0 }}"]
)
def test_arguments_of_the_wrong_kind_are_faults(source):
    with pytest.raises(TemplateFault):
        Template(source).render(VALUES)


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(ODD)
def test_odd_json_after_the_prefix_is_text_not_a_fault(value):
    text = json.dumps({"name": value, "arguments": value})
    parser = ToolCallParser("{", ["f"])
    found = [parser.feed(text), parser.finish()]
    assert found[0].calls or "".join(one.content for one in found) == text
