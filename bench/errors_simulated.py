"""`errors-simulated`: a week of failures on three nodes, and what learnt shares of failures make of it.

The load is `detection-simulated`'s: as bursty as public traces (Azure 2023: variance over mean of the
requests a minute 16 for conversations, 164 for code), between valley and peak by the hour, half at weekends,
spread over three nodes by chance. Two in a thousand requests fail, each by itself. Beside that week another
one in which one hour in fifty all nodes fail five of a hundred, as clients or a model make them. Then node 1
alone fails five of a hundred, in rounds at hours all over the day, at this load and at ten times as much. The
decisions are the product's own (`bridge_registry.alerts.error_rules`), in windows of five seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.results import record, table
from bench.scaling.traffic import level
from bridge_registry.alerts import error_rules as rules
from bridge_registry.alerts.learning_rules import WINDOW_S

NODES: Final = 3
ROUNDS: Final = 40
WEEK: Final = int(7 * 86_400 / WINDOW_S)
_MINUTE: Final = int(60 / WINDOW_S)
_LIMIT: Final = int(1800 / WINDOW_S)  # windows until a round is given up
_MEAN: Final = float(np.mean([level(hour * 3600.0, 4.0) for hour in range(24)]))
_USUAL, _BAD = 0.002, 0.05
_GROUP, _NODE = np.zeros(NODES, dtype=np.int64), np.arange(NODES)


def load(per_minute: float, burst: float, windows: int, begin_s: float, rng: Any) -> Any:
    """Requests of each node in each window."""
    at = begin_s + np.arange(windows // _MINUTE) * 60.0
    by_hour = np.array([level(float(one), 4.0) for one in at])
    mean = per_minute * by_hour / _MEAN * np.where(at % (7 * 86_400) < 5 * 86_400, 1.0, 0.5)
    rate = rng.gamma(mean / (burst - 1), burst - 1)
    return rng.poisson(np.repeat(rate, _MINUTE)[:, None] / _MINUTE / NODES, (len(rate) * _MINUTE, NODES))


def run(
    state: rules.State, count: Any, share: Any, rng: Any, *, until: bool = False
) -> tuple[Any, list[int]]:
    """The state after windows in which such shares fail, and in which of them any node was raised;
    `until`: it ends where node 1 is.
    """
    failed, raised = rng.binomial(count, share), []
    for at in range(len(count)):
        before = state.raised
        now = (at + 1) * WINDOW_S
        state = rules.step(state, _GROUP, _NODE, requests=count[at], failed=failed[at], now=now)
        raised += [at] * int((state.raised & ~before).sum())
        if until and state.raised[1]:
            return state, [at]
    return state, raised


def errors(_folder: Path, _seconds: float, versions: list[str], command: str) -> None:
    """The row; some minutes of one core."""
    rows = []
    for name, per_minute, burst in (("conversation", 333.0, 16.0), ("code", 151.0, 164.0)):
        rng = np.random.default_rng(1)
        week = load(per_minute, burst, WEEK, 0.0, rng)
        state, alone = run(rules.empty(NODES), week, _USUAL, rng)
        everywhere = np.where(np.arange(WEEK) // (60 * _MINUTE) % 50 == 49, _BAD, _USUAL)[:, None]
        _, together = run(rules.empty(NODES), week, np.broadcast_to(everywhere, week.shape), rng)
        for times in (1.0, 10.0):
            took = []
            for round_ in range(ROUNDS):
                began = round_ * 7 % 24 * 3600.0
                count = load(times * per_minute, burst, _LIMIT, began, rng)
                _, found = run(state, count, np.where(_NODE == 1, _BAD, _USUAL), rng, until=True)
                took.append((found[0] + 1) * WINDOW_S if found else np.inf)
            there = np.array([one for one in took if np.isfinite(one)])
            p50, p99 = (f"{np.quantile(there, q):.0f}" if len(there) else "-" for q in (0.5, 0.99))
            a_second = f"{times * per_minute / 60 / NODES:.1f}"
            rows.append((name, len(alone), len(together), a_second, p50, p99, ROUNDS - len(there)))
            print(rows[-1], flush=True)
    head = ("load", "false alarms a week", "where all fail at times", "requests a second at node 1")
    head += ("found p50 s", "p99 s", "not in 30 min")
    text = f"{__doc__.split(chr(10), 2)[2]}\n{ROUNDS} rounds each.\n\n{table(head, rows)}"
    record("errors-simulated", "Nodes that fail, found in a simulated week", command, versions, text)
