"""What the specs of all kinds are made of."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

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
Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=512)]


class Strict(BaseModel):
    """Unknown keys and wrong types are faults: a misspelt key must not be silently without effect."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, alias_generator=to_camel, populate_by_name=False
    )


class Metadata(Strict):
    """What every document has."""

    name: Name = Field(description="Unique among documents of its kind.")
    labels: dict[str, str] = Field(default_factory=dict, description="For people; the Bridge ignores them.")
