"""GPUs on the console's map, out of what nodes report."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge_core import gauges
from bridge_core.gauges import Gauge
from bridge_core.mesh_picture import GpuPicture
from bridge_registry.console.picture_rules import gpus_of

GIB = 2.0**30


def test_a_gpu_is_its_memory_and_how_warm_it_is() -> None:
    told = [
        Gauge(gauges.DISK, "models", 1.0, 2.0),
        Gauge(gauges.VRAM, "GPU-a", 60 * GIB, 80 * GIB),
        Gauge(gauges.GPU_TEMPERATURE, "GPU-a", 63.0),
        Gauge(gauges.VRAM, "GPU-b", 0.0, 80 * GIB),
        Gauge(gauges.VRAM, "GPU-c", 5.0),
    ]
    assert list(gpus_of(told)) == [
        GpuPicture("GPU-a", int(80 * GIB), 75, 65),
        GpuPicture("GPU-b", int(80 * GIB), 0, 0),
    ]
    assert len(list(gpus_of([Gauge(gauges.VRAM, str(n), 1.0, 2.0) for n in range(40)]))) == 32


@given(st.floats(allow_nan=False), st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_whatever_a_node_says_a_picture_is_a_picture(value: float, limit: float, celsius: float) -> None:
    told = [Gauge(gauges.VRAM, "GPU-a", value, limit), Gauge(gauges.GPU_TEMPERATURE, "GPU-a", celsius)]
    for one in gpus_of(told):
        assert 0 <= one.used_percent <= 100
        assert 0 <= one.celsius <= 1000
        assert one.celsius % 5 == 0
        assert 0 <= one.memory_bytes <= 2**53
