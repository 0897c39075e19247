"""NodeClass: what documents become, which nodes they are for, and what is refused where."""

from __future__ import annotations

import pytest

from bridge_core.config import load, node_class, own_node_class
from bridge_core.config.documents import NodeClassDocument
from bridge_core.config.node_class_spec import WALLS
from bridge_core.node_class import GpuSharing, IoLimit, Isolation, NodeClass, ResourceLimits, choose


def a_class(spec: str, name: str = "c") -> str:
    indented = "\n".join(f"  {line}" for line in spec.splitlines())
    return (
        f"apiVersion: bridge.deepseek.io/v1\nkind: NodeClass\nmetadata: {{name: {name}}}\nspec:\n{indented}\n"
    )


def becomes(spec: str) -> NodeClass:
    loaded = load([("f.yaml", a_class(spec))])
    assert loaded.faults == ()
    (document,) = loaded.documents
    assert isinstance(document.parsed, NodeClassDocument)
    return node_class(document.name, document.parsed.spec)


def faults(*texts: str, applied: dict[str, str] | None = None) -> list[str]:
    return [
        str(one)
        for one in load([(f"{at}.yaml", text) for at, text in enumerate(texts)], applied=applied).faults
    ]


def test_a_document_becomes_what_agents_hold_engines_to() -> None:
    assert becomes(
        "nodeLabels: {gpu: h200}\n"
        "limits:\n"
        "  memoryMax: 48GiB\n"
        "  memoryHigh: 1.5GiB\n"
        "  swapMax: 0\n"
        "  cpuWeight: 50\n"
        "  cpuMax: 8\n"
        '  cpuset: "0-3,8"\n'
        "  pidsMax: 512\n"
        "  io: [{path: /models, readPerSecond: 500MiB, writeIops: 100}]\n"
        "  diskMax: 200GiB\n"
        "isolation: {walls: [mount, net], require: [cgroup], tmpSize: 64MiB}\n"
        "gpu: {devices: ['0', GPU-1], perGpu: 4, mps: true, threadPercentage: 75, memory: 20GiB}"
    ) == NodeClass(
        "c",
        {"gpu": "h200"},
        ResourceLimits(
            48 << 30,
            3 << 29,
            0,
            50,
            8,
            "0-3,8",
            512,
            (IoLimit("/models", 500 << 20, None, None, 100),),
            200 << 30,
        ),
        Isolation(("mount", "net"), ("cgroup",), tmp_bytes=64 << 20),
        GpuSharing(("0", "GPU-1"), 4, True, 75, 20 << 30),
    )
    assert becomes("isolation: {walls: [mount], uid: 990, gid: 991}").isolation == Isolation(
        ("mount",), (), 990, 991
    )
    # The limit of the disk puts that wall up.
    assert becomes("limits: {diskMax: 1GiB}\nisolation: {tmpSize: 64MiB}").limits == ResourceLimits(
        disk_max=1 << 30
    )


def test_what_a_document_leaves_out_stays_as_it_is() -> None:
    assert becomes("{}") == NodeClass("c")


