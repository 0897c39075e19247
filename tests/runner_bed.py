"""A runner's spec, for tests that mind some of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from bridge_engine.runner.spec import RunnerSpec


def runner_spec(model: Path | str, **more: Any) -> RunnerSpec:
    """One sequence of a few tokens, on one core; `more`: what is otherwise."""
    small = RunnerSpec(
        model=str(model),
        num_ctx=8,
        parallel=1,
        batch=8,
        micro_batch=8,
        shift=False,
        embedding=False,
        num_gpu=0,
        main_gpu=None,
        num_thread=1,
        use_mmap=None,
    )
    return msgspec.structs.replace(small, **more)
