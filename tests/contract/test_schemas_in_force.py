"""A schema that is converted is in force at the runner, which answers prose where it fails on one.

Its `generation_settings.grammar` names the schema either way: only the text shows whether it held.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bridge_core.dialects.errors import ApiError
from bridge_engine import modelgen
from bridge_engine.json_watch import JsonWatch
from bridge_engine.runner.process import Runner
from bridge_engine.schema import converted
from tests.runner_bed import runner_spec

pytestmark = [pytest.mark.llamacpp]

NAMED: dict[str, Any] = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
NUMBER: dict[str, Any] = {"type": "number"}

SCHEMAS: list[dict[str, Any]] = [
    NAMED,
    {"type": "object"},
    {**NAMED, "additionalProperties": True},
    {**NAMED, "additionalProperties": {"type": "null"}},
    {"properties": {"a": {"$ref": "#/$defs/N"}}, "required": ["a"], "$defs": {"N": NAMED}},
    {"properties": {"left": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["left"]},
    {"$ref": "#/definitions/one~1n", "properties": {"m": NUMBER}, "definitions": {"one/n": NAMED}},
    {"allOf": [NAMED, {"properties": {"m": NUMBER}, "required": ["m"]}]},
    {"anyOf": [NAMED, {"type": "null"}]},
    {"oneOf": [{"type": "string", "maxLength": 3}, NAMED]},
    {"properties": {"id": {}}, "required": ["id"], "anyOf": [NAMED, {"required": ["id"]}]},
    {"type": ["integer", "null"]},
    {"enum": ["x", 1, None, True, {"a": [1.5]}, 'é"\\']},
    {"const": {"a": 1}},
    {"type": "array", "items": NAMED, "minItems": 1, "maxItems": 3},
    {"type": "array", "prefixItems": [NUMBER, NAMED], "minItems": 2},
    {"type": "string", "minLength": 1, "maxLength": 9},
    *({"type": "string", "pattern": one} for one in ("^[a-z]{2,4}$", r"^\d+(-\w)?$", "a|b", "^é$", "^$")),
    *({"type": "string", "format": one} for one in ("date", "time", "uuid", "ipv4", "email", "odd")),
    {"type": "integer", "minimum": 3, "maximum": 7},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.5},
    {"type": "integer", "multipleOf": 5, "minimum": 10},
    {"type": "integer", "multipleOf": 0.75, "maximum": 10**15},
    {"type": "number", "multipleOf": 0.05, "minimum": -20, "maximum": 0},
    {"anyOf": [{"type": "integer", "multipleOf": step, "maximum": 10**15} for step in range(990, 1000)]},
    {"type": "array", "items": {"type": "array", "items": NAMED, "minItems": 5000}, "maxItems": 5000},
    {**NAMED, "title": "t", "description": "d", "default": 1, "$schema": "odd", "x-mine": {}},
]  # fmt: skip


# What the converter refuses, as a client sent it.
UNCONVERTED: list[dict[str, Any]] = [
    {"properties": {"b": {"$ref": "#/$defs/B"}}, "required": ["b"]},
    {"type": "array", "uniqueItems": True},
    {"type": "string", "pattern": "(?=a)b"},
    {"type": "number", "multipleOf": 2, "exclusiveMaximum": 0},
    {"type": "number", "multipleOf": 0.07},
    {"type": "array", "items": NAMED, "maxItems": 100_000},
]


async def test_what_is_converted_holds_and_what_is_not_would_be_prose(tmp_path: Path) -> None:
    modelgen.generate(tmp_path / "tiny.gguf", modelgen.PRESETS["tiny"])
    spec = runner_spec(tmp_path / "tiny.gguf", num_ctx=256, batch=64, micro_batch=64, use_mmap=True)
    runner = await Runner.start(spec, stall_s=60.0)
    sampling = {"prompt": "x", "stream": False, "n_predict": 24, "temperature": 2.0, "seed": 3}
    try:

        async def said(**format_: Any) -> str:
            answer = await runner.call("/completion", {**sampling, **format_})
            if format_:
                assert answer["generation_settings"]["grammar"]
            return str(answer["content"])

        prose = await said()
        assert not JsonWatch().feed(prose), "this model's own text has to be told from JSON"
        for schema in SCHEMAS:
            assert JsonWatch().feed(text := await said(json_schema=converted(schema))), (schema, text)
        for schema in UNCONVERTED:
            assert await said(json_schema=schema) == prose, schema
            with pytest.raises(ApiError):
                converted(schema)
    finally:
        await runner.stop()
