"""Explanations as people read them."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from bridge_core.command.explanation_text import print_explanation
from bridge_core.explanation import Considered, HopReport, PassedOver, Tried

_HOP: dict[str, Any] = {
    "node": "node1",
    "request_id": "r1",
    "principal": "local",
    "via": "",
    "path": "/api/generate",
    "asked": "registry.ollama.ai/library/m:latest",
    "model": "registry.ollama.ai/library/m:latest",
    "route": "",
    "backend": "",
    "strategy": "only",
    "key": "",
    "panic": False,
    "candidates": (Considered("node2/0", 1, 4, 400, True),),
    "passed_over": (),
    "failed": (),
    "instance": "node2/0",
    "status": 200,
    "outcome": "ok",
    "waited_ms": 0.0,
    "sent_ms": 0.5,
    "first_byte_ms": 2.0,
    "ended_ms": 3.0,
    "bytes_in": 1,
    "bytes_out": 1,
}


def printed(**other: Any) -> str:
    out = io.StringIO()
    print_explanation([HopReport(**(_HOP | other))], Console(file=out, width=200))
    return out.getvalue()


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({}, "m:latest, which one instance alone has"),
        ({"candidates": (), "instance": "", "status": 404}, "m:latest, which no instance has"),
        ({"candidates": (), "passed_over": (PassedOver("node3/0", "drained"),)}, "drained"),
        ({"strategy": "ring_hash"}, "in the ring's order"),
        ({"strategy": "later"}, "the order is later's"),
        ({"via": "node9"}, "node1 (forwarded by node9): /api/generate m:latest"),
        ({"route": "chat", "backend": "old"}, "route chat, backend old: m:latest"),
        ({"panic": True}, "health was not regarded (panic)"),
        ({"waited_ms": 7.0}, "waited 7 ms, sent at 0.5 ms, first byte at 2 ms, over at 3 ms"),
        ({"sent_ms": -1.0, "first_byte_ms": -1.0}, "ok (200): over at 3 ms"),
        ({"failed": (Tried("node2/0", 0.1, "cut", "gone"),)}, "cut: gone"),
    ],
)
def test_a_hop_is_told_in_words(other: dict[str, Any], said: str) -> None:
    text = printed(**other)
    assert said in text
    assert ("no instance has" in text) == (other.get("status") == 404)
