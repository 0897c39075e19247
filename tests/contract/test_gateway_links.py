"""Nodes that some can reach and others cannot, and nodes that are far."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bridge_agent.gateway.fanout import node_target
from bridge_agent.routing.link_rules import LinkBook
from bridge_agent.routing.pulse_rules import PulsePolicy
from bridge_core.http1 import ConnectFailed
from bridge_core.snapshot import Node
from tests.contract.gateway_bed import Bed, mesh
from tests.fakes.recorded_engine import RecordedEngine
from tests.support import eventually


def links(bed: Bed, node: str) -> LinkBook:
    return bed[node].upstreams.links


def hide(bed: Bed, viewer: str, node: str, address: str = "127.0.0.1:1") -> None:
    """Gives `viewer` an address of `node` at which nobody listens."""
    snapshot = bed[viewer].view.current
    entries = dict(snapshot.entries)
    record = msgspec.json.decode(entries[f"node/{node}"], type=Node)
    changed = msgspec.structs.replace(record, peer=address)
    entries[f"node/{node}"] = msgspec.json.encode(changed)
    bed[viewer].view.publish(type(snapshot)(snapshot.version, entries))


async def test_a_node_that_others_reach_is_named_with_the_link_and_not_connected_to_again(
    tmp_path: Path,
) -> None:
    engines = {"a": RecordedEngine(("m",)), "b": RecordedEngine(("m",)), "c": RecordedEngine(("solo",))}
    async with mesh(tmp_path, engines, pulse=PulsePolicy()) as bed:
        await eventually(lambda: links(bed, "a").who_can("c") == ("b",))
        hide(bed, "a", "c")
        answer = await bed["a"].infer(model="solo")
        words = "a cannot reach c at 127.0.0.1:1: "
        assert answer.status == 502
        assert answer.json()["error"].startswith(words)
        assert answer.json()["error"].endswith("; b can")
        await eventually(lambda: links(bed, "a").fault("c"))
        again = await bed["a"].infer(model="solo")
        assert (again.status, again.json()) == (answer.status, answer.json())
        with pytest.raises(ConnectFailed):  # at once: no connection is tried
            bed["a"].upstreams.pool(node_target("c", "127.0.0.1:1"))
        assert (await bed["b"].infer(model="solo")).status == 200
        await eventually(lambda: "c" in links(bed, "a").unreached())
        bed.publish()  # the right address again
        await eventually(lambda: not links(bed, "a").fault("c"))
        assert (await bed["a"].infer(model="solo")).status == 200


async def test_who_cannot_be_connected_to_is_not_chosen_while_others_can_serve(tmp_path: Path) -> None:
    engines = {"a": RecordedEngine(("m",)), "b": RecordedEngine(("x",)), "c": RecordedEngine(("x",))}
    async with mesh(tmp_path, engines, pulse=PulsePolicy()) as bed:
        hide(bed, "a", "c")
        await eventually(lambda: links(bed, "a").fault("c"))
        for number in range(10):
            answer = await bed["a"].infer(model="x", headers={"X-Bridge-Session": f"s{number}"})
            assert answer.headers.get(b"x-bridge-node") == b"b"
            assert answer.headers.get(b"x-bridge-attempts") == b"1"


async def test_a_far_node_gets_nothing_while_near_ones_are_idle(tmp_path: Path) -> None:
    engines = {name: RecordedEngine(("m",)) for name in "abc"}
    async with mesh(tmp_path, engines, pulse=None) as bed:
        for _ in range(20):
            links(bed, "a").answered("c", 0.3, ())
        for number in range(20):
            answer = await bed["a"].infer(model="m", headers={"X-Bridge-Session": f"s{number}"})
            assert answer.headers.get(b"x-bridge-node") in (b"a", b"b")


async def test_an_address_that_is_none_is_told_as_a_link_and_costs_nobody_else(tmp_path: Path) -> None:
    engines = {"a": RecordedEngine(("m",)), "b": RecordedEngine(("solo",)), "c": RecordedEngine(("m",))}
    async with mesh(tmp_path, engines, pulse=PulsePolicy()) as bed:
        hide(bed, "a", "b", "nowhere")
        answer = await bed["a"].infer(model="solo")
        assert answer.status == 502
        assert answer.json()["error"].startswith("a cannot reach b at nowhere: ")
        assert (await bed["a"].infer(model="m")).status == 200
