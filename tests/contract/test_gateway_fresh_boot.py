"""What clients hear of a model that nobody is known to have, before everybody has said what it has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridge_core.snapshot import Instance, Node
from tests.contract.gateway_bed import Bed, mesh
from tests.fakes.recorded_engine import RecordedEngine

ALL = "smollm2:135m"
LATE = "late"  # which only the node that is not ready yet has

WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "/api/chat": ("POST", {"model": LATE, "messages": [{"role": "user", "content": "hi"}]}),
    "/api/generate": ("POST", {"model": LATE, "prompt": "hi"}),
    "/api/embed": ("POST", {"model": LATE, "input": "hi"}),
    "/api/show": ("POST", {"model": LATE}),
    "/v1/chat/completions": ("POST", {"model": LATE, "messages": [{"role": "user", "content": "hi"}]}),
    "/v1/messages": (
        "POST",
        {"model": LATE, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]},
    ),
    f"/v1/models/{LATE}": ("GET", {}),
}


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    """Node b is enrolled and has no instance yet; node a has all that it ever had."""
    async with mesh(tmp_path, {"a": RecordedEngine((ALL,)), "b": RecordedEngine((ALL, LATE))}) as bed:
        bed.publish(instance__b=None)
        yield bed


def said(body: Any) -> str:
    """The sentence in an error of any protocol's shape."""
    fault = body["error"]
    return fault if isinstance(fault, str) else fault["message"]


@pytest.mark.parametrize("path", WAYS)
async def test_a_model_that_may_turn_up_is_asked_for_again(bed: Bed, path: str) -> None:
    method, body = WAYS[path]
    answer = await bed["a"].ask(method, path, body or None)
    assert (answer.status, answer.headers.get(b"retry-after")) == (503, b"1")
    assert said(answer.json()) == f"model '{LATE}' is not known yet: node b is not there yet"
    if path == "/v1/messages":
        assert answer.json()["error"]["type"] == "overloaded_error"


@pytest.mark.parametrize("path", WAYS)
async def test_it_is_answered_once_it_has_turned_up_and_not_found_once_it_cannot(bed: Bed, path: str) -> None:
    method, body = WAYS[path]
    bed.enrol("b")
    assert (await bed["a"].ask(method, path, body or None)).status == 200
    bed.publish(instance__b=Instance("b/0", "b"))
    gone = await bed["a"].ask(method, path, body or None)
    assert (gone.status, gone.headers.get(b"retry-after")) == (404, None)


async def test_what_is_known_is_answered_meanwhile(bed: Bed) -> None:
    assert (await bed["a"].infer()).status == 200
    # Also by a peer, while this node's own engine has yet to say what it has.
    bed.enrol("b")
    node = bed["a"]
    node.view.publish_local(
        (msgspec.structs.replace(node.engine.instance("a/0"), state="starting", models=()),)
    )
    answer = await node.infer()
    assert (answer.status, answer.headers.get(b"x-bridge-node")) == (200, b"b")
    unknown = await node.infer(model="nope")
    assert unknown.status == 503
    assert "a/0 is starting" in said(unknown.json())


async def test_an_owner_that_was_restarted_says_so_instead_of_not_found(bed: Bed) -> None:
    bed.enrol("b")
    owner = bed["b"]
    starting = msgspec.structs.replace(owner.engine.instance("b/0"), state="starting", models=())
    owner.view.publish_local((starting,))
    # Node a has yet to hear of it.
    answer = await bed["a"].infer(model=LATE)
    assert (answer.status, answer.headers.get(b"retry-after")) == (503, b"1")


async def test_a_drained_node_is_not_waited_for(bed: Bed) -> None:
    bed.publish(node__b=Node("b", "127.0.0.1:1", state="drained"))
    assert (await bed["a"].infer(model=LATE)).status == 404
