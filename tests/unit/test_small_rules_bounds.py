"""Probing, following and writing records, the engine's routes and prompts at their limits."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from bridge_agent.ancillary_rules import Restarts
from bridge_agent.concern_rules import Disk, FailureNotes, disk_concerns, member_concern, why_not_a_member
from bridge_agent.health.probe_rules import ModelHealth, ProbePolicy, ProbeVerdict, judge, probe_due
from bridge_agent.membership.follow_rules import judge as judge_update
from bridge_agent.membership.registration_rules import after, plan
from bridge_agent.membership.registry_api import Update
from bridge_agent.membership.standing_rules import certificate_concern, clock_concern, standing
from bridge_core.ring import ring_of
from bridge_core.route_rules import match
from bridge_core.snapshot import EMPTY, Instance, Node, Snapshot, Version, encode_entry, whole
from bridge_core.store.api import Delete, Put
from bridge_engine.prompt_rules import Manifested, plan_prompts
from bridge_registry.store_guard.budget_rules import NodeBudget

POLICY = ProbePolicy()


@pytest.mark.parametrize(
    ("health", "due"),
    [
        (ModelHealth(100.0), 115.0),
        (ModelHealth(100.0, expires_in_s=120.0), 115.0),
        (ModelHealth(100.0, expires_in_s=119.9), None),
        (ModelHealth(100.0, last_probe=160.0, expires_in_s=300.0), 220.0),
        (ModelHealth(100.0, last_probe=160.1, expires_in_s=300.0), None),
        (ModelHealth(100.0, last_probe=160.1), pytest.approx(220.2)),
        (ModelHealth(100.0, last_probe=90.0), 115.0),
        (ModelHealth(100.0, waiting_since=200.0, expires_in_s=1.0), 215.0),
        (ModelHealth(100.0, waiting_since=200.0, last_probe=210.0, expires_in_s=1.0), 225.0),
        (ModelHealth(100.0, hung=True, last_probe=500.0, expires_in_s=1.0), 515.0),
        (ModelHealth(100.0, hung=True), 115.0),
    ],
)
def test_when_a_model_is_asked_for_a_token(health: ModelHealth, due: float | None) -> None:
    assert probe_due(health, POLICY) == due


@pytest.mark.parametrize(
    ("computed", "progressed", "now", "verdict"),
    [
        (None, 0.0, 114.9, ProbeVerdict.WAIT),
        (None, 0.0, 115.0, ProbeVerdict.HUNG),
        (None, 100.0, 105.0, ProbeVerdict.WAIT),  # progress at the very moment was before
        (None, 100.1, 900.0, ProbeVerdict.NEEDLESS),
        (699.0, 0.0, 699.9, ProbeVerdict.WAIT),
        (699.0, 0.0, 700.0, ProbeVerdict.HUNG),
    ],
)
def test_what_an_unanswered_probe_means(
    computed: float | None, progressed: float, now: float, verdict: ProbeVerdict
) -> None:
    assert judge(started=100.0, computed=computed, progressed=progressed, now=now, policy=POLICY) is verdict


def test_what_ends_a_hang_and_a_wait() -> None:
    hung = ModelHealth(0.0, waiting_since=1.0).unanswered(5.0, hung=True)
    assert (hung.hung, hung.last_probe, hung.waiting_since) == (True, 5.0, 1.0)
    assert hung.progressed(9.0) == ModelHealth(9.0, None, 5.0, False, false_alarms=1)
    assert hung.answered(9.0) == ModelHealth(0.0, None, 9.0, False, false_alarms=1)
    assert hung.answered(9.0).answered(9.0).false_alarms == 1
    assert not ModelHealth(0.0, expires_in_s=100.0).used_by_others(100.0)
    assert ModelHealth(0.0, expires_in_s=100.0).used_by_others(101.5)
    assert not ModelHealth(0.0, expires_in_s=100.0).used_by_others(101.0)
    assert not hung.unanswered(9.0, hung=False).hung
    assert ModelHealth(0.0) == ModelHealth(0.0, None, None, False, math.inf)


def test_an_update_is_taken_when_its_ring_is_the_registrys() -> None:
    entries = {"node/a": encode_entry(Node("a", "a:1")), "instance/a/0": encode_entry(Instance("a/0", "a"))}
    snapshot = Snapshot(Version(1, 1), entries)
    for digest, taken in ((b"", True), (ring_of(snapshot).digest, True), (b"other", False)):
        found = judge_update(EMPTY, Update(whole(snapshot), digest))
        assert (found.snapshot.version == snapshot.version) is taken
        assert bool(found.rejected) is not taken
    broken = msgspec.structs.replace(whole(snapshot), digest=b"x")
    found = judge_update(EMPTY, Update(broken, b""))
    assert found.snapshot is EMPTY
    assert found.rejected


def test_what_the_store_holds_after_a_write_that_was_confirmed_or_not() -> None:
    written = {"a": (1, b"v"), "b": (1, b"v")}
    ops = [Put("a", b"w", 2), Delete("b"), Delete("gone")]
    assert after(written, ops, known=True) == {"a": (2, b"w")}
    assert after(written, ops, known=False) == {"a": None, "b": None, "gone": None}
    assert plan({"a": b"v"}, {}, 0) == []
    assert plan({"a": b"v"}, {}, 1) == [Put("a", b"v", 1)]


ROUTES: dict[str, dict[str, int]] = {
    "/": {"GET": 0},
    "/api/tags": {"GET": 1},
    "/api/blobs/": {"HEAD": 2},
    "/v1/models/": {"GET": 3},
    "/api/user/keys/": {"DELETE": 4},
}


@pytest.mark.parametrize(
    ("method", "path", "route", "parameter", "redirect"),
    [
        ("GET", "/", 0, "", ""),
        ("GET", "/api/tags", 1, "", ""),
        ("POST", "/api/tags", None, "", ""),
        ("GET", "/api/tags/", None, "", "301 /api/tags"),
        ("POST", "/api/tags/", None, "", ""),
        ("GET", "//api/tags", None, "", "307 /api/tags"),
        ("GET", "/api/./tags", None, "", "307 /api/tags"),
        ("GET", "//", None, "", "307 /"),
        ("GET", "//nowhere/", None, "", "307 /nowhere/"),
        ("OPTIONS", "*", None, "", ""),
        ("GET", "/nowhere", None, "", ""),
        ("HEAD", "/api/blobs/x", 2, "x", ""),
        ("HEAD", "/api/blobs/x/", None, "", "307 /api/blobs/x"),
        ("HEAD", "/api/blobs/", None, "", ""),
        ("HEAD", "/api/blobs/x/y", None, "", ""),
        ("GET", "/v1/models/x/y", 3, "x/y", ""),
        ("GET", "/v1/models/", None, "", ""),
        ("DELETE", "/api/user/keys/k", 4, "k", ""),
    ],
)
def test_where_a_path_leads(method: str, path: str, route: int | None, parameter: str, redirect: str) -> None:
    value, found = match(ROUTES, method, path)
    told = f"{found.status} {found.redirect}" if found.redirect else ""
    assert (value, found.parameter, told) == (route, parameter, redirect)


def test_which_methods_a_path_has() -> None:
    several = {"/x": {"POST": 1, "GET": 2, "HEAD": 3}}
    assert match(several, "DELETE", "/x")[1].allow == ("HEAD", "GET", "POST")
    assert match(several, "GET", "/y")[1].allow == ()
    assert match(several, "GET", "/y")[1].status == 307


ME, YOU = "a" * 16, "b" * 16


@pytest.mark.parametrize(
    ("members", "snapshot_has", "found"),
    [
        ((Instance("n/0", "n", holder=ME),), {}, (True, "", "n:1", {"n/1"})),
        ((Instance("n/0", "n", holder=YOU),), {}, (True, YOU, "n:1", {"n/1"})),
        ((Instance("n/0", "n"),), {}, (True, "", "n:1", {"n/1"})),
        ((Instance("m/0", "m", holder=YOU),), {}, (True, "", "n:1", {"n/0", "n/1"})),
        ((), {"state": "revoked"}, (False, "", "n:1", {"n/0", "n/1"})),
        ((), {"state": "drained"}, (True, "", "n:1", {"n/0", "n/1"})),
    ],
)
def test_how_a_node_stands_with_its_mesh(
    members: tuple[Instance, ...], snapshot_has: dict[str, Any], found: tuple[Any, ...]
) -> None:
    entries = {f"instance/{one.id}": encode_entry(one) for one in members}
    entries["node/n"] = encode_entry(Node("n", "n:1", **snapshot_has))
    stands = standing(Snapshot(Version(1, 1), entries), "n", ME, ["n/0", "n/1"])
    assert (stands.member, stands.other, stands.peer, set(stands.missing)) == found
    gone = standing(Snapshot(Version(1, 1), {}), "n", "me", [])
    assert (gone.member, gone.peer) == (False, "")


@pytest.mark.parametrize(
    ("now", "says"),
    [
        (979.9, "is valid in 20 s only"),
        (980.0, ""),
        (1090.0, ""),
        (1090.1, "expires in"),
        (1120.0, "expires in"),
        (1120.1, "expired 20 s ago"),
    ],
)
def test_what_is_said_of_a_certificate(now: float, says: str) -> None:
    said = certificate_concern(1000.0, 1100.0, now, "join")
    assert says in said
    assert bool(said) is bool(says)


def test_whose_clock_is_ahead() -> None:
    assert "2 s ahead of" in clock_concern(2.0)
    assert "2 s behind" in clock_concern(-2.0)
    assert "behind" in clock_concern(0.0)


@pytest.mark.parametrize(
    ("free", "total", "low"),
    [
        (49, 1000, True),
        (50, 1000, False),
        ((1 << 30) - 1, 1 << 40, True),
        (1 << 30, 1 << 40, False),
    ],
)
def test_a_disk_is_low_below_a_twentieth_and_a_gibibyte(free: int, total: int, low: bool) -> None:
    assert bool(disk_concerns([Disk("/", free, total)])) is low


@pytest.mark.parametrize(
    ("member", "refusal", "told"),
    [(None, "", False), (True, "", False), (False, "", True), (True, "no", True)],
)
def test_a_node_that_is_no_member_is_told(member: bool | None, refusal: str, told: bool) -> None:
    assert bool(member_concern(why_not_a_member(member, refusal), "join")) is told


def test_notes_of_failures_are_bounded_and_of_a_node_or_an_instance() -> None:
    notes = FailureNotes()
    notes.take("n/0", "x" * 300)
    assert notes.of("n/0") == notes.of("n") == "x" * 200
    assert notes.of("m") == notes.of("n/1") == ""
    for at in range(1023):
        notes.take(f"m/{at}", "y")
    notes.take("n/0", "z")
    assert (notes.of("n/0"), notes.of("m/0")) == ("z", "y"), "1024 are kept"
    notes.take("o/0", "w")
    assert (notes.of("o/0"), notes.of("n/0")) == ("w", "")


@pytest.mark.parametrize(("lasted", "first_again"), [(59.9, False), (60.0, True)])
def test_a_run_of_a_minute_ends_a_row_of_faults(lasted: float, first_again: bool) -> None:
    class Least:
        def uniform(self, low: float, high: float) -> float:
            return high

        def random(self) -> float:
            return 0.999

    restarts = Restarts(Least())  # type: ignore[arg-type]  # all that it asks of a source of chance
    pauses = [restarts.failed("x", 1.0) for _ in range(3)]
    assert pauses[0] < pauses[1] < pauses[2]
    restarts.began(100.0)
    assert (restarts.failed("x", 100.0 + lasted) == pauses[0]) is first_again
    failed_at = 100.0 + lasted
    assert "4 times" in restarts.concern(failed_at + 600.0)
    assert restarts.concern(failed_at + 600.1) == ""


def budget(requests: int, now: float = 0.0, size: int = 0) -> tuple[NodeBudget, list[bool]]:
    found = NodeBudget(0.0)
    return found, [found.take(now, size) for _ in range(requests)]


def test_a_node_has_a_burst_of_requests_and_twenty_a_second_after() -> None:
    found, taken = budget(101)
    assert taken == [True] * 100 + [False]
    assert not found.take(0.04, 0)
    assert found.take(0.05, 0)
    assert not found.take(0.05, 0)
    assert not found.idle(5.0)
    assert found.idle(5.06)
    assert not found.take(0.0, 1 << 30), "a clock that goes back fills nothing"
    found.running = 1
    assert not found.idle(99.0)


def test_a_node_has_four_mebibytes_at_once_and_32_kib_a_second_after() -> None:
    found = NodeBudget(0.0)
    assert not found.take(0.0, (4 << 20) + 1)
    assert found.take(0.0, 4 << 20)
    assert not found.take(0.0, 1)
    assert not found.take(1.0, (32 << 10) + 1)
    assert found.take(1.0, 32 << 10)
    assert not found.idle(128.9)
    assert found.idle(129.0)


JINJA = "{{ messages }} tools <think>"
GO = "{{ .Prompt }}"


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({}, ""),
        ({"remote": "elsewhere"}, "another host"),
        ({"kinds": ("model", "draft")}, ""),
        ({"kinds": ("model", "strange")}, '"strange"'),
        ({"family": "gptoss", "template": "<|start|><|end|>"}, "harmony"),
        ({"family": "gpt-oss", "template": "<|start|>"}, ""),
        ({"family": "llama", "template": "<|start|><|end|>"}, ""),
        ({"renderer": "qwen3", "jinja": JINJA}, ""),
        ({"renderer": "QWEN3", "jinja": JINJA}, ""),
        ({"renderer": "strange", "jinja": JINJA}, 'renderer "strange"'),
        ({"renderer": "qwen3"}, "they have none"),
        ({"parser": "qwen3"}, ""),
        ({"parser": "strange"}, 'parser "strange"'),
    ],
)
def test_what_decides_the_prompt_and_is_not_understood_is_refused(
    fields: dict[str, Any], refused: str
) -> None:
    found = plan_prompts(Manifested(**{"template": GO} | fields))
    assert refused in found.refusal
    assert bool(found.refusal) is bool(refused)
    if refused:
        assert (found.jinja, found.capabilities) == (False, ())


@pytest.mark.parametrize(
    ("fields", "jinja"),
    [
        ({"template": GO}, False),
        ({"jinja": JINJA}, True),
        ({"template": GO, "jinja": JINJA}, False),
        ({"template": GO, "jinja": JINJA, "renderer": "qwen3"}, True),
        ({}, False),
    ],
)
def test_which_template_makes_the_prompt(fields: dict[str, Any], jinja: bool) -> None:
    assert plan_prompts(Manifested(**fields)).jinja is jinja


@pytest.mark.parametrize(
    ("jinja", "parser", "capabilities"),
    [
        ("tools <think>", "", ("tools", "thinking")),
        ("tools </think>", "", ("tools", "thinking")),
        ("tools", "", ("tools",)),
        ("<think>", "", ("thinking",)),
        ("plain", "", ()),
        ("tools <|channel>", "", ("tools", "thinking")),
        ("plain", "qwen3-thinking", ()),
        ("think", "qwen3-thinking", ("thinking",)),
        ("<|channel>", "gemma4", ("thinking",)),
        ("think tools", "qwen3", ("tools",)),
        ("think tools", "passthrough", ()),
    ],
)
def test_what_a_jinja_template_offers(jinja: str, parser: str, capabilities: tuple[str, ...]) -> None:
    assert plan_prompts(Manifested(jinja=jinja, parser=parser)).capabilities == capabilities


@pytest.mark.parametrize(
    ("template", "parser", "thinks"),
    [
        ("{{ .Prompt }}{{ .Thinking }}", "qwen3-thinking", True),
        ("{{ .Prompt }}{{ .Thinking }}", "qwen3", False),
        ("{{ .Prompt }}{{ if .Think }}x{{ end }}", "qwen3-thinking", True),
        ("{{ .Prompt }}", "qwen3-thinking", False),
    ],
)
def test_a_go_template_offers_thinking_where_it_writes_it_and_the_parser_reads_it(
    template: str, parser: str, thinks: bool
) -> None:
    found = plan_prompts(Manifested(template=template, parser=parser))
    assert ("thinking" in found.capabilities) is thinks
