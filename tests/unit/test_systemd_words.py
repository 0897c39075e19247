"""What is written for systemd, and what systemd writes for us."""

from __future__ import annotations

import pytest

from bridge_agent.activation import named_descriptors
from bridge_core.systemd.placement import protect_home
from bridge_core.systemd.units import quoted, quoted_path, variable


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["/opt/bridge/bin/bridge-agent", "run"], "/opt/bridge/bin/bridge-agent run"),
        (["a b"], '"a b"'),
        (["50%", "$HOME"], "50%% $$HOME"),
        (['say "hi"', "back\\slash"], '"say \\"hi\\"" "back\\\\slash"'),
        (["x\ny", "it's"], '"x\\ny" "it\'s"'),
        ([""], '""'),
    ],
)
def test_words_mean_themselves(words: list[str], line: str) -> None:
    assert quoted(words) == line


def test_paths_of_settings_know_no_variables() -> None:
    assert quoted_path("/srv/$data 100%") == '"/srv/$data 100%%"'


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("/var/lib/bridge/agent", "A=/var/lib/bridge/agent\n"),
        ("[fd00::1]:80", "A=[fd00::1]:80\n"),
        ("100%", "A=100%\n"),
        ("a b", 'A="a b"\n'),
        ('say "$HOME" `ls` \\', 'A="say \\"\\$HOME\\" \\`ls\\` \\\\"\n'),
        ("#no comment", 'A="#no comment"\n'),
    ],
)
def test_variables_mean_themselves(value: str, line: str) -> None:
    assert variable("A", value) == line


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, []),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "http:grpc"}, [("http", 3), ("grpc", 4)]),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "http"}, [("http", 3), ("", 4)]),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "1"}, [("", 3)]),
        ({"LISTEN_PID": "8", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "http"}, []),  # meant for our parent
        ({"LISTEN_PID": "7", "LISTEN_FDS": "-1"}, []),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "many"}, []),
    ],
)
def test_descriptors_are_ours_by_process_and_in_order(
    environment: dict[str, str], found: list[tuple[str, int]]
) -> None:
    assert named_descriptors(environment, 7) == found
    assert environment == {}


def test_homes_are_hidden_unless_something_of_ours_lies_there() -> None:
    assert protect_home(["/opt/bridge", "/rooted", "/var/lib/bridge"]) == "yes"
    assert protect_home(["/opt/bridge", "/home/me/models"]) == "read-only"
    assert protect_home(["/root"]) == "read-only"
