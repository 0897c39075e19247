"""The files of engines' programs: learnt from a process that runs, kept, and read into the page cache."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import structlog

from bridge_agent.models import page_cache
from bridge_agent.models.programs import ProgramFiles, ProgramsUnsaved
from bridge_core.proc import read_stat


def this_process() -> tuple[int, int]:
    found = read_stat(os.getpid())
    assert found is not None
    return found.pid, found.start_time


def test_the_program_and_the_libraries_of_a_process_are_learnt_and_kept(tmp_path: Path) -> None:
    programs = ProgramFiles(tmp_path / "kept.json", tmp_path / "models")
    assert programs.learn([this_process()])
    assert str(Path(sys.executable).resolve()) in programs.files
    assert not programs.learn([this_process()])
    assert programs.total() > 0
    again = ProgramFiles(tmp_path / "kept.json", tmp_path / "models")
    again.remember()
    assert again.files == programs.files


def test_what_lies_in_the_models_folder_is_no_program(tmp_path: Path) -> None:
    everything = ProgramFiles(None, Path("/"))
    assert not everything.learn([this_process()])


def test_a_process_that_is_gone_teaches_nothing(tmp_path: Path) -> None:
    pid, start_time = this_process()
    assert not ProgramFiles(None, tmp_path).learn([(pid, start_time + 1)])


@pytest.mark.parametrize(
    "text", [b"", b"{", b'{"files":["relative"],"version":1}', b'{"files":[],"version":2}']
)
def test_a_list_that_cannot_be_used_is_told_and_begun_anew(tmp_path: Path, text: bytes) -> None:
    kept = tmp_path / "kept.json"
    kept.write_bytes(text)
    programs = ProgramFiles(kept, tmp_path)
    with structlog.testing.capture_logs() as said:
        programs.remember()
    assert [one["event"] for one in said] == ["programs_not_read"]
    assert programs.files == ()


def test_a_disk_that_refuses_the_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "kept.json").mkdir()
    with pytest.raises(ProgramsUnsaved, match="cannot be written"):
        ProgramFiles(tmp_path / "kept.json", tmp_path).learn([this_process()])


def test_plain_files_that_fit_are_read_and_no_others(tmp_path: Path) -> None:
    code, large, pipe = tmp_path / "code.so", tmp_path / "large.so", tmp_path / "pipe.so"
    code.write_bytes(os.urandom(1 << 20))
    large.write_bytes(os.urandom(3 << 20))
    os.mkfifo(pipe)
    for path in (code, large):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            if page_cache.resident(file.fileno()):
                pytest.skip("this file system keeps its pages")
    programs = ProgramFiles(None, tmp_path / "models")
    programs.files = (str(pipe), str(tmp_path / "gone.so"), str(large), str(code))
    cold = programs.cold(2 << 20)
    assert cold == [(str(code), 1 << 20)]
    heard: list[int] = []
    assert programs.bring_in(cold, lambda at: not heard.append(at))
    assert heard == [0]
    assert programs.cold(2 << 20) == []
    assert not programs.bring_in([(str(large), 3 << 20)], lambda _: False)
