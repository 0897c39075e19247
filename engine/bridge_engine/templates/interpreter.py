"""Executes parsed templates.

A template may come with a request, so it is not trusted: steps, output and depth are bounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bridge_core.dialects.values import TemplateRecord, text_of, truth
from bridge_engine.templates.fault import TemplateFault
from bridge_engine.templates.functions import Dates, FunctionFault, call
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

MOST_STEPS = 1_000_000
MOST_OUTPUT = 64 << 20
_DEEPEST = 100


class _Jump(Exception):
    """`break` or `continue` on its way to the loop."""


def execute(body: Body, data: Any, *, defined: Mapping[str, Body], dates: Dates) -> str:
    """What the template prints for the data.

    Raises:
        TemplateFault: It reads a field that a value lacks, calls a function wrongly, or does not end
            within MOST_STEPS and MOST_OUTPUT.
    """
    run = _Run(defined, dates)
    run.body(body, data, [{"": data}])
    return "".join(run.out)


class _Run:
    def __init__(self, defined: Mapping[str, Body], dates: Dates) -> None:
        self.out: list[str] = []
        self._defined = defined
        self._dates = dates
        self._steps = 0
        self._size = 0
        self._depth = 0

    def body(self, body: Body, dot: Any, scopes: list[dict[str, Any]]) -> None:
        for node in body:
            self._step(node.line)
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

    def _step(self, line: int) -> None:
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise TemplateFault("takes too many steps", line)

    def _write(self, text: str, line: int) -> None:
        self._size += len(text)
        if self._size > MOST_OUTPUT:
            raise TemplateFault("prints too much", line)
        self.out.append(text)

    def _call(self, node: CallNode, dot: Any, scopes: list[dict[str, Any]]) -> None:
        if node.name not in self._defined:
            raise TemplateFault(f"template {node.name!r} not defined", node.line)
        if self._depth >= _DEEPEST:
            raise TemplateFault("templates call each other too deeply", node.line)
        value = None if node.pipeline is None else self._pipeline(node.pipeline, dot, scopes)
        self._depth += 1
        self.body(self._defined[node.name], value, [{"": value}])
        self._depth -= 1

    def _branch(self, node: BranchNode, dot: Any, scopes: list[dict[str, Any]]) -> None:
        value = self._pipeline(node.pipeline, dot, scopes, bind=node.keyword != "range")
        if node.keyword == "range":
            self._range(node, value, dot, scopes)
        elif truth(value):
            self.body(node.body, value if node.keyword == "with" else dot, scopes)
        else:
            self.body(node.otherwise, dot, scopes)

    def _range(self, node: BranchNode, value: Any, dot: Any, scopes: list[dict[str, Any]]) -> None:
        pairs = _pairs(value, node.line)
        for key, item in pairs:
            self._step(node.line)
            inner = [*scopes, {}]
            names = node.pipeline.variables
            if names:
                bound = (item,) if len(names) == 1 else (key, item)
                for name, part in zip(names, bound, strict=True):
                    _assign(inner, name, part, declares=node.pipeline.declares)
            try:
                self.body(node.body, item, inner)
            except _Jump as jump:
                if jump.args[0] == "break":
                    break
        if not pairs:
            self.body(node.otherwise, dot, scopes)

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
        self._step(function.line)
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
        try:
            return call(function.name, (*arguments, *piped), self._dates)
        except FunctionFault as fault:
            raise TemplateFault(str(fault), function.line) from fault

    def _value(self, operand: Operand, dot: Any, scopes: list[dict[str, Any]]) -> Any:
        if isinstance(operand, Constant):
            return operand.value
        if isinstance(operand, FieldPath):
            return _path(dot, operand.names, operand.line)
        if isinstance(operand, VariablePath):
            return _path(_lookup(scopes, operand.name, operand.line), operand.names, operand.line)
        if isinstance(operand, Chain):
            return _path(self._pipeline(operand.base, dot, scopes), operand.names, operand.line)
        return self._function(operand, (), (), dot, scopes)


def _pairs(value: Any, line: int) -> list[tuple[Any, Any]]:
    if value is None:
        return []
    if isinstance(value, bool):
        raise TemplateFault("range can't iterate over a boolean", line)
    if isinstance(value, int):
        if value > MOST_STEPS:
            raise TemplateFault("takes too many steps", line)
        return [(number, number) for number in range(value)]
    if isinstance(value, Mapping) and not isinstance(value, TemplateRecord):
        return [(key, value[key]) for key in sorted(value)]
    if isinstance(value, list | tuple):
        return list(enumerate(value))
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
