"""Quotas as a snapshot has them."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from bridge_core.bounds import Count, Name, Seconds
from bridge_core.policy.statements import MAX_PARTS, Subject

Per: TypeAlias = Literal["client", "group", "all"]


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
