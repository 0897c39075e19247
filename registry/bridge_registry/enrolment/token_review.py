"""Asking the Kubernetes API whose a service account's token is (TokenReview, authentication.k8s.io/v1).

Whoever reaches a registry can have it ask, so what is asked is bounded: by who asks, at once, and in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from bridge_core.errors import Unavailable
from bridge_registry.enrolment import pod_rules
from bridge_registry.enrolment.grace_rules import Budgets
from bridge_registry.enrolment.join_rules import EnrolmentRefused, JoinRefusal
from bridge_registry.enrolment.pod_rules import KubernetesApi, Pod
from bridge_registry.kubernetes_api import calling

_PATH: Final = b"/apis/authentication.k8s.io/v1/tokenreviews"
_TIMEOUT_S: Final = 10.0  # half of what a node waits for its Join
_AT_ONCE: Final = 8
_BURST: Final = 10  # reviews that one address may have at once,
_EVERY_S: Final = 1.0  # and then one in so many seconds


class TokenReviewer:
    """Has Kubernetes vouch for pods.

    Args:
        api: Whom to ask.
        trust_domain: The mesh, which is in the tokens' audience.
        clock: Monotonic seconds.
    """

    def __init__(self, api: KubernetesApi, trust_domain: str, clock: Callable[[], float]) -> None:
        self._api = api
        self._audience = pod_rules.audience_of(trust_domain)
        self._clock = clock
        self._budgets = Budgets(_BURST, _EVERY_S)
        self._turns = asyncio.Semaphore(_AT_ONCE)

    @property
    def dns_names(self) -> tuple[str, ...]:
        """Host names that certificates of pods may carry."""
        return self._api.dns_names

    async def review(self, token: str, remote: str) -> Pod:
        """The pod whose token it is, one that may join.

        Raises:
            EnrolmentRefused: Kubernetes vouches for none, or `remote` asks too often.
            Unavailable: the API cannot be asked, or does not let this registry ask.
        """
        if not self._budgets.take(remote.rpartition(":")[0], self._clock()):
            raise EnrolmentRefused(JoinRefusal.TOO_OFTEN, "asked too often", hint="wait")
        try:
            async with asyncio.timeout(_TIMEOUT_S), self._turns:
                answer = await self._ask(pod_rules.request_of(token, self._audience))
        except TimeoutError as fault:
            raise Unavailable(f"the Kubernetes API did not answer within {_TIMEOUT_S:g} s") from fault
        return pod_rules.pod_of(answer, self._audience, self._api.accounts)

    async def _ask(self, body: bytes) -> bytes:
        async with calling(self._api.address, self._api.folder, pod_rules.MOST_BYTES) as call:
            status, answer = await call("POST", _PATH, b"application/json", body)
        if status in {401, 403}:
            raise Unavailable(
                f"the Kubernetes API answered {status}: this registry may not have tokens reviewed",
                hint="its service account needs `create` on tokenreviews.authentication.k8s.io",
            )
        if status != 201:
            raise Unavailable(f"the Kubernetes API answered {status} to a TokenReview")
        return answer
