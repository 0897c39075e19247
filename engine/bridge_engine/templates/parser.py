"""Parses Go's text/template language into nodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from bridge_engine.templates import lexer
from bridge_engine.templates.fault import TemplateFault, TemplateLimit
from bridge_engine.templates.functions import FUNCTION_NAMES
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
    Node,
    Operand,
    Pipeline,
    TextNode,
    VariablePath,
)

_CONSTANTS = {"true": True, "false": False, "nil": None}
_DEEPEST = 100  # blocks within each other: a fault, not a Python recursion error
_DEEPEST_BRACKETS = 40
MOST_SOURCE = 128 << 10
"""Characters of a template: ten times what the longest of any known model has."""


@dataclasses.dataclass(frozen=True, slots=True)
class ParsedTemplate:
    """A template's own body, and those that it defines by name."""

    body: Body
    defined: Mapping[str, Body]


def parse(source: str) -> ParsedTemplate:
    """Parses a template.

    Raises:
        TemplateFault: It is not a template; names the line.
    """
    if len(source) > MOST_SOURCE:
        raise TemplateLimit(f"is longer than {MOST_SOURCE} characters")
    parser = _Parser(source)
    body = parser.root()
    return ParsedTemplate(body, MappingProxyType(parser.defined))


class _Parser:
    def __init__(self, source: str) -> None:
        self._items: Iterator[lexer.Text | lexer.Action] = lexer.split(source)
        self.defined: dict[str, Body] = {}
        self._scopes: list[set[str]] = [set()]
        self._loops = 0
        self._depth = 0

    def root(self) -> Body:
        body, end = self._body()
        if end is not None:
            raise TemplateFault(f"unexpected {{{{{end.text}}}}}", end.line)
        return body

    def _body(self) -> tuple[Body, _Tokens | None]:
        """Nodes up to the action that ends the block, and that action (None: end of source)."""
        nodes: list[Node] = []
        for item in self._items:
            if isinstance(item, lexer.Text):
                nodes.append(TextNode(item.value, item.line))
                continue
            tokens = _Tokens(item)
            keyword = tokens.keyword()
            if keyword in {"end", "else"}:
                return tuple(nodes), tokens
            node = self._action(keyword, tokens)
            if node is not None:
                nodes.append(node)
        return tuple(nodes), None

    def _action(self, keyword: str, tokens: _Tokens) -> Node | None:
        if keyword in {"if", "with", "range"}:
            tokens.next()
            return self._branch(keyword, tokens)
        if keyword in {"define", "block"}:
            tokens.next()
            return self._define(keyword, tokens)
        if keyword == "template":
            tokens.next()
            name = tokens.expect("string").text
            pipeline = None if tokens.done() else self._pipeline(tokens)
            tokens.finish()
            return CallNode(name, pipeline, tokens.line)
        if keyword in {"break", "continue"}:
            tokens.next()
            tokens.finish()
            if not self._loops:
                raise TemplateFault(f"{{{{{keyword}}}}} outside {{{{range}}}}", tokens.line)
            return JumpNode(keyword, tokens.line)
        pipeline = self._pipeline(tokens)
        tokens.finish()
        return ActionNode(pipeline, tokens.line)

    def _branch(self, keyword: str, tokens: _Tokens) -> BranchNode:
        self._enter(tokens.line)
        self._scopes.append(set())
        pipeline = self._pipeline(tokens, in_range=keyword == "range")
        tokens.finish()
        self._loops += keyword == "range"
        body, end = self._body()
        self._loops -= keyword == "range"
        otherwise: Body = ()
        if end is not None and end.keyword() == "else":
            end.next()
            if not end.done():  # {{else if x}} is an {{if}} inside the else, closed by the same {{end}}
                chained = end.next()
                if chained.text not in {"if", "with"} or chained.text != keyword:
                    raise TemplateFault(f"unexpected {chained.text!r} after else", end.line)
                otherwise = (self._branch(keyword, end),)
                self._leave()
                return BranchNode(keyword, pipeline, body, otherwise, tokens.line)
            otherwise, end = self._body()
        self._close(end, keyword, tokens.line)
        self._leave()
        return BranchNode(keyword, pipeline, body, otherwise, tokens.line)

    def _enter(self, line: int) -> None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise TemplateLimit("blocks are nested too deeply", line)

    def _leave(self) -> None:
        self._depth -= 1
        self._scopes.pop()

    def _define(self, keyword: str, tokens: _Tokens) -> Node | None:
        name = tokens.expect("string").text
        pipeline = self._pipeline(tokens) if keyword == "block" else None
        tokens.finish()
        self._enter(tokens.line)
        outer, self._scopes = self._scopes, [set()]
        loops, self._loops = self._loops, 0
        body, end = self._body()
        self._close(end, keyword, tokens.line)
        self._scopes, self._loops = outer, loops
        self._depth -= 1
        self.defined[name] = body
        return CallNode(name, pipeline, tokens.line) if keyword == "block" else None

    def _close(self, end: _Tokens | None, keyword: str, line: int) -> None:
        if end is None:
            raise TemplateFault(f"{{{{{keyword}}}}} is not closed by {{{{end}}}}", line)
        if end.next().text != "end":
            raise TemplateFault("expected {{end}}", end.line)
        end.finish()

    def _pipeline(self, tokens: _Tokens, *, in_range: bool = False, depth: int = 0) -> Pipeline:
        line = tokens.line
        if depth > _DEEPEST_BRACKETS:
            raise TemplateLimit("brackets are nested too deeply", line)
        variables, declares = self._targets(tokens, in_range=in_range)
        commands = [self._command(tokens, depth)]
        while tokens.accept("|"):
            commands.append(self._command(tokens, depth))
        for command in commands[1:]:
            if isinstance(command[0], Constant):
                raise TemplateFault("a literal cannot take the value of the pipeline", line)
        if declares:
            self._scopes[-1].update(variables)
        return Pipeline(variables, declares, tuple(commands), line)

    def _targets(self, tokens: _Tokens, *, in_range: bool) -> tuple[tuple[str, ...], bool]:
        one = tokens.peek(0)
        if one is None or one.kind != "variable":
            return (), False
        operator = tokens.peek(1)
        count = 1
        if operator is not None and operator.kind == "," and in_range:
            count, operator = 2, tokens.peek(3)
        if operator is None or operator.kind not in {":=", "="}:
            return (), False
        names = [tokens.next().text]
        if count == 2:
            tokens.expect(",")
            names.append(tokens.expect("variable").text)
        declares = tokens.next().kind == ":="
        if not declares:
            for name in names:
                self._known(name, tokens.line)
        return tuple(names), declares

    def _command(self, tokens: _Tokens, depth: int) -> tuple[Operand, ...]:
        command: list[Operand] = []
        while True:
            token = tokens.peek(0)
            if token is None or token.kind in {"|", ")"}:
                break
            if command and not token.spaced:
                raise TemplateFault(f"unexpected {token.text!r}", token.line)
            command.append(self._operand(tokens, depth))
        if not command:
            raise TemplateFault("missing value", tokens.line)
        return tuple(command)

    def _operand(self, tokens: _Tokens, depth: int) -> Operand:
        token = tokens.next()
        if token.kind == "string":
            return Constant(token.text, token.line)
        if token.kind == "number":
            return Constant(_number(token), token.line)
        if token.kind == "field":
            names = (*((token.text,) if token.text else ()), *tokens.attached())
            return FieldPath(names, token.line)
        if token.kind == "variable":
            self._known(token.text, token.line)
            return VariablePath(token.text, tokens.attached(), token.line)
        if token.kind == "(":
            inner = self._pipeline(tokens, depth=depth + 1)
            tokens.expect(")")
            return Chain(inner, tokens.attached(), token.line)
        if token.kind == "word" and token.text in _CONSTANTS:
            return Constant(_CONSTANTS[token.text], token.line)
        if token.kind == "word" and token.text in FUNCTION_NAMES:
            return Function(token.text, token.line)
        if token.kind == "word":
            raise TemplateFault(f"function {token.text!r} not defined", token.line)
        raise TemplateFault(f"unexpected {token.text!r}", token.line)

    def _known(self, name: str, line: int) -> None:
        if name and not any(name in scope for scope in self._scopes):
            raise TemplateFault(f"undefined variable ${name}", line)


