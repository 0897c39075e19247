"""What a schema cannot say of a NodeClass. Pure.

Rules:
1. A key that would be without effect is a fault: it was meant to have one.
2. What no machine can do is a fault at apply time; what this or that machine cannot do is found by
   its agent, which starts no engine and says why.
"""

from __future__ import annotations

from collections.abc import Iterator

from bridge_core.config.node_class_spec import GpuSpec, IsolationSpec, LimitsSpec, NodeClassSpec


def faults(spec: NodeClassSpec) -> Iterator[tuple[str, str]]:
    """Every fault, as the path below `spec` and a sentence."""
    yield from _limits(spec.limits)
    yield from _isolation(spec.isolation, walled=spec.limits.disk_max is not None)
    if spec.limits.disk_max is not None and spec.isolation.uid is not None:
        yield "limits.diskMax", "does not hold engines of another user (isolation.uid): leave one of them out"
    if spec.gpu is not None:
        yield from _gpu(spec.gpu)


def _limits(limits: LimitsSpec) -> Iterator[tuple[str, str]]:
    if limits.memory_max is not None and (limits.memory_high or 0) > limits.memory_max:
        yield "limits.memoryHigh", "is above memoryMax, so it would never slow anything down"
    for part in (limits.cpuset or "").split(","):
        first, dash, last = part.partition("-")
        if dash and int(last) < int(first):
            yield "limits.cpuset", f"{part} runs backwards"
    seen = set[str]()
    for at, io in enumerate(limits.io):
        if io.path in seen:
            yield f"limits.io[{at}].path", f"{io.path} is there twice"
        seen.add(io.path)
        if not any((io.read_per_second, io.write_per_second, io.read_iops, io.write_iops)):
            yield f"limits.io[{at}]", "limits nothing"


def _isolation(isolation: IsolationSpec, *, walled: bool) -> Iterator[tuple[str, str]]:
    standing = {*(isolation.walls or ()), *isolation.require, *(("mount",) if walled else ())}
    if isolation.gid is not None and isolation.uid is None:
        yield "isolation.gid", "is without effect where no uid is given"
    if isolation.uid is not None and "mount" not in standing:
        yield "isolation.uid", "engines of another user need the wall mount to reach their folders"
    if "tmp_size" in isolation.model_fields_set and "mount" not in standing:
        yield "isolation.tmpSize", "is without effect where the wall mount does not stand"


def _gpu(gpu: GpuSpec) -> Iterator[tuple[str, str]]:
    for at, device in enumerate(gpu.devices):
        if device in gpu.devices[:at]:
            yield f"gpu.devices[{at}]", f"{device} is there twice"
        if gpu.mps and device.startswith("MIG-"):
            yield f"gpu.devices[{at}]", "a MIG slice is walled off by the GPU itself: leave mps out"
    if not gpu.mps:
        for name, value in (("threadPercentage", gpu.thread_percentage), ("memory", gpu.memory)):
            if value is not None:
                yield f"gpu.{name}", "is kept by MPS alone: set mps, too"
