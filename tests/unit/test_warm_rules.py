"""What is kept in the page cache: for which reasons, in which order, within which memory."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.models import page_cache
from bridge_agent.models.warm_rules import (
    ORDER_S,
    Blob,
    Demand,
    Warmable,
    budget,
    fits,
    is_warm,
    likely,
    wanted,
)
from bridge_core.holders import ModelHolders
from bridge_core.memory_room import available
from bridge_core.names import canonical
from bridge_core.snapshot import Backend, Route, Snapshot, Version, encode_entry


def model(name: str, *blobs: tuple[str, int], loaded: bool = False) -> Warmable:
    return Warmable(name, tuple(Blob(*blob) for blob in blobs or ((name, 10),)), loaded)


def names(models: list[Warmable]) -> list[str]:
    return [one.name for one in models]


def test_the_surest_come_first_and_what_does_not_fit_stops_nobody() -> None:
    models = [model("a", ("a", 10)), model("b", ("b", 100)), model("c", ("c", 5)), model("d", ("d", 1))]
    scores = {"a": 1.0, "b": 3.0, "c": 2.0}
    assert names(wanted(models, scores, 1000)[0]) == ["b", "c", "a"]
    taken, left_out = wanted(models, scores, 15)
    assert names(taken) == ["c", "a"]
    assert names(left_out) == ["b"]
    assert names(wanted(models, scores, 14)[0]) == ["c"]


def test_what_is_in_memory_takes_its_part() -> None:
    models = [model("a", ("a", 10), loaded=True), model("b", ("b", 10))]
    assert names(wanted(models, {"a": 2.0, "b": 1.0}, 19)[0]) == ["a"]


def test_a_blob_of_two_models_counts_once() -> None:
    models = [model("a", ("x", 10), ("p", 1)), model("b", ("x", 10), ("q", 1))]
    assert names(wanted(models, {"a": 2.0, "b": 1.0}, 12)[0]) == ["a", "b"]
    assert names(wanted(models, {"a": 2.0, "b": 1.0}, 11)[0]) == ["a"]


@given(
    st.dictionaries(
        st.sampled_from("abcdefgh"), st.tuples(st.integers(1, 50), st.floats(0.0, 5.0)), max_size=8
    ),
    st.integers(0, 200),
)
def test_the_budget_holds_and_nothing_surer_was_left_out_for_something_as_large(
    given_models: dict[str, tuple[int, float]], room: int
) -> None:
    models = [model(name, (name, size)) for name, (size, _) in given_models.items()]
    scores = {name: score for name, (_, score) in given_models.items()}
    taken, left_out = wanted(models, scores, room)
    assert sum(one.size for one in taken) <= room
    assert all(scores[one.name] > 0 for one in (*taken, *left_out))
    for out in left_out:
        surer = sum(
            one.size for one in taken if (-scores[one.name], one.size) <= (-scores[out.name], out.size)
        )
        assert surer + out.size > room


def test_the_budget_is_a_share_of_what_is_free_above_the_reserve() -> None:
    assert budget((512 << 20) + 1000, None) == int(1000 * 0.5)
    assert budget((512 << 20) + 1000, 700) == 700
    assert budget((512 << 20) + 1000, 2000) == 1000
    assert budget((512 << 20) - 1, None) == budget((512 << 20) - 1, 10) == 0
    assert budget((512 << 20) + 1000, 0) == 0
    assert fits(1000, (512 << 20) + 1000)
    assert not fits(1001, (512 << 20) + 1000)
    assert fits(0, 0)
    assert not fits(1, 0)
    assert not fits(1, 512 << 20)


def test_warm_does_not_flutter() -> None:
    assert is_warm(0.9, before=False)
    assert not is_warm(0.9 - 0.01, before=False)
    assert is_warm(0.7, before=True)
    assert not is_warm(0.7 - 0.01, before=True)


def test_a_request_counts_half_as_much_after_a_half_life() -> None:
    demand = Demand()
    demand.asked("m", 0.0)
    assert demand.of("m", 0.0) == 1.0
    assert demand.of("m", 3600.0) == 0.5
    demand.asked("m", 3600.0)
    assert demand.of("m", 3600.0) == 1.5
    assert demand.of("other", 0.0) == 0.0
    assert demand.of("m", 3600.0 - 10.0) == 1.5  # a clock that stands


def test_what_is_remembered_of_requests_is_bounded() -> None:
    demand = Demand()
    for number in range(1024 + 3):
        demand.asked(f"m{number}", 0.0)
    assert demand.of("m2", 0.0) == 0.0
    assert demand.of("m3", 0.0) == 1.0


def snapshot(*routes: Route, holders: tuple[ModelHolders, ...] = ()) -> Snapshot:
    entries = {f"route/{route.name}": encode_entry(route) for route in routes}
    entries |= {f"holders/{one.policy}": encode_entry(one) for one in holders}
    return Snapshot(Version(1, 1), entries)


def test_reasons_in_their_order() -> None:
    route = Route("r", (Backend("most", 90), Backend("some", 10), Backend("none", 0)), fallback="spare")
    rollout = Route("r2", (Backend("old", 100), Backend("new", 0, on_trial=True)))
    holders = (ModelHolders("p", "scaled", active=("n/0",)), ModelHolders("q", "elsewhere", held=("x/0",)))
    scores = likely(
        snapshot(route, rollout, holders=holders),
        frozenset({"n/0"}),
        {canonical("asked"): 3.0, canonical("seldom"): 1.0, canonical("once"): 0.009},
        [canonical("ordered")],
    )
    order = sorted(scores, key=lambda name: -scores[name])
    assert order == [
        canonical(name)
        for name in ("ordered", "scaled", "new", "old", "most", "some", "asked", "spare", "seldom")
    ]


def test_what_each_reason_is_worth() -> None:
    route = Route("r", (Backend("routed", 100),), fallback="spare")
    asked = {canonical("asked"): 0.03, canonical("seldom"): 0.01}
    scores = likely(snapshot(route), frozenset(), asked, [canonical("ordered")])
    assert scores == {
        canonical("ordered"): 5.0,
        canonical("routed"): 2.0,
        canonical("asked"): 0.75,
        canonical("spare"): 0.5,
        canonical("seldom"): 0.25,
    }
    assert ORDER_S == 12 * 3600
    assert not Warmable("m", ()).loaded


def test_nobody_said_anything() -> None:
    assert likely(snapshot(), frozenset({"n/0"}), {}, ()) == {}
    weightless = Route("r", (Backend("a", 0),))
    assert likely(snapshot(weightless), frozenset(), {}, ()) == {}


# -- the files themselves


def test_what_was_read_is_in_the_page_cache(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(os.urandom(3 << 20))
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        if page_cache.resident(file.fileno()) is None:
            pytest.skip("this kernel does not say what is in the page cache")
        read: list[int] = []
        assert page_cache.bring_in(file.fileno(), 3 << 20, lambda at: not read.append(at))
        assert read == [0]
        assert page_cache.resident(file.fileno()) == pytest.approx(1.0, abs=0.01)
        assert page_cache._by_mincore(file.fileno(), 3 << 20) == pytest.approx(
            (3 << 20) / mmap.PAGESIZE, rel=0.02
        )


def test_a_reading_that_is_stopped_or_finds_the_file_cut_says_so(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(b"x" * 100)
    with path.open("rb") as file:
        assert not page_cache.bring_in(file.fileno(), 100, lambda _: False)
        assert not page_cache.bring_in(file.fileno(), 200, lambda _: True)
    path.write_bytes(b"")
    with path.open("rb") as file:
        assert page_cache.resident(file.fileno()) == 1.0
        assert page_cache.bring_in(file.fileno(), 0, lambda _: False)


def test_the_memory_that_may_be_used_is_the_tightest_groups(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/outer/inner\n")
    for folder, most, used in (("outer", 5000, 1000), ("outer/inner", "max", 900)):
        group = tmp_path / folder
        group.mkdir()
        (group / "memory.max").write_text(f"{most}\n")
        (group / "memory.current").write_text(f"{used}\n")
        (group / "memory.stat").write_text("anon 1\ninactive_file 300\nactive_file 20\n")
    assert available(tmp_path, own) == 5000 - 1000 + 320
    (tmp_path / "outer/inner/memory.max").write_text("2000\n")
    assert available(tmp_path, own) == 2000 - 900 + 320
    (tmp_path / "outer/inner/memory.current").write_text("9000\n")
    assert available(tmp_path, own) == 0
    own.write_text("5:cpu,memory:/job\n0::/\n")
    job = tmp_path / "memory" / "job"
    job.mkdir(parents=True)
    (job / "memory.limit_in_bytes").write_text("4000")
    (job / "memory.usage_in_bytes").write_text("3000")
    (job / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 500\ntotal_active_file 60\n")
    assert available(tmp_path, own) == 4000 - 3000 + 560
    assert available(tmp_path, tmp_path / "none") > 0
