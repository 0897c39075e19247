"""Schemas of clients: converted whole, or refused with the keyword's name; never dropped in silence."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_core.dialects.errors import ApiError
from bridge_engine.schema import DEEPEST, MOST_PARTS, converted

AGE = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
CLOSED_AGE = {**AGE, "additionalProperties": False}
ITSELF = {"$ref": "#/$defs/A"}


def test_objects_are_closed_unless_they_say_otherwise() -> None:
    assert converted({"type": "object", "properties": {"a": AGE}}) == {
        "type": "object",
        "properties": {"a": CLOSED_AGE},
        "additionalProperties": False,
    }
    assert "additionalProperties" not in AGE
    assert converted({"type": "object"}) == {"type": "object"}
    assert converted({**AGE, "additionalProperties": True})["additionalProperties"] is True
    assert converted({"properties": {"type": {"type": "string"}}})["properties"]["type"] == {"type": "string"}


def test_references_are_resolved_once_and_may_recur() -> None:
    tree = {"properties": {"left": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["left"]}
    found = converted(tree)
    reference = found["properties"]["left"]["anyOf"][0]["$ref"]
    assert found["$defs"][reference.removeprefix("#/$defs/")]["properties"] == found["properties"]
    people = {"type": "array", "items": {"$ref": "#/definitions/one~1person"}}
    found = converted(people | {"definitions": {"one/person": AGE}})
    assert list(found["$defs"].values()) == [CLOSED_AGE]


def test_what_stands_beside_a_reference_counts() -> None:
    beside = {"$ref": "#/$defs/A", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    found = converted({**beside, "$defs": {"A": AGE}})
    assert set(found["properties"]) == set(found["required"]) == {"age", "name"}


def test_all_of_is_merged_and_one_of_counts_as_any_of() -> None:
    name = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    found = converted({"allOf": [AGE, name]})
    assert found == {
        "type": "object",
        "properties": {"age": {"type": "integer"}, "name": {"type": "string"}},
        "required": ["age", "name"],
        "additionalProperties": False,
    }
    assert converted({"oneOf": [AGE, {"type": "null"}]}) == {"anyOf": [CLOSED_AGE, {"type": "null"}]}
    both = converted({"type": "object", "properties": {"id": {}}, "anyOf": [AGE, {"required": ["id"]}]})
    assert [set(branch["properties"]) for branch in both["anyOf"]] == [{"id", "age"}, {"id"}]


def test_annotations_are_left_out_and_bounds_are_said_in_one_way() -> None:
    noisy = {"title": "t", "$schema": "any", "description": "d", "default": 1, "x-mine": 1}
    assert converted({"type": "string", "format": "uri", **noisy}) == {"type": "string"}
    assert converted({"type": "integer", "exclusiveMinimum": 3, "maximum": 9.5}) == {
        "type": "integer",
        "minimum": 4,
        "maximum": 9,
    }
    assert converted({"type": "number", "minimum": 3, "exclusiveMinimum": True}) == {
        "type": "number",
        "exclusiveMinimum": 3,
    }


def test_steps_of_whole_numbers_are_whole_and_a_step_of_one_says_nothing() -> None:
    for step, found in ((0.5, None), (1, None), (0.75, 3), (2.5, 5), (4, 4), (0.0007, 7)):
        whole = converted({"type": "integer", "multipleOf": step})
        assert whole == {"type": "integer"} | ({} if found is None else {"multipleOf": found})
    assert converted({"type": "number", "multipleOf": 0.05})["multipleOf"] == 0.05


REFUSED = {
    "$ref": [
        {"type": "object", "properties": {"b": {"$ref": "#/$defs/B"}}, "required": ["b"]},
        {"$ref": "https://example.com/x.json"},
        {"$ref": "#anchor"},
        {**ITSELF, "$defs": {"A": ITSELF}},
        {**ITSELF, "$defs": {"A": {"anyOf": [ITSELF, {"type": "null"}]}}},
        {**ITSELF, "$defs": {"A": {"type": "object", "properties": {"n": ITSELF}, "required": ["n"]}}},
        {**ITSELF, "$defs": {"A": {"allOf": [ITSELF, {"type": "object"}]}}},
    ],
    "not": [{"not": {}}, {"type": "object", "properties": {"a": {"not": {"type": "string"}}}}],
    "if": [{"if": {}, "then": {}}],
    "uniqueItems": [{"type": "array", "uniqueItems": True}],
    "contains": [{"type": "array", "contains": {}}],
    "propertyNames": [{"type": "object", "propertyNames": {"pattern": "a"}}],
    "dependentRequired": [{"type": "object", "dependentRequired": {"a": ["b"]}}],
    "unevaluatedProperties": [{"type": "object", "unevaluatedProperties": False}],
    "additionalProperties": [{"allOf": [{**AGE, "additionalProperties": False}, {"properties": {"b": {}}}]}],
    "pattern": [
        {"type": "string", "pattern": pattern}
        for pattern in (
            "(?=a)b",
            r"(a)\1",
            r"\bfoo",
            "[a-",
            "a^b",
            "(a{999}){999}",
            "a{,3}",
            "x" * 501,
            "a[[b",
            "[a[b]]",
            5,
        )
    ],
    "type": [{"allOf": [{"type": "string"}, {"type": "integer"}]}, {"type": []}],
    "enum": [{"enum": []}, {"type": "integer", "enum": ["a"]}, {"enum": 5}],
    "const": [{"type": "string", "const": 5}],
    "required": [{**AGE, "required": ["b"], "additionalProperties": False}, {**AGE, "required": "age"}],
    "minimum": [{"type": "integer", "minimum": 9, "maximum": 3}, {"type": "number", "minimum": "x"}],
    "multipleOf": [
        {"type": "integer", "multipleOf": 10, "minimum": 1, "maximum": 9},
        {"type": "number", "multipleOf": 5, "minimum": -50, "maximum": -5},
        {"type": "number", "multipleOf": 5, "exclusiveMaximum": 0},
        {"type": "integer", "multipleOf": 1001},
        {"type": "number", "multipleOf": 10.01},
        {"type": "number", "multipleOf": 0.07},  # 0.7000000000000001 tenths
        {"type": "number", "multipleOf": 1e-7},
        {"anyOf": [{"type": "integer", "multipleOf": step} for step in range(980, 1000)]},
    ],
    "maxItems": [{"type": "array", "maxItems": 10_001}],
    "minItems": [
        {"type": "array", "minItems": 10**6},
        {"type": "array", "minItems": 2, "maxItems": 1},
        {"type": "array", "maxItems": 5001, "items": {"type": "array", "minItems": 5000}},
    ],
    "minProperties": [{"type": "object", "properties": {"a": {}}, "minProperties": 1}],
    "properties": [{"type": "object", "properties": []}],
    "anyOf": [{"anyOf": []}, {"anyOf": {}}],
    "allOf": [{"allOf": {}}],
}


@pytest.mark.parametrize(
    ("keyword", "schema"), [(keyword, schema) for keyword, schemas in REFUSED.items() for schema in schemas]
)
def test_what_cannot_be_converted_is_refused_by_name(keyword: str, schema: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as fault:
        converted(schema)
    assert fault.value.status == 400
    assert json.dumps(keyword) in fault.value.message


def test_an_unknown_type_is_refused_in_llama_cpps_words() -> None:
    with pytest.raises(ApiError, match="unrecognized type nonsense"):
        converted({"type": "array", "items": {"type": "nonsense"}})


def test_depth_and_size_are_bounded() -> None:
    deep: dict[str, Any] = {}
    for _ in range(DEEPEST + 1):
        deep = {"type": "array", "items": deep}
    with pytest.raises(ApiError, match="too deeply"):
        converted(deep)
    with pytest.raises(ApiError, match="too large"):
        converted({"enum": list(range(MOST_PARTS + 1))})
    doubling: dict[str, Any] = {"D0": {"type": "object", "properties": {"a": {}}}}
    for number in range(40):  # merged, each reference would double what comes before it
        inner = {"$ref": f"#/$defs/D{number}"}
        properties = {"a": {**inner, "minProperties": 0}, "b": {**inner, "maxProperties": 9}}
        doubling[f"D{number + 1}"] = {"type": "object", "properties": properties}
    with pytest.raises(ApiError, match=r"too large|too deeply"):
        converted({"$ref": "#/$defs/D40", "$defs": doubling})


KEYWORDS = [
    *("type", "properties", "required", "items", "prefixItems", "additionalProperties", "patternProperties"),
    *("anyOf", "oneOf", "allOf", "$ref", "$defs", "enum", "const", "pattern", "format", "minLength"),
    *("minItems", "maxItems", "minimum", "exclusiveMaximum", "multipleOf", "maxProperties", "not"),
]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["object", "array", "string", "number", "a", "#", "#/$defs/a", "[", "^a$", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*KEYWORDS, "a", "b"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(KEYWORDS), VALUES, max_size=5))
def test_any_schema_is_converted_or_refused(schema: dict[str, Any]) -> None:
    with contextlib.suppress(ApiError):
        converted(converted(schema))
