"""What policies are about, by every name that it goes by. Pure.

A model is one thing under many spellings (`x`, `X:latest`, `library/x`, `registry.ollama.ai/library/x`), so
both sides are brought to the canonical one before they are compared. A pattern is compared with every
lower-case spelling of the name, and its `*` does not go over a slash: `llama*` is about models called so,
and not about `llama.example/a/b`, which is anybody's.
"""

from __future__ import annotations

from typing import Final

from bridge_core.names import (
    DEFAULT_HOST,
    DEFAULT_NAMESPACE,
    DEFAULT_TAG,
    InvalidName,
    ModelName,
    canonical,
    canonical_or_same,
)
from bridge_core.policy.globs import ANY, Glob
from bridge_core.policy.statements import ResourceKind

SLASH: Final = "/"
_NO_NAME: Final = ""


def is_pattern(name: str) -> bool:
    """Whether a resource's name stands for several."""
    return ANY in name


def exact(kind: ResourceKind, name: str) -> str:
    """The one spelling of a name that is no pattern."""
    return canonical_or_same(name) if kind == "Model" else name


def pattern(kind: ResourceKind, name: str) -> Glob:
    """The pattern that a resource's name is."""
    return Glob(name.lower(), SLASH) if kind == "Model" else Glob(name)


def spellings(kind: ResourceKind, name: str) -> tuple[str, ...]:
    """What patterns are compared with, of an exact name; what is no model's name fits none but `*`."""
    if kind != "Model":
        return (name,)
    try:
        parts = ModelName.parse(name)
    except InvalidName:
        return (_NO_NAME,)
    host, namespace = parts.host.lower(), parts.namespace.lower()
    model, tag = parts.model.lower(), parts.tag.lower()
    stems = [f"{host}/{namespace}/{model}"]
    if host == DEFAULT_HOST:
        stems.append(f"{namespace}/{model}")
        if namespace == DEFAULT_NAMESPACE:
            stems.append(model)
    found = [f"{stem}:{tag}" for stem in stems]
    return (*found, *stems) if tag == DEFAULT_TAG else tuple(found)


def is_model(name: str) -> bool:
    """Whether a resource's name, which is no pattern, can be a model's or a route's."""
    try:
        canonical(name)
    except InvalidName:
        return False
    return True
