"""What was measured on this node: one record a model, in a file of the state folder."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bridge_agent.limits.placement_rules import KvType
from bridge_core.errors import Fatal
from bridge_core.files import write_atomically

FILE = "tuning.json"


class Choice(msgspec.Struct, frozen=True, order=True):
    """One way to run an engine.

    Attributes:
        slots: Requests that it decodes at a time (`num_parallel`).
        threads: CPU threads; 0: the engine's own choice.
        batch: Prompt tokens read at a time.
        kv_type: Precision of the KV cache.
        engines: Copies of it on one device, under MPS.
        thread_percentage: Active threads of each of them; 100: not limited.
    """

    slots: int
    threads: int = 0
    batch: int = 512
    kv_type: KvType = "f16"
    engines: int = 1
    thread_percentage: int = 100


class Measured(msgspec.Struct, frozen=True):
    """What a choice gave.

    Attributes:
        tokens_per_s: Of all slots of all engines together, all busy.
        ttft_s: Median time to the first token while they were.
        fault: Why it could not be measured; empty: it could.
    """

    tokens_per_s: float = 0.0
    ttft_s: float = 0.0
    fault: str = ""


class Trial(msgspec.Struct, frozen=True):
    """A choice and what it gave."""

    choice: Choice
    measured: Measured


class TuningRecord(msgspec.Struct, frozen=True):
    """The tuning of one model on this node.

    Attributes:
        model: Its name when it was measured.
        device: A GPU's UUID, or "cpu".
        engine: Version of what was measured.
        at_unix: When, wall clock.
        context: Tokens of context of each slot.
        best: What was chosen.
        why: In words.
        trials: Everything that was tried, in order.
    """

    model: str
    device: str
    engine: str
    at_unix: float
    context: int
    best: Trial
    why: tuple[str, ...]
    trials: tuple[Trial, ...]


def load_records(state: Path) -> dict[str, TuningRecord]:
    """Records by model digest; empty where nothing was measured yet.

    Raises:
        Fatal: the file cannot be read or used.
    """
    path = state / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, TuningRecord])
    except FileNotFoundError:
        return {}
    except OSError as fault:
        raise Fatal(f"cannot read {path}: {fault.strerror}") from fault
    except msgspec.DecodeError as fault:
        raise Fatal(f"{path} cannot be used: {fault}", hint="remove it and measure again") from fault


def save_record(state: Path, digest: str, record: TuningRecord) -> Path:
    """Keeps a record, in place of the model's last one.

    Raises:
        Fatal: it cannot be written.
    """
    path = state / FILE
    records = load_records(state)
    records[digest] = record
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(path, msgspec.json.format(msgspec.json.encode(records), indent=2) + b"\n")
    except OSError as fault:
        raise Fatal(f"cannot write {path}: {fault.strerror}") from fault
    return path
