"""What is said of a mesh: short, whatever its size, and by who it is that is in trouble."""

from __future__ import annotations

from bridge_cli.mesh_report import few, report_of, summary
from bridge_core.quantities import say_span
from bridge_wire.v1 import registry_pb2 as wire

NOW = 1_000_000.0


def node(number: int, **more: object) -> wire.NodeStatus:
    said = {
        "name": f"n{number}",
        "state": "active",
        "reports": True,
        "instances": [f"n{number}/0"],
        "models": ["tiny:latest"],
        "version": "1.0",
        "began_unix": int(NOW) - 100,
        "certificate_expires_unix": int(NOW) + 80_000,
    }
    return wire.NodeStatus(**{**said, **more})


def status(nodes: list[wire.NodeStatus], **more: object) -> wire.StatusResponse:
    said = {"leader": True, "leader_name": "r1", "nodes": nodes, "now_unix": int(NOW)}
    return wire.StatusResponse(**{**said, **more})


def test_a_hundred_nodes_are_a_few_lines() -> None:
    silent = [wire.SilentPeer(node="n99", since_unix=int(NOW) - 90)]
    nodes = [node(number, silent_peers=silent) for number in range(99)]
    nodes += [node(99, version="1.1")]
    nodes += [node(100 + number, reports=False, instances=[], models=[]) for number in range(20)]
    report = report_of(status(nodes), NOW)
    lines = summary(report, NOW)
    assert len(lines) + len(report.troubles) < 12
    assert "nodes      120: 100 serving, 20 away" in lines
    assert "versions   1.0 on 119, 1.1 on 1" in lines
    assert "models     tiny:latest on all 100" in lines
    assert report.troubles == (
        "n100, n101, n102 and 17 more: not heard of",
        "n0, n1, n2 and 96 more cannot reach n99 (for 90 s)",
    )


def test_trouble_is_told_once_and_capped() -> None:
    nodes = [node(number, rejected="digest differs") for number in range(30)]
    report = report_of(status(nodes, concerns=[f"key{n}: rubbish" for n in range(20)]), NOW)
    assert len([line for line in report.troubles if "refused the snapshot" in line]) == 8
    assert len([line for line in report.troubles if "more like it" in line]) == 2


def test_whoever_is_away_is_not_also_told_to_be_unreachable() -> None:
    silent = [wire.SilentPeer(node="n2", since_unix=int(NOW) - 90)]
    heard = int(NOW) - 150
    nodes = [node(1, silent_peers=silent), node(2, reports=False, instances=[], heard_unix=heard)]
    report = report_of(status(nodes), NOW)
    assert report.troubles == ("n2: not heard of (last heard 2 min ago)",)


def test_a_registry_that_does_not_lead_is_not_believed_about_who_reports() -> None:
    nodes = [node(1, reports=False)]
    report = report_of(status(nodes, leader=False, leader_name=""), NOW)
    assert report.broken
    assert report.troubles == ("no registry leads: nobody joins, and nothing can be applied",)
    assert [one.state for one in report.nodes] == ["serving"]


def test_a_node_with_a_lease_that_the_leader_does_not_hear_is_told_apart_from_one_that_is_gone() -> None:
    report = report_of(status([node(1, reports=False), node(2, reports=False, instances=[])]), NOW)
    assert [one.state for one in report.nodes] == ["serving", "away"]
    assert report.troubles == (
        "n2: not heard of",
        "n1: in the mesh, but not in touch with the registry that leads",
    )


def test_ends_of_certificates_and_clocks_apart_are_told() -> None:
    nodes = [
        node(1, certificate_expires_unix=int(NOW) - 5),
        node(2, certificate_expires_unix=int(NOW) + 60),
        node(3, certificate_expires_unix=int(NOW) - 5, state="revoked"),
        node(4, instances=[]),
    ]
    troubles = report_of(status(nodes, now_unix=int(NOW) - 3_600 * 3), NOW).troubles
    assert troubles[0] == "this machine's clock and the registry's differ by 3 h"
    assert troubles[1] == "n4: no engine that is ready"
    assert troubles[2].startswith("n1: certificate EXPIRED")
    assert troubles[3].startswith("n2: certificate ends within")
    assert len(troubles) == 4


def test_an_older_registry_that_says_less_is_understood() -> None:
    report = report_of(wire.StatusResponse(leader=True, registry="", nodes=[]), NOW)
    assert report.leader == ""
    assert not any("clock" in line for line in report.troubles)


def test_words() -> None:
    assert few(["a", "b", "c", "d"]) == "a, b, c, d"
    assert few(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
    spans = {-1: "0 s", 119: "119 s", 120: "2 min", 7_200: "2 h", 172_800: "2 d"}
    assert {seconds: say_span(seconds) for seconds in spans} == spans
