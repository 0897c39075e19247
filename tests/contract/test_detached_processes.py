"""Processes that `bridgectl up` starts: they outlive it, are found again, and are ended whole and alone."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bridge_cli.ports import check_free
from bridge_cli.processes import (
    DetachedProcess,
    ProcessTable,
    end,
    family,
    load_records,
    start_detached,
)
from bridge_core.errors import Fatal
from bridge_core.proc import boot_id, read_stat
from tests.support import eventually

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(60)
"""
PARENT = """
import subprocess, time
child = subprocess.Popen(["sleep", "60"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def started() -> Iterator[list[DetachedProcess]]:
    """Whatever a test leaves running is killed."""
    records: list[DetachedProcess] = []
    yield records
    for record in family(records):
        record.signal(signal.SIGKILL)
    for record in records:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(record.pid, 0)


async def stubborn(log: Path, started: list[DetachedProcess]) -> DetachedProcess:
    """A process that runs and ignores SIGTERM."""
    record = start_detached([sys.executable, "-c", STUBBORN], log, env=os.environ)
    started.append(record)
    await eventually(lambda: log.read_text() == "up\n")
    return record


async def test_a_process_gets_a_session_and_a_log_of_its_own(
    tmp_path: Path, started: list[DetachedProcess]
) -> None:
    record = await stubborn(tmp_path / "log", started)
    assert record.alive
    assert os.getsid(record.pid) == record.pid
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


async def test_a_stubborn_process_is_killed_after_its_grace(
    tmp_path: Path, started: list[DetachedProcess]
) -> None:
    record = await stubborn(tmp_path / "log", started)
    assert await end([record], 0.1) == [record]
    assert not record.alive


async def test_a_stopped_process_still_ends_by_itself(tmp_path: Path, started: list[DetachedProcess]) -> None:
    record = start_detached(["sleep", "60"], tmp_path / "log", env=os.environ)
    started.append(record)
    os.kill(record.pid, signal.SIGSTOP)
    assert await end([record], 5.0) == []


async def test_what_a_process_started_ends_with_it(tmp_path: Path, started: list[DetachedProcess]) -> None:
    log = tmp_path / "log"
    record = start_detached([sys.executable, "-c", PARENT], log, env=os.environ)
    started.append(record)
    await eventually(lambda: log.read_text().strip())
    child = int(log.read_text())
    found = {member.pid for member in family([record])}
    assert found == {record.pid, child}
    await end([record], 5.0)
    stat = read_stat(child)
    assert stat is None or stat.zombie


async def test_a_number_given_out_again_is_not_touched(
    tmp_path: Path, started: list[DetachedProcess]
) -> None:
    record = start_detached(["sleep", "60"], tmp_path / "log", env=os.environ)
    started.append(record)
    former = DetachedProcess(record.pid, record.start_time - 1, record.boot)
    of_another_boot = DetachedProcess(record.pid, record.start_time, "another")
    assert not former.alive
    assert not of_another_boot.alive
    assert family([former, of_another_boot]) == []
    assert await end([former, of_another_boot], 0.1) == []
    assert record.alive


def test_the_table_is_found_again(tmp_path: Path) -> None:
    table = ProcessTable(tmp_path / "processes.json")
    assert table.get("etcd") is None
    own = DetachedProcess(os.getpid(), read_stat(os.getpid()).start_time, boot_id())
    table.put("etcd", own)
    table.put("node1", DetachedProcess(own.pid, own.start_time - 1, own.boot))
    again = ProcessTable(tmp_path / "processes.json")
    assert again.get("etcd") == own
    assert again.get("node1") is None
    assert again.known("node1") is not None
    assert again.pids() == {"etcd": own.pid}


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "processes.json").write_text("{")
    with pytest.raises(Fatal, match=r"processes\.json"):
        ProcessTable(tmp_path / "processes.json")


def test_records_of_others_are_read_where_they_can_be(tmp_path: Path) -> None:
    record = DetachedProcess(1, 2, "boot")
    (tmp_path / "good").write_bytes(msgspec.json.encode({**msgspec.to_builtins(record), "port": 1}))
    (tmp_path / "bad").write_text("{")
    assert load_records([tmp_path / "good", tmp_path / "bad", tmp_path / "none"]) == [record]


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match="no-such-program"):
        start_detached([str(tmp_path / "no-such-program")], tmp_path / "log", env=os.environ)


def test_a_taken_port_is_named_with_its_holder_and_the_flag() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        with pytest.raises(Fatal) as caught:
            check_free([("node1's http listener", address)])
    assert address in caught.value.message
    assert "node1's http listener" in caught.value.message
    assert f"process {os.getpid()}" in caught.value.message
    assert "--base-port" in caught.value.hint
    check_free([("node1's http listener", address)])


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(Fatal, match=r"192\.0\.2\.1:80"):
        check_free([("x", "192.0.2.1:8080")])


def test_commands_end_without_a_traceback(tmp_path: Path) -> None:
    bridge = str(Path(sys.executable).parent / "bridgectl")
    for argv in (["status"], ["down"], ["token", "list"], ["apply", "-f", str(tmp_path)]):
        ended = subprocess.run(
            [bridge, *argv, "--state-dir", str(tmp_path / "none")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 1
        assert ended.stderr.startswith("bridgectl: no mesh in")
        assert "Traceback" not in ended.stderr
