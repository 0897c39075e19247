"""Turns the JSON of `/api/chat` into the values that templates read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bridge_core.dialects.values import (
    JsonList,
    JsonMap,
    JsonRecord,
    TemplateRecord,
    TypeList,
    as_list,
    as_map,
)


@dataclasses.dataclass(slots=True)
class Message:
    """One message; `source` is its JSON, `content` may have grown by collation."""

    role: str
    content: str
    source: Mapping[str, Any]

    def record(self) -> TemplateRecord:
        """The message as templates see it."""
        calls = [_call(call, index) for index, call in enumerate(as_list(self.source.get("tool_calls")))]
        return TemplateRecord(
            Role=self.role,
            Content=self.content,
            Thinking=self.source.get("thinking") or "",
            Images=list(as_list(self.source.get("images"))),
            ToolCalls=calls,
            ToolName=self.source.get("tool_name") or "",
            ToolCallID=self.source.get("tool_call_id") or "",
        )


def collate(messages: Iterable[Mapping[str, Any]]) -> tuple[str, list[Message]]:
    """All system messages joined, and the messages with neighbours of one role made one.

    Tool results stay apart: each answers a call of its own. Nothing that a neighbour holds is lost.
    """
    system: list[str] = []
    collated: list[Message] = []
    for source in messages:
        message = Message(str(source.get("role") or ""), str(source.get("content") or ""), source)
        if message.role == "system":
            system.append(message.content)
        if collated and collated[-1].role == message.role and message.role != "tool":
            _join(collated[-1], message)
        else:
            collated.append(message)
    return "\n\n".join(system), collated


def _join(one: Message, other: Message) -> None:
    both = one.source, other.source
    calls = [call for source in both for call in as_list(source.get("tool_calls"))]
    if calls:
        one.content = "\n\n".join(text for text in (one.content, other.content) if text)
    else:
        one.content += "\n\n" + other.content
    images = [image for source in both for image in as_list(source.get("images"))]
    thinking = "\n\n".join(str(source["thinking"]) for source in both if source.get("thinking"))
    found = {"tool_calls": calls, "images": images, "thinking": thinking}
    one.source = {**one.source, **{name: value for name, value in found.items() if value}}


def apart(messages: Iterable[Message]) -> list[Message]:
    """The messages, those with text and calls made two: for templates that write one of both."""
    found = []
    for message in messages:
        if message.content and as_list(message.source.get("tool_calls")):
            text = {key: value for key, value in message.source.items() if key != "tool_calls"}
            calls = {key: value for key, value in message.source.items() if key not in {"images", "thinking"}}
            found += [Message(message.role, message.content, text), Message(message.role, "", calls)]
        else:
            found.append(message)
    return found


def tool_records(tools: Sequence[Mapping[str, Any]]) -> JsonList:
    """Tools as templates see them: fields by Go's names, printing as JSON."""
    return JsonList(_tool(tool) for tool in tools)


def _call(call: Mapping[str, Any], index: int) -> TemplateRecord:
    call = as_map(call)
    function = as_map(call.get("function"))
    return TemplateRecord(
        ID=call.get("id") or "",
        Function=TemplateRecord(
            Index=function.get("index", index),
            Name=function.get("name") or "",
            Arguments=JsonMap(as_map(function.get("arguments"))),
        ),
    )


def _tool(tool: Mapping[str, Any]) -> JsonRecord:
    function = as_map(tool.get("function"))
    parameters = as_map(function.get("parameters"))
    properties = as_map(parameters.get("properties"))
    wire_parameters: dict[str, Any] = {"type": parameters.get("type") or ""}
    wire_parameters |= {key: parameters[key] for key in ("$defs", "items", "required") if parameters.get(key)}
    wire_parameters["properties"] = {name: _wire_property(one) for name, one in properties.items()}
    wire_function = {"name": function.get("name") or ""}
    if function.get("description"):
        wire_function["description"] = function["description"]
    wire_function["parameters"] = wire_parameters
    wire = {"type": tool.get("type") or "", "function": wire_function}
    return _json_record(
        wire,
        Type=wire["type"],
        Items=tool.get("items"),
        Function=_json_record(
            wire_function,
            Name=wire_function["name"],
            Description=function.get("description") or "",
            Parameters=_json_record(
                wire_parameters,
                Type=parameters.get("type") or "",
                Defs=parameters.get("$defs"),
                Items=parameters.get("items"),
                Required=list(as_list(parameters.get("required"))),
                Properties=JsonMap({name: _property(one) for name, one in properties.items()}),
            ),
        ),
    )


def _property(source: Any) -> TemplateRecord:
    schema = as_map(source)
    types = schema.get("type")
    return _json_record(
        _wire_property(schema),
        AnyOf=[_property(one) for one in as_list(schema.get("anyOf"))],
        Type=TypeList([types] if isinstance(types, str) else as_list(types)),
        Items=schema.get("items"),
        Description=schema.get("description") or "",
        Enum=list(as_list(schema.get("enum"))),
        Properties=JsonMap({name: _property(one) for name, one in as_map(schema.get("properties")).items()}),
        Required=list(as_list(schema.get("required"))),
    )


def _wire_property(source: Any) -> dict[str, Any]:
    schema = as_map(source)
    order = ("anyOf", "type", "items", "description", "enum", "properties", "required")
    return {key: schema[key] for key in order if schema.get(key)}


def _json_record(wire: Any, **fields: Any) -> JsonRecord:
    record = JsonRecord(fields)
    record.wire = wire
    return record
