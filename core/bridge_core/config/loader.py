"""Files of documents, read and checked whole: every fault at once, each with its file and line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from pydantic import ValidationError

from bridge_core.config.convert import node_class
from bridge_core.config.cross_checks import cross_check
from bridge_core.config.documents import (
    API_VERSION,
    LATER_KINDS,
    MODELS,
    SECURITY_API_VERSION,
    Document,
    Fault,
    NodeClassSpec,
    line_at,
)
from bridge_core.config.node_class_checks import faults as node_class_faults
from bridge_core.config.yaml_lines import RawDocument, read
from bridge_core.node_class import NodeClass

# What pydantic says, in the words of somebody who reads YAML.
_WORDS: Final = {
    "missing": "is missing",
    "extra_forbidden": "is not a known key",
    "string_type": "should be a string: put it in quotes",
    "int_type": "should be a whole number",
    "float_type": "should be a number",
    "list_type": "should be a list",
    "dict_type": "should be a mapping",
    "model_type": "should be a mapping",
    "model_attributes_type": "should be a mapping",
}


class LoadedDocuments(msgspec.Struct, frozen=True):
    """What files hold. Documents are to be used only when there are no faults."""

    documents: tuple[Document, ...]
    faults: tuple[Fault, ...]


def load(
    files: Iterable[tuple[str, str]],
    *,
    trust_domain: str | None = None,
    applied: Mapping[str, str] | None = None,
    alone: bool = False,
) -> LoadedDocuments:
    """The documents of `files`, pairs of name and text.

    Args:
        files: What to read.
        trust_domain: The mesh's own; a Mesh document that names another is at fault.
        applied: Other documents that will be in force beside these ("<kind>/<name>" to YAML), for
            the checks between documents. One that `files` also has is replaced by it.
        alone: Leave out what documents have to be to each other: they were checked together before.
    """
    documents: list[Document] = []
    faults: list[Fault] = []
    for file, text in files:
        raw, found = read(file, text)
        faults += found
        for item in raw:
            result = _document(file, item)
            if isinstance(result, Document):
                documents.append(result)
            else:
                faults += result
    if alone:
        return LoadedDocuments(tuple(documents), tuple(sorted(set(faults))))
    beside = _applied_documents(applied or {}, {document.key for document in documents})
    faults += cross_check(documents, beside, trust_domain)
    return LoadedDocuments(tuple(documents), tuple(sorted(set(faults))))


def _document(file: str, raw: RawDocument) -> Document | list[Fault]:
    def fault(path: str, message: str) -> Fault:
        return Fault(file, line_at(raw.lines, path, raw.line), path, message)

    if not isinstance(raw.data, dict):
        return [fault("", "a document is a mapping with apiVersion, kind, metadata and spec")]
    kind, version = raw.data.get("kind"), raw.data.get("apiVersion")
    if isinstance(kind, str) and kind in LATER_KINDS and version in {API_VERSION, SECURITY_API_VERSION}:
        return [fault("kind", f"{kind} is not yet supported by this version")]
    if not isinstance(kind, str) or kind not in MODELS:
        known = ", ".join(MODELS)
        says = "is missing" if kind is None else f"{kind!r} is not a known kind"
        return [fault("kind", f"{says}: one of {known}")]
    if version != API_VERSION:
        says = "is missing" if version is None else f"{version!r} is not known"
        return [fault("apiVersion", f"{says}: {kind} has {API_VERSION}")]
    try:
        parsed = MODELS[kind].model_validate(raw.data)
    except ValidationError as error:
        return [fault(path, message) for path, message in _said(error)]
    return Document(parsed, file, raw.line, raw.text, raw.lines)


def own_node_class(data: object) -> NodeClass:
    """The NodeClass of a spec that a node has for itself, outside mesh_config.

    Raises:
        ValueError: every fault of it, each with its path.
    """
    try:
        spec = NodeClassSpec.model_validate(data)
    except ValidationError as error:
        faults = _said(error)
    else:
        faults = list(node_class_faults(spec))
    if faults:
        raise ValueError("; ".join(f"{path}: {message}" if path else message for path, message in faults))
    return node_class("own", spec)


def _said(error: ValidationError) -> list[tuple[str, str]]:
    return [(_path(item["loc"]), _say(item)) for item in error.errors(include_url=False)]


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _say(item: Mapping[str, Any]) -> str:
    words = _WORDS.get(item["type"])
    if words is None:
        message: str = item["msg"]
        words = message.removeprefix("Input ").removeprefix("Value ")
    given = item.get("input")
    shown = item["type"] not in {"missing", "extra_forbidden"} and isinstance(given, str | int | float)
    return f"{words}, not {given!r}" if shown and "quotes" not in words else words


def _applied_documents(applied: Mapping[str, str], replaced: set[str]) -> list[Document]:
    documents = []
    for key, text in applied.items():
        if key in replaced:
            continue
        for raw in read(key, text)[0]:
            result = _document(key, raw)
            # What an older version applied and this one cannot read is not this caller's fault.
            if isinstance(result, Document):
                documents.append(result)
    return documents
