"""The variables that hide a machine's other GPUs from a process, by vendor."""

from __future__ import annotations

from typing import Final

VISIBLE_DEVICES: Final = {"nvidia": "CUDA_VISIBLE_DEVICES", "amd": "ROCR_VISIBLE_DEVICES"}
"""Each takes UUIDs."""
