"""Streams that survive: what a client has of a stream, and how the rest is asked for. Pure."""

from bridge_agent.routing.resume.continuation import Continuation
from bridge_agent.routing.resume.pace import Stalls
from bridge_agent.routing.resume.places import ContinuationPlace, better, crowded, digest_of, places
from bridge_agent.routing.resume.plan import (
    CHAT,
    GENERATE,
    NotResumable,
    ResumableRequest,
    check,
    check_ending,
    continuation_body,
    render_body,
    rendered_prompt,
    renders_only,
    request_of,
    tracker_for,
)
from bridge_agent.routing.resume.tracker import Tracker

__all__ = [
    "CHAT",
    "GENERATE",
    "Continuation",
    "ContinuationPlace",
    "NotResumable",
    "ResumableRequest",
    "Stalls",
    "Tracker",
    "better",
    "check",
    "check_ending",
    "continuation_body",
    "crowded",
    "digest_of",
    "places",
    "render_body",
    "rendered_prompt",
    "renders_only",
    "request_of",
    "tracker_for",
]
