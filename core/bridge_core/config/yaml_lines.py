"""YAML documents with the line of every key, duplicates and aliases refused.

Aliases are refused because a few lines of them expand to gigabytes, and duplicate keys because the
earlier value would be dropped in silence.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import yaml

from bridge_core.config.documents import Fault

MAX_FILE_CHARS: Final = 1024 * 1024
_MAX_DEPTH: Final = 32
_MAX_BITS: Final = 64
_UNREADABLE: Final = "\uffff"  # no character, and nothing that YAML may hold


class RawDocument(msgspec.Struct, frozen=True):
    """One document as plain data.

    Attributes:
        data: Its value.
        line: Where it begins, from 1.
        text: Its own source.
        lines: Dotted path to line.
    """

    data: Any
    line: int
    text: str
    lines: dict[str, int]


def decoded(data: bytes) -> str:
    """A file's text; `read` names the line of the first byte that is not UTF-8, beside other faults."""
    text = data.decode("utf-8", "surrogateescape")
    return "".join(_UNREADABLE if "\udc80" <= one <= "\udcff" else one for one in text)


def read(file: str, text: str) -> tuple[list[RawDocument], list[Fault]]:
    """The documents of `text`, empty ones left out, and what is wrong with it as YAML."""
    if len(text) > MAX_FILE_CHARS:
        return [], [Fault(file, 1, "", f"larger than {MAX_FILE_CHARS} characters")]
    if (at := text.find(_UNREADABLE)) >= 0:
        return [], [Fault(file, text.count("\n", 0, at) + 1, "", "not UTF-8")]
    documents: list[RawDocument] = []
    faults: list[Fault] = []
    try:
        loader = _Loader(text)
        while loader.check_node():
            node = loader.get_node()
            if node is None or (isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null")):
                continue
            reader = _Reader(file, loader)
            data = reader.build(node, "", 0)
            faults += reader.faults
            if not reader.faults:
                source = text[node.start_mark.index : node.end_mark.index].rstrip() + "\n"
                documents.append(RawDocument(data, node.start_mark.line + 1, source, reader.lines))
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        line = mark.line + 1 if mark is not None else 1
        faults.append(Fault(file, line, "", f"not YAML: {fault.problem or 'cannot be read'}"))
    except yaml.YAMLError as fault:
        faults.append(Fault(file, 1, "", f"not YAML: {str(fault).splitlines()[0]}"))
    except RecursionError:
        faults.append(Fault(file, 1, "", "nested too deeply"))
    return documents, faults


class _Loader(yaml.SafeLoader):
    """Stops at an alias."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # PyYAML's stubs
            raise yaml.MarkedYAMLError(problem="aliases are not taken, write it out", problem_mark=mark)
        return super().compose_node(parent, index)


class _Reader:
    """Turns one document's nodes into data, noting lines and faults on the way."""

    def __init__(self, file: str, loader: yaml.SafeLoader) -> None:
        self.faults: list[Fault] = []
        self.lines: dict[str, int] = {}
        self._file = file
        self._loader = loader

    def build(self, node: yaml.Node, path: str, depth: int) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        if depth > _MAX_DEPTH:
            self._fault(line, path, "nested too deeply")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, f"{path}[{at}]", depth + 1) for at, item in enumerate(node.value)]
        try:
            value = self._loader.construct_object(node)
        except (yaml.MarkedYAMLError, ValueError) as fault:
            reason = fault.problem if isinstance(fault, yaml.MarkedYAMLError) else str(fault)
            self._fault(line, path, f"cannot be read: {reason}")
            return None
        except (
            AttributeError,
            LookupError,
            TypeError,
            OverflowError,
        ):  # PyYAML's, of `!!bool x` and its like
            self._fault(line, path, f"cannot be read: it is no {node.tag.rpartition(':')[2]}")
            return None
        if isinstance(value, int) and value.bit_length() > _MAX_BITS:
            # Written in hex it would be read, and could then not be shown: Python writes no such number.
            self._fault(line, path, "the number is too large")
            return None
        return value

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            # Keys are taken as they are written: `on:` and `1:` are the strings "on" and "1".
            if not isinstance(key_node, yaml.ScalarNode):
                self._fault(line, path, "keys have to be plain strings")
                continue
            key = key_node.value
            below = f"{path}.{key}" if path else key
            if key in result:
                self._fault(line, below, "this key is there twice")
                continue
            self.lines[below] = line
            result[key] = self.build(value_node, below, depth + 1)
        return result

    def _fault(self, line: int, path: str, message: str) -> None:
        self.faults.append(Fault(self._file, line, path, message))
