"""The nine, by name."""

from __future__ import annotations

from bench.detection.fault import Fault
from bench.detection.faults import clock, disk, errors, gpu, hung, killed, network, slow, wrong

FAULTS: dict[str, Fault] = {
    one.name: one
    for one in (
        killed.FAULT,
        hung.FAULT,
        gpu.FAULT,
        slow.FAULT,
        errors.FAULT,
        wrong.FAULT,
        disk.FAULT,
        network.FAULT,
        clock.FAULT,
    )
}
