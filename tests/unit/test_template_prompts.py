# ruff: noqa: E501 - prompts are easier to compare unbroken
import json
from pathlib import Path

import pytest

from bridge_engine.templates import (
    FALLBACK,
    KNOWN,
    Template,
    TemplateFault,
    Values,
    of_template,
    pick,
)
from bridge_engine.templates.pick import edit_distance

RECORDINGS = Path(__file__).parents[1] / "contract" / "recordings"
SYSTEM = {"role": "system", "content": "S"}
USER = {"role": "user", "content": "hi"}
ASSISTANT = {"role": "assistant", "content": "yo"}

TOOLS_TEMPLATE = """{{- if .Tools }}Tools:{{ range .Tools }}
{{ . }}{{ end }}
{{ end }}{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 -}}
{{ if eq .Role "tool" }}<result>{{ .Content }}</result>
{{ else }}<{{ .Role }}>{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ .Content }}
{{- if .ToolCalls }}<tool_call>
{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
{{ end }}</tool_call>{{ end }}</{{ .Role }}>
{{ end }}{{ if and $last (ne .Role "assistant") }}<assistant>{{ end }}{{ end }}"""

TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "d",
        "parameters": {"type": "object", "properties": {"x": {"type": "string", "description": "<x>"}}},
    },
}


def recorded(file, case):
    for one in json.loads((RECORDINGS / file).read_text()):
        if one["case"] == case:
            return one
    raise AssertionError(case)


def test_the_recorded_chat_prompt_comes_out_byte_by_byte():
    case = recorded("chat.json", "prefill debug render")
    rendered = json.loads(case["chunks"][0])["_debug_info"]["rendered_template"]
    assert (
        Template(KNOWN["chatml"].text).render(Values(messages=case["request"]["body"]["messages"]))
        == rendered
    )


def test_the_recorded_generate_prompt_comes_out_byte_by_byte():
    case = recorded("generate.json", "debug render only")
    rendered = json.loads(case["chunks"][0])["_debug_info"]["rendered_template"]
    message = {"role": "user", "content": case["request"]["body"]["prompt"]}
    assert Template(KNOWN["chatml"].text).render(Values(messages=[message])) == rendered


def test_the_known_chatml_is_the_recorded_one():
    shown = json.loads("".join(recorded("show.json", "show")["chunks"]))
    assert KNOWN["chatml"].text == shown["template"]
    assert "".join(f"PARAMETER stop {stop}\n" for stop in KNOWN["chatml"].stop) in shown["modelfile"]


@pytest.mark.parametrize("name", KNOWN)
def test_every_known_format_renders_a_conversation_in_order(name):
    prompt = Template(KNOWN[name].text).render(
        Values(messages=[SYSTEM, USER, ASSISTANT, {"role": "user", "content": "last"}])
    )
    places = [prompt.index(text) for text in ("S", "hi", "yo", "last")]
    assert places == sorted(places)
    assert not prompt.endswith("last")


@pytest.mark.parametrize(
    ("source", "messages", "prompt"),
    [
        ("{{ .Prompt }}", [USER], "hi"),
        ("Q: {{ .Prompt }} A:", [USER], "Q: hi A:"),
        ("{{ if .System }}[{{ .System }}]{{ end }}{{ .Prompt }}>{{ .Response }};", [SYSTEM, USER], "[S]hi>"),
        ("{{ .Prompt }}>{{ .Response }};", [USER, ASSISTANT, USER], "hi>yo;hi>"),
        ("{{ .Prompt }}>{{ .Response }};", [USER, ASSISTANT], "hi>yo"),
        ("{{ .Prompt }}>{{ if .Response }}{{ .Response }}!{{ end }};", [USER], "hi>"),
        ("{{ .System }}|{{ .Prompt }}>{{ .Response }};", [USER, ASSISTANT, SYSTEM, USER], "|hi>yo;S|hi>"),
        ("{{ range .Messages }}{{ .Role }}:{{ .Content }};{{ end }}", [USER, USER], "user:hi\n\nhi;"),
        ("{{ .System }}/{{ range .Messages }}{{ .Role }} {{ end }}", [SYSTEM, USER], "S/system user "),
        ("{{ range .Messages }}{{ .Role }}:{{ .Content }};{{ end }}", [], ""),
    ],
)
def test_turns_are_rendered_by_ollamas_rules(source, messages, prompt):
    assert Template(source).render(Values(messages=messages)) == prompt


def test_fill_in_the_middle_uses_prompt_and_suffix():
    template = Template("<PRE>{{ .Prompt }}<SUF>{{ .Suffix }}<MID>{{ .Response }}")
    assert template.render(Values(prompt="a", suffix="b")) == "<PRE>a<SUF>b<MID>"
    assert of_template(template) == ("insert",)


