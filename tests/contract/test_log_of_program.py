"""A whole program's log: what Python and its libraries say by themselves is lines of the same kind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SAYS = """
import asyncio, logging, sys, threading, warnings
import structlog
from bridge_core.logs.setup import log_of_program

log = log_of_program("bridge-agent", level="info")
log.known_as("node1")
structlog.get_logger().info("said", request_id="r1")
structlog.get_logger().debug("not said")
for _ in range(5000):
    structlog.get_logger().warning("storm")
logging.getLogger("lib").error("it is %s", "so")
logging.getLogger("lib").info("nobody asked")
warnings.warn("old", DeprecationWarning, stacklevel=1)
thread = threading.Thread(target=lambda: 1 / 0, name="worker")
thread.start()
thread.join()

async def main():
    asyncio.get_running_loop().call_exception_handler({"message": "never awaited"})

asyncio.run(main())
[][1]
"""


def test_everything_that_a_program_says_is_a_line_with_a_name(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "agent.log"
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", SAYS],
        env={**os.environ, "BRIDGE_LOG_FILE": str(path)},
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert {line["host.name"] for line in lines} == {"node1"}
    left_out = [line for line in lines if line["event.action"] == "log_lines_dropped"]
    told = [line for line in lines if line["event.action"] not in ("storm", "log_lines_dropped")]
    assert [(line["event.action"], line.get("error.type")) for line in told] == [
        ("said", None),
        ("library_message", None),
        ("python_warning", None),
        ("uncaught_exception", "ZeroDivisionError"),
        ("library_message", None),
        ("uncaught_exception", "IndexError"),
    ]
    storm = len(lines) - len(told) - len(left_out)
    assert storm >= 100
    assert sum(line["bridge.dropped.warning"] for line in left_out) + storm == 5000
    assert told[0]["http.request.id"] == "r1"
    assert told[1]["labels.said"] == "it is so"
    assert told[3]["labels.thread"] == "worker"


def test_a_log_that_cannot_be_written_stops_the_program_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    says = (
        "from bridge_core.command.guard import guarded\nfrom bridge_core.logs.setup import log_of_program\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", says + "guarded(lambda: log_of_program('bridge-agent'))"],
        env={**os.environ, "BRIDGE_LOG_FILE": str(tmp_path / "file" / "log")},
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert b"cannot write the log to" in done.stderr
    assert b"BRIDGE_LOG_FILE names a file" in done.stderr
