"""An engine's log: bounded, and its end at hand."""

from __future__ import annotations

import os

import pytest

from bridge_agent.engines.logfile import LogFile


@pytest.fixture
def log(tmp_path):
    return LogFile(tmp_path / "engine.log", limit=100)


def write(log: LogFile, text: str) -> None:
    handle = log.open()
    os.write(handle, text.encode())
    os.close(handle)


def test_no_log_has_no_lines(log):
    log.rotate()
    assert log.tail() == []


def test_the_tail_is_the_last_lines_oldest_first(log):
    write(log, "".join(f"line {number}\n" for number in range(80)))
    assert log.tail(3) == ["line 77", "line 78", "line 79"]
    assert len(log.tail()) == 50


def test_bytes_that_are_no_text_are_shown_as_such(log):
    handle = log.open()
    os.write(handle, b"\xff\xfe broken\n")
    os.close(handle)
    assert log.tail() == ["\ufffd\ufffd broken"]


def test_only_its_owner_reads_it(log):
    write(log, "x")
    assert log.path.stat().st_mode & 0o777 == 0o600


def test_over_the_limit_it_moves_aside_while_the_engine_goes_on_writing(log, tmp_path):
    handle = log.open()
    os.write(handle, b"a" * 101)
    log.rotate()
    os.write(handle, b"after\n")
    os.close(handle)
    assert log.tail() == ["after"]
    assert (tmp_path / "engine.log.1").read_text() == "a" * 101
    assert (tmp_path / "engine.log.1").stat().st_mode & 0o777 == 0o600


def test_below_the_limit_it_stays(log):
    write(log, "a" * 100)
    log.rotate()
    assert log.tail() == ["a" * 100]


def test_a_log_that_cannot_be_kept_is_cut_all_the_same(log, tmp_path):
    (tmp_path / "engine.log.1").mkdir()
    write(log, "a" * 101)
    with pytest.raises(IsADirectoryError):
        log.rotate()
    assert log.path.stat().st_size == 0
