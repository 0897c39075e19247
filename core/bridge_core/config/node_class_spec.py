"""NodeClass: what nodes give their engines, and what walls they put around them."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

from pydantic import Field

from bridge_core.config.base import Labels, Metadata, Name, Size, Strict
from bridge_core.node_class import GpuSharing, Isolation
from bridge_core.quantities import MAX_SIZE

Wall: TypeAlias = Literal[
    "cgroup", "user", "mount", "pid", "ipc", "uts", "net", "unprivileged", "capabilities", "no_new_privs"
]
WALLS: Final[tuple[str, ...]] = get_args(Wall)

_ISOLATION, _GPU = Isolation(), GpuSharing()
_MOST: Final = MAX_SIZE
_IOPS: Final = 1_000_000_000


class IoLimitSpec(Strict):
    """How fast an engine may use the disk that a path lies on."""

    path: str = Field(
        pattern="^/", max_length=4096, description="Any path on the disk, e.g. the models folder."
    )
    read_per_second: Size | None = Field(default=None, ge=1, le=_MOST, description="Bytes.")
    write_per_second: Size | None = Field(default=None, ge=1, le=_MOST, description="Bytes.")
    read_iops: int | None = Field(default=None, ge=1, le=_IOPS)
    write_iops: int | None = Field(default=None, ge=1, le=_IOPS)


class LimitsSpec(Strict):
    """What each engine may use of its node; what is left out is not limited."""

    memory_max: Size | None = Field(
        default=None, ge=1 << 20, le=_MOST, description="Past it the kernel ends the engine, and it alone."
    )
    memory_high: Size | None = Field(
        default=None, ge=1 << 20, le=_MOST, description="Past it the engine is slowed down."
    )
    swap_max: Size | None = Field(default=None, ge=0, le=_MOST, description="On top of memory.")
    cpu_weight: int | None = Field(
        default=None, ge=1, le=10_000, description="Share when CPUs are short; everybody else has 100."
    )
    cpu_max: float | None = Field(default=None, ge=0.01, le=4096, description="CPUs' worth of time.")
    cpuset: str | None = Field(
        default=None,
        pattern=r"^[0-9]{1,6}(-[0-9]{1,6})?(,[0-9]{1,6}(-[0-9]{1,6})?)*$",
        max_length=4096,
        description='CPUs it may run on, as "0-3,8".',
    )
    pids_max: int | None = Field(
        default=None, ge=1, le=4_194_304, description="Processes and threads it may have."
    )
    io: list[IoLimitSpec] = Field(default_factory=list, max_length=32)
    disk_max: Size | None = Field(
        default=None,
        ge=1 << 20,
        le=_MOST,
        description="Of its home, and of its models folder. Needs project quotas on the node's disk; puts up "
        "the walls user and mount.",
    )


class IsolationSpec(Strict):
    """The walls around each engine."""

    walls: list[Wall] | None = Field(
        default=None,
        max_length=len(WALLS),
        description="Put up where the node allows it. Left out: those that always stand and cost nothing.",
    )
    require: list[Wall] = Field(
        default_factory=list,
        max_length=len(WALLS),
        description="Put up, too; where one cannot stand, no engine is started.",
    )
    uid: int | None = Field(default=None, ge=1, le=4_294_967_294, description="The user that engines run as.")
    gid: int | None = Field(default=None, ge=1, le=4_294_967_294, description="Its group; else as the user.")
    tmp_size: Size = Field(
        default=_ISOLATION.tmp_bytes,
        ge=1 << 20,
        le=_MOST,
        description="Of the private /tmp; what is in it counts as the engine's memory.",
    )


class GpuSpec(Strict):
    """How engines share the node's GPUs."""

    devices: list[Name] = Field(
        default_factory=list, max_length=64, description="Indices or UUIDs, in order; none: every GPU."
    )
    per_gpu: int = Field(
        default=_GPU.per_gpu, ge=1, le=48, description="Engines on one GPU before the next is taken."
    )
    mps: bool = Field(default=_GPU.mps, description="Engines of one GPU share it under NVIDIA's MPS.")
    thread_percentage: int | None = Field(
        default=None, ge=1, le=100, description="Of the GPU, for each; left out: by the number of neighbours."
    )
    memory: Size | None = Field(
        default=None, ge=1 << 20, le=_MOST, description="GPU memory of each engine; MPS keeps it."
    )


class NodeClassSpec(Strict):
    """What the nodes with certain labels do for their engines."""

    node_labels: Labels = Field(
        default_factory=dict,
        description="The nodes that have all of these; none: every node. The most labels win.",
    )
    limits: LimitsSpec = LimitsSpec()
    isolation: IsolationSpec = IsolationSpec()
    gpu: GpuSpec | None = Field(default=None, description="Left out: engines find GPUs as they like.")


class NodeClassDocument(Strict):
    """apiVersion, kind, metadata and spec of a NodeClass."""

    api_version: Literal["bridge.deepseek.io/v1"]
    kind: Literal["NodeClass"]
    metadata: Metadata
    spec: NodeClassSpec
