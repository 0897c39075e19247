"""What one part's values are in another part's words: engines to the store, requests to the engines."""

from __future__ import annotations

from collections.abc import Iterable

from bridge_agent.engines.view import LocalInstance
from bridge_agent.gateway.config import Outcome, RequestRecord
from bridge_agent.gateway.routes import ROUTES, Kind
from bridge_core.snapshot import Instance

_INFERENCE = frozenset(route.path for route in ROUTES if route.kind is Kind.INFER)
_MUTATIONS = frozenset({"/api/pull", "/api/create", "/api/copy", "/api/delete", "/api/push"})


def registered(instances: Iterable[LocalInstance], node: str) -> list[Instance]:
    """The records of the instances that are, or soon will be, there and fit to serve."""
    return [
        Instance(
            id=one.id,
            node=node,
            engine=one.engine,
            state=one.state,
            slots=one.slots,
            models=one.models,
            loaded=one.loaded,
            loading=one.loading,
            warm=one.warm,
            sealed=one.sealed,
            withheld=one.withheld,
            signed=one.signed,
            failure_domain=one.failure_domain,
        )
        for one in instances
        if one.state != "stopped" and not one.fault
    ]


def changes_models(record: RequestRecord) -> bool:
    """Whether a request may have changed what an engine has on disk."""
    return record.path in _MUTATIONS and record.status < 300


def generated(record: RequestRecord) -> bool | None:
    """Whether an instance's model has answered; None where the request asked for no inference there.

    An answer proves that the model does not hang. One that did not come is for a probe to look into.
    """
    if not record.instance or record.path not in _INFERENCE:
        return None
    return record.outcome is Outcome.OK and record.status == 200
