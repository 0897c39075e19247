"""When to make a loaded model generate a token, and what no answer means. Pure.

A hung runner looks healthy: version, tags and ps answer at once while every generation waits for
ever. So a model is asked for one token, by these rules:

1. Never while it progresses: a probe is due only after `quiet_s` without a byte from it.
2. A probe uses the model, so it puts off the model's unloading. An idle model is therefore asked
   at growing intervals, no more once it has been idle for `idle_window_s`, and not at all if it
   is to be unloaded sooner than that; one that stays loaded for ever is asked for ever.
3. Requests that wait for a first byte make a probe due again, however long it was idle before.
4. A probe waits in the engine's queue behind what runs there. That it is late proves a hang only
   if meanwhile nothing progressed and the engine's processes did not compute; one that computes
   (a long prompt, a model being loaded) gets `busy_timeout_s`.
5. Of an engine that somebody else runs the work cannot always be seen: on another machine, or another
   user's. Its silence proves nothing for `unseen_timeout_s`, others may be before us in its queue; each time
   it was found hung and was not, it gets twice that, up to `busy_timeout_s`. That the time of a model's
   unloading moved ahead shows that somebody's request ended there.
6. Any answer, an error too, proves that the runner is not hung.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from dataclasses import dataclass
from typing import Final

_LISTING_S: Final = 1.0  # what two listings' clocks may differ by


@dataclass(frozen=True, slots=True)
class ProbePolicy:
    """How patient to be; times in seconds."""

    quiet_s: float = 15.0
    idle_window_s: float = 120.0
    timeout_s: float = 15.0
    unseen_timeout_s: float = 180.0
    busy_timeout_s: float = 600.0


@dataclass(frozen=True, slots=True)
class ModelHealth:
    """What is known of one loaded model; times are monotonic, in seconds.

    Attributes:
        last_progress: The last byte from it, or when it was first seen loaded.
        waiting_since: The first request since then that has had no byte yet.
        last_probe: When the last probe was over.
        hung: The last probe found it hung.
        expires_in_s: How long it stays loaded without being used.
        false_alarms: How often it was found hung and then gave a sign of life by itself.
    """

    last_progress: float
    waiting_since: float | None = None
    last_probe: float | None = None
    hung: bool = False
    expires_in_s: float = math.inf
    false_alarms: int = 0

    def progressed(self, now: float) -> ModelHealth:
        """A byte came from it."""
        return dataclasses.replace(self._alive(), last_progress=now, waiting_since=None)

    def dispatched(self, now: float) -> ModelHealth:
        """A request was sent to it."""
        return self if self.waiting_since is not None else dataclasses.replace(self, waiting_since=now)

    def answered(self, now: float) -> ModelHealth:
        """A probe was answered."""
        return dataclasses.replace(self._alive(), last_probe=now, waiting_since=None)

    def unanswered(self, now: float, *, hung: bool) -> ModelHealth:
        """A probe was given up; `hung`: because nothing else explains its silence."""
        return dataclasses.replace(self, last_probe=now, hung=hung)

    def listed(self, expires_in_s: float) -> ModelHealth:
        """The engine listed it."""
        return dataclasses.replace(self, expires_in_s=expires_in_s)

    def used_by_others(self, expires_in_s: float) -> bool:
        """Whether a request of somebody's ended since it was last listed, as its listing now tells."""
        return expires_in_s > self.expires_in_s + _LISTING_S

    def _alive(self) -> ModelHealth:
        return dataclasses.replace(self, hung=False, false_alarms=self.false_alarms + self.hung)


def probe_due(health: ModelHealth, policy: ProbePolicy) -> float | None:
    """When to probe next; None: not until something happens."""
    probed = health.last_probe if health.last_probe is not None else health.last_progress
    last = max(probed, health.last_progress)
    if health.hung:
        return last + policy.quiet_s
    if health.waiting_since is not None:
        return max(last, health.waiting_since) + policy.quiet_s
    due = last + max(policy.quiet_s, last - health.last_progress)
    if health.expires_in_s == math.inf:
        return due
    lasts = health.expires_in_s >= policy.idle_window_s
    return due if lasts and due <= health.last_progress + policy.idle_window_s else None


class ProbeVerdict(enum.Enum):
    """What a probe without an answer so far means."""

    WAIT = "wait"
    NEEDLESS = "needless"  # something progressed since: it works, the probe only queues
    HUNG = "hung"


def judge(
    *,
    started: float,
    computed: float | None,
    progressed: float,
    now: float,
    policy: ProbePolicy,
    seen: bool = True,
    false_alarms: int = 0,
) -> ProbeVerdict:
    """What to think of a probe that was sent at `started` and is still unanswered.

    Args:
        started: When it was sent.
        computed: When the engine's processes were last seen to compute; None: never, or not known.
        progressed: When a byte last came from the model.
        now: The time.
        policy: How patient to be.
        seen: Whether the engine's work, where there is any, can be seen at all.
        false_alarms: See `ModelHealth`.
    """
    if progressed > started:
        return ProbeVerdict.NEEDLESS
    if now - started >= policy.busy_timeout_s:
        return ProbeVerdict.HUNG
    silent_since = started if computed is None else max(started, computed)
    unseen_s = min(policy.busy_timeout_s, policy.unseen_timeout_s * 2.0 ** min(false_alarms, 32))
    patience_s = policy.timeout_s if seen else max(policy.timeout_s, unseen_s)
    return ProbeVerdict.HUNG if now - silent_since >= patience_s else ProbeVerdict.WAIT
