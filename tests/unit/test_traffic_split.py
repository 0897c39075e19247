from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_core.traffic import Backend, Route, shares, split


def route(*weights: int, salt: str = "") -> Route:
    return Route("chat", tuple(Backend(f"m{at}", weight) for at, weight in enumerate(weights)), salt=salt)


def first(of: Route, number: int) -> str:
    return split(of, b"key %d" % number)[0].key


@pytest.mark.parametrize("weights", [(90, 10), (70, 20, 10), (1, 1), (9999, 1)])
def test_keys_fall_to_backends_by_weight(weights):
    count = 10_000
    found = [first(route(*weights), number) for number in range(count)]
    for at, weight in enumerate(weights):
        assert found.count(f"m{at}") / count == pytest.approx(weight / sum(weights), abs=0.01)


def test_a_backend_without_weight_gets_nothing():
    assert [backend.key for backend in split(route(0, 5, 0), b"key")] == ["m1"]
    assert split(route(0), b"key") == ()


@given(
    key=st.binary(max_size=40),
    before=st.integers(0, 1000),
    more=st.integers(1, 1000),
    other=st.integers(1, 1000),
)
def test_raising_a_weight_moves_keys_to_that_backend_alone(key, before, more, other):
    old, new = (split(route(other, canary, other), key)[0].key for canary in (before, before + more))
    assert new in {old, "m1"}


def test_a_canary_that_grows_from_10_to_20_percent_takes_a_ninth_of_the_stable_side():
    ten, twenty = route(90, 10), route(80, 20)
    moved = [(first(ten, number), first(twenty, number)) for number in range(5_000)]
    assert ("m1", "m0") not in moved
    assert moved.count(("m0", "m1")) / 5_000 == pytest.approx(0.1, abs=0.02)


def test_the_split_is_the_same_in_every_process_and_version():
    order = [
        "".join(first(route(3, 2, 1, salt=salt), number)[1] for number in range(24)) for salt in ("", "s")
    ]
    assert order == FROZEN


FROZEN = ["021010122112102110111011", "010202011120200222000021"]


def test_shares_are_of_the_weights():
    assert shares(route(3, 1).backends) == {"m0": 0.75, "m1": 0.25}
    assert shares(route(0).backends) == {"m0": 0.0}


def test_a_route_is_the_same_after_a_trip_through_a_snapshot():
    value = msgspec.structs.replace(route(3, 1), salt="s")
    assert msgspec.json.decode(msgspec.json.encode(value), type=Route) == value
