"""Bad mesh_config of every kind: refused whole, every fault named, and the last good stays live.

Each kind of fault is put among nine good files that all change something: through the folder that a
registry watches (`--mesh-config DIR`) and through the admin's Apply, which is what `bridgectl apply`
calls. The command itself is run on all of them at once.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge_wire.v1 import registry_pb2 as pb
from tests.fakes.store import FakeEtcd, FakeStore
from tests.registry_bed import Bed, make_settings, running
from tests.support import eventually

BRIDGE = str(Path(sys.executable).with_name("bridgectl"))
HEAD = "apiVersion: bridge.deepseek.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: "


def a_document(kind: str, name: str, spec: str) -> str:
    return f"{HEAD.format(kind=kind, name=name)}{spec}\n"


def a_route(name: str, spec: str = "{backends: [{model: m}]}") -> str:
    return a_document("ModelRoute", name, spec)


def leading(name: str, to: str) -> str:
    return a_route(name, f"{{backends: [{{model: m}}], fallback: {to}}}")


GOOD = {f"{at}.yaml": a_route(f"good{at}") for at in range(9)}
CHANGED = {f"{at}.yaml": a_route(f"good{at}", "{backends: [{model: other}]}") for at in range(9)}
TWO = "{backends: [{model: old}, {model: new, weight: 0}]}"

# Kind of fault to the broken file (there may be several documents in it) and what has to be said.
BAD: dict[str, tuple[str, tuple[str, ...]]] = {
    "unknown kind": (
        a_document("ModelRout", "a", "{backends: [{model: m}]}"),
        ("bad.yaml:2: kind: 'ModelRout' is not a known kind",),
    ),
    "unknown key": (
        a_route("a", "{backends: [{model: m, weigth: 1}], retry: 3}"),
        ("spec.backends[0].weigth: is not a known key", "spec.retry: is not a known key"),
    ),
    "unknown key beside spec": (a_route("a") + "specs: {}\n", ("bad.yaml:5: specs: is not a known key",)),
    "missing spec": (
        "apiVersion: bridge.deepseek.io/v1\nkind: ModelRoute\nmetadata: {name: a}\n",
        ("spec: is missing",),
    ),
    "weights that sum to zero": (
        a_route("a", "{backends: [{model: m, weight: 0}, {model: n, weight: 0}]}"),
        ("spec.backends: all weights are 0",),
    ),
    "negative weight": (
        a_route("a", "{backends: [{model: m, weight: -1}]}"),
        ("spec.backends[0].weight: should be greater than or equal to 0, not -1",),
    ),
    "route to itself": (
        a_route("a", "{backends: [{model: library/A:latest}]}"),
        ("spec.backends[0].model: the route leads to itself",),
    ),
    "route to a route": (
        a_route("a", "{backends: [{model: good3}]}"),
        ("spec.backends[0].model: good3 is a route: a backend is a model",),
    ),
    "cycle of fallbacks": (
        "---\n".join([leading("a", "b"), leading("b", "c"), leading("c", "a")]),
        (
            "bad.yaml:4: spec.fallback: fallbacks go round: a -> b -> c -> a",
            "bad.yaml:9: spec.fallback: fallbacks go round: b -> c -> a -> b",
            "bad.yaml:14: spec.fallback: fallbacks go round: c -> a -> b -> c",
        ),
    ),
    "fallback to itself": (leading("a", "a"), ("spec.fallback: fallbacks go round: a -> a",)),
    "duplicate name": (
        a_route("library/GOOD1"),
        ("bad.yaml:3: metadata.name: ModelRoute library/GOOD1 is already in",),
    ),
    "the same backend twice": (
        a_route("a", "{backends: [{model: m}, {model: m:latest}]}"),
        ("spec.backends[1].model: m:latest is there twice",),
    ),
    "wrong apiVersion": (
        a_route("a").replace("/v1", "/v2"),
        ("bad.yaml:1: apiVersion: 'bridge.deepseek.io/v2' is not known",),
    ),
    "no apiVersion": (a_route("a").partition("\n")[2], ("apiVersion: is missing",)),
    "a name that is no model's": (a_route("'a b'"), ("metadata.name: 'a b' is not a model name",)),
    "a number for a duration": (
        a_route("a", "{backends: [{model: m}], deadline: 5}"),
        ("spec.deadline: should be a duration such as 5s",),
    ),
    "another mesh's trust domain": (
        a_document("Mesh", "mesh", "{trustDomain: other.mesh}"),
        ("spec.trustDomain: this mesh is bridge.local, which never changes",),
    ),
    "a Mesh of another name": (a_document("Mesh", "main", "{}"), ("a Mesh is named mesh, not 'main'",)),
    "a rollout of no route": (
        a_document("Rollout", "roll", "{route: nowhere, stable: old, canary: new}"),
        ("there is no ModelRoute nowhere",),
    ),
    "a rollout to no backend": (
        f"{a_route('a', TWO)}---\n{a_document('Rollout', 'roll', '{route: a, stable: old, canary: x}')}",
        ("x is no backend of a: one of old, new",),
    ),
    "not YAML": ("a: [\n", ("bad.yaml:", "not YAML")),
    "a key twice": (a_route("a") + "kind: Mesh\n", ("bad.yaml:5: kind: this key is there twice",)),
    "an alias": (a_route("a", "{backends: [*x]}"), ("aliases are not taken",)),
    "no mapping": ("- a\n", ("a document is a mapping with",)),
}
NOT_UTF8 = a_route("a").encode() + b"# caf\xe9\n"


def lay_out(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).write_text(text)


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    made = tmp_path / "mesh_config"
    made.mkdir()
    lay_out(made, GOOD)
    return made


@pytest.fixture
async def bed(tmp_path: Path, etcd: FakeEtcd) -> AsyncIterator[Bed]:
    """A registry on which the good files were applied."""
    store = FakeStore(etcd)
    async with running(make_settings(tmp_path), store) as found:
        await found.leads()
        async with found.admin() as admin:
            files = [pb.ConfigFile(name=name, text=text) for name, text in GOOD.items()]
            assert (await admin.Apply(pb.ApplyRequest(files=files))).revision == 1
        await eventually(lambda: models(found) == {"m"}, 30)
        yield found
    await store.close()


def models(bed: Bed) -> set[str]:
    """What the published routes lead to; all nine of them."""
    routes = bed.registry.publisher.hub.current.routes
    return {route.backends[0].model for route in routes.values()} if len(routes) == len(GOOD) else set()


async def test_apply_refuses_the_whole_for_one_broken_file_among_ten(bed: Bed) -> None:
    async with bed.admin() as admin:
        for what, (bad, words) in BAD.items():
            files = {**CHANGED, "bad.yaml": bad}
            request = pb.ApplyRequest(files=[pb.ConfigFile(name=n, text=t) for n, t in files.items()])
            for answer in (await admin.Diff(request), await admin.Apply(request)):
                said = [f"{one.file}:{one.line}: {one.path}: {one.message}" for one in answer.faults]
                assert {one.file for one in answer.faults} == {"bad.yaml"}, (what, said)
                assert all(any(word in line for line in said) for word in words), (what, said)
        assert [one.number for one in (await admin.History(pb.HistoryRequest())).revisions] == [1]
    assert models(bed) == {"m"}


async def test_the_watched_folder_keeps_the_last_good_for_one_broken_file_among_ten(
    tmp_path: Path, folder: Path, etcd: FakeEtcd
) -> None:
    store = FakeStore(etcd)
    async with running(make_settings(tmp_path, mesh_config=folder), store) as bed:
        await eventually(lambda: models(bed) == {"m"}, 30)
        watch = bed.registry.mesh_config_watch
        assert watch is not None
        replace(folder / "bad.yaml", b"a: [")
        lay_out(folder, CHANGED)
        cases = {what: (bad.encode(), words) for what, (bad, words) in BAD.items()}
        for what, (bad, words) in {**cases, "not UTF-8": (NOT_UTF8, ("bad.yaml:5: not UTF-8",))}.items():
            replace(folder / "bad.yaml", bad)

            async def named(words: tuple[str, ...] = words) -> bool:
                await watch.look()
                return all(any(word in fault for fault in watch.faults) for word in words)

            try:
                await eventually(named, 30)
            except AssertionError:
                raise AssertionError(f"{what}: {watch.faults}") from None
            assert all("bad.yaml:" in fault for fault in watch.faults), (what, watch.faults)
            assert models(bed) == {"m"}, what
        (folder / "bad.yaml").unlink()
        await eventually(lambda: models(bed) == {"other"}, 30)
        assert watch.faults == ()
        async with bed.admin() as admin:
            assert [one.number for one in (await admin.History(pb.HistoryRequest())).revisions] == [2, 1]
    await store.close()


async def test_the_command_names_every_fault_of_every_file_and_applies_nothing(
    bed: Bed, folder: Path
) -> None:
    lay_out(folder, CHANGED)
    for at, (bad, _) in enumerate(BAD.values()):
        (folder / f"bad{at:02}.yaml").write_text(bad)
    (folder / "latin1.yaml").write_bytes(NOT_UTF8)
    status, said = await bridge(bed, "apply", "-f", str(folder))
    assert status == 1
    for at, what in enumerate(BAD):
        assert f"bad{at:02}.yaml:" in said, (what, said)
    assert "latin1.yaml:5: not UTF-8" in said
    assert not any(line.startswith(f"{folder}/{at}.yaml") for line in said.splitlines() for at in range(9))
    assert "nothing was applied" in said
    assert models(bed) == {"m"}
    for broken in (*folder.glob("bad*.yaml"), folder / "latin1.yaml"):
        broken.unlink()
    status, said = await bridge(bed, "apply", "-f", str(folder))
    assert status == 0, said
    await eventually(lambda: models(bed) == {"other"}, 30)


def replace(path: Path, data: bytes) -> None:
    """As an editor saves: whoever looks sees the old or the new file, never a half."""
    beside = path.with_suffix(".new")
    beside.write_bytes(data)
    beside.replace(path)


async def bridge(bed: Bed, *arguments: str) -> tuple[int, str]:
    """The command as an admin runs it; its status and what it said."""
    pki = bed.registry.settings.pki
    cert, key = pki.pair("admin")
    access = ["--registry", bed.address, "--ca", str(pki.ca), "--cert", str(cert), "--key", str(key)]
    process = await asyncio.create_subprocess_exec(
        BRIDGE, *arguments, *access, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    assert b"Traceback" not in said
    return process.returncode, said.decode()
