"""Quotas as a snapshot has them, and what agents and registry must reckon alike of them: pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from bridge_core.bounds import Count, Name, Seconds
from bridge_core.policy.statements import MAX_PARTS, Subject

Per: TypeAlias = Literal["client", "group", "all"]
Resource: TypeAlias = Literal["requests", "prompt_tokens", "output_tokens", "concurrency"]

RESOURCES: Final[tuple[Resource, ...]] = ("requests", "prompt_tokens", "output_tokens", "concurrency")
LEASE_S: Final = 10.0
"""For so long after a report that was answered an agent may use what it was granted."""
SILENT_S: Final = 15.0
"""After so long without a report the registry takes back what it granted: the agent uses it no more."""
MAX_CELLS: Final = 8192
"""Buckets that one agent keeps, and that the registry takes of it."""


class Quota(msgspec.Struct, frozen=True, omit_defaults=True):
    """How much of what may be asked for in a window. 0 of anything: no limit.

    Attributes:
        name: The document's.
        subjects: Whom it is about; none: everybody.
        models: Models and routes it is about, `*` for any characters; none: all.
        window_s: In which the amounts may be used.
        per: Whose use is added up: each client's, each of the named groups', or all of it.
        requests: How many may begin.
        prompt_tokens: How many may be read.
        output_tokens: How many may be generated.
        concurrency: How many requests at once; not a matter of the window.
        shadow: Nothing is refused; what would have been is recorded.
    """

    name: Name
    subjects: Annotated[tuple[Subject, ...], msgspec.Meta(max_length=MAX_PARTS)] = ()
    models: Annotated[tuple[Name, ...], msgspec.Meta(max_length=MAX_PARTS)] = ()
    window_s: Seconds = 60.0
    per: Per = "client"
    requests: Count = 0
    prompt_tokens: Count = 0
    output_tokens: Count = 0
    concurrency: Count = 0
    shadow: bool = False

    @property
    def window_ms(self) -> int:
        """The window in milliseconds."""
        return max(1, int(self.window_s * 1000))

    def amount(self, resource: Resource) -> int:
        """How much of it; 0: no limit."""
        if resource == "requests":
            return self.requests
        if resource == "prompt_tokens":
            return self.prompt_tokens
        return self.output_tokens if resource == "output_tokens" else self.concurrency

    def begins(self, resource: Resource, now_ms: int) -> int:
        """When the window began that is now: a multiple of its length in Unix time; 0: it has none."""
        return 0 if resource == "concurrency" else now_ms - now_ms % self.window_ms


class Bucket(msgspec.Struct, frozen=True):
    """One window of one resource of one quota, of whoever it counts.

    Attributes:
        quota: The quota's name.
        of: The client's or group's text; empty: everybody's.
        begins: Of the window, Unix milliseconds; 0: it has none.
        resource: Of what.
    """

    quota: str
    of: str
    begins: int
    resource: Resource


class CellUse(msgspec.Struct, frozen=True):
    """What an agent tells of its part of a bucket.

    Attributes:
        bucket: Which.
        used: What was used since the window began and what is reserved; of concurrency, what runs.
        wanted: What it could use besides.
        limit: As far as it may use it.
    """

    bucket: Bucket
    used: int
    wanted: int
    limit: int


class CellLimit(msgspec.Struct, frozen=True):
    """What the registry tells an agent of its part of a bucket.

    Attributes:
        bucket: Which.
        limit: As far as it may use it from now on.
        others: What other nodes used.
    """

    bucket: Bucket
    limit: int
    others: int


def ranks(nodes: Iterable[str]) -> dict[str, int]:
    """The place of each node among all, as `equal_share` takes it."""
    return {node: rank for rank, node in enumerate(sorted(nodes))}


def equal_share(amount: int, rank: int | None, nodes: int) -> int:
    """What a node may use of an amount while nobody has told it otherwise.

    The shares of all nodes add up to the amount. A node that is not among them (None) has none.
    """
    if rank is None:
        return 0
    least, more = divmod(amount, nodes)
    return least + (rank < more)