@pytest.mark.parametrize(
    ("spec", "line", "path", "words"),
    [
        ("limits: {memoryMax: -1}", 5, "spec.limits.memoryMax", "greater than or equal to 1048576"),
        ("limits: {memoryMax: 8GB}", 5, "spec.limits.memoryMax", "a size such as 512MiB"),
        ("limits:\n  cpuMax: 2 cores", 6, "spec.limits.cpuMax", "number"),
        ("limits:\n  memory: 8GiB", 6, "spec.limits.memory", "is not a known key"),
        ("limits: {memoryMax: 1GiB, memoryHigh: 2GiB}", 5, "spec.limits.memoryHigh", "is above memoryMax"),
        ('limits: {cpuset: "3-1"}', 5, "spec.limits.cpuset", "3-1 runs backwards"),
        ("limits: {diskMax: 100}", 5, "spec.limits.diskMax", "greater than or equal to 1048576"),
        (
            "limits: {diskMax: 1GiB}\nisolation: {uid: 990, walls: [mount]}",
            5,
            "spec.limits.diskMax",
            "leave one of them out",
        ),
        ("limits: {pidsMax: 0}", 5, "spec.limits.pidsMax", "greater than or equal to 1"),
        ("limits: {io: [{path: /m}]}", 5, "spec.limits.io[0]", "limits nothing"),
        ("isolation: {walls: [fire]}", 5, "spec.isolation.walls[0]", "'cgroup'"),
        ("isolation: {uid: 0, walls: [mount]}", 5, "spec.isolation.uid", "greater than or equal to 1"),
        ("isolation: {uid: 990}", 5, "spec.isolation.uid", "need the wall mount"),
        ("isolation: {gid: 990}", 5, "spec.isolation.gid", "without effect"),
        ("gpu: {memory: 1GiB}", 5, "spec.gpu.memory", "set mps, too"),
        ("gpu: {mps: true, devices: [MIG-1]}", 5, "spec.gpu.devices[0]", "leave mps out"),
        ("gpu: {perGpu: 0}", 5, "spec.gpu.perGpu", "greater than or equal to 1"),
        ("gpu: {threadPercentage: 101, mps: true}", 5, "spec.gpu.threadPercentage", "less than or equal to"),
    ],
)
def test_a_fault_is_said_where_it_is(spec: str, line: int, path: str, words: str) -> None:
    (found,) = faults(a_class(spec))
    assert found.startswith(f"0.yaml:{line}: {path}: ")
    assert words in found


def test_every_fault_of_every_file_is_said_at_once() -> None:
    found = faults(
        a_class("limits: {memoryMax: -1, pidsMax: none}\nisolation: {require: [moat]}"),
        a_class("gpu: {memory: 1GiB, threadPercentage: 3}", "d"),
    )
    assert sorted(one.split(": ")[1] for one in found) == [
        "spec.gpu.memory",
        "spec.gpu.threadPercentage",
        "spec.isolation.require[0]",
        "spec.limits.memoryMax",
        "spec.limits.pidsMax",
    ]


def test_two_classes_for_the_same_nodes_are_refused() -> None:
    first, second = (a_class("nodeLabels: {a: b}", name) for name in ("one", "two"))
    assert "two is for a=b already" in faults(first, second)[0]
    (found,) = faults(second, applied={"NodeClass/one": first})
    assert "one is for a=b already" in found
    assert faults(a_class("nodeLabels: {a: c}", "two"), applied={"NodeClass/one": first}) == []
    assert faults(first, applied={"NodeClass/one": first}) == []


def test_the_class_with_the_most_labels_of_a_node_is_its() -> None:
    every, some, most = NodeClass("z"), NodeClass("b", {"a": "1"}), NodeClass("c", {"a": "1", "b": "2"})
    labels = {"a": "1", "b": "2", "c": "3"}
    assert choose([every, some, most], labels) is most
    assert choose([every, some, most], {"a": "1"}) is some
    assert choose([every, some, most], {"a": "2"}) is every
    assert choose([some], {}) is None


def test_a_nodes_own_class_is_written_as_in_mesh_config() -> None:
    assert own_node_class({"limits": {"memoryMax": "1GiB"}}) == NodeClass(
        "own", limits=ResourceLimits(memory_max=1 << 30)
    )
    with pytest.raises(ValueError, match=r"limits\.memoryMax: .*; limits\.pids: is not a known key"):
        own_node_class({"limits": {"memoryMax": "1GB", "pids": 3}})
    with pytest.raises(ValueError, match=r"gpu\.memory: is kept by MPS alone"):
        own_node_class({"gpu": {"memory": "1GiB"}})
    with pytest.raises(ValueError, match="should be"):
        own_node_class([])


def test_documents_and_agents_know_the_same_walls() -> None:
    from bridge_agent.limits.walls import WALLS as BUILT

    assert WALLS == BUILT
