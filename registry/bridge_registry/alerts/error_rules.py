"""Shares of failed requests that leave what they are used to. Pure functions of (state, window, now).

A series is one instance. Every window says how many of its requests ended, and how many of them failed; no
window is too small to count, as evidence is added up request by request.

Rules:
1. What is usual is the share that failed before, half of it forgotten every `HALF_S`: the upper end of what
   that can have been (one failure and 1.64 deviations more than there were), and never less than `LEAST`. Of
   whom little is known much is usual, and of whom fewer than `FEWEST` requests are known nothing is said.
2. What the other nodes with the same model fail at the same time, where it is more, is usual, too, and the
   upper end of that: it is the model, the clients or the load, and no node's fault.
3. Evidence is the logarithm of how much likelier the window is with `TIMES` as many failures, and at least
   `MORE` of the requests, than with what is usual: Page's CUSUM for a binomial share. By Lorden's bound
   chance reaches `h` once in e^h windows or less often, so what is needed follows from the budget. One window
   adds a third of it at most: it takes `PERSIST` of them.
4. It is over when the evidence is used up, of which there is at most `_MOST` times what is needed.
5. Evidence is not learnt from, for `FREEZE_S`: a fault does not become usual, and a change that stays does.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec
import numpy as np

from bridge_registry.alerts.learning_rules import FREEZE_S, PERSIST, WINDOW_S, Flags, Floats, Whole

BUDGET_PER_WEEK: Final = 0.25
"""False alarms to be expected of a mesh, beside those of `learning_rules`."""
FEWEST: Final = 200
LEAST: Final = 0.001
TIMES: Final = 3.0
MORE: Final = 0.03
HALF_S: Final = 6 * 3600.0
_Z: Final = 1.6449  # one in twenty is above
_WEEK_S: Final = 7 * 86_400.0
_KEPT: Final = 0.5 ** (WINDOW_S / HALF_S)
_LATELY: Final = 0.97  # of a window, in what is lately: some three minutes, as one has too few requests
_COMPARED: Final = 2.0  # failures of others that are no coincidence
_MOST: Final = 1.5


class State(msgspec.Struct, frozen=True):
    """What is remembered of all instances.

    Attributes:
        requests: That what is usual is made of.
        failed: Of them.
        evidence: See rule 3.
        raised: Which are raised.
        since: Since when there was evidence without a break; 0: there is none.
        lately: Requests of about the last three minutes.
        lately_failed: Of them.
    """

    requests: Floats
    failed: Floats
    evidence: Floats
    raised: Flags
    since: Floats
    lately: Floats
    lately_failed: Floats


def empty(series: int) -> State:
    """So many instances of which nothing is known."""
    none = np.zeros(series)
    return State(none, none, none, np.zeros(series, dtype=bool), none, none, none)


def grown(state: State, more: int) -> State:
    """The state with so many instances more."""
    fresh = empty(more)
    return State(
        *(np.concatenate((getattr(state, name), getattr(fresh, name))) for name in State.__struct_fields__)
    )


def chosen(state: State, rows: list[int]) -> State:
    """The state of these instances alone, in this order."""
    return State(*(getattr(state, name)[rows] for name in State.__struct_fields__))


def needed(series: int, budget: float = BUDGET_PER_WEEK) -> float:
    """The evidence that chance alone reaches `budget` times a week in so many series (nats)."""
    return math.log(max(1, series) * _WEEK_S / WINDOW_S / budget)


def usual(state: State) -> Floats:
    """The share that is usual for each (rule 1)."""
    failed = state.failed + 1.0
    share = (failed + _Z * np.sqrt(failed)) / np.maximum(1.0, state.requests)
    return np.asarray(np.clip(share, LEAST, 0.5), dtype=np.float64)


def shares(state: State) -> Floats:
    """The share that failed lately."""
    return np.asarray(state.lately_failed / np.maximum(1.0, state.lately), dtype=np.float64)


def of_others(state: State, group: Whole, node: Whole, *, deviations: float = 0.0) -> Floats:
    """The share that failed lately at the other nodes of each one's group, and so many standard deviations;
    0 where hardly any did.
    """
    requests, failed = (_elsewhere(one, group, node) for one in (state.lately, state.lately_failed))
    share = (failed + deviations * np.sqrt(failed)) / np.maximum(1.0, requests)
    return np.where(failed >= _COMPARED, share, 0.0)


def step(state: State, group: Whole, node: Whole, *, requests: Floats, failed: Floats, now: float) -> State:
    """The state after one window more, that ended at Unix time `now`.

    Args:
        state: The one before.
        group: Instances of one group have the same models.
        node: Whose each is.
        requests: That ended in the window.
        failed: Of them.
        now: Unix seconds.
    """
    failed = np.minimum(failed, requests)
    state = msgspec.structs.replace(
        state,
        lately=_LATELY * state.lately + requests,
        lately_failed=_LATELY * state.lately_failed + failed,
    )
    before = np.minimum(0.5, np.maximum(usual(state), of_others(state, group, node, deviations=_Z)))
    worse = np.minimum(0.99, np.maximum(TIMES * before, before + MORE))
    need = needed(len(requests))
    told = failed * np.log(worse / before) + (requests - failed) * np.log((1.0 - worse) / (1.0 - before))
    told = np.where(state.requests >= FEWEST, np.clip(told, -need / PERSIST, need / PERSIST), 0.0)
    evidence = np.clip(state.evidence + told, 0.0, _MOST * need)
    since = np.where(evidence > 0.0, np.where(state.since > 0.0, state.since, now), 0.0)
    learns = (evidence < need / PERSIST) | (now - since > FREEZE_S)
    return msgspec.structs.replace(
        state,
        requests=np.where(learns, _KEPT * state.requests + requests, state.requests),
        failed=np.where(learns, _KEPT * state.failed + failed, state.failed),
        evidence=evidence,
        raised=(state.raised & (evidence > 0.0)) | (evidence >= need),
        since=since,
    )


def _elsewhere(values: Floats, group: Whole, node: Whole) -> Floats:
    """The sum over each one's group, less what is of its own node."""
    total = np.bincount(group, weights=values, minlength=1)
    _, own = np.unique(group * (node.max(initial=0) + 1) + node, return_inverse=True)
    return np.asarray(np.maximum(0.0, total[group] - np.bincount(own, weights=values)[own]), dtype=np.float64)
