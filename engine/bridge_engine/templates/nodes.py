"""The parsed form of a template."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Constant:
    """A literal: string, number, bool or nil (None)."""

    value: Any
    line: int


@dataclasses.dataclass(frozen=True, slots=True)
class FieldPath:
    """`.`, `.A`, `.A.B`: a path from the current value."""

    names: tuple[str, ...]
    line: int


@dataclasses.dataclass(frozen=True, slots=True)
class VariablePath:
    """`$`, `$x`, `$x.A`: a path from a variable; the name is empty for `$`."""

    name: str
    names: tuple[str, ...]
    line: int


@dataclasses.dataclass(frozen=True, slots=True)
class Chain:
    """`(pipeline).A.B`: a path from a bracketed pipeline's value."""

    base: Pipeline
    names: tuple[str, ...]
    line: int


@dataclasses.dataclass(frozen=True, slots=True)
class Function:
    """A function's name, called with the arguments of its command."""

    name: str
    line: int


Operand = Constant | FieldPath | VariablePath | Chain | Function


@dataclasses.dataclass(frozen=True, slots=True)
class Pipeline:
    """Commands, each given the value of the one before as its last argument.

    Attributes:
        variables: Names that take the result (two only in `range`).
        declares: `:=` rather than `=`.
        commands: Each a tuple of operands, the first of which is called or evaluated.
    """

    variables: tuple[str, ...]
    declares: bool
    commands: tuple[tuple[Operand, ...], ...]
    line: int


@dataclasses.dataclass(frozen=True, slots=True)
class TextNode:
    """Literal text."""

    text: str
    line: int


@dataclasses.dataclass(frozen=True, slots=True)
class ActionNode:
    """A pipeline whose value is printed, unless it goes into a variable."""

    pipeline: Pipeline
    line: int


@dataclasses.dataclass(frozen=True, slots=True)
class BranchNode:
    """`if`, `with` or `range`, and what happens otherwise."""

    keyword: str
    pipeline: Pipeline
    body: Body
    otherwise: Body
    line: int


@dataclasses.dataclass(frozen=True, slots=True)
class CallNode:
    """`template "name" pipeline`."""

    name: str
    pipeline: Pipeline | None
    line: int


@dataclasses.dataclass(frozen=True, slots=True)
class JumpNode:
    """`break` or `continue`."""

    keyword: str
    line: int


Node = TextNode | ActionNode | BranchNode | CallNode | JumpNode
Body = tuple[Node, ...]


def walk(body: Body) -> Iterator[Node]:
    """Every node of the body, outer before inner, in the order of the text."""
    for node in body:
        yield node
        if isinstance(node, BranchNode):
            yield from walk(node.body)
            yield from walk(node.otherwise)


def operands(pipeline: Pipeline | None) -> Iterator[Operand]:
    """Every operand in the pipeline, those inside brackets among them."""
    for command in pipeline.commands if pipeline else ():
        for operand in command:
            yield operand
            if isinstance(operand, Chain):
                yield from operands(operand.base)


def fields_of(node: Node) -> Iterator[str]:
    """Names of the fields that the node's own pipeline reads, not those of nodes inside it."""
    if isinstance(node, TextNode | JumpNode):
        return
    for operand in operands(node.pipeline):
        if isinstance(operand, FieldPath | VariablePath | Chain):
            yield from operand.names
