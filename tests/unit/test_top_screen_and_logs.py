"""What `bridgectl top` and `bridgectl logs` print."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from rich.console import Console

from bridge_cli.log_files import follow_files, log_files
from bridge_cli.top_screen import screen
from bridge_core.errors import BridgeError, Fatal
from bridge_core.mesh_picture import InstancePicture, MeshPicture, ModelPicture, NodePicture, RegistryPicture

REGISTRY = RegistryPicture("lab", "r1", "1.0", True, "r1")


def drawn(picture: MeshPicture, *, rows: int = 30, **more: object) -> list[str]:
    console = Console(width=120, color_system=None, highlight=False)
    with console.capture() as capture:
        console.print(screen(picture, rows=rows, **more))  # type: ignore[arg-type]
    return [line.rstrip() for line in capture.get().splitlines()]


def node(name: str, state: str = "serving", **more: object) -> NodePicture:
    engine = InstancePicture(f"{name}/0", "ready", "llamacpp", 4, in_flight=2, queued=3, loaded=("tiny",))
    return NodePicture(name, state, instances=(engine,), **more)  # type: ignore[arg-type]


def test_a_node_and_a_model_are_a_line_each() -> None:
    model = ModelPicture("tiny", 2, 1, 1.5, 0.2, 80.0, 0.1, 0.25)
    text = "\n".join(drawn(MeshPicture(0.0, REGISTRY, (node("n1", requests_per_s=1.5),), (model,))))
    for said in ("r1 leads", "1 serving", "█████░░░░░", "2/4", "tiny", "100 ms", "250 ms", "80"):
        assert said in text


def test_of_a_thousand_nodes_those_in_trouble_are_seen() -> None:
    nodes = tuple(node(f"n{number}", "away" if number == 777 else "serving") for number in range(1000))
    lines = drawn(MeshPicture(0.0, REGISTRY, nodes), rows=20)
    assert len(lines) < 30
    assert any(line.startswith("n777 ") and "away" in line for line in lines)
    assert any("more nodes" in line for line in lines)


def test_what_is_wrong_is_said_and_nothing_raw_is_drawn() -> None:
    sick = RegistryPicture("lab\x1b[2J", "r1", "1.0", True, "", store_fault="for 3 s", concerns=("c\nd",))
    lines = drawn(MeshPicture(0.0, sick, (node("n\x1b]0;x\x07"),)), fault="nobody answers")
    text = "\n".join(lines)
    assert "NOBODY LEADS" in text
    assert "etcd DOES NOT ANSWER for 3 s" in text
    assert "! nobody answers" in text
    assert "! c\\x0ad" in text
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "10 s old" in "\n".join(drawn(MeshPicture(0.0, REGISTRY), now=10.0))


def test_the_last_lines_of_each_log_and_what_is_added(tmp_path: Path) -> None:
    one, two = tmp_path / "node1.log", tmp_path / "registry.log"
    one.write_text(
        '{"event":"agent_serving","level":"info","timestamp":"2026-11-30T06:00:02Z","node":"n1"}\n'
        "plain words\n"
    )
    two.write_text('{"event":"old"}\n{"event":"new","level":"warning","timestamp":"2026-11-30T06:00:01Z"}\n')
    files = log_files(tmp_path)
    assert list(files) == ["node1", "registry"]
    said = [line.text for line in follow_files(files, last=1, follow=False)]
    assert sorted(said) == ["06:00:01 warning new", "plain words"]
    assert not list(follow_files(files, last=0, follow=False))

    following = follow_files(log_files(tmp_path, "node1"), last=2, follow=True)
    assert {next(following).text, next(following).text} == {
        "plain words",
        "06:00:02 info    agent_serving node=n1",
    }
    with one.open("a") as file:
        file.write('{"event":"half')
        file.flush()
        file.write('way"}\n[1]\n')
    assert next(following).text.strip() == "halfway"
    assert next(following).raw == "[1]"
    fresh = tmp_path / "fresh"
    fresh.write_text('{"event":"anew"}\n')
    fresh.rename(one)  # as rotation does
    assert next(following).text.strip() == "anew"
    os.truncate(one, 0)
    with one.open("a") as file:
        file.write("x\n")
    assert next(following).text == "x"


def test_lines_without_a_time_stay_with_the_line_before_them(tmp_path: Path) -> None:
    def said(what: str, at: str) -> str:
        return f'{{"event":"{what}","level":"info","timestamp":"2026-11-{at}Z"}}\n'

    (tmp_path / "node1.log").write_text(
        "begun\n" + said("fell", "29T23:59:59") + "Traceback:\n  in main\n" + said("rose", "30T00:00:02")
    )
    (tmp_path / "node2.log").write_text(
        said("early", "29T12:00:00")
        + said("saw", "30T00:00:01")
        + "  more of it\n"
        + said("late", "30T00:00:03")
    )
    told = follow_files(log_files(tmp_path), last=9, follow=False)
    assert [line.raw if "{" not in line.raw else line.text.split()[-1] for line in told] == [
        "begun",
        "early",
        "fell",
        "Traceback:",
        "  in main",
        "saw",
        "  more of it",
        "rose",
        "late",
    ]
    cut = [line.text.split()[-1] for line in follow_files(log_files(tmp_path), last=2, follow=False)]
    assert cut == ["main", "it", "rose", "late"]


def test_a_part_without_a_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match="there is no log"):
        log_files(tmp_path)
    (tmp_path / "node1.log").touch()
    with pytest.raises(BridgeError) as refused:
        log_files(tmp_path, "node9")
    assert "node1" in refused.value.hint
