"""What models that are scaled were asked at this node's own instances, whoever asked."""

from __future__ import annotations

from bridge_agent.gateway.config import ListenerKind, Outcome, RequestRecord
from bridge_agent.membership.registry_api import ModelDemand
from bridge_agent.routing.view import MeshView
from bridge_core.counts import Counter


class _Model:
    __slots__ = ("answered", "asked")

    def __init__(self) -> None:
        self.asked = 0
        self.answered = Counter()


class DemandTally:
    """Counts since the agent began; one task feeds it.

    Args:
        node: This node.
        view: Says which models are scaled: others are not counted, so that nothing piles up.
    """

    def __init__(self, node: str, view: MeshView) -> None:
        self._node = node
        self._view = view
        self._models: dict[str, _Model] = {}

    @property
    def loads(self) -> tuple[ModelDemand, ...]:
        """By model."""
        scaled = self._view.index.scaled
        self._models = {name: one for name, one in self._models.items() if name in scaled}
        return tuple(ModelDemand(name, one.asked, one.answered.counts) for name, one in self._models.items())

    def take(self, record: RequestRecord) -> None:
        """A request is over. Counted is what reached an instance here, and what came in here to no avail."""
        decision = record.decision
        if decision is None or decision.model not in self._view.index.scaled:
            return
        if record.instance:
            here = record.instance.partition("/")[0] == self._node
        else:
            here = record.outcome is Outcome.REFUSED and record.caller.listener is not ListenerKind.PEER
        if not here:
            return
        model = self._models.setdefault(decision.model, _Model())
        model.asked += 1
        if record.head > 0 and record.status < 400:
            took = max(0.0, record.head - record.began)
            model.answered.answered(took, tokens=0, generating_s=0.0, broken=False)