def test_tools_calls_and_results_are_rendered():
    call = {"function": {"name": "f", "arguments": {"x": "1"}}}
    messages = [
        USER,
        {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call]},
        {"role": "tool", "content": "one"},
        {"role": "tool", "content": "two"},
    ]
    template = Template(TOOLS_TEMPLATE)
    assert of_template(template) == ("tools", "thinking")
    assert template.render(Values(messages=messages, tools=[TOOL])) == (
        'Tools:\n{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object",'
        '"properties":{"x":{"type":"string","description":"\\u003cx\\u003e"}}}}}\n'
        "<user>hi</user>\n"
        '<assistant><think>hm</think><tool_call>\n{"name": "f", "arguments": {"x":"1"}}\n</tool_call></assistant>\n'
        "<result>one</result>\n<result>two</result>\n<assistant>"
    )


def test_fields_of_tools_can_be_read_one_by_one():
    template = Template(
        "{{ range .Tools }}{{ .Function.Name }}({{ range $n, $p := .Function.Parameters.Properties }}"
        "{{ $n }}: {{ $p.Type }} {{ toTypeScriptType $p }}{{ end }}){{ end }}{{ range .Messages }}{{ end }}"
    )
    assert template.render(Values(tools=[TOOL])) == "f(x: string string)"


@pytest.mark.parametrize(
    ("think", "said"), [(None, "unset"), (False, "off"), (True, "on"), ("high", "onhigh")]
)
def test_the_wish_to_think_reaches_the_template(think, said):
    source = (
        "{{ if .IsThinkSet }}{{ if .Think }}on{{ .ThinkLevel }}{{ else }}off{{ end }}{{ else }}unset{{ end }}"
        "{{ range .Messages }}{{ end }}"
    )
    assert Template(source).render(Values(think=think)) == said


def test_an_unknown_field_of_a_message_is_a_fault():
    with pytest.raises(TemplateFault, match="line 1: can't evaluate field Nope"):
        Template("{{ range .Messages }}{{ .Nope }}{{ end }}").render(Values(messages=[USER]))


@pytest.mark.parametrize("name", KNOWN)
def test_each_format_is_recognised_by_its_own_jinja(name):
    for jinja in KNOWN[name].jinja:
        assert pick(jinja) is KNOWN[name]


def test_a_foreign_template_is_not_recognised():
    assert pick("{{ nothing like any of them }}" * 20) is None
    assert Template(FALLBACK).render(Values(messages=[USER])) == "hi"


@pytest.mark.parametrize(
    ("one", "other", "limit", "distance"),
    [("", "", 5, 0), ("kitten", "sitting", 5, 3), ("kitten", "sitting", 3, 3), ("kitten", "sitting", 2, None),
     ("", "abc", 3, 3), ("abc", "", 2, None), ("abcdef", "bcdefg", 2, 2)],
)  # fmt: skip
def test_edit_distance_within_its_limit(one, other, limit, distance):
    assert edit_distance(one, other, limit) == distance
    assert edit_distance(other, one, limit) == distance


CALLS = "{{ range .ToolCalls }}<call>{{ .Function.Name }}</call>{{ end }}"
TURN = '{{ range .Messages }}<{{ .Role }}>{{ if eq .Role "assistant" }}%s{{ else }}{{ .Content }}{{ end }}{{ end }}'
SHAPES = {
    "text, else calls": TURN
    % ("{{ if .Content }}{{ .Content }}{{ else if .ToolCalls }}" + CALLS + "{{ end }}"),
    "calls, else text": TURN % ("{{ if .ToolCalls }}" + CALLS + "{{ else }}{{ .Content }}{{ end }}"),
    "text and calls": TURN % ("{{ .Content }}{{ if .ToolCalls }}" + CALLS + "{{ end }}"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_no_call_and_no_text_vanishes_whatever_the_template_writes(shape):
    def said(content, *names):
        calls = [{"function": {"name": name, "arguments": {}}} for name in names]
        return {"role": "assistant", "content": content, "tool_calls": calls}

    for turn in (
        [said("so", "f", "g")],
        [said("so"), said("", "f"), said("", "g")],
        [said("so", "f"), said("", "g")],
    ):
        printed = Template(SHAPES[shape]).render(Values(messages=[{"role": "user", "content": "q"}, *turn]))
        between = "<assistant>" if "else" in shape else ""
        assert printed == f"<user>q<assistant>so{between}<call>f</call><call>g</call>"
