"""Renders a conversation with a model's template, by Ollama's rules.

A template that reads `.Messages` gets the whole conversation at once. An older one, which knows
only `.System`, `.Prompt` and `.Response`, is executed once a turn, the last time cut off after its
`.Response`, where the model is to go on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from bridge_engine.templates.convert import Message, apart, collate, tool_records
from bridge_engine.templates.functions import Dates
from bridge_engine.templates.interpreter import execute
from bridge_engine.templates.meter import Meter
from bridge_engine.templates.nodes import (
    ActionNode,
    Body,
    BranchNode,
    FieldPath,
    Node,
    Pipeline,
    fields_of,
    walk,
)
from bridge_engine.templates.parser import parse

_RESPONSE = ActionNode(Pipeline((), False, ((FieldPath(("Response",), 0),),), 0), 0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """What a prompt is rendered from.

    Attributes:
        messages: In the JSON form of `/api/chat`; a system prompt is a message like the others.
        tools: In the JSON form of `/api/chat`.
        prompt: With `suffix`, text to fill in between; else unused.
        suffix: See `prompt`.
        think: None when the request did not say; a level counts as true.
        dates: What `currentDate` and `yesterdayDate` say.
    """

    messages: Sequence[Mapping[str, Any]] = ()
    tools: Sequence[Mapping[str, Any]] = ()
    prompt: str = ""
    suffix: str = ""
    think: bool | str | None = None
    dates: Dates = dataclasses.field(default_factory=Dates)


class Template:
    """A model's template, parsed.

    Attributes:
        source: Its text.
        variables: Names of all fields that it reads, in lower case.
    """

    def __init__(self, source: str) -> None:
        """Parses the source.

        Raises:
            TemplateFault: It is not a template; names the line.
        """
        self.source = source
        parsed = parse(source)
        self.defined = parsed.defined
        bodies = (parsed.body, *parsed.defined.values())
        nodes = [node for body in bodies for node in walk(body)]
        self._one_of_both = any(_writes_one_of_both(node) for node in nodes)
        self.variables = frozenset(name.lower() for node in nodes for name in fields_of(node))
        # A template that never says where the answer goes gets it at its end.
        complete = self.variables & {"messages", "response"}
        self.body: Body = parsed.body if complete else (*parsed.body, _RESPONSE)

    def render(self, values: Values) -> str:
        """The prompt.

        Raises:
            TemplateLimit: It asks for more than one prompt may cost.
            TemplateFault: The template does not fit the values.
        """
        thinking = {
            "Think": bool(values.think),
            "ThinkLevel": values.think if isinstance(values.think, str) else "",
            "IsThinkSet": values.think is not None,
        }
        if values.prompt and values.suffix:
            data = {"Prompt": values.prompt, "Suffix": values.suffix, "Response": "", **thinking}
            return self._execute(self.body, data, values.dates)
        system, messages = collate(values.messages)
        if "messages" in self.variables:
            if self._one_of_both:
                messages = apart(messages)
            data = {
                "System": system,
                "Messages": [message.record() for message in messages],
                "Tools": tool_records(values.tools),
                "Response": "",
                **thinking,
            }
            return self._execute(self.body, data, values.dates)
        return self._turn_by_turn(messages, thinking, values.dates)

    def _turn_by_turn(self, messages: Sequence[Message], thinking: Mapping[str, Any], dates: Dates) -> str:
        out: list[str] = []
        meter = Meter()
        turn = {"System": "", "Prompt": "", "Response": ""}

        def complete() -> None:
            out.append(self._execute(self.body, {**turn, **thinking}, dates, meter))
            turn.update(System="", Prompt="", Response="")

        for message in messages:
            if message.role == "system":
                if turn["Prompt"] or turn["Response"]:
                    complete()
                turn["System"] = message.content
            elif message.role == "user":
                if turn["Response"]:
                    complete()
                turn["Prompt"] = message.content
            elif message.role == "assistant":
                turn["Response"] = message.content
        out.append(self._execute(_cut(self.body), {**turn, **thinking}, dates, meter))
        return "".join(out)

    def _execute(self, body: Body, data: Mapping[str, Any], dates: Dates, meter: Meter | None = None) -> str:
        return execute(body, dict(data), defined=self.defined, dates=dates, meter=meter)


def _writes_one_of_both(node: Node) -> bool:
    """Whether the node writes a message's text or its calls, and never both."""
    if not isinstance(node, BranchNode) or node.keyword != "if":
        return False
    asked, body, otherwise = set(fields_of(node)), _fields(node.body), _fields(node.otherwise)
    for one, other in (("Content", "ToolCalls"), ("ToolCalls", "Content")):
        if one in asked and other in otherwise and other not in body:
            return True
    return False


def _fields(body: Body) -> set[str]:
    return {name for node in walk(body) for name in fields_of(node)}


def _cut(body: Body) -> Body:
    """The body without everything that comes after its first `.Response`."""
    return _cut_after(body)[0]


def _cut_after(body: Body) -> tuple[Body, bool]:
    kept: list[Node] = []
    for node in body:
        if isinstance(node, BranchNode):
            inner, cut = _cut_after(node.body)
            otherwise, cut = ((), True) if cut else _cut_after(node.otherwise)
            kept.append(dataclasses.replace(node, body=inner, otherwise=otherwise))
        else:
            kept.append(node)
            cut = "Response" in fields_of(node)
        if cut:
            return tuple(kept), True
    return tuple(kept), False
