"""mesh_config: what is accepted, what is refused, and where the fault is said to be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bridge_core.config import load, mesh_settings, route
from bridge_core.config.documents import MODELS, MeshDocument, ModelRouteDocument
from bridge_core.config.schema import schemas
from bridge_core.snapshot import Backend, MeshConfig, Route, RoutePolicy
from bridge_core.traffic import AdmissionPolicy, Breaker, Outlier, Retries

FOLDER = Path(__file__).parents[2] / "mesh_config"


def a_route(name: str = "a", spec: str = "backends: [{model: m}]") -> str:
    indented = "\n".join(f"  {line}" for line in spec.splitlines())
    return (
        "apiVersion: bridge.deepseek.io/v1\n"  # line 1
        "kind: ModelRoute\n"
        f"metadata: {{name: {name}}}\n"
        f"spec:\n{indented}\n"  # its first line is 5
    )


def a_mesh(spec: str, name: str = "mesh") -> str:
    return f"apiVersion: bridge.deepseek.io/v1\nkind: Mesh\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"


def faults(*texts: str, **more: object) -> list[str]:
    files = [(f"{at}.yaml", text) for at, text in enumerate(texts)]
    return [str(fault) for fault in load(files, **more).faults]  # type: ignore[arg-type]  # test shorthand


def test_the_examples_are_valid_and_the_schemas_current() -> None:
    loaded = load([(path.name, path.read_text()) for path in sorted(FOLDER.glob("*.yaml"))])
    assert loaded.faults == ()
    assert {document.key for document in loaded.documents} == {
        "Mesh/mesh",
        "ModelRoute/assistant",
        "NodeClass/shared-gpu",
        "NodeClass/strict",
    }
    assert schemas() == {path.name: path.read_text() for path in FOLDER.glob("*.schema.json")}


def test_the_commented_rollout_beside_them_is_valid() -> None:
    lines = (FOLDER / "rollouts.yaml").read_text().splitlines()
    text = "\n".join(line.removeprefix("#") for line in lines if not re.match(r"# \S", line))
    beside = (FOLDER / "routes.yaml").read_text()
    loaded = load([("routes.yaml", beside), ("rollouts.yaml", text)])
    assert loaded.faults == ()
    assert [document.key for document in loaded.documents] == [
        "ModelRoute/assistant",
        "Rollout/assistant-tiny",
    ]


def test_a_mesh_document_becomes_settings() -> None:
    text = a_mesh("leaseTtl: 7s, ringPoints: 40, certificateTtl: 1h30m, defaults: {boundedLoad: 1}")
    (document,) = load([("f", text)]).documents
    assert isinstance(document.parsed, MeshDocument)
    assert mesh_settings(document.parsed.spec, "x.mesh", ("ab",)) == MeshConfig(
        trust_domain="x.mesh",
        lease_ttl_s=7.0,
        ring_points=40,
        defaults=RoutePolicy(bounded_load=1.0),
        certificate_ttl_s=5400.0,
        revoked_serials=("ab",),
    )


def test_no_mesh_document_means_the_snapshots_own_defaults() -> None:
    assert mesh_settings(None, "bridge.local") == MeshConfig()


def test_a_route_document_becomes_a_route() -> None:
    text = a_route("assistant", "backends: [{model: x, weight: 1}, {model: y}]\ndeadline: 90s\nfallback: z")
    (document,) = load([("f", text)]).documents
    assert isinstance(document.parsed, ModelRouteDocument)
    assert route(document.parsed) == Route(
        "assistant", (Backend("x", 1), Backend("y", 100)), RoutePolicy(deadline_s=90.0), fallback="z"
    )


def test_a_document_keeps_its_own_text_and_place() -> None:
    text = f"# head\n---\n{a_route('a')}---\n---\n# a comment\n{a_route('b')}"
    first, second = load([("f", text)]).documents
    assert (first.line, second.line) == (3, 11)
    assert load([("g", second.text)]).documents[0].parsed == second.parsed


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("{}", "0.yaml:4: spec.backends: is missing"),
        ("backends: []", "0.yaml:5: spec.backends: List should have at least 1 item"),
        ("backends: x", "0.yaml:5: spec.backends: should be a list, not 'x'"),
        (
            "backends:\n- model: m\n  weight: -1",
            "0.yaml:7: spec.backends[0].weight: should be greater than or equal to 0, not -1",
        ),
        ("backends:\n- model: m\n  weigth: 1", "0.yaml:7: spec.backends[0].weigth: is not a known key"),
        (
            "backends:\n- model: m\n  weight: '1'",
            "0.yaml:7: spec.backends[0].weight: should be a whole number",
        ),
        ("backends:\n- model: no", "0.yaml:6: spec.backends[0].model: should be a string: put it in quotes"),
        ("backends:\n- model: m\n  weight: 0", "0.yaml:5: spec.backends: all weights are 0"),
        ("backends:\n- model: A:LATEST", "0.yaml:6: spec.backends[0].model: the route leads to itself"),
        (
            "backends:\n- model: m\n- model: m:latest",
            "0.yaml:7: spec.backends[1].model: m:latest is there twice",
        ),
        ("backends:\n- model: 'a b'", "0.yaml:6: spec.backends[0].model: 'a b' is not a model name"),
        (
            "backends: [{model: m}]\nstrategy: magic",
            "0.yaml:6: spec.strategy: should be 'round_robin', 'least_request', 'ring_hash' or 'residency'",
        ),
        ("backends: [{model: m}]\ndeadline: 5", "0.yaml:6: spec.deadline: should be a duration such as"),
        ("backends: [{model: m}]\ndeadline: 0s", "0.yaml:6: spec.deadline: should be greater than 0"),
        (
            "backends: [{model: m}]\nfallback: library/a",
            "0.yaml:6: spec.fallback: fallbacks go round: a -> a",
        ),
        ("backends: [{model: m}]\nbackends: []", "0.yaml:6: spec.backends: this key is there twice"),
        ("backends: [*x]", "0.yaml:5: not YAML: aliases are not taken"),
        (
            "backends: [{model: !!python/name:os.system }]",
            "cannot be read: could not determine a constructor",
        ),
    ],
)
def test_a_bad_route_says_what_and_where(spec: str, fault: str) -> None:
    (found,) = faults(a_route(spec=spec))
    assert fault in found


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("kind: Foo", "0.yaml:1: kind: 'Foo' is not a known kind: one of Mesh, ModelRoute, Rollout"),
        ("a: 1", "0.yaml:1: kind: is missing: one of"),
        ("[1]", "0.yaml:1: a document is a mapping with"),
        ("\n\nkind: Mesh", "0.yaml:3: apiVersion: is missing: Mesh has bridge.deepseek.io/v1"),
        ("apiVersion: v2\nkind: Mesh", "0.yaml:1: apiVersion: 'v2' is not known"),
        (
            "apiVersion: bridge.deepseek.io/v1\nkind: ModelAccessPolicy",
            "0.yaml:1: apiVersion: 'bridge.deepseek.io/v1' is not known: ModelAccessPolicy has security",
        ),
        ("a: [", "0.yaml:1: not YAML"),
        ("a: \x07", "0.yaml:1: not YAML"),
        ("[" * 5000, "0.yaml:1: nested too deeply"),
        ("x" * (1024 * 1024 + 1), "0.yaml:1: larger than"),
        (a_mesh("leaseTtl: 0.5s"), "0.yaml:4: spec.leaseTtl: should be greater than or equal to 1"),
        (a_mesh("ringPoints: 161"), "0.yaml:4: spec.ringPoints: should be a multiple of 4, not 161"),
        (a_mesh("ringPoints: true"), "0.yaml:4: spec.ringPoints: should be a whole number, not True"),
        (a_mesh("defaults: {boundedLoad: .nan}"), "0.yaml:4: spec.defaults.boundedLoad"),
        (a_mesh("", name="main"), "0.yaml:3: metadata.name: a Mesh is named mesh, not 'main'"),
    ],
)
def test_a_bad_document_says_what_and_where(text: str, fault: str) -> None:
    (found,) = faults(text)
    assert found.startswith(fault)


def test_every_fault_of_every_file_is_reported_at_once() -> None:
    found = faults(
        a_route("a", "backends: [{model: m, weight: -1}]\nx: 1\ny: 2"),
        f"kind: Foo\n---\n{a_mesh('leaseTtl: 1y')}",
    )
    assert [line.partition(" ")[0] for line in found] == [
        "0.yaml:5:",
        "0.yaml:6:",
        "0.yaml:7:",
        "1.yaml:1:",
        "1.yaml:6:",
    ]


def test_duplicates_are_found_across_files_and_spellings() -> None:
    assert faults(a_route("a"), a_route("library/A")) == [
        "1.yaml:3: metadata.name: ModelRoute library/A is already in 0.yaml:1"
    ]
    assert faults(a_mesh(""), a_mesh("")) == ["1.yaml:3: metadata.name: Mesh mesh is already in 0.yaml:1"]


def test_another_trust_domain_is_refused() -> None:
    text = a_mesh("trustDomain: other")
    assert faults(text, trust_domain="other") == []
    assert "which never changes" in faults(text, trust_domain="mine")[0]


def test_fallbacks_that_go_round_are_found_however_long_the_way() -> None:
    def leading(name: str, to: str) -> str:
        return a_route(name, f"backends: [{{model: m}}]\nfallback: {to}")

    found = faults(leading("a", "b"), leading("b", "C"), leading("c", "a"), leading("d", "a"))
    assert len(found) == 3  # d leads into the circle and is not at fault
    assert "a -> b -> c -> a" in found[0]
    assert faults(leading("a", "b"), leading("b", "c")) == []


def test_a_backend_that_is_a_route_is_refused_from_either_side() -> None:
    one, two = a_route("one"), a_route("two", "backends: [{model: one}]")
    assert "one is a route" in faults(one, two)[0]
    assert "one is a route" in faults(two, applied={"ModelRoute/one": one})[0]
    assert "the applied route two has one as a backend" in faults(one, applied={"ModelRoute/two": two})[0]


def test_an_applied_document_is_replaced_by_one_of_its_name() -> None:
    old = a_route("a", "backends: [{model: m}]\nfallback: b")
    applied = {"ModelRoute/a": old, "ModelRoute/b": a_route("b")}
    new = a_route("b", "backends: [{model: m}]\nfallback: a")
    assert "fallbacks go round" in faults(new, applied=applied)[0]
    assert faults(new, a_route("a"), applied=applied) == []


def test_the_example_shows_the_defaults() -> None:
    (document,) = load([("mesh.yaml", (FOLDER / "mesh.yaml").read_text())]).documents
    assert isinstance(document.parsed, MeshDocument)
    assert mesh_settings(document.parsed.spec, "bridge.local") == MeshConfig()


def test_a_route_stands_over_the_mesh_and_that_over_the_defaults() -> None:
    mesh = a_mesh(
        "defaults: {strategy: least_request, deadline: 1m, slowStart: 1s, "
        "retries: {attempts: 5, perTryTimeout: 2s}, outlier: {maxEjection: 9s}}"
    )
    spec = """\
