"""`bridge-agent` on a machine with one GPU, that is lost while a file is there (BRIDGE_BENCH_GPU).

The GPU is the tests' fake (`tests.fakes.fake_gpus`), which keeps to what NVML's own inventory keeps to.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from bridge_agent import app, serve
from bridge_agent.config import DRAIN_S, StateDir, load_config
from bridge_agent.limits.gpu import Gpu, GpuInventory
from tests.fakes.fake_gpus import FakeGpus


class Losing(FakeGpus):
    """Loses its GPU, and finds it again."""

    def __init__(self, lost: Path) -> None:
        super().__init__()
        self._lost = lost
        self._well = super().read()

    def read(self) -> tuple[Gpu, ...]:
        if self._lost.exists():
            self.lose(0)
            return super().read()
        return self._well


def open_gpus() -> tuple[GpuInventory, str]:
    """In place of the driver's."""
    return Losing(Path(os.environ["BRIDGE_BENCH_GPU"])), ""


def main() -> None:
    """Serves, as what `bridge-agent run` becomes does."""
    root = sys.argv[sys.argv.index("--state-dir") + 1]
    listeners = load_config(StateDir(Path(root))).listeners
    options = serve.ServeOptions(root, listeners, "info", keep_engines=False, drain_s=DRAIN_S)
    sys.argv[1:] = [msgspec.json.encode(options).decode()]
    app.open_gpus = open_gpus
    serve.main()


if __name__ == "__main__":
    main()
