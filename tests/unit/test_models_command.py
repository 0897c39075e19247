"""What `bridgectl models` says of models whose weights differ between nodes."""

from __future__ import annotations

import pytest

from bridge_cli.models_command import _print, model_reports
from bridge_cli.models_commands import _print_outcomes
from bridge_cli.models_remote import Outcome, copies_of
from bridge_cli.shared_commands import shared_lines, who_shares
from bridge_core.model_answers import SharedCounts, SharedSaid
from bridge_core.snapshot import Instance, LoadingModel, MemberModel, Node, Snapshot, Version, encode_entry

OLD, NEW = "2026-01-01T00:00:00Z", "2026-02-01T01:00:00+02:00"


def mesh(*copies: tuple[str, str, str, str], drained: str = "") -> Snapshot:
    """Of node, model, digest and time."""
    entries = {}
    for node in {copy[0] for copy in copies}:
        models = tuple(
            MemberModel(copy[1], copy[2], modified_at=copy[3]) for copy in copies if copy[0] == node
        )
        entries[f"instance/{node}/0"] = encode_entry(Instance(f"{node}/0", node, models=models))
        entries[f"node/{node}"] = encode_entry(Node(node, state="drained" if node == drained else "active"))
    return Snapshot(Version(1, 1), entries)


def test_who_has_a_model_in_shared_storage_is_named_in_any_spelling() -> None:
    told = [
        Outcome("a", shared=SharedSaid("/mnt", models=("team/big:v1", "m:latest"))),
        Outcome("b", shared=SharedSaid("/mnt", fault="it hangs", models=("m:latest",))),
        Outcome("c", shared=SharedSaid()),
        Outcome("d", fault="it does not answer"),
    ]
    assert who_shares(told, "M") == ["a", "b"]
    assert who_shares(told, "team/BIG:v1") == ["a"]
    assert who_shares(told, "big:v1") == []


def test_shared_storage_is_a_line_a_node_with_why_it_is_away_and_what_lies_there() -> None:
    counts = SharedCounts(blobs=3, bytes=99, faults=2, known_wrong=1)
    lines = shared_lines(
        [
            Outcome("a", shared=SharedSaid("/mnt", True, "", 0, counts, ("m:latest",))),
            Outcome("b", shared=SharedSaid("/mnt", fault="it hangs\x1b[2J", hanging=2, models=("m:latest",))),
            Outcome("c", shared=SharedSaid()),
            Outcome("d", fault="it does not answer"),
        ]
    )
    assert [line.split() for line in lines[1:5]] == [
        ["a", "/mnt", "ok", "yes", "3", "99", "2", "1"],
        ["b", "/mnt", "away", "no", "0", "0", "0", "0"],
        ["c", "none"],
        ["d", "not", "known"],
    ]
    assert lines[5].startswith("b: it hangs")
    assert lines[5].endswith("; 2 reads hang")
    assert "\x1b" not in "".join(lines)
    assert lines[6] == "d: it does not answer"
    assert lines[-1].split() == ["m:latest", "a,", "b"]


def test_nodes_that_agree_are_one_line() -> None:
    (report,) = model_reports(mesh(("a", "m", "d1", OLD), ("b", "M:latest", "d1", NEW)))
    assert report.name == "m:latest"
    assert [(one.digest, one.nodes, one.meant, one.behind) for one in report.weights] == [
        ("d1", ("a", "b"), True, False)
    ]


def test_the_node_that_is_behind_is_named_whatever_most_have(capsys: pytest.CaptureFixture[str]) -> None:
    (report,) = model_reports(mesh(("a", "m", "new", NEW), ("b", "m", "old", OLD), ("c", "m", "old", OLD)))
    assert [(one.digest, one.nodes, one.meant, one.behind) for one in report.weights] == [
        ("new", ("a",), False, False),
        ("old", ("b", "c"), True, True),
    ]
    _print([report])
    out = capsys.readouterr().out.splitlines()
    assert out[1].split() == ["m:latest", "new", "2026-02-01T01:00:00", "a"]
    assert out[2].endswith("b, c   behind; meant at nodes without a copy")


def test_a_node_that_does_not_say_is_not_called_behind() -> None:
    (report,) = model_reports(mesh(("a", "m", "new", NEW), ("b", "m", "", "")))
    assert [(one.digest, one.behind) for one in report.weights] == [("new", False), ("", False)]


def test_what_no_request_can_name_is_left_out() -> None:
    assert model_reports(mesh(("a", "a/b/c/d/e", "d", OLD))) == []


def test_a_copy_without_a_digest_is_taken_for_what_its_name_means() -> None:
    found = copies_of(mesh(("a", "m", "new", NEW), ("b", "m", "", ""), ("c", "m", "new", NEW)), "m")
    assert [(one.instance, one.digest, one.meant) for one in found] == [
        ("a/0", "new", True),
        ("b/0", "", True),
        ("c/0", "new", True),
    ]


def test_what_nodes_say_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    (report,) = model_reports(mesh(("a", "m", "\x1b[2J", "\x9b\n")))
    _print([report])
    _print_outcomes([Outcome("a", fault="\x1b[2J\n", faults=["x: \x9b1A"]), Outcome("b", "pulled\x07")])
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if not line.isprintable()] == []
    assert "a: failed: \\x1b[2J\\x0a" in out
    assert "  x: \\x9b1A" in out


def test_what_is_being_loaded_is_said_with_what_is_likely(capsys: pytest.CaptureFixture[str]) -> None:
    entries = mesh(("a", "m", "d1", OLD), ("b", "m", "d1", OLD)).entries | {
        f"instance/{node}/0": encode_entry(
            Instance(f"{node}/0", node, models=(MemberModel("m:latest", "d1"),), loading=(load,))
        )
        for node, load in (
            ("a", LoadingModel("m:latest", 1000.0, 40.0)),
            ("b", LoadingModel("m:latest", 1000.0)),
        )
    }
    (report,) = model_reports(Snapshot(Version(1, 2), entries), 1010.0)
    assert [(one.instance, one.since_s, one.progress) for one in report.loading] == [
        ("a/0", 10.0, 0.25),
        ("b/0", 10.0, 0.0),
    ]
    _print([report])
    out = capsys.readouterr().out.splitlines()
    assert out[-2:] == ["a/0 is loading m:latest for 10 s, about 25%", "b/0 is loading m:latest for 10 s"]


def test_where_a_model_lies_sealed_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    entries = mesh(("a", "m", "d1", OLD), ("b", "m", "d1", OLD), ("a", "n", "d2", OLD)).entries | {
        "instance/a/0": encode_entry(
            Instance(
                "a/0", "a", models=(MemberModel("m", "d1"), MemberModel("n", "d2")), sealed=("m:latest", "n")
            )
        )
    }
    snapshot = Snapshot(Version(1, 2), entries)
    first, second = model_reports(snapshot)
    assert (first.weights[0].sealed, second.weights[0].sealed) == (("a",), ("a",))
    _print([first, second])
    out = capsys.readouterr().out.splitlines()
    assert out[1].endswith("a, b   sealed at a")
    assert out[2].endswith("a      sealed")
    assert [(one.instance, one.sealed) for one in copies_of(snapshot, "m")] == [("a/0", True), ("b/0", False)]
