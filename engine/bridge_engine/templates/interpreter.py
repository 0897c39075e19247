"""Executes parsed templates, whose steps, text and depth a meter bounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bridge_core.dialects.values import TemplateRecord, text_of, truth
from bridge_engine.templates.fault import TemplateFault
from bridge_engine.templates.functions import EXPANDS, Dates, FunctionFault, call
from bridge_engine.templates.meter import MOST_STEPS, Meter
from bridge_engine.templates.nodes import (
    ActionNode,
    Body,
    BranchNode,
    CallNode,
    Chain,
    Constant,
    FieldPath,
    Function,
    JumpNode,
    Operand,
    Pipeline,
    TextNode,
    VariablePath,
)


class _Jump(Exception):
    """`break` or `continue` on its way to the loop."""


def execute(
    body: Body, data: Any, *, defined: Mapping[str, Body], dates: Dates, meter: Meter | None = None
) -> str:
    """What the template prints for the data.

    Args:
        body: The template.
        data: What it reads.
        defined: Templates that it may call.
        dates: What `currentDate` and `yesterdayDate` say.
        meter: What was done for the same prompt before; counts on.

    Raises:
        TemplateLimit: It asks for more than the meter allows.
        TemplateFault: It reads a field that a value lacks, or calls a function wrongly.
    """
    run = _Run(defined, dates, meter or Meter())
    run.body(body, data, [{"": data}])
    return "".join(run.out)


class _Run:
    def __init__(self, defined: Mapping[str, Body], dates: Dates, meter: Meter) -> None:
        self.out: list[str] = []
        self._defined = defined
        self._dates = dates
        self._meter = meter

    def body(self, body: Body, dot: Any, scopes: list[dict[str, Any]]) -> None:
        for node in body:
            self._meter.step(node.line)
            if isinstance(node, TextNode):
                self._write(node.text, node.line)
            elif isinstance(node, ActionNode):
                value = self._pipeline(node.pipeline, dot, scopes)
                if not node.pipeline.variables:
                    self._write(text_of(value), node.line)
            elif isinstance(node, BranchNode):
                self._branch(node, dot, [*scopes, {}])
            elif isinstance(node, CallNode):
                self._call(node, dot, scopes)
            elif isinstance(node, JumpNode):
                raise _Jump(node.keyword)

    def _inner(self, body: Body, dot: Any, scopes: list[dict[str, Any]], line: int) -> None:
        self._meter.enter(line)
        try:
            self.body(body, dot, scopes)
        finally:
            self._meter.depth -= 1

    def _write(self, text: str, line: int) -> None:
        self._meter.work(len(text), line)
        self.out.append(text)

    def _call(self, node: CallNode, dot: Any, scopes: list[dict[str, Any]]) -> None:
        if node.name not in self._defined:
            raise TemplateFault(f"template {node.name!r} not defined", node.line)
        value = None if node.pipeline is None else self._pipeline(node.pipeline, dot, scopes)
        self._inner(self._defined[node.name], value, [{"": value}], node.line)

    def _branch(self, node: BranchNode, dot: Any, scopes: list[dict[str, Any]]) -> None:
        value = self._pipeline(node.pipeline, dot, scopes, bind=node.keyword != "range")
        if node.keyword == "range":
            self._range(node, value, dot, scopes)
        elif truth(value):
            self._inner(node.body, value if node.keyword == "with" else dot, scopes, node.line)
        else:
            self._inner(node.otherwise, dot, scopes, node.line)

    def _range(self, node: BranchNode, value: Any, dot: Any, scopes: list[dict[str, Any]]) -> None:
        empty = True
        for key, item in self._pairs(value, node.line):
            empty = False
            self._meter.step(node.line)
            inner = [*scopes, {}]
            names = node.pipeline.variables
            if names:
                bound = (item,) if len(names) == 1 else (key, item)
                for name, part in zip(names, bound, strict=True):
                    _assign(inner, name, part, declares=node.pipeline.declares)
            try:
                self._inner(node.body, item, inner, node.line)
            except _Jump as jump:
                if jump.args[0] == "break":
                    break
        if empty:
            self._inner(node.otherwise, dot, scopes, node.line)

    def _pipeline(
        self, pipeline: Pipeline, dot: Any, scopes: list[dict[str, Any]], *, bind: bool = True
    ) -> Any:
        value: Any = None
        for place, command in enumerate(pipeline.commands):
            value = self._command(command, (value,) if place else (), dot, scopes)
        if bind:
            for name in pipeline.variables:
                _assign(scopes, name, value, declares=pipeline.declares)
        return value

    def _command(
        self, command: Sequence[Operand], piped: tuple[Any, ...], dot: Any, scopes: list[dict[str, Any]]
    ) -> Any:
        first = command[0]
        if isinstance(first, Function):
            return self._function(first, command[1:], piped, dot, scopes)
        if len(command) > 1 or piped:
            raise TemplateFault("arguments given to something that is not a function", first.line)
        return self._value(first, dot, scopes)

    def _function(
        self,
        function: Function,
        operands: Sequence[Operand],
        piped: tuple[Any, ...],
        dot: Any,
        scopes: list[dict[str, Any]],
    ) -> Any:
        self._meter.step(function.line)
        if function.name in {"and", "or"}:
            value: Any = None
            if not operands and not piped:
                raise TemplateFault(f"wrong number of arguments for {function.name}: 0", function.line)
            for operand in operands:
                value = self._value(operand, dot, scopes)
                if truth(value) == (function.name == "or"):
                    return value
            return piped[0] if piped else value
        arguments = [self._value(operand, dot, scopes) for operand in operands]
        arguments += piped
        for argument in arguments:
            self._pay(argument, function)
        try:
            value = call(function.name, arguments, self._dates)
        except FunctionFault as fault:
            raise TemplateFault(str(fault), function.line) from fault
        if isinstance(value, str | list):
            self._meter.work(len(value), function.line)
        return value

    def _pay(self, argument: Any, function: Function) -> None:
        """Counts what a function may read, and make, of an argument."""
        expands = EXPANDS.get(function.name, 0)
        if isinstance(argument, str):
            self._meter.work(len(argument) * (expands or 1), function.line)
        elif expands and isinstance(argument, Mapping | list | tuple):
            self._meter.work(len(text_of(argument)) * expands, function.line)

    def _value(self, operand: Operand, dot: Any, scopes: list[dict[str, Any]]) -> Any:
        if isinstance(operand, FieldPath | VariablePath | Chain):
            self._meter.step(operand.line, 1 + len(operand.names))
        else:
            self._meter.step(operand.line)
        if isinstance(operand, Constant):
            return operand.value
        if isinstance(operand, FieldPath):
            return _path(dot, operand.names, operand.line)
        if isinstance(operand, VariablePath):
            return _path(_lookup(scopes, operand.name, operand.line), operand.names, operand.line)
        if isinstance(operand, Chain):
            return _path(self._pipeline(operand.base, dot, scopes), operand.names, operand.line)
        return self._function(operand, (), (), dot, scopes)

    def _pairs(self, value: Any, line: int) -> Iterator[tuple[Any, Any]]:
        if isinstance(value, bool):
            raise TemplateFault("range can't iterate over a boolean", line)
        if isinstance(value, int):
            return ((number, number) for number in range(min(value, MOST_STEPS + 1)))
        if isinstance(value, Mapping) and not isinstance(value, TemplateRecord):
            self._meter.step(line, len(value))
            return ((key, value[key]) for key in sorted(value))
        if isinstance(value, list | tuple):
            return iter(enumerate(value))
        if value is None:
            return iter(())
        raise TemplateFault("range can't iterate over this value", line)


def _path(value: Any, names: Sequence[str], line: int) -> Any:
    for name in names:
        if value is None:
            raise TemplateFault(f"nil has no field {name}", line)
        if not isinstance(value, Mapping):
            raise TemplateFault(f"can't evaluate field {name}", line)
        if isinstance(value, TemplateRecord) and name not in value:
            raise TemplateFault(f"can't evaluate field {name}", line)
        value = value.get(name)
    return value


def _assign(scopes: list[dict[str, Any]], name: str, value: Any, *, declares: bool) -> None:
    if not declares:
        for scope in reversed(scopes):
            if name in scope:
                scope[name] = value
                return
    scopes[-1][name] = value


def _lookup(scopes: list[dict[str, Any]], name: str, line: int) -> Any:
    for scope in reversed(scopes):
        if name in scope:
            return scope[name]
    raise TemplateFault(f"undefined variable ${name}", line)
