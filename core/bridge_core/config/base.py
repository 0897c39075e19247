"""What the specs of all kinds are made of."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from bridge_core.quantities import DURATION_PATTERN, SIZE_PATTERN, parse_duration, parse_size

MAX_LABELS: Final = 64


class Seconds(float):
    """A duration on its way through a schema, whose complaints then have units."""


class Bytes(int):
    """A size on its way through a schema."""


def _duration(value: Any) -> Seconds:
    if isinstance(value, str):
        try:
            return Seconds(parse_duration(value))
        except ValueError:
            pass
    raise PydanticCustomError("duration", "should be a duration such as 5s, 250ms or 1h30m")


def _size(value: Any) -> Bytes:
    if isinstance(value, int) and not isinstance(value, bool):
        return Bytes(value)
    if isinstance(value, str):
        try:
            return Bytes(parse_size(value))
        except ValueError:
            pass
    raise PydanticCustomError("size", "should be a size such as 512MiB, 1.5GiB or a number of bytes")


Duration: TypeAlias = Annotated[
    float,
    BeforeValidator(_duration),
    WithJsonSchema({"type": "string", "pattern": f"^{DURATION_PATTERN}$", "examples": ["5s", "1h30m"]}),
]
Size: TypeAlias = Annotated[
    int,
    BeforeValidator(_size),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": f"^{SIZE_PATTERN}$", "examples": ["512MiB", "1.5GiB"]},
            ]
        }
    ),
]
Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=512)]
LabelKey: TypeAlias = Annotated[str, Field(min_length=1, max_length=256)]
LabelValue: TypeAlias = Annotated[str, Field(max_length=1024)]
Labels: TypeAlias = Annotated[dict[LabelKey, LabelValue], Field(max_length=MAX_LABELS)]


class Strict(BaseModel):
    """Unknown keys and wrong types are faults: a misspelt key must not be silently without effect."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        alias_generator=to_camel,
        populate_by_name=False,
    )


class Metadata(Strict):
    """What every document has."""

    name: Name = Field(description="Unique among documents of its kind.")
    labels: Labels = Field(default_factory=dict, description="For people; the Bridge ignores them.")
