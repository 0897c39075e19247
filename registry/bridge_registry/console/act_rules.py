"""What a page that is signed in may ask for, and what of it becomes which call: pure.

Rules:
1. An act is one call that `bridgectl` makes too: the service says what it needs, and does it.
2. What changes something comes from a page that this listener served: a browser names it (Origin, and
   Sec-Fetch-Site where it sends that), and only a page of the same origin can send JSON without being asked
   whether it may. It comes over the loopback: the listener has no TLS, so from elsewhere a cookie and a code
   would travel in the clear.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec

from bridge_core.addresses import ip_of
from bridge_core.decoding import decode_json
from bridge_core.http1.request import Request
from bridge_core.http_access import same_origin
from bridge_core.moments import utc_text
from bridge_wire.v1 import alerting_pb2
from bridge_wire.v1 import registry_pb2 as pb

MOST_BYTES: Final = 4096
TOKEN: Final = b"x-bridge-console"
"""The field in which the page sends its half of a session."""
_Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=253)]


class Drain(msgspec.Struct, frozen=True, tag_field="act", tag="drain", forbid_unknown_fields=True):
    """Take a node out of service, or put it back."""

    node: _Name
    drained: bool


class Rollout(msgspec.Struct, frozen=True, tag_field="act", tag="rollout", forbid_unknown_fields=True):
    """What an admin says to a rollout."""

    name: _Name
    verb: Literal["pause", "resume", "promote", "abort"]


class Rollback(msgspec.Struct, frozen=True, tag_field="act", tag="rollback", forbid_unknown_fields=True):
    """Bring back the configuration of a revision."""

    revision: Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]


class Silence(msgspec.Struct, frozen=True, tag_field="act", tag="silence", forbid_unknown_fields=True):
    """Have nobody told of some alerts for a while."""

    matchers: Annotated[tuple[Annotated[str, msgspec.Meta(max_length=600)], ...], msgspec.Meta(max_length=16)]
    seconds: Annotated[float, msgspec.Meta(ge=0, le=1e9)]
    reason: Annotated[str, msgspec.Meta(max_length=1000)]


class Unsilence(msgspec.Struct, frozen=True, tag_field="act", tag="unsilence", forbid_unknown_fields=True):
    """End a silence."""

    id: _Name


Act: TypeAlias = Drain | Rollout | Rollback | Silence | Unsilence
CALLS: Final = ("Drain", "CommandRollout", "Rollback")
"""Methods of the Admin service that acts call."""
ALERTING_CALLS: Final = ("Silence", "Unsilence")
"""Those of the Alerting service."""


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A code that is to become a session."""

    code: Annotated[str, msgspec.Meta(max_length=200)]


def act_of(body: bytes) -> Act:
    """The act that a body asks for.

    Raises:
        Undecodable: it asks for none.
    """
    return decode_json(body, Act, most=MOST_BYTES)  # type: ignore[arg-type]  # a union is a type to msgspec


def call_of(act: Act) -> tuple[str, Any]:
    """The method that does it, and its request."""
    if isinstance(act, Silence):
        asked = alerting_pb2.SilenceRequest(matchers=act.matchers, seconds=act.seconds, reason=act.reason)
        return "Silence", asked
    if isinstance(act, Unsilence):
        return "Unsilence", alerting_pb2.UnsilenceRequest(id=act.id)
    if isinstance(act, Drain):
        return "Drain", pb.DrainRequest(node_name=act.node, drained=act.drained)
    if isinstance(act, Rollout):
        return "CommandRollout", pb.CommandRolloutRequest(name=act.name, verb=act.verb)
    return "Rollback", pb.RollbackRequest(revision=act.revision)


def outcome(act: Act, answer: Any) -> tuple[bool, str]:
    """Whether it was done, and what became of it, in a sentence."""
    if isinstance(act, Drain):
        return (
            True,
            f"{act.node} {'is drained: it gets nothing new' if act.drained else 'is in service again'}.",
        )
    if isinstance(act, Silence):
        return (
            True,
            f"Nobody is told until {utc_text(answer.silence.ends_unix)} (silence {answer.silence.id}).",
        )
    if isinstance(act, Unsilence):
        return True, f"The silence {act.id} is over."
    if isinstance(act, Rollout):
        return True, f"{act.name} is {answer.phase} now."
    if answer.faults:
        first = answer.faults[0]
        return False, f"Nothing was brought back: {first.file or 'a document'}: {first.message}"
    if not answer.changed:
        return True, f"Nothing differs from revision {act.revision}."
    warnings = "".join(f" {one}." for one in answer.warnings)
    return True, f"Revision {answer.revision} brings back {act.revision}.{warnings}"


def unwanted(request: Request) -> str:
    """Why what changes something is not taken from whoever sent this, in a sentence; empty: it is."""
    fields = request.headers
    origin, host = fields.get(b"origin"), fields.get(b"host")
    if request.remote is None or not ip_of(request.remote[0]).is_loopback:
        return "signing in and acts are taken over the loopback alone: reach the console through ssh -L"
    if origin is None or host is None or not same_origin(origin, host):
        return "this is for the console's own page: its Origin is not this listener"
    if (fields.get(b"sec-fetch-site") or b"same-origin").lower() != b"same-origin":
        return "this is for the console's own page, not for one of another site"
    if (fields.get(b"content-type") or b"").partition(b";")[0].strip().lower() != b"application/json":
        return "the body has to be JSON: content-type: application/json"
    return ""
