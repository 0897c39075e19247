"""Model names, read and compared as Ollama does.

Rules:
1. A name is `[scheme://][host/][namespace/]model[:tag]`; what is absent is `registry.ollama.ai`,
   `library` and `latest`.
2. A tag is what follows the last colon, if no slash follows that colon.
3. Names are one model when all parts agree without regard to ASCII case; `canonical` is the
   lower-cased full spelling, so equal names are equal strings.
4. Parts begin with a letter, digit or underscore and go on with these, `-`, `.` and (host only)
   `:`; a namespace has no `.`. They have 1 to 80 characters, a host up to 350.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

import msgspec

from bridge_core.errors import BridgeError

DEFAULT_HOST: Final = "registry.ollama.ai"
DEFAULT_NAMESPACE: Final = "library"
DEFAULT_TAG: Final = "latest"

_HOST: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")


class InvalidName(BridgeError):
    """Not a model name by Ollama's rules."""


class ModelName(msgspec.Struct, frozen=True):
    """A model's name in its four parts, spelled as written, defaults filled in."""

    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def parse(cls, name: str) -> ModelName:
        """Reads a name in any spelling.

        Raises:
            InvalidName: a part is empty, too long or has a character it may not have.
        """
        rest, tag = name, DEFAULT_TAG
        if rest.rfind(":") > rest.rfind("/"):
            rest, _, tag = rest.rpartition(":")
        head, slash, model = rest.rpartition("/")
        namespace, host = DEFAULT_NAMESPACE, DEFAULT_HOST
        if slash:
            head, slash, namespace = head.rpartition("/")
            if slash:
                scheme, separator, after = head.partition("://")
                host = after if separator else scheme
        parts = cls(host, namespace, model, tag)
        if not parts._valid():
            raise InvalidName("invalid model name")
        return parts

    def _valid(self) -> bool:
        return (
            _HOST.fullmatch(self.host) is not None
            and _NAMESPACE.fullmatch(self.namespace) is not None
            and _PART.fullmatch(self.model) is not None
            and _PART.fullmatch(self.tag) is not None
        )

    def __str__(self) -> str:
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    def short(self) -> str:
        """The shortest spelling that still has a tag, as Ollama lists models."""
        text = f"{self.model}:{self.tag}"
        if self.host.lower() != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{text}"
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{text}"
        return text


@lru_cache(maxsize=4096)
def canonical(name: str) -> str:
    """The one spelling of a model's name: all four parts, lower case.

    Raises:
        InvalidName: `name` is not a model name.
    """
    return str(ModelName.parse(name)).lower()


def display(name: str) -> str:
    """The short form of a name: `x:latest`, `team/x:7b`, `host/team/x:7b`.

    Raises:
        InvalidName: `name` is not a model name.
    """
    return ModelName.parse(name).short()


@lru_cache(maxsize=4096)
def display_or_same(name: str) -> str:
    """The short form of a name, or `name` itself where it is no model's name."""
    try:
        return display(name)
    except InvalidName:
        return name


def natural(name: str) -> tuple[str, int, str]:
    """Sorts node10 after node9."""
    stem = name.rstrip("0123456789")
    return stem, int(name[len(stem) :][:18] or 0), name


def canonical_or_same(name: str) -> str:
    """The canonical name, or `name` itself where it is no model's name: it then equals no other."""
    try:
        return canonical(name)
    except InvalidName:
        return name
