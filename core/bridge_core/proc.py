"""Reading /proc: who a process is, beyond a number that the kernel gives out again."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PROC = Path("/proc")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class ProcStat:
    """One process at one moment.

    Attributes:
        pid: Its number.
        start_time: Clock ticks from boot to its start; with `pid` and the boot, unique.
        zombie: Whether it has ended and only waits for its parent.
        parent: Its parent's number.
        session: Its session's number: that session's first process.
        cpu_s: Processor time it used, in seconds.
    """

    pid: int
    start_time: int
    zombie: bool
    parent: int
    session: int
    cpu_s: float


def read_stat(pid: int) -> ProcStat | None:
    """What /proc says of a process; None if there is none of that number."""
    try:
        raw = (_PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name stands in parentheses and may contain anything, parentheses too.
    fields = raw[raw.rindex(b")") + 2 :].split()
    cpu_s = (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
    return ProcStat(pid, int(fields[19]), fields[0] in {b"Z", b"X"}, int(fields[1]), int(fields[3]), cpu_s)


def alive(pid: int, start_time: int) -> bool:
    """Whether the very process that had this start time still runs."""
    stat = read_stat(pid)
    return stat is not None and stat.start_time == start_time and not stat.zombie


def family(leader: int, start_time: int) -> list[ProcStat]:
    """The processes that belong to a session's leader: its session's and its descendants, itself included.

    Those are found also after the leader has ended. Where the leader's number was given out
    again, nothing is found.
    """
    return families([(leader, start_time)])[leader, start_time]


def families(leaders: Collection[tuple[int, int]]) -> dict[tuple[int, int], list[ProcStat]]:
    """The `family` of each leader, pid and start time, in one look at all processes."""
    if not leaders:
        return {}
    known = {stat.pid: stat for stat in everyone() if not stat.zombie}
    return {leader: _family(known, *leader) for leader in leaders}


def _family(known: Mapping[int, ProcStat], leader: int, start_time: int) -> list[ProcStat]:
    if leader in known and known[leader].start_time != start_time:
        return []
    found = {pid for pid, stat in known.items() if leader in (stat.session, pid)}
    # A runner may have made a session of its own: follow parents too.
    grown = True
    while grown:
        children = {pid for pid, stat in known.items() if stat.parent in found} - found
        found |= children
        grown = bool(children)
    return [known[pid] for pid in found if known[pid].start_time >= start_time]


@cache
def boot_id() -> str:
    """Differs from boot to boot: start times and process numbers mean nothing across one."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def everyone() -> Iterator[ProcStat]:
    """Every process that there is, zombies too."""
    for entry in _PROC.iterdir():
        if entry.name.isdecimal() and (stat := read_stat(int(entry.name))) is not None:
            yield stat
