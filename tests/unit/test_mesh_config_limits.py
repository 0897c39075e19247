"""What documents may hold is bounded, what is wrong is named, and every key has its effect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from bridge_core.config import load
from bridge_core.config.base import Strict
from bridge_core.config.convert import policy
from bridge_core.config.route_spec import PolicySpec
from bridge_core.snapshot import RoutePolicy


def faults(text: str) -> list[str]:
    return [str(fault) for fault in load([("f", text)]).faults]


def a_route(spec: str) -> str:
    body = "".join(f"  {line}\n" for line in spec.splitlines())
    return f"apiVersion: bridge.deepseek.io/v1\nkind: ModelRoute\nmetadata: {{name: a}}\nspec:\n{body}"


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("backend: [{model: m}]", "f:5: spec.backend: is not a known key: did you mean backends?"),
        (
            "backends: [{model: m, weigth: 1}]",
            "f:5: spec.backends[0].weigth: is not a known key: did you mean weight?",
        ),
        (
            "backends: [{model: m}]\nretries: {per_try_timeout: 5s}",
            "f:6: spec.retries.per_try_timeout: is not a known key: did you mean perTryTimeout?",
        ),
        ("backends: [{model: m}]\nzzz: 1", "f:6: spec.zzz: is not a known key"),
        (
            f"backends: [{{model: m}}]\n{'backend' * 100}: 1",
            f"f:6: {('spec.' + 'backend' * 100)[:200]}… (705 characters): is not a known key",
        ),
    ],
)
def test_an_unknown_key_is_told_with_the_one_that_was_meant(spec: str, fault: str) -> None:
    assert fault in faults(a_route(spec))


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("deadline: 0s", "spec.deadline: should be greater than 0s, not 0s"),
        ("deadline: 2d", "spec.deadline: should be less than or equal to 1d, not 2d"),
        ("slowStart: 2h", "spec.slowStart: should be less than or equal to 1h, not 2h"),
        (
            "keepAliveBytes: 50ms",
            "spec.keepAliveBytes: should be greater than or equal to 100ms, not 50ms",
        ),
        ("retries: {attempts: 0}", "spec.retries.attempts: should be greater than or equal to 1, not 0"),
    ],
)
def test_bounds_of_durations_are_told_with_units(spec: str, fault: str) -> None:
    assert any(fault in one for one in faults(a_route(f"backends: [{{model: m}}]\n{spec}")))


def test_bounds_of_sizes_are_told_with_units() -> None:
    text = "apiVersion: bridge.deepseek.io/v1\nkind: NodeClass\nmetadata: {name: a}\nspec: "
    said = faults(text + "{limits: {memoryMax: 1KiB, pidsMax: 5}}")
    assert said == ["f:4: spec.limits.memoryMax: should be greater than or equal to 1 MiB, not 1KiB"]
    said = faults(text + "{isolation: {walls: [mount], tmpSize: 5}}")
    assert said == ["f:4: spec.isolation.tmpSize: should be greater than or equal to 1 MiB, not 5 B"]


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        (
            f"backends: [{{model: m, weight: 0x{'f' * 200_000}}}]",
            "f:5: spec.backends[0].weight: the number is too large",
        ),
        (
            f"backends: [{{model: m}}]\ndeadline: {'9' * 5_000}",
            "f:6: spec.deadline: the number is too large",
        ),
        (
            f"backends: [{{model: m, weight: {'1:' * 5000}1}}]",
            "f:5: spec.backends[0].weight: the number is too large",
        ),
        (
            f"backends: [{{model: m, weight: 0x{'f' * 60}}}]",
            "spec.backends[0].weight: the number is too large",
        ),
        ("backends: [{model: m}]\nboundedLoad: .nan", "f:6: spec.boundedLoad: should be a finite number"),
        ("backends: [{model: m}]\nboundedLoad: .inf", "f:6: spec.boundedLoad: should be a finite number"),
        (
            f"backends: [{{model: {'m' * 600}}}]",
            "f:5: spec.backends[0].model: String should have at most 512",
        ),
        (
            "backends: [{model: m, nodeLabels: {" + ", ".join(f"k{n}: v" for n in range(65)) + "}}]",
            "f:5: spec.backends[0].nodeLabels: has more than 64 entries",
        ),
        (
            "backends: [{model: m, nodeLabels: {k: " + "v" * 2000 + "}}]",
            "f:5: spec.backends[0].nodeLabels.k: String should have at most 1024",
        ),
        (
            f"? {'k' * 2000}\n: 1\nbackends: [{{model: m}}]",
            "f:5: spec: a key has 1024 characters at most, not 2,000",
        ),
        (
            f"backends: [{{model: m}}]\nx: [{'1,' * 100_001}]",
            "a document holds 100,000 values at most",
        ),
    ],
)
def test_whatever_is_written_is_bounded_where_it_stands(spec: str, fault: str) -> None:
    said = faults(a_route(spec))
    assert any(fault in one for one in said), [one[:200] for one in said]
    assert all(len(one) < 500 for one in said)


def test_cpusets_of_endless_numbers_are_refused() -> None:
    text = "apiVersion: bridge.deepseek.io/v1\nkind: NodeClass\nmetadata: {name: a}\n"
    text += "spec: {limits: {cpuset: '%s'}}"
    (said,) = faults(text % ("1-" + "9" * 5000))
    assert "spec.limits.cpuset: String should have at most 4096" in said


_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just("0x" + "f" * 5000)
)
_VALUES = st.recursive(
    _SCALARS,
    lambda below: st.one_of(
        st.lists(below, max_size=3), st.dictionaries(st.text(max_size=8), below, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(["backends", "deadline", "retries", "fallback", "x"]), _VALUES))
def test_whatever_a_spec_holds_is_valid_or_a_fault(spec: dict[str, Any]) -> None:
    document = {
        "apiVersion": "bridge.deepseek.io/v1",
        "kind": "ModelRoute",
        "metadata": {"name": "a"},
        "spec": spec,
    }
    import yaml

    loaded = load([("f", yaml.safe_dump(document))])
    assert loaded.faults or loaded.documents


def leaves(model: type[Strict], at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, (*at, name))
        else:
            yield (*at, name)


def other(value: object) -> object:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value / 2 if 0 < value <= 1 else value + 1
    return {"ring_hash": "round_robin", "conversation": "client", None: 7.0}[value]


@pytest.mark.parametrize("path", list(leaves(PolicySpec)), ids=".".join)
def test_every_key_of_a_policy_has_its_effect_and_no_other(path: tuple[str, ...]) -> None:
    spec: Any = PolicySpec()
    for name in path:
        spec = getattr(spec, name)
    given_ = other(spec)
    built: Any = given_
    for depth in reversed(range(len(path))):
        holder: Any = PolicySpec()
        for name in path[:depth]:
            holder = getattr(holder, name)
        built = type(holder).model_construct(_fields_set={path[depth]}, **{path[depth]: built})
    merged = msgspec.to_builtins(policy(RoutePolicy(), built))
    plain = msgspec.to_builtins(policy(RoutePolicy(), PolicySpec()))
    changed = {key for key in merged.keys() | plain.keys() if merged.get(key) != plain.get(key)}
    assert len(changed) == 1
    (key,) = changed
    inner = merged[key]
    assert given_ in inner.values() if isinstance(inner, dict) else inner == given_


def test_a_mesh_s_policy_stands_where_a_route_says_nothing() -> None:
    base = RoutePolicy(deadline_s=3.0, slow_start_s=4.0)
    merged = policy(base, PolicySpec.model_validate({"slowStart": "9s", "retries": {"attempts": 5}}))
    assert (merged.deadline_s, merged.slow_start_s, merged.retries.attempts) == (3.0, 9.0, 5)
    assert merged.retries.budget == base.retries.budget
    assert policy(base, PolicySpec.model_validate({"deadline": None})).deadline_s is None


def count(struct: type[msgspec.Struct]) -> int:
    kinds = [field.type for field in msgspec.structs.fields(struct)]
    return sum(
        count(kind) if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else 1 for kind in kinds
    )


def test_every_field_of_a_policy_is_reached_by_a_document() -> None:
    assert count(RoutePolicy) == len(list(leaves(PolicySpec)))
