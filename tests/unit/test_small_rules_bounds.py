"""Probing, following and writing records, the engine's routes and prompts at their limits."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from bridge_engine.http_rules import host_allowed, match, origin_allowed

from bridge_agent.health.probe_rules import ModelHealth, ProbePolicy, ProbeVerdict, judge, probe_due
from bridge_agent.membership.follow_rules import judge as judge_update
from bridge_agent.membership.registration_rules import after, plan
from bridge_agent.membership.registry_api import Update
from bridge_core.ring import ring_of
from bridge_core.snapshot import EMPTY, Instance, Node, Snapshot, Version, encode_entry, whole
from bridge_core.store.api import Delete, Put
from bridge_engine.prompt_rules import Manifested, plan_prompts

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
    assert hung.progressed(9.0) == ModelHealth(9.0, None, 5.0, False)
    assert hung.answered(9.0) == ModelHealth(0.0, None, 9.0, False)
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
    ("path", "route", "parameter", "redirect"),
    [
        ("/", 0, "", ""),
        ("/api/tags", 1, "", ""),
        ("/api/tags/", None, "", ""),
        ("//api/tags", None, "", "/api/tags"),
        ("/api/./tags", None, "", "/api/tags"),
        ("//nowhere", None, "", ""),
        ("/nowhere", None, "", ""),
        ("/api/blobs/x", 2, "x", ""),
        ("/api/blobs/", None, "", ""),
        ("/api/blobs/x/y", None, "", ""),
        ("/v1/models/x/y", 3, "x/y", ""),
        ("/v1/models/", None, "", ""),
        ("/api/user/keys/k", 4, "k", ""),
        ("/x/../api/blobs/y", None, "", "/api/blobs/y"),
    ],
)
def test_where_a_path_leads(path: str, route: int | None, parameter: str, redirect: str) -> None:
    found = match(ROUTES, path)
    value = None if found.methods is None else next(iter(found.methods.values()))
    assert (value, found.parameter, found.redirect) == (route, parameter, redirect)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("", True),
        ("localhost", True),
        ("LOCALHOST:11434", True),
        ("me", True),
        ("me:1", True),
        ("me.evil", False),
        ("x.local", True),
        ("x.localhost", True),
        ("x.internal", True),
        ("local", False),
        ("evil.example", False),
        ("127.0.0.1:5", True),
        ("10.0.0.1", True),
        ("0.0.0.0", True),
        ("8.8.8.8", False),
        ("[::1]:5", True),
        ("[::1]", True),
        ("::1", True),
        ("[2001:4860::1]:5", False),
        ("2001:4860::1", False),
    ],
)
def test_which_hosts_name_this_machine(host: str, allowed: bool) -> None:
    assert host_allowed(host, "Me") is allowed


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:3000", True),
        ("https://127.0.0.1", True),
        ("http://[::1]:5", True),
        ("http://here:1", True),
        ("http://here:2", False),
        ("https://evil.example", False),
        ("app://x", True),
        ("vscode-webview://x", True),
        ("ftp://localhost", False),
        ("null", False),
        ("", False),
    ],
)
def test_which_origins_may_call(origin: str, allowed: bool) -> None:
    assert origin_allowed(origin, "here:1") is allowed


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
