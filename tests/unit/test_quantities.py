"""Durations and sizes: one language, bounded, and said as they are read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_core.quantities import (
    MAX_DURATION_S,
    MAX_SIZE,
    parse_duration,
    parse_patience,
    parse_size,
    say_duration,
    say_size,
    say_span,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s", 5), ("250ms", 0.25), ("1h30m", 5400), ("1.5m", 90), ("2d", 172_800), ("0s", 0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "5", "s", "-5s", "5 s", "5y", "1h-3m", "٣s", "1" * 200 + "s", "1s" * 100, "99999d", "1e9s"]
)
def test_what_is_no_duration_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("0.5", 0.5), ("250ms", 0.25), ("1h30m", 3600), ("9" * 20, 3600), ("9" * 20 + "d", 3600)],
)
def test_a_clients_patience_may_lack_its_unit_and_has_an_end(text: str, seconds: float) -> None:
    assert parse_patience(text, 3600) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "-1", "1e9", "soon", "٣", "1 s", "1" * 65])
def test_what_is_no_patience_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_patience(text, 3600)


@pytest.mark.parametrize(("text", "size"), [("1KiB", 1024), ("1.5MiB", 3 << 19), ("2TiB", 2 << 40)])
def test_sizes_have_binary_units(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["1", "1GB", "GiB", "-1GiB", "1 GiB", "1e3MiB", "٣GiB", "9" * 30 + "TiB", "0." + "1" * 99 + "GiB"]
)
def test_what_is_no_size_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="a size"):
        parse_size(text)


@given(st.floats(0, MAX_DURATION_S))
def test_a_duration_that_is_said_reads_as_itself_to_the_millisecond(seconds: float) -> None:
    assert parse_duration(say_duration(seconds)) == pytest.approx(seconds, abs=0.00051)


@given(st.text())
def test_whatever_is_written_is_a_bounded_quantity_or_a_value_error(text: str) -> None:
    for parse, most in ((parse_duration, MAX_DURATION_S), (parse_size, MAX_SIZE)):
        try:
            value = parse(text)
        except ValueError:
            continue
        assert 0 <= value <= most


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0s"),
        (0.25, "250ms"),
        (1.5, "1.5s"),
        (90, "1m30s"),
        (5400, "1h30m"),
        (-3, "-3s"),
        (float("inf"), "inf"),
    ],
)
def test_durations_are_said_with_their_units(seconds: float, words: str) -> None:
    assert say_duration(seconds) == words


def test_sizes_and_spans_read_as_people_write_them() -> None:
    assert [say_size(count) for count in (0, 1023, 1 << 20, 3 << 29, 5 << 40)] == [
        "0 B",
        "1023 B",
        "1 MiB",
        "1.5 GiB",
        "5 TiB",
    ]
    assert [say_span(seconds) for seconds in (-4, 12.9, 119, 120, 7200, 200_000)] == [
        "0 s",
        "12 s",
        "119 s",
        "2 min",
        "2 h",
        "2 d",
    ]
