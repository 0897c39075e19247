"""What a node measures of itself and tells the registry: names, and how much of it. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

MAX_GAUGES: Final = 1024
"""That one node tells at a time."""

DISK: Final = "disk_used_bytes"
MEMORY: Final = "memory_used_bytes"
VRAM: Final = "vram_used_bytes"
QUEUE: Final = "queue"
IN_FLIGHT: Final = "in_flight"
TOKENS: Final = "tokens_per_second"
TTFT: Final = "ttft_seconds"
ERRORS: Final = "error_share"
PRESSURE_CPU: Final = "cpu_pressure_percent"
PRESSURE_MEMORY: Final = "memory_pressure_percent"
PRESSURE_IO: Final = "io_pressure_percent"
GPU_TEMPERATURE: Final = "gpu_temperature_celsius"

NAMES: Final = frozenset(
    {
        DISK,
        MEMORY,
        VRAM,
        QUEUE,
        IN_FLIGHT,
        TOKENS,
        TTFT,
        ERRORS,
        PRESSURE_CPU,
        PRESSURE_MEMORY,
        PRESSURE_IO,
        GPU_TEMPERATURE,
    }
)
"""All that an AlertRule may be about. TTFT, ERRORS and TOKENS are made by the registry from counters."""

OF_INSTANCE: Final = frozenset({QUEUE, IN_FLIGHT})
"""Those whose `of` is an instance's id."""


class Gauge(msgspec.Struct, frozen=True):
    """One figure of now.

    Attributes:
        name: Of `NAMES`.
        of: Which of several: a GPU's UUID, an instance's id, a folder's mark; empty: the node's only one.
        value: In the unit that the name ends in.
        limit: Where it ends; 0: nowhere.
    """

    name: str
    of: str
    value: float
    limit: float = 0.0
