# ruff: noqa: E501 - the words of the language stand in a few long lines
"""A template may come with a request: whatever it holds, it renders or is refused by a TemplateFault."""

import contextlib
import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_engine.templates import (
    KNOWN,
    Template,
    TemplateFault,
    ToolCallParser,
    Values,
    infer_prefix,
    infer_tags,
    of_template,
)
from bridge_engine.templates.meter import MOST_WORK
from bridge_engine.templates.parser import MOST_SOURCE

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


GROW = "{{ $x := `aaaaaaaaaa` }}" + "{{ $x = %s }}" * 16
NEVER = "{{ range 1000000 }}{{ range 1000000 }}{{ range 1000000 }}{{ end }}{{ end }}{{ end }}"
NESTED = "{{ define `t%d` }}" + "{{ if true }}" * 30 + "{{ template `t%d` }}" + "{{ end }}" * 30 + "{{ end }}"
BOMBS = {
    **{
        f"variables grown by {function}": "{{ range 30 }}" + GROW.replace("%s", code) + "{{ end }}{{ $y := 1 }}"
        for function, code in (
            ("print", "print $x $x $x $x $x $x $x"),
            ("printf", "printf `%s%s%s%s%s%s%s` $x $x $x $x $x $x $x"),
            ("json", 'json (json (json (print $x `"` $x)))'),
            ("html", "html (html (html (print $x `&` $x)))"),
            ("js", "js (js (js (print $x `<` $x)))"),
            ("urlquery", "urlquery (urlquery (urlquery (print $x `é` $x)))"),
            ("println", "println $x $x $x"),
        )
    },
    "one call with many arguments": "{{ $x := print .Messages }}{{ $x = print " + "$x " * 9999 + "}}{{ $x = print " + "$x " * 9999 + "}}",
    "many containers": "{{ $x := print " + "$ " * 9999 + "}}" * 1 + "{{ range 999 }}{{ $y := print " + "$ " * 9999 + "}}{{ end }}",
    "output": "{{ range 999999 }}" + "x" * 1000 + "{{ end }}",
}  # fmt: skip
ENDLESS = {
    "loops": NEVER,
    "loops that are left at once": NEVER.replace("{{ range 1000000 }}{{ end }}", "{{ range 9000000 }}{{ break }}{{ end }}"),
    "long paths": "{{ range 999999 }}{{ with $x := 1 }}{{ (json 1)" + ".A" * 9999 + " }}{{ end }}{{ end }}",
    "comparisons": "{{ range 999999 }}{{ eq 1 " + "2 " * 9999 + "}}{{ end }}",
    "templates that call themselves": "{{ define `t` }}{{ template `t` }}{{ template `t` }}{{ end }}{{ template `t` }}",
    "deep blocks in deep templates": "".join(NESTED % (n, n + 1) for n in range(9)) + "{{ define `t9` }}{{ end }}{{ template `t0` }}",
    "a wide number": "{{ range 999999 }}{{ printf `%999d` 1 }}{{ end }}",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_fills_memory(name):
    values = Values(messages=[{"role": "user", "content": "x" * 1000}] * 50)
    tracemalloc.start()
    try:
        with pytest.raises(TemplateFault):
            Template(BOMBS[name]).render(values)
        assert tracemalloc.get_traced_memory()[1] < 5 * MOST_WORK
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ENDLESS)
def test_what_would_not_end_is_refused(name):
    with pytest.raises(TemplateFault):
        Template(ENDLESS[name]).render(VALUES)


@pytest.mark.parametrize(
    "source",
    [
        "{{ if true }}" * 101 + "{{ end }}" * 101,
        "{{ define `a` }}" * 3000,
        "{{ block `a` . }}" * 3000,
        "{{ if 1 }}" + "{{ else if 1 }}" * 3000,
        "{{ " + "(" * 1000 + "1" + ")" * 1000 + " }}",
        "x" * (MOST_SOURCE + 1),
        "{{ " + "9" * 5000 + " }}",
        "{{ 0x" + "f" * 5000 + " }}",
        "{{ 1e999 }}",
        "{{ printf `%" + "9" * 5000 + "d` 1 }}",
        '{{ "' + '\\"' * 60_000,
        "{{ " + "' " * 9,
        "{{ " * 40_000,
    ],
)
def test_what_would_exhaust_the_parser_is_refused(source):
    with pytest.raises(TemplateFault):
        Template(source).render(VALUES)


def test_a_long_conversation_is_no_bomb():
    turns = [{"role": role, "content": "x" * 500} for role in ("user", "assistant")] * 3000
    for known in KNOWN.values():
        assert len(Template(known.text).render(Values(messages=turns))) > 1_000_000
    last = "{{ range $i, $_ := .Messages }}{{ if eq (len (slice $.Messages $i)) 1 }}last{{ end }}{{ end }}"
    assert Template(last).render(Values(messages=turns[:1500])) == "last"
