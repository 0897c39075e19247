"""Durations as Go reads them: what the engine and the policies both go by."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_core.dialects.go_durations import MAX_TEXT, parse_go_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(
            ("0", 0.0),
            ("-0", 0.0),
            ("+0", 0.0),
            ("5m", 300.0),
            ("1h30m", 5400.0),
            ("-1s", -1.0),
            ("+2s", 2.0),
        ),
        *((".5s", 0.5), ("5.s", 5.0), ("1.5h", 5400.0), ("250ms", 0.25), ("3us", 3e-6), ("3µs", 3e-6)),
        *(("3μs", 3e-6), ("7ns", 7e-9), ("1m1m", 120.0), ("2562047h", 2562047 * 3600.0)),
    ],
)
def test_what_go_takes(text: str, seconds: float) -> None:
    assert parse_go_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        *("", "5", "m", ".s", "5 m", "5m ", "--5m", "5d", "1e3s", "infs", "5M", "٥m", "00"),
        *("2562048h", "9999999999999h", "1h" * 65, "9" * MAX_TEXT + "h"),
    ],
)
def test_what_go_does_not_take_or_nobody_means(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_go_duration(text)


def test_the_longest_text_is_still_read() -> None:
    assert parse_go_duration("1h" * (MAX_TEXT // 2)) == 3600.0 * MAX_TEXT // 2


@given(st.text("0123456789.+-nuµmsh ", max_size=40))
def test_anything_is_a_number_of_seconds_or_refused(text: str) -> None:
    try:
        seconds = parse_go_duration(text)
    except ValueError:
        return
    assert abs(seconds) < 1 << 34
    assert seconds <= 0 if text.startswith("-") else seconds >= 0