class _Tokens:
    """The tokens of one action, with a place in them."""

    def __init__(self, action: lexer.Action) -> None:
        self._tokens = action.tokens
        self._place = 0
        self.line = action.line
        self.text = " ".join(token.text for token in action.tokens)

    def keyword(self) -> str:
        """The action's first word, or an empty string when it begins otherwise."""
        first = self.peek(0)
        return first.text if first is not None and first.kind == "word" else ""

    def peek(self, ahead: int) -> lexer.Token | None:
        place = self._place + ahead
        return self._tokens[place] if place < len(self._tokens) else None

    def done(self) -> bool:
        return self._place >= len(self._tokens)

    def next(self) -> lexer.Token:
        if self.done():
            raise TemplateFault("unexpected end of action", self.line)
        token = self._tokens[self._place]
        self._place += 1
        self.line = token.line
        return token

    def accept(self, kind: str) -> bool:
        token = self.peek(0)
        if token is None or token.kind != kind:
            return False
        self._place += 1
        return True

    def expect(self, kind: str) -> lexer.Token:
        token = self.next()
        if token.kind != kind:
            raise TemplateFault(f"expected {kind}, found {token.text!r}", token.line)
        return token

    def attached(self) -> tuple[str, ...]:
        """Names of the fields that follow without a space: the rest of a path."""
        names = []
        while (
            (token := self.peek(0)) is not None and token.kind == "field" and not token.spaced and token.text
        ):
            names.append(self.next().text)
        return tuple(names)

    def finish(self) -> None:
        if not self.done():
            token = self.next()
            raise TemplateFault(f"unexpected {token.text!r} in action", token.line)


def _number(token: lexer.Token) -> Any:
    text = token.text.replace("_", "")
    number: int | float
    try:
        number = int(text, 0)
    except ValueError:
        number = float(text)
    if not -(1 << 63) <= number < 1 << 64:
        raise TemplateFault(f"{text[:20]} overflows", token.line)
    return number
