"""Mutations of models that other nodes have, and where `X-Bridge-Node` sends them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bridge_core.policy.statements import AccessPolicy, Resource, Subject
from bridge_core.snapshot import Backend, Route
from tests.contract.gateway_bed import Bed, mesh
from tests.fakes.recorded_engine import RecordedEngine

NEEDS = [
    ("DELETE", "/api/delete", {"model": "solo"}),
    ("DELETE", "/api/delete", {"name": "Solo:latest"}),
    ("POST", "/api/copy", {"source": "solo", "destination": "solo2"}),
    ("POST", "/api/push", {"model": "solo"}),
    ("POST", "/api/push", {"model": "solo", "stream": False}),
    ("POST", "/api/create", {"model": "own", "from": "solo"}),
]


def engines() -> dict[str, RecordedEngine]:
    return {
        "a": RecordedEngine(("m",)),
        "b": RecordedEngine(("m", "twice")),
        "c": RecordedEngine(("m", "twice", "solo")),
    }


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    async with mesh(tmp_path, engines()) as bed:
        yield bed


def mutations(bed: Bed) -> dict[str, int]:
    return {name: len(node.engine.asked) for name, node in bed.nodes.items()}


@pytest.mark.parametrize(("method", "path", "body"), NEEDS)
async def test_who_has_the_model_is_named_with_the_way_to_ask_there(
    bed: Bed, method: str, path: str, body: dict[str, Any]
) -> None:
    for where in ({}, {"X-Bridge-Node": "a"}, {"X-Bridge-Node": "b"}):
        answer = await bed["a"].ask(method, path, body, where)
        assert answer.status == 404
        message = answer.json()["error"]
        assert f"not found on node {where.get('X-Bridge-Node', 'a')}; c has it" in message
        assert "X-Bridge-Node: c" in message
    assert mutations(bed) == {"a": 0, "b": 0, "c": 0}
    assert (await bed["a"].ask(method, path, body, {"X-Bridge-Node": "c"})).status == 200
    assert mutations(bed) == {"a": 0, "b": 0, "c": 1}


async def test_several_owners_are_all_named_and_none_is_chosen(tmp_path: Path) -> None:
    async with mesh(tmp_path, engines(), ask_owner=True) as bed:
        answer = await bed["a"].ask("DELETE", "/api/delete", {"model": "twice"})
        assert answer.status == 404
        assert "b, c have it" in answer.json()["error"]
        assert mutations(bed) == {"a": 0, "b": 0, "c": 0}


@pytest.mark.parametrize(("method", "path", "body"), NEEDS)
async def test_the_owner_is_asked_where_the_configuration_says_so(
    tmp_path: Path, method: str, path: str, body: dict[str, Any]
) -> None:
    async with mesh(tmp_path, engines(), ask_owner=True) as bed:
        answer = await bed["a"].ask(method, path, body)
        assert (answer.status, answer.headers.get(b"x-bridge-node")) == (200, b"c")
        assert mutations(bed) == {"a": 0, "b": 0, "c": 1}
        assert (await bed["a"].ask(method, path, body, {"X-Bridge-Node": "a"})).status == 404


async def test_what_the_node_has_or_nobody_has_is_left_to_its_engine(bed: Bed) -> None:
    await bed["c"].ask("DELETE", "/api/delete", {"model": "solo"})
    await bed["c"].ask("DELETE", "/api/delete", {"model": "unheard-of"})
    await bed["c"].ask("POST", "/api/pull", {"model": "solo"})
    await bed["a"].ask("POST", "/api/pull", {"model": "solo"})
    assert mutations(bed) == {"a": 1, "b": 0, "c": 3}


async def test_a_route_is_told_from_a_model(bed: Bed) -> None:
    bed.publish(route__chat=Route("chat", (Backend("solo"),)))
    answer = await bed["a"].ask("DELETE", "/api/delete", {"model": "chat"})
    assert answer.status == 404
    assert "it is a route of the mesh, to solo" in answer.json()["error"]


async def test_who_may_not_do_it_does_not_learn_who_has_it(tmp_path: Path) -> None:
    nobody = AccessPolicy(
        "nobody", (Subject("Node", "*"),), (Resource(("Model",), ("*",)),), ("delete",), effect="Deny"
    )
    async with mesh(tmp_path, engines()) as bed:
        bed.publish(policy__nobody=nobody)
        answer = await bed["a"].ask("DELETE", "/api/delete", {"model": "solo"})
        assert answer.status == 403
        assert answer.json() == {"error": "this caller may not delete model 'solo:latest'"}


@pytest.mark.parametrize(
    ("method", "path", "body"), [*NEEDS, ("POST", "/api/pull", {"model": "x", "stream": False})]
)
async def test_on_all_nodes_of_which_none_can_take_it_is_no_success(
    tmp_path: Path, method: str, path: str, body: dict[str, Any]
) -> None:
    async with mesh(tmp_path, {"a": RecordedEngine(("m",))}) as bed:
        bed["a"].view.publish_local(())
        answer = await bed["a"].ask(method, path, body, {"X-Bridge-Node": "all"})
        assert (answer.status, answer.headers.get(b"retry-after")) == (503, b"1")
        assert answer.json() == {"error": "no node can take this at present"}


async def test_on_all_nodes_who_never_had_a_model_does_not_keep_it_from_being_deleted(bed: Bed) -> None:
    bed["a"].engine.lacks = ("solo",)
    everywhere = {"X-Bridge-Node": "all"}
    assert (await bed["b"].ask("DELETE", "/api/delete", {"model": "solo"}, everywhere)).status == 200
    for node in bed.nodes.values():
        node.engine.lacks = ("solo",)
    assert (await bed["b"].ask("DELETE", "/api/delete", {"model": "solo"}, everywhere)).status == 404
