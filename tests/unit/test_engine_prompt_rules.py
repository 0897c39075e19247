# ruff: noqa: E501 - cases are easier to compare unbroken
"""What decides a model's prompts, and how the families write their calls of tools."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_engine.prompt_rules import Manifested, plan_prompts, reading_of_jinja
from bridge_engine.prompting import without_old_thinking
from bridge_engine.templates.call_styles import (
    FUNCTIONS,
    GEMMA,
    PAIRS,
    SEPARATED,
    CallStyle,
    FramedCallParser,
    typed,
)
from bridge_engine.templates.thinking import Tags

JINJA = "{% for m in messages %}{{ m.content }}{% endfor %}"
TOOLS = JINJA + "{{ tools }}<tool_call><function=x>"
THINKS = TOOLS + "{% if enable_thinking %}<think>{% endif %}</think>"


@pytest.mark.parametrize(
    ("model", "jinja", "capabilities"),
    [
        (Manifested(), False, ()),
        (Manifested(template="{{ .Prompt }}", jinja=THINKS), False, ()),
        (Manifested(template="{{ .Messages }}{{ .Tools }}"), False, ("tools",)),
        (Manifested(jinja=JINJA), True, ()),
        (Manifested(jinja=THINKS), True, ("tools", "thinking")),
        (Manifested("{{ .Prompt }}", THINKS, renderer="qwen3.5", parser="qwen3.5"), True, ("tools", "thinking")),
        (Manifested("{{ .Prompt }}", TOOLS, renderer="qwen3-coder", parser="qwen3-coder"), True, ("tools",)),
        (Manifested("{{ .Prompt }}", JINJA, renderer="qwen3-coder", parser="qwen3-coder"), True, ()),
        (Manifested("{{ .Prompt }}", THINKS, renderer="glm-4.6", parser="passthrough"), True, ()),
        (Manifested("{{ .Messages }}{{ .Tools }}{{ .Think }}", parser="qwen3-thinking"), False, ("tools", "thinking")),
    ],
)  # fmt: skip
def test_what_decides_the_prompt(model: Manifested, jinja: bool, capabilities: tuple[str, ...]) -> None:
    plan = plan_prompts(model)
    assert (plan.jinja, plan.capabilities, plan.refusal) == (jinja, capabilities, "")


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (Manifested("{{ .Prompt }}", JINJA, renderer="nonsense"), 'renderer "nonsense"'),
        (Manifested("{{ .Prompt }}", renderer="qwen3-coder"), 'renderer "qwen3-coder"'),
        (Manifested("{{ .Prompt }}", JINJA, parser="harmony"), 'parser "harmony"'),
        (Manifested("<|start|>{{ .Prompt }}<|end|>", family="gptoss"), 'format "harmony"'),
        (Manifested("{{ .Prompt }}", remote="https://ollama.com:443"), '"https://ollama.com:443"'),
        (Manifested("{{ .Prompt }}", kinds=("model", "template", "voice")), 'layer "voice"'),
    ],
)
def test_what_is_not_understood_is_named(model: Manifested, named: str) -> None:
    assert named in plan_prompts(model).refusal


def test_a_jinja_template_tells_how_answers_are_read() -> None:
    assert reading_of_jinja("<｜tool▁call▁begin｜>").calls is SEPARATED
    assert reading_of_jinja("<tool_call>{name}<arg_key>").calls is PAIRS
    assert reading_of_jinja("<|tool_call>call:").calls is GEMMA
    assert reading_of_jinja('<tool_call>{"name"').calls == "<tool_call>"
    assert reading_of_jinja("<think></think>").tags == Tags("<think>", "</think>")
    assert reading_of_jinja("<|channel>thought").marks == ("<|channel>", "<channel|>")
    assert plan_prompts(Manifested(jinja=JINJA)).reading.marks == ()


def test_old_thinking_is_cut_from_the_texts_of_earlier_turns() -> None:
    old = {"role": "assistant", "content": "<think>hm</think>\n\nso"}
    asked = {"role": "user", "content": "<think>x</think>"}
    assert without_old_thinking([asked, old, asked, old]) == [asked, {**old, "content": "so"}, asked, old]
    assert without_old_thinking([old]) == [old]


def tool(name: str, **properties: Any) -> dict[str, Any]:
    function = {"name": name, "parameters": {"type": "object", "properties": properties}}
    return {"type": "function", "function": function}


ON_OFFER = [
    tool("add", a={"type": "integer"}, b={"type": ["number", "null"]}, note={"type": "string"}),
    tool("list", items={"anyOf": [{"type": "array"}, {"type": "string"}]}, deep={"type": "boolean"}),
]
ARGUMENTS = {"a": 1, "b": 2.5, "note": "<x> & 7"}
SAID = {
    FUNCTIONS: "I add.\n<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\n2.5\n</parameter>\n"
    "<parameter=note>\n<x> & 7\n</parameter>\n</function>\n</tool_call>",
    PAIRS: "I add.\n<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n<arg_key>b</arg_key>"
    "<arg_value>2.5</arg_value><arg_key>note</arg_key><arg_value><x> & 7</arg_value>\n</tool_call>",
    SEPARATED: "I add.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>"
    '{"a": 1, "b": 2.5, "note": "<x> & 7"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    GEMMA: 'I add.<|tool_call>call:add{a:1,b:2.5,note:<|"|><x> & 7<|"|>}<tool_call|>',
}  # fmt: skip
STYLES = list(SAID)


def read(style: CallStyle, *pieces: str) -> tuple[list[tuple[str, dict[str, Any]]], str]:
    parser = FramedCallParser(style, ON_OFFER)
    found = [*(parser.feed(piece) for piece in pieces), parser.finish()]
    calls = [(call.name, call.arguments) for one in found for call in one.calls]
    return calls, "".join(one.content for one in found)


@pytest.mark.parametrize("style", STYLES)
def test_each_style_of_calls_is_read(style: CallStyle) -> None:
    assert read(style, SAID[style]) == ([("add", ARGUMENTS)], "I add.")
    twice = SAID[style] + "\n" + SAID[style].removeprefix("I add.")
    assert read(style, twice) == ([("add", ARGUMENTS)] * 2, "I add.")
    unclosed = SAID[style].partition(style.closing)[0]
    assert read(style, unclosed) == ([("add", ARGUMENTS)], "I add.")


@pytest.mark.parametrize("style", STYLES)
def test_what_is_no_call_of_a_tool_on_offer_stays_text(style: CallStyle) -> None:
    for text in (SAID[style].replace("add", "sub"), f"{style.opening}nonsense{style.closing}", "a < b\n"):
        calls, content = read(style, text)
        assert calls == []
        assert "".join(content.split()) == "".join(
            text.replace(style.marks[-1], "").replace(style.marks[-2], "").split()
            if style is SEPARATED
            else text.split()
        )


def test_deepseeks_older_form_is_read() -> None:
    text = '<｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{"a":1}\n```<｜tool▁call▁end｜>'
    assert read(SEPARATED, text) == ([("add", {"a": 1})], "")


def test_gemmas_notation_nests() -> None:
    text = '<|tool_call>call:list{items:[1,{x:<|"|>},{<|"|>},[]],deep:true,none:null}<tool_call|>'
    assert read(GEMMA, text) == ([("list", {"items": [1, {"x": "},{"}, []], "deep": True, "none": None})], "")
    for bad in ("call:list{" + "a:{" * 99, "call:list{a:", "call:list{a", "list{}", "call:list{:1}"):
        assert read(GEMMA, f"<|tool_call>{bad}<tool_call|>")[0] == []


@pytest.mark.parametrize(
    ("text", "kinds", "value"),
    [
        ("1", {"integer"}, 1), ("1", {"string"}, "1"), ("1.0", {"number"}, 1), ("x", {"integer"}, "x"),
        ("True", {"boolean"}, True), ("null", {"string"}, None), ("[1]", {"array"}, [1]), ("1e3", set(), "1e3"),
        ('{"a":1}', {"object", "string"}, {"a": 1}), ("[", {"array"}, "["), ("true", {"integer"}, "true"),
        ("1.5", {"integer"}, "1.5"), ("[" * 5000, {"array"}, "[" * 5000), ("9" * 5000, {"integer"}, "9" * 5000),
    ],
)  # fmt: skip
def test_bare_values_take_the_narrowest_type(text: str, kinds: set[str], value: Any) -> None:
    assert typed(text, frozenset(kinds)) == value


PIECES = st.lists(
    st.sampled_from(
        [part for text in SAID.values() for part in (text, text[: len(text) // 2])]
        + ["<tool", "_call>", "</tool_call>", " ", "\n", "x", "<｜tool▁calls▁begin｜>", "<|tool_response>"]
    ),
    max_size=6,
)


@given(st.sampled_from(STYLES), PIECES, st.data())
def test_how_the_text_is_cut_does_not_matter(
    style: CallStyle, pieces: list[str], data: st.DataObject
) -> None:
    text = "".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    cut = [text[low:high] for low, high in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(style, *cut) == read(style, text)
