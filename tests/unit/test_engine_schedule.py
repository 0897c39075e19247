"""Which loaded model has to go, how one is loaded, and the header of a GGUF file."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_core.model_store.gguf import NotGguf, read_header
from bridge_engine.modelgen import PRESETS, generate
from bridge_engine.runner.schedule import Resident, expired, next_expiry, victim
from bridge_engine.store.details import human_count, timestamp

RESIDENTS = st.lists(
    st.builds(
        Resident,
        key=st.sampled_from("abcdef"),
        users=st.integers(0, 2),
        last_used=st.floats(0, 100),
        expires_at=st.floats(0, 100),
    ),
    unique_by=lambda one: one.key,
)


@given(RESIDENTS)
def test_only_the_longest_idle_model_makes_room(residents: list[Resident]) -> None:
    chosen = victim(residents)
    idle = {one.key: one.last_used for one in residents if one.users == 0}
    if chosen is None:
        assert not idle
    else:
        assert idle[chosen] == min(idle.values())


@given(RESIDENTS, st.floats(0, 100))
def test_what_has_expired_is_what_the_next_expiry_says(residents: list[Resident], now: float) -> None:
    gone = expired(residents, now)
    following = next_expiry(residents)
    assert bool(gone) == (following is not None and following <= now)
    assert all(one.users == 0 and one.expires_at <= now for one in residents if one.key in gone)


@pytest.mark.parametrize(
    ("count", "text"),
    [(115520, "116K"), (134515008, "134.52M"), (7_000_000_000, "7B"), (6_738_415_616, "6.7B"), (12, "12")],
)
def test_parameter_counts(count: int, text: str) -> None:
    assert human_count(count) == text


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_795_469_463_021_691_872, "2026-11-23T21:31:03.021691872Z"),
        (1_795_469_463_020_000_000, "2026-11-23T21:31:03.02Z"),
        (11_018_841_819_090_882_074, "2319-03-05T21:23:39.090882074Z"),
    ],
)
def test_timestamps(nanoseconds: int, text: str) -> None:
    assert timestamp(nanoseconds) == text


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    generate(path, PRESETS["tiny"], seed=1, name="tiny")
    return path.read_bytes()


def test_a_header_is_read(model: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(model)
    header = read_header(path)
    assert (header.architecture, header.parameters, header.file_type) == ("llama", 115520, "F16")
    tokens = header.array("tokenizer.ggml.tokens")
    assert (
        len(tokens) == header.metadata["tokenizer.ggml.tokens"].length == header.metadata["llama.vocab_size"]
    )
    assert all(isinstance(token, str) for token in tokens)


@given(data=st.data())
def test_a_damaged_header_is_refused_or_read(
    model: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Cut anywhere or with any byte changed: an error that says so, never another exception or a hang."""
    head = bytearray(model[:12_000])
    cut = data.draw(st.integers(0, len(head)))
    place = data.draw(st.integers(0, len(head) - 1))
    head[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(bytes(head[:cut]))
    with contextlib.suppress(NotGguf):
        read_header(path)
