"""When an engine that has work is said to be silent: it neither answers nor computes. Pure.

A runner that hangs keeps its connections and says nothing, and so does one that reads a long prompt. What
tells them apart is whether its processes compute, or wait for a processor or a disk. So this needs no
patience for the slowest prompt there could be, and can be said long before a probe (`probe_rules`) may call
the engine hung and have it replaced:

1. The silence begins at the first look that finds work at the engine: requests that have a slot and whose
   clients read. It begins anew with every byte that comes, with a request that ends, while a model is loaded,
   and with another process.
2. It begins anew where the runners did more than `IDLE` of a processor's work since it began, waited for one
   included. Of processes that cannot be seen nothing is said.
3. It is said after `LEAST_S`, and `LOOKS` looks: time in which this agent stood still is nobody's silence.
4. A silence that ends by itself, with a byte of the same process, was none of a hang: some engines wait for
   their device without computing. From then on it takes twice as long as the longest of these, up to
   `MOST_S`.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

Process: TypeAlias = tuple[int, int]
"""Pid and start time."""

LEAST_S: Final = 1.5
MOST_S: Final = 15.0
LOOKS: Final = 3
IDLE: Final = 0.05


class Engine(msgspec.Struct, frozen=True):
    """An engine at one look.

    Attributes:
        work: Requests that have a slot and whose clients read what comes.
        signs: Grows with every byte that it sent and every request that ended.
        process: Which process it is; None: it has none that can be seen.
        effort: Seconds that its runners computed or waited for a processor or a disk so far; None: not known.
        loading: A model is brought into memory.
    """

    work: int
    signs: float
    process: Process | None
    effort: float | None
    loading: bool = False


class Silence(msgspec.Struct, frozen=True):
    """What is known of an engine's silence; times are monotonic seconds.

    Attributes:
        signs: As of the last look.
        process: The same.
        since: When it began; None: there is none.
        looks: At it, the first included.
        effort: At its beginning.
        longest: Seconds of the longest one that ended by itself.
        now: The last look.
    """

    signs: float = 0.0
    process: Process | None = None
    since: float | None = None
    looks: int = 0
    effort: float = 0.0
    longest: float = 0.0
    now: float = 0.0

    @property
    def lasts_s(self) -> float:
        """For how long it has lasted."""
        return 0.0 if self.since is None else self.now - self.since

    @property
    def said(self) -> bool:
        """Whether there is something to say of it (rules 3 and 4)."""
        patience = min(MOST_S, max(LEAST_S, 2.0 * self.longest))
        return self.looks >= LOOKS and self.lasts_s >= patience


def matters(before: Silence, engine: Engine) -> bool:
    """Whether it has to be known what the processes do: that costs reading all of /proc."""
    same = engine.signs == before.signs and engine.process == before.process
    return same and engine.work > 0 and not engine.loading and engine.process is not None


def look(before: Silence, engine: Engine, now: float) -> Silence:
    """After one look more."""
    longest = before.longest
    if engine.process != before.process:
        longest = 0.0
    elif before.since is not None and engine.signs != before.signs:
        longest = max(longest, before.lasts_s)  # up to the last look: what is certain
    rest = Silence(engine.signs, engine.process, longest=longest, now=now)
    if not matters(before, engine) or engine.effort is None:
        return rest
    began = msgspec.structs.replace(rest, since=now, looks=1, effort=engine.effort)
    if before.since is None:
        return began
    did = engine.effort - before.effort
    if did < 0.0 or did > IDLE * (now - before.since):
        return began
    return msgspec.structs.replace(rest, since=before.since, looks=before.looks + 1, effort=before.effort)
