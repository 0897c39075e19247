"""The kinds of mesh_config and their schemas.

A kind is added by a spec class here, its conversion in `convert`, and what checks it against other
documents in `cross_checks`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

API_VERSION: Final = "bridge.deepseek.io/v1"
SECURITY_API_VERSION: Final = "security.deepseek.io/v1"

Kind: TypeAlias = Literal["Mesh", "ModelRoute"]
LATER_KINDS: Final = frozenset(
    {"Rollout", "NodeClass", "ModelAccessPolicy", "AutoscalePolicy", "AlertRule", "Quota"}
)

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_DURATION: Final = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h|d))+")
_DURATION_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")


def parse_duration(text: str) -> float:
    """Seconds of "90s", "1h30m", "250ms".

    Raises:
        ValueError: it is not a duration.
    """
    if not _DURATION.fullmatch(text):
        raise ValueError("not a duration")
    return sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text))


def _duration(value: Any) -> float:
    if isinstance(value, str):
        try:
            return parse_duration(value)
        except ValueError:
            pass
    raise PydanticCustomError("duration", "should be a duration such as 5s, 250ms or 1h30m")


Duration: TypeAlias = Annotated[
    float,
    BeforeValidator(_duration),
    WithJsonSchema({"type": "string", "pattern": f"^{_DURATION.pattern}$", "examples": ["5s", "1h30m"]}),
]


class _Strict(BaseModel):
    """Unknown keys and wrong types are faults: a misspelt key must not be silently without effect."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, alias_generator=to_camel, populate_by_name=False
    )


class Metadata(_Strict):
    """What every document has."""

    name: str = Field(min_length=1, max_length=512, description="Unique among documents of its kind.")
    labels: dict[str, str] = Field(default_factory=dict, description="For people; the Bridge ignores them.")


class MeshSpec(_Strict):
    """Mesh-wide settings. One document of this kind, named `mesh`."""

    trust_domain: str | None = Field(
        default=None, description="The mesh's name in every identity. Fixed at init: a check, no setting."
    )
    lease_ttl: Duration = Field(
        default=5.0, ge=1.0, le=300.0, description="How long a silent instance stays on the ring (1s–300s)."
    )
    ring_points: int = Field(
        default=160, ge=4, le=4096, multiple_of=4, description="Points of an instance of weight 100."
    )
    bounded_load: float = Field(
        default=0.25,
        ge=0.0,
        le=10.0,
        description="An instance over (1 + this) × its fair share is passed over.",
    )
    certificate_ttl: Duration = Field(
        default=86_400.0, ge=300.0, le=2_592_000.0, description="Life of a node's certificate (5m–30d)."
    )


class BackendSpec(_Strict):
    """One target of a route."""

    model: str = Field(min_length=1, max_length=512, description="A model, in any spelling Ollama takes.")
    weight: int = Field(default=100, ge=0, le=1_000_000, description="Its share among the backends' weights.")


class ModelRouteSpec(_Strict):
    """A virtual model: requests for its name go to its backends."""

    backends: list[BackendSpec] = Field(min_length=1, max_length=64)
    strategy: Literal["ring_hash"] = Field(default="ring_hash", description="How an instance is chosen.")
    affinity: Literal["session"] = Field(default="session", description="What stays on one instance.")
    deadline: Duration | None = Field(
        default=None, gt=0.0, le=86_400.0, description="A whole request may take this long."
    )
    fallback: str | None = Field(
        default=None, min_length=1, max_length=512, description="The model or route if no backend can answer."
    )


class MeshDocument(_Strict):
    """apiVersion, kind, metadata and spec of a Mesh."""

    api_version: Literal["bridge.deepseek.io/v1"]
    kind: Literal["Mesh"]
    metadata: Metadata
    spec: MeshSpec


class ModelRouteDocument(_Strict):
    """apiVersion, kind, metadata and spec of a ModelRoute."""

    api_version: Literal["bridge.deepseek.io/v1"]
    kind: Literal["ModelRoute"]
    metadata: Metadata
    spec: ModelRouteSpec


AnyDocument: TypeAlias = MeshDocument | ModelRouteDocument
MODELS: Final[dict[str, type[MeshDocument | ModelRouteDocument]]] = {
    "Mesh": MeshDocument,
    "ModelRoute": ModelRouteDocument,
}


class Fault(msgspec.Struct, frozen=True, order=True):
    """What is wrong, and where.

    Attributes:
        file: As named by whoever sent it.
        line: From 1.
        path: Dotted path in the document, e.g. `spec.backends[1].weight`; may be empty.
        message: One sentence without a period.
    """

    file: str
    line: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{self.file}:{self.line}: {where}{self.message}"


class Document(msgspec.Struct, frozen=True):
    """A valid document and where it came from."""

    parsed: AnyDocument
    file: str
    line: int
    text: str
    lines: dict[str, int]

    @property
    def kind(self) -> str:
        """Its kind."""
        return self.parsed.kind

    @property
    def name(self) -> str:
        """Its name as written."""
        return self.parsed.metadata.name

    @property
    def key(self) -> str:
        """`<kind>/<name>`: its place among the applied documents."""
        return f"{self.kind}/{self.name}"

    def fault(self, path: str, message: str) -> Fault:
        """A fault of this document at `path`."""
        return Fault(self.file, line_at(self.lines, path, self.line), path, message)


def line_at(lines: dict[str, int], path: str, default: int) -> int:
    """The line of `path` or of the nearest thing around it."""
    while path:
        if path in lines:
            return lines[path]
        cut = max(path.rfind("."), path.rfind("["))
        path = path[:cut] if cut > 0 else ""
    return default
