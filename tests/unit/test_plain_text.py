"""Nothing from outside reaches a terminal raw."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge_core.command.plain_text import one_line


def test_escape_sequences_and_line_ends_are_written_out() -> None:
    assert one_line("\x1b[2Jtiny\nroot: ok\r\x9b") == "\\x1b[2Jtiny\\x0aroot: ok\\x0d\\x9b"
    assert one_line("a\u202eb\u2028\U000e0041") == "a\\u202eb\\u2028\\U000e0041"
    assert one_line("größer als 大") == "größer als 大"


def test_long_text_is_cut() -> None:
    assert one_line("x" * 11, 10) == "x" * 10 + "…"
    assert one_line("x" * 10, 10) == "x" * 10


@given(st.text())
def test_what_comes_out_is_printable_and_one_line(text: str) -> None:
    shown = one_line(text)
    assert shown.isprintable() or all(one == "\xa0" or one.isspace() or one.isprintable() for one in shown)
    assert len(shown.splitlines()) <= 1
    assert "\x1b" not in shown
