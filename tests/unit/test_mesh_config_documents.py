"""mesh_config: what is accepted, what is refused, and where the fault is said to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge_core.config import load, mesh_settings, route
from bridge_core.config.documents import MeshDocument, ModelRouteDocument, parse_duration
from bridge_core.config.schema import schemas
from bridge_core.snapshot import Backend, MeshSettings, Route

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
    assert {document.key for document in loaded.documents} == {"Mesh/mesh", "ModelRoute/assistant"}
    assert schemas() == {path.name: path.read_text() for path in FOLDER.glob("*.schema.json")}


def test_a_mesh_document_becomes_settings() -> None:
    text = a_mesh("leaseTtl: 7s, ringPoints: 40, boundedLoad: 1, certificateTtl: 1h30m")
    (document,) = load([("f", text)]).documents
    assert isinstance(document.parsed, MeshDocument)
    assert mesh_settings(document.parsed.spec, "x.mesh", ("ab",)) == MeshSettings(
        trust_domain="x.mesh",
        lease_ttl_s=7.0,
        ring_points=40,
        bounded_load=1.0,
        certificate_ttl_s=5400.0,
        revoked_serials=("ab",),
    )


def test_no_mesh_document_means_the_snapshots_own_defaults() -> None:
    assert mesh_settings(None, "bridge.local") == MeshSettings()


def test_a_route_document_becomes_a_route() -> None:
    text = a_route("assistant", "backends: [{model: x, weight: 1}, {model: y}]\ndeadline: 90s\nfallback: z")
    (document,) = load([("f", text)]).documents
    assert isinstance(document.parsed, ModelRouteDocument)
    assert route(document.parsed) == Route(
        "assistant", (Backend("x", 1), Backend("y", 100)), deadline_s=90.0, fallback="z"
    )


def test_a_document_keeps_its_own_text_and_place() -> None:
    text = f"# head\n---\n{a_route('a')}---\n---\n# a comment\n{a_route('b')}"
    first, second = load([("f", text)]).documents
    assert (first.line, second.line) == (3, 11)
    assert load([("g", second.text)]).documents[0].parsed == second.parsed


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s", 5), ("250ms", 0.25), ("1h30m", 5400), ("1.5m", 90), ("2d", 172_800), ("0s", 0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "-5s", "5 s", "5y", "1h-3m", "٣s"])
def test_bad_durations(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


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
            "0.yaml:6: spec.strategy: should be 'ring_hash', not 'magic'",
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
        ("kind: Foo", "0.yaml:1: kind: 'Foo' is not a known kind: one of Mesh, ModelRoute"),
        ("a: 1", "0.yaml:1: kind: is missing: one of"),
        ("[1]", "0.yaml:1: a document is a mapping with"),
        ("\n\nkind: Mesh", "0.yaml:3: apiVersion: is missing: Mesh has bridge.deepseek.io/v1"),
        ("apiVersion: v2\nkind: Mesh", "0.yaml:1: apiVersion: 'v2' is not known"),
        ("apiVersion: bridge.deepseek.io/v1\nkind: Quota", "0.yaml:2: kind: Quota is not yet supported"),
        (
            "apiVersion: security.deepseek.io/v1\nkind: ModelAccessPolicy",
            "0.yaml:2: kind: ModelAccessPolicy is not yet supported",
        ),
        ("a: [", "0.yaml:1: not YAML"),
        ("a: \x07", "0.yaml:1: not YAML"),
        ("[" * 5000, "0.yaml:1: nested too deeply"),
        ("x" * (1024 * 1024 + 1), "0.yaml:1: larger than"),
        (a_mesh("leaseTtl: 0.5s"), "0.yaml:4: spec.leaseTtl: should be greater than or equal to 1"),
        (a_mesh("ringPoints: 161"), "0.yaml:4: spec.ringPoints: should be a multiple of 4, not 161"),
        (a_mesh("ringPoints: true"), "0.yaml:4: spec.ringPoints: should be a whole number, not True"),
        (a_mesh("boundedLoad: .nan"), "0.yaml:4: spec.boundedLoad"),
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
