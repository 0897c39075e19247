"""A client's JSON Schema as llama.cpp's converters keep it, or a refusal that names the keyword. Pure.

A runner that cannot convert a schema generates without it and says nothing, so nothing may reach it
that it could fail on.

Rules:
1. What constrains is converted or refused by name; annotations and keywords that JSON Schema does not
   know are left out, as is a `format` without a grammar (to JSON Schema it is an annotation).
2. A `$ref` stays within the schema. Its target is converted once, so recursion costs nothing; a circle of
   references alone is refused.
3. `allOf`, and what stands beside `anyOf`, `oneOf` or `$ref`, is merged into one schema. `oneOf` counts as
   `anyOf`: a grammar cannot exclude that two branches match.
4. An object has no properties but those that it names, unless it says otherwise.
5. What nothing can satisfy is refused: the runner would ignore all of it.
6. Walks are bounded by DEEPEST and MOST_PARTS, and what a runner's grammar has to count by MOST_COUNTED.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NoReturn
from urllib.parse import unquote

from bridge_core.dialects.errors import ApiError
from bridge_engine.schema_values import Misfit, bounded, chosen, endless, merged, remainders_of, string_rules

DEEPEST: Final = 64
"""Schemas within each other."""
MOST_PARTS: Final = 20_000
"""Schemas and enumerated values in all, after references and branches were multiplied out."""

MOST_COUNTED: Final = 10_000
"""Items that all arrays may bound, and remainders of all `multipleOf`: each costs a runner something."""

_KINDS: Final = ("object", "array", "string", "number", "integer", "boolean", "null")
_REFUSED: Final = (
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "propertyNames",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "$dynamicRef",
    "$recursiveRef",
)
_REFUSED_UNLESS_FREE: Final = ("unevaluatedProperties", "unevaluatedItems", "uniqueItems")
_OBJECT: Final = (
    "properties",
    "required",
    "additionalProperties",
    "patternProperties",
    "minProperties",
    "maxProperties",
)
_ARRAY: Final = ("items", "prefixItems", "additionalItems", "minItems", "maxItems")
_OTHERS: Final = (
    "type",
    "enum",
    "const",
    "pattern",
    "format",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
)
_CONSTRAINS: Final = frozenset((*_OBJECT, *_ARRAY, *_OTHERS, "$ref", "anyOf", "oneOf", "allOf"))

Schema = dict[str, Any]


def converted(schema: Mapping[str, Any]) -> Schema:
    """The schema as a runner is sent it.

    Raises:
        ApiError: 400; names the keyword that cannot be converted, and where it stands.
    """
    converter = _Converter(schema)
    try:
        return converter.whole()
    except Misfit as fault:
        raise _refusal(fault.keyword, fault.problem, converter.place) from fault


class _Converter:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self.place = "#"  # the schema that is converted now, for messages
        self._root = root
        self._parts = 0
        self._counted_parts = 0
        self._names: dict[str, str] = {}  # of the converted targets, by their pointers
        self._waiting: list[str] = []  # pointers whose targets are still to be converted

    def whole(self) -> Schema:
        body = self._schema(self._root, "#", 0)
        targets: Schema = {}
        while self._waiting:
            pointer = self._waiting.pop()
            targets[self._names[pointer]] = self._schema(self._target(pointer), pointer, 0)
        circle = endless(body, targets)
        if circle:
            self.place = next(pointer for pointer, name in self._names.items() if name == circle)
            self._refuse("$ref", "leads back to itself before anything ends")
        return body | ({"$defs": targets} if targets else {})

    def _schema(self, schema: Any, place: str, depth: int) -> Schema:
        flat = self._flat(schema, place, depth)
        self.place = place
        if "$ref" in flat:
            return {"$ref": f"#/$defs/{self._name(flat['$ref'])}"}
        for keyword in ("anyOf", "oneOf"):
            if keyword in flat:
                return self._branches(keyword, flat, place, depth)
        return self._plain(flat, place, depth)

    def _enter(self, place: str, depth: int, parts: int = 1) -> None:
        self.place = place
        self._parts += parts
        if depth > DEEPEST:
            self._refuse("schema", "is nested too deeply")
        if self._parts > MOST_PARTS:
            self._refuse("schema", "is too large")

    def _count(self, keyword: str, number: int) -> None:
        self._counted_parts += number
        if self._counted_parts > MOST_COUNTED:
            self._refuse(keyword, f"is too large, alone or with others before it (over {MOST_COUNTED})")

    def _flat(self, schema: Any, place: str, depth: int, refs: tuple[str, ...] = ()) -> Schema:
        """The schema's own keywords that constrain, with `allOf` and what stands beside `$ref` merged."""
        self._enter(place, depth)
        if schema is True:
            return {}
        if not isinstance(schema, Mapping):
            self._refuse("schema", "is neither an object nor true")
        own = self._own(schema)
        others = []
        if "$ref" in own:
            pointer = self._pointer(own.pop("$ref"))
            if pointer in refs:
                self._refuse("$ref", f"{json.dumps(pointer)} leads back to itself")
            target = self._target(pointer)
            if not own:
                return {"$ref": pointer}
            others.append(
                self._expanded(self._flat(target, place, depth + 1, (*refs, pointer)), place, depth)
            )
        parts = own.pop("allOf", [])
        if not isinstance(parts, list):
            self._refuse("allOf", "must be a list")
        if len(parts) == 1 and not own and not others:
            return self._flat(parts[0], place, depth + 1, refs)
        others += [self._expanded(self._flat(part, place, depth + 1, refs), place, depth) for part in parts]
        self.place = place
        for other in others:
            own = merged(own, other)
        return own

    def _own(self, schema: Mapping[str, Any]) -> Schema:
        for keyword in _REFUSED:
            if keyword in schema:
                self._refuse(keyword)
        for keyword in _REFUSED_UNLESS_FREE:
            free = keyword != "uniqueItems"
            if schema.get(keyword, free) is not free:
                self._refuse(keyword)
        return {key: value for key, value in schema.items() if key in _CONSTRAINS}

    def _expanded(self, flat: Schema, place: str, depth: int, refs: tuple[str, ...] = ()) -> Schema:
        """A flat schema that is no mere reference."""
        while "$ref" in flat:
            pointer = flat["$ref"]
            refs = (*refs, pointer)
            flat = self._flat(self._target(pointer), place, depth + len(refs), refs)
        return flat

    def _branches(self, keyword: str, flat: Schema, place: str, depth: int) -> Schema:
        branches = flat.pop(keyword)
        if not isinstance(branches, list) or not branches:
            self._refuse(keyword, "must be a list of schemas")
        if "anyOf" in flat or "oneOf" in flat:
            self._refuse("oneOf", "cannot be converted beside anyOf")
        found = []
        for number, branch in enumerate(branches):
            inner = f"{place}/{keyword}/{number}"
            whole = branch
            if flat:
                own = self._expanded(self._flat(branch, inner, depth + 1), inner, depth + 1)
                self.place = place
                whole = merged(flat, own)
            found.append(self._schema(whole, inner, depth + 1))
        return {"anyOf": found}

    def _plain(self, flat: Schema, place: str, depth: int) -> Schema:
        kinds = self._kinds(flat)
        if "enum" in flat or "const" in flat:
            found = chosen(flat, kinds)
            self._enter(place, depth, len(found.get("enum", ())))
            return found
        if not kinds:
            return {}
        out: Schema = {"type": kinds[0] if len(kinds) == 1 else list(kinds)}
        if "string" in kinds:
            out |= string_rules(flat)
        if "integer" in kinds or "number" in kinds:
            out |= bounded(flat, whole="number" not in kinds)
            if "multipleOf" in out:
                self._count("multipleOf", remainders_of(out["multipleOf"]))
        if "array" in kinds:
            out |= self._array(flat, place, depth)
        if "object" in kinds:
            out |= self._object(flat, place, depth)
        return out

    def _kinds(self, flat: Schema) -> tuple[str, ...]:
        """The types; where none is named, the one that the keywords are for. Empty: any."""
        named = flat.get("type")
        if named is None:
            for kind, keywords in (("object", _OBJECT), ("array", _ARRAY)):
                if any(keyword in flat for keyword in keywords):
                    return (kind,)
            if any(keyword in flat for keyword in ("pattern", "format", "minLength", "maxLength")):
                return ("string",)
            if any(keyword in flat for keyword in _OTHERS[-5:]):
                return ("number",)
            return ()
        kinds = tuple(named) if isinstance(named, list) else (named,)
        if not kinds:
            self._refuse("type", "allows nothing")
        for kind in kinds:
            if kind not in _KINDS:
                raise _unknown_type(kind, self.place)
        return kinds

    def _array(self, flat: Schema, place: str, depth: int) -> Schema:
        out = bounded(flat, counts="Items")
        for keyword in ("minItems", "maxItems"):
            self._count(keyword, out.get(keyword, 0))
        items, first = flat.get("items"), flat.get("prefixItems")
        if isinstance(items, list):  # the form of older drafts
            items, first = flat.get("additionalItems"), items
        if first is not None:
            if not isinstance(first, list):
                self._refuse("prefixItems", "must be a list")
            out["prefixItems"] = [
                self._schema(item, f"{place}/prefixItems/{number}", depth + 1)
                for number, item in enumerate(first)
            ]
        if items is False:
            if out.get("minItems", 0) > len(first or ()):
                self._refuse("minItems", "asks for more than items allows")
            out["items"] = False
        elif items is not None:
            out["items"] = self._schema(items, f"{place}/items", depth + 1)
        return out

    def _object(self, flat: Schema, place: str, depth: int) -> Schema:
        out = bounded(flat, counts="Properties")
        required = flat.get("required", [])
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            self._refuse("required", "must be a list of names")
        given = self._named(flat, "properties")
        patterns = self._named(flat, "patternProperties")
        rest = flat.get("additionalProperties", not (given or patterns))
        properties: Schema = {}
        for name, schema in given.items():
            if schema is not False:
                properties[name] = self._schema(schema, f"{place}/properties/{name}", depth + 1)
            elif name in required:
                self._refuse("required", f"asks for {json.dumps(name)}, which properties forbids")
        self.place = place
        if rest is not True and rest is not False:
            rest = self._schema(rest, f"{place}/additionalProperties", depth + 1)
        for name in required:
            if name not in properties and not patterns:
                if flat.get("additionalProperties") is False:
                    self._refuse("required", f"asks for {json.dumps(name)}, which properties does not have")
                properties[name] = rest if isinstance(rest, dict) else {}
        if properties:
            out["properties"] = properties
        if required:
            out["required"] = list(dict.fromkeys(required))
        if patterns:
            out["patternProperties"] = {
                string_rules({"pattern": pattern})["pattern"]: self._schema(
                    schema, f"{place}/patternProperties/{pattern}", depth + 1
                )
                for pattern, schema in patterns.items()
            }
        if rest is not True or "additionalProperties" in flat:
            out["additionalProperties"] = rest
        return self._counted(out)

    def _counted(self, out: Schema) -> Schema:
        """The object without bounds on its number of properties that hold in any case."""
        properties, required = out.get("properties", {}), out.get("required", ())
        closed = out.get("additionalProperties") is False and "patternProperties" not in out
        if out.get("minProperties", 0) <= len(required):
            out.pop("minProperties", None)
        if closed and out.get("maxProperties", 0) >= len(properties):
            out.pop("maxProperties", None)
        for keyword in ("minProperties", "maxProperties"):
            if keyword in out and (properties or required or closed):
                self._refuse(keyword, "cannot be converted beside named properties")
        return out

    def _named(self, flat: Schema, keyword: str) -> Mapping[str, Any]:
        found = flat.get(keyword, {})
        if not isinstance(found, Mapping):
            self._refuse(keyword, "must be an object")
        return found

    # -- references

    def _name(self, pointer: str) -> str:
        if pointer not in self._names:
            self._names[pointer] = f"ref{len(self._names)}"
            self._waiting.append(pointer)
        return self._names[pointer]

    def _pointer(self, ref: Any) -> str:
        if not isinstance(ref, str) or (ref != "#" and not ref.startswith("#/")):
            self._refuse("$ref", f"{json.dumps(ref)} is not a place in this schema (#/…)")
        return ref

    def _target(self, pointer: str) -> Any:
        found: Any = self._root
        steps = pointer.split("/")[1:]
        for step in (unquote(step).replace("~1", "/").replace("~0", "~") for step in steps):
            if isinstance(found, Mapping) and step in found:
                found = found[step]
            elif isinstance(found, list) and step.isdecimal() and int(step[:6]) < len(found):
                found = found[int(step[:6])]
            else:
                self._refuse("$ref", f"{json.dumps(pointer)} leads nowhere")
        return found

    def _refuse(self, keyword: str, problem: str = "") -> NoReturn:
        raise _refusal(keyword, problem, self.place)


def _refusal(keyword: str, problem: str, place: str) -> ApiError:
    problem = problem or "cannot be made a grammar"
    what = "schema" if keyword == "schema" else f"schema keyword {json.dumps(keyword)}"
    where = "" if place == "#" else f" at {place[:200]}"
    return ApiError(400, f"invalid format: the {what}{where} {problem}; leave it out or say it otherwise")


def _unknown_type(kind: Any, place: str) -> ApiError:
    """In the words of llama.cpp's converter, which Ollama passes on."""
    problem = f"JSON schema error at {place[:200]}: unrecognized type {kind}"[:400]
    message = f"Field 'json_schema': \"json_schema\": JSON schema conversion failed:\n{problem}"
    about = {"code": 400, "message": message, "type": "invalid_request_error"}
    return ApiError(400, json.dumps({"error": about}, separators=(",", ":")), late=True)