backends: [{model: m}]
deadline: null
affinity: client
retries: {budget: 0.5}
breaker: {open: 1m}
admission: {queuePerSlot: 0, maxWait: 0s}
hedgeAfter: 300ms
keepAliveBytes: 5s"""
    first, second = load([("m", mesh), ("r", a_route(spec=spec))]).documents
    assert isinstance(first.parsed, MeshDocument)
    assert isinstance(second.parsed, ModelRouteDocument)
    defaults = mesh_settings(first.parsed.spec, "x").defaults
    assert route(second.parsed, defaults).policy == RoutePolicy(
        strategy="least_request",
        affinity="client",
        retries=Retries(attempts=5, per_try_timeout_s=2.0, budget=0.5),
        deadline_s=None,
        hedge_after_s=0.3,
        outlier=Outlier(max_ejection_s=9.0),
        breaker=Breaker(open_s=60.0),
        admission=AdmissionPolicy(queue_per_slot=0, max_wait_s=0.0),
        slow_start_s=1.0,
        keep_alive_bytes_s=5.0,
    )


def test_backends_of_one_model_differ_in_name_and_place() -> None:
    spec = """\
backends:
- {model: m, weight: 9}
- {model: m, name: new, weight: 1, instances: [n1/0], nodeLabels: {zone: a}}"""
    (document,) = load([("f", a_route(spec=spec))]).documents
    assert isinstance(document.parsed, ModelRouteDocument)
    stable, canary = route(document.parsed).backends
    assert (stable.key, stable.narrowed) == ("m", False)
    assert canary == Backend("m", 1, "new", {"zone": "a"}, ("n1/0",))
    twice = "backends:\n- {model: m, name: x}\n- {model: n, name: x}"
    assert "spec.backends[1].model: x is there twice" in faults(a_route(spec=twice))[0]
    # The name of one and the model of another: their keys would be drawn alike, the heavier always won.
    for mixed in ("- {model: x}\n- {model: n, name: x}", "- {model: n, name: x}\n- {model: x}"):
        (found,) = faults(a_route(spec=f"backends:\n{mixed}"))
        assert "spec.backends[1].model: x is there twice" in found


def a_rollout(spec: str = "", name: str = "roll", route: str = "a") -> str:
    return (
        f"apiVersion: bridge.deepseek.io/v1\nkind: Rollout\nmetadata: {{name: {name}}}\n"
        f"spec: {{route: {route}, stable: old, canary: new{spec and ', '}{spec}}}\n"
    )


TWO_BACKENDS = a_route(spec="backends: [{model: old}, {model: new, weight: 0}]")


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("first: {percent: 5, instances: 1}", "spec.first: should have either percent or instances"),
        ("first: {}", "spec.first: should have either percent or instances"),
        ("schedule: []", "spec.schedule: List should have at least 1 item"),
        ("schedule: [{percent: 101}]", "spec.schedule[0].percent: should be less than or equal to 100"),
        ("schedule: [{percent: 5}], increment: 5", "spec: schedule stands in place of first and increment"),
        ("keepWarm: 1m", "spec: keep_warm is not for canary"),
        ("strategy: blueGreen, increment: 5", "spec: increment is not for blueGreen"),
        ("guards: {errorRate: 2}", "spec.guards.errorRate: should be less than or equal to 1"),
        ("probe: {prompts: []}", "spec.probe.prompts: List should have at least 1 item"),
        ("probe: {prompts: [{prompt: a}]}", "spec.probe.prompts[0].expect: is missing"),
    ],
)
def test_a_bad_rollout_says_what_and_where(spec: str, fault: str) -> None:
    (found,) = faults(TWO_BACKENDS, a_rollout(spec))
    assert f"1.yaml:4: {fault}" in found


def test_a_rollout_is_between_two_backends_of_a_route_of_its_own() -> None:
    assert faults(TWO_BACKENDS, a_rollout()) == []
    assert "there is no ModelRoute a" in faults(a_rollout())[0]
    assert (
        "new is no backend of a: one of old"
        in faults(a_route(spec="backends: [{model: old}]"), a_rollout())[0]
    )
    both = faults(TWO_BACKENDS, a_rollout(), a_rollout(name="second"))
    assert "the rollout roll is already on this route" in both[0]
    nothing = a_route(spec="backends: [{model: old, weight: 0}, {model: new, weight: 0}, {model: z}]")
    assert "there is nothing to move" in faults(nothing, a_rollout())[0]
    same = a_rollout().replace("canary: new", "canary: old")
    assert "stable and canary are the same backend" in faults(TWO_BACKENDS, same)[0]


def test_a_route_keeps_the_backends_that_an_applied_rollout_needs() -> None:
    applied = {"ModelRoute/a": TWO_BACKENDS, "Rollout/roll": a_rollout()}
    (found,) = faults(a_route(spec="backends: [{model: old}]"), applied=applied)
    assert "the applied rollout roll needs new" in found
    assert faults(a_rollout("first: {instances: 1}"), applied=applied) == []


def test_one_broken_file_among_ten_is_named_and_the_others_are_not() -> None:
    texts = [a_route(f"r{at}") for at in range(10)]
    texts[6] = texts[6].replace("backends", "backend")
    found = faults(*texts)
    assert len(found) == 2
    assert all(line.startswith("6.yaml:") and ": spec.backend" in line for line in found)


def test_every_kind_of_document_has_a_schema_that_names_its_keys() -> None:
    for kind in MODELS:
        assert f"{kind.lower()}.schema.json" in schemas()


@pytest.mark.parametrize(
    "weight",
    [
        "0x" + "f" * 200_000,
        "0b" + "1" * 200_000,
        "9" * 200_000,
        "1:" * 2000 + "1",
        "!!timestamp x",
        "!!bool x",
    ],
    ids=["hex", "binary", "decimal", "base 60", "timestamp", "bool"],
)
def test_a_value_that_cannot_be_read_or_shown_is_a_fault_of_its_line(weight: str) -> None:
    text = (
        "apiVersion: bridge.deepseek.io/v1\nkind: ModelRoute\nmetadata: {name: r}\n"
        f"spec: {{backends: [{{model: m, weight: {weight}}}]}}\n"
    )
    (fault,) = load([("f", text)]).faults
    assert (fault.line, fault.path) == (4, "spec.backends[0].weight")
