"""Why a request went where it went, as agents tell it of each hop and commands print it."""

from __future__ import annotations

import msgspec

PATH = "/bridge/explain"


class Considered(msgspec.Struct, frozen=True):
    """A candidate in the order in which it would be tried, with its work when it was chosen."""

    instance: str
    work: int
    slots: int
    capacity: int
    resident: bool


class PassedOver(msgspec.Struct, frozen=True):
    """Who was not asked, and why."""

    instance: str
    reason: str


class Tried(msgspec.Struct, frozen=True):
    """An attempt that failed; milliseconds from the request's arrival."""

    instance: str
    began_ms: float
    failure: str
    detail: str


class HopReport(msgspec.Struct, frozen=True):
    """One hop of one request. Times are milliseconds from its arrival at this node; -1: it did not happen.

    Attributes:
        node: Whose word this is.
        via: The entry node, when the request was forwarded to this one.
        asked: The model as it was asked for, in canonical form.
        key: What a choice hung on besides the mesh's state (hexadecimal).
        panic: Ejections were not regarded.
        waited_ms: For a slot.
        sent_ms: When the last attempt was sent.
        first_byte_ms: When its answer began.
    """

    node: str
    request_id: str
    principal: str
    via: str
    path: str
    asked: str
    model: str
    route: str
    backend: str
    strategy: str
    key: str
    panic: bool
    candidates: tuple[Considered, ...]
    passed_over: tuple[PassedOver, ...]
    failed: tuple[Tried, ...]
    instance: str
    status: int
    outcome: str
    waited_ms: float
    sent_ms: float
    first_byte_ms: float
    ended_ms: float
    bytes_in: int
    bytes_out: int
