"""Who calls, and what they used: for pages that are signed in, by the calls that `bridgectl` makes for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from bridge_core.http1 import App, Exchange, coroutine_app
from bridge_core.names import display_or_same
from bridge_registry.console.pages import ROOT, answer_json
from bridge_registry.console.sign_in import SignIn, refuse_call
from bridge_registry.rpc.inner_calls import Behaviour, CallRefused, InnerCalls
from bridge_wire.v1 import clients_pb2, quota_pb2

DAYS: Final = 7
_SHOWN: Final = 200  # of each


class ClientsPage:
    """See the module.

    Args:
        sign_in: Knows who asks.
        calls: Makes calls as that admin.
        methods: ListClients, Usage and Use, recorded, by their names.
        wall: Unix seconds.
    """

    def __init__(
        self,
        sign_in: SignIn,
        calls: InnerCalls,
        methods: Mapping[str, Behaviour],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._sign_in = sign_in
        self._calls = calls
        self._methods = methods
        self._wall = wall

    def pages(self, group: asyncio.TaskGroup) -> dict[str, App]:
        """What pages ask for, by path; what that waits for runs in `group`."""
        return {f"{ROOT}/api/clients": coroutine_app(self._answer, group)}

    async def _answer(self, exchange: Exchange) -> None:
        caller = await self._sign_in.caller(exchange)
        if caller is None:
            return None
        today = int(self._wall() // 86_400)
        asked = {
            "ListClients": clients_pb2.ListClientsRequest(),
            "Usage": quota_pb2.UsageRequest(from_day=today - DAYS + 1, to_day=today),
            "Use": quota_pb2.QuotaUseRequest(),
        }
        try:
            found = {
                name: await self._calls.make(self._methods[name], one, caller) for name, one in asked.items()
            }
        except CallRefused as refused:
            return refuse_call(exchange, refused)
        said = {
            "days": DAYS,
            "clients": _clients(found["ListClients"]),
            "usage": _usage(found["Usage"]),
            "quotas": _quotas(found["Use"]),
        }
        return answer_json(exchange, said)


def _clients(answer: Any) -> list[dict[str, Any]]:
    """Clients, those who called last first."""
    newest = sorted(answer.clients, key=lambda one: (-one.last_used_unix, one.name))
    return [
        {
            "name": one.name,
            "groups": list(one.groups),
            "keys": len(one.keys),
            "blocked": one.blocked,
            "expires": one.expires_unix,
            "used": one.last_used_unix,
        }
        for one in newest[:_SHOWN]
    ]


def _usage(answer: Any) -> list[dict[str, Any]]:
    """Who used how much of which model in all these days, the most first."""
    sums: dict[tuple[str, str], list[int]] = {}
    for one in answer.uses:
        before = sums.setdefault((one.principal, one.model), [0, 0, 0, 0])
        for at, count in enumerate((one.requests, one.refused, one.prompt_tokens, one.output_tokens)):
            before[at] += count
    most = sorted(sums.items(), key=lambda item: (-item[1][2] - item[1][3], item[0]))
    names = ("requests", "refused", "prompt", "output")
    return [
        {"who": who, "model": display_or_same(model), **dict(zip(names, counts, strict=True))}
        for (who, model), counts in most[:_SHOWN]
    ]


def _quotas(answer: Any) -> list[dict[str, Any]]:
    """What is used of quotas now, the fullest first."""
    fullest = sorted(answer.buckets, key=lambda one: -(one.used / one.amount if one.amount else 0.0))
    return [
        {
            "quota": one.bucket.quota,
            "of": one.bucket.of,
            "what": quota_pb2.Resource.Name(one.bucket.resource).lower().replace("_", " "),
            "used": one.used,
            "limit": one.amount,
            "shadow": one.shadow,
        }
        for one in fullest[:_SHOWN]
    ]
