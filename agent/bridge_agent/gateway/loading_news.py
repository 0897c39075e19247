"""How the load goes that a request of this entry waits for, at whichever node it is."""

from __future__ import annotations

import time

from bridge_agent.gateway.loading_words import loading_comment, loading_value
from bridge_agent.gateway.replies import short
from bridge_agent.gateway.state import GatewayState
from bridge_agent.routing.choose import Decision
from bridge_agent.routing.view import Target
from bridge_core.snapshot import LoadingModel


class LoadingNews:
    """See the module.

    Args:
        state: The gateway's.
        decision: Where the request goes.
        began: When it came.
    """

    __slots__ = ("_began", "_instance", "_model", "_state")

    def __init__(self, state: GatewayState, decision: Decision, began: float) -> None:
        self._state = state
        self._model = decision.model
        self._instance = decision.candidates[0].id
        self._began = began

    def value(self) -> bytes:
        """What `X-Bridge-Loading` says at this moment."""
        return loading_value(self._state.now() - self._began, self._load(), time.time())

    def comment(self) -> bytes:
        """The same as a comment of an event stream; empty once the model is in memory."""
        target = self._target()
        if target is not None and self._model in target.loaded:
            return b""
        return loading_comment(short(self._model), self._load(), time.time())

    def _load(self) -> LoadingModel | None:
        target = self._target()
        return None if target is None else target.load_of(self._model)

    def _target(self) -> Target | None:
        return self._state.view.index.targets.get(self._instance)
