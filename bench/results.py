"""Writing measurements down: one section a benchmark, replaced by its newest run."""

from __future__ import annotations

import datetime as dt
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"
_INTRODUCTION = """# Measurements

Each section is the newest run of one benchmark, with what it was compared with in that same run.
Absolute figures drift with the machine and with what else it does; the ratios within a run count.
"""


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def quantiles(values: Sequence[float]) -> str:
    """50th, 95th and 99th percentile."""
    ordered = sorted(values) or [0.0]
    found = [ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.95, 0.99)]
    return " / ".join(f"{one:.2f}" for one in found)


def record(name: str, title: str, command: str, versions: Sequence[str], text: str) -> None:
    """Puts the section `name` into RESULTS.md, in place of its last run."""
    new_section = section(name, title, command, versions, text)
    old = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else _INTRODUCTION
    pattern = re.compile(rf"<!-- begin {re.escape(name)} -->.*?<!-- end {re.escape(name)} -->\n", re.DOTALL)
    new = (
        pattern.sub(lambda _: new_section, old) if pattern.search(old) else f"{old.rstrip()}\n\n{new_section}"
    )
    RESULTS.write_text(new, encoding="utf-8")


def section(name: str, title: str, command: str, versions: Sequence[str], text: str) -> str:
    """A section of RESULTS.md with its date, commit and machine."""
    when = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
    commit = ""
    if shutil.which("git"):
        commit = subprocess.run(
            ["git", "-C", str(RESULTS.parent), "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip()
    average = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    machine = f"{_processor()}, {os.cpu_count()} cores, load average at the end {average}"
    facts = f"{machine}; Python {platform.python_version()}"
    return (
        f"<!-- begin {name} -->\n## {title}\n\n`{command}`, {when}, commit {commit or '?'}; {facts}; "
        f"{'; '.join(versions)}.\n\n{text.strip()}\n<!-- end {name} -->\n"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
