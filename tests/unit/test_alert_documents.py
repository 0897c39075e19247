"""AlertRule and AlertReceiver documents: what is refused, with file and line, and what they become."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from bridge_core import gauges
from bridge_core.config import load
from bridge_core.config.alert_checks import Level, level_of
from bridge_core.config.alert_spec import Figure
from bridge_core.config.documents import AlertReceiverDocument, AlertRuleDocument
from bridge_registry.alerts import delivery_rules, threshold_rules
from bridge_registry.alerts.delivery_rules import ReceiverPlan
from bridge_registry.alerts.threshold_rules import RulePlan

FOLDER = Path(__file__).resolve().parents[2] / "mesh_config"


def document(kind: str, spec: str, name: str = "r") -> str:
    indented = "\n".join(f"  {line}" for line in spec.splitlines())
    return f"apiVersion: bridge.deepseek.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{indented}\n"


def rule(spec: str) -> RulePlan:
    loaded = load([("r.yaml", document("AlertRule", spec)), ("x.yaml", RECEIVER)])
    assert loaded.faults == ()
    parsed = loaded.documents[0].parsed
    assert isinstance(parsed, AlertRuleDocument)
    return threshold_rules.plan_of(parsed)


def receiver(spec: str) -> ReceiverPlan:
    loaded = load([("r.yaml", document("AlertReceiver", spec))])
    assert loaded.faults == ()
    parsed = loaded.documents[0].parsed
    assert isinstance(parsed, AlertReceiverDocument)
    return delivery_rules.plan_of(parsed)


RECEIVER = document("AlertReceiver", "type: webhook\nurl: https://h.example/x", "on-call")
DISK = "figure: disk_used_bytes\n"
HOOK = "type: webhook\n"


def faults(*texts: str) -> list[str]:
    return [str(fault) for fault in load([(f"{at}.yaml", text) for at, text in enumerate(texts)]).faults]


def test_every_figure_that_nodes_measure_can_have_a_rule() -> None:
    assert set(get_args(Figure)) == gauges.NAMES


def test_whole_documents_become_plans() -> None:
    assert rule(
        "figure: ttft_seconds\nabove: 2s\nclear: 1500ms\nfor: 2m\nwindow: 5m\nquantile: 0.5\n"
        "minRequests: 7\nnodeLabels: {zone: a}\nseverity: critical\nlabels: {team: x}\nrunbook: look\n"
        "receivers: [on-call]\npaused: true"
    ) == RulePlan(
        "r", "ttft_seconds", True, Level(2.0), Level(1.5), 120.0, 300.0, 0.5, 7,
        {"zone": "a"}, "critical", {"team": "x"}, "look", ("on-call",), True,
    )  # fmt: skip
    assert rule("figure: tokens_per_second\nbelow: 3") == RulePlan(
        "r", "tokens_per_second", False, Level(3.0), Level(3.0), 60.0
    )
    hook = receiver(
        HOOK + "url: https://h.example/x?y=1\nseverities: [critical]\ngroupBy: alert\ngroupWait: 1s\n"
        "groupInterval: 2s\nrepeat: 1h\nsendResolved: false\nauthorizationFile: token\n"
        "allowPrivateAddress: true"
    )
    assert hook == ReceiverPlan(
        "r", "webhook", "https://h.example/x?y=1", frozenset({"critical"}), "alert", 1.0, 2.0, 3600.0, False,
        "token", "", True,
    )  # fmt: skip
    manager = receiver("type: alertmanager\nurl: https://am.example/base/")
    assert (manager.url, manager.group_by) == ("https://am.example/base/api/v2/alerts", "mesh")
    assert (manager.group_wait_s, manager.group_interval_s, manager.repeat_s) == (0.0, 0.0, 60.0)


@pytest.mark.parametrize(
    ("figure", "text", "level"),
    [
        ("disk_used_bytes", "90%", Level(0.9, True)),
        ("vram_used_bytes", "1GiB", Level(float(1 << 30))),
        ("in_flight", "50%", Level(0.5, True)),
        ("in_flight", "3", Level(3.0)),
        ("cpu_pressure_percent", "60%", Level(60.0)),
        ("cpu_pressure_percent", "60", Level(60.0)),
        ("error_share", "5%", Level(0.05)),
        ("error_share", "0.05", Level(0.05)),
        ("ttft_seconds", "1m30s", Level(90.0)),
        ("gpu_temperature_celsius", "85.5", Level(85.5)),
    ],
)
def test_a_threshold_is_in_its_figures_unit(figure: str, text: str, level: Level) -> None:
    assert level_of(figure, text) == level


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        (DISK + "above: 2s", "0.yaml:6: spec.above: should be a share of the limit such as 90%"),
        (DISK + "above: 90", "spec.above: should be a share of the limit"),
        (DISK, "spec: give either above or below"),
        (DISK + "above: 90%\nbelow: 10%", "spec: give either above or below"),
        (DISK + "above: 90%\nclear: 95%", "spec.clear: is beyond the threshold"),
        (DISK + "below: 10%\nclear: 5%", "spec.clear: is beyond the threshold"),
        (DISK + "above: 90%\nclear: 5GiB", "spec.clear: is in another unit"),
        (DISK + "above: 90%\nwindow: 5m", "spec.window: is without effect"),
        (DISK + "above: 90%\nminRequests: 5", "spec.minRequests: is without effect"),
        (DISK + "above: 90%\nquantile: 0.5", "spec.quantile: is of ttft_seconds"),
        ("figure: queue\nabove: 90%", "spec.above: should be a number"),
        ("figure: queue\nabove: .inf", "spec.above"),
        ("figure: queue\nabove: 1e19", "spec.above: should be a number"),
        ("figure: queue\nabove: -1", "spec.above: should be a number"),
        ("figure: queue\nabove: true", "spec.above: should be a number, or one with a unit"),
        ("figure: queue\nabove: 1\nfor: -1s", "spec.for"),
        ("figure: nothing\nabove: 1", "spec.figure"),
        ("figure: error_share\nabove: 5%\nwindow: 2m", "spec.window: is one of 1m, 5m and 15m"),
        ("figure: queue\nabove: 1\nlabels: {node: x}", "spec.labels.node: is what every alert has"),
        ("figure: queue\nabove: 1\nlabels: {a-b: x}", "spec.labels.a-b: is no label's name"),
        ("figure: queue\nabove: 1\nlabels: {__a: x}", "spec.labels.__a: is no label's name"),
        ("figure: queue\nabove: 1\nreceivers: [nobody]", "spec.receivers[0]: there is no AlertReceiver"),
        (
            "figure: queue\nabove: 1\nreceivers: [on-call, on-call]",
            "spec.receivers[1]: on-call is there twice",
        ),
        ("figure: queue\nabove: 1\nreciever: on-call", "spec.reciever: is not a known key"),
    ],
)
def test_an_impossible_rule_is_refused(spec: str, fault: str) -> None:
    found = faults(document("AlertRule", spec), RECEIVER)
    assert len(found) == 1, found
    assert fault in found[0]


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        (HOOK + "url: ftp://x.example/", "spec.url: has to be an https:// address"),
        (HOOK + "url: http://x.example/", "spec.url: is http"),
        (HOOK + "url: https://", "spec.url: has to be an https:// address"),
        (HOOK + "url: https://x.example:99999/", "is no address"),
        (HOOK + "url: https://x.example:0/", "spec.url: has to be an https:// address"),
        (HOOK + "url: https://me:secret@x.example/", "authorizationFile has the secret"),
        (HOOK + "url: https://x.example/#a", "without user, password and fragment"),
        (HOOK + 'url: "https://x.example/\\r\\nHost: y"', "spec.url: has characters that no address has"),
        (HOOK + "url: https://x.example/\nauthorizationFile: ../../etc/shadow", "spec.authorizationFile"),
        (HOOK + "url: https://x.example/\nauthorizationFile: .ssh", "spec.authorizationFile"),
        (HOOK + "url: https://x.example/\nca: nonsense", "spec.ca: holds no certificate"),
        (HOOK + "url: https://x.example/\nseverities: []", "spec.severities"),
        (HOOK + "url: https://x.example/\nrepeat: 1s", "spec.repeat"),
        ("type: email\nurl: https://x.example/", "spec.type"),
        ("type: alertmanager\nurl: https://x.example/\nrepeat: 1h", "spec.repeat: is Alertmanager's own"),
        ("type: alertmanager\nurl: https://x.example/api/v2/alerts/", "spec.url: is the address before"),
        ("type: alertmanager\nurl: https://x.example/?a=b", "spec.url: has a query"),
    ],
)
def test_an_impossible_receiver_is_refused(spec: str, fault: str) -> None:
    found = faults(document("AlertReceiver", spec))
    assert len(found) == 1, found
    assert fault in found[0]


def test_http_is_for_networks_of_ones_own() -> None:
    assert receiver(HOOK + "url: http://10.0.0.1/\nallowPrivateAddress: true").private


def test_a_receiver_that_a_rule_names_cannot_go() -> None:
    named = document("AlertRule", DISK + "above: 90%\nreceivers: [on-call]")
    assert not faults(named, RECEIVER)
    assert "there is no AlertReceiver on-call" in faults(named)[0]


def test_the_commented_examples_are_valid() -> None:
    lines = (FOLDER / "alerts.yaml").read_text().splitlines()
    text = "\n".join(line.removeprefix("#") for line in lines if not re.match(r"# \S", line))
    loaded = load([("alerts.yaml", text)])
    assert loaded.faults == ()
    assert [one.key for one in loaded.documents] == [
        "AlertRule/disk-nearly-full",
        "AlertRule/slow-first-byte",
        "AlertReceiver/on-call",
        "AlertReceiver/chat-room",
    ]
