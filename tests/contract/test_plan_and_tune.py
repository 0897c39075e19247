"""`bridge-agent plan` and `bridge-agent tune`: on a real store, through a real engine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from bridge_agent.cli import app
from bridge_agent.config import AgentConfig, StateDir, load_config, save_config
from bridge_agent.engines.config import EngineConfig
from bridge_agent.tuning.measure import Bench
from bridge_agent.tuning.model_shapes import shape_of, stored_shapes
from bridge_agent.tuning.plan_rules import NodePlan
from bridge_agent.tuning.records import FILE, Choice, Measured, Trial, TuningRecord, load_records, save_record
from bridge_core.errors import Fatal
from bridge_core.model_store.gguf import read_header
from bridge_engine.seed import seed
from tests.engine_support import embedded_installed
from tests.fakes.fake_gpus import FakeGpus

CONTROL = Path(__file__).parent.parent / "fakes" / "fake_mps_control.py"

pytestmark = [
    pytest.mark.llamacpp,
    pytest.mark.skipif(
        not embedded_installed(), reason="SKIPPED LOUDLY: the embedded engine is not installed"
    ),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    seed(folder, ["tiny", "tiny-solo", "tiny-embed"], tmp_path_factory.mktemp("cache"))
    return folder


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_a_plan_of_this_node_names_every_model_and_says_why(tmp_path: Path, store: Path) -> None:
    code, out, _ = run("plan", "--state-dir", str(tmp_path), "--models", str(store))
    assert code == 0
    assert "tiny-solo" in out
    assert "slots of one process" in out
    assert "NOT PLACED" not in out


def test_a_plan_of_supposed_gpus_as_json(tmp_path: Path, store: Path) -> None:
    where = ("--state-dir", str(tmp_path), "--models", str(store), "--json")
    code, out, _ = run("plan", "tiny", "--vram", "24GiB", "--slots", "2", *where)
    assert code == 0
    plan = msgspec.json.decode(out, type=NodePlan)
    assert [(one.gpus, one.models, one.num_parallel) for one in plan.engines] == [
        ("gpu-0", ("tiny:latest",), 1)
    ] * 2
    for engine in plan.engines:  # it can be put into agent.json as it is
        EngineConfig(
            index=engine.index,
            gpus=engine.gpus,
            num_parallel=engine.num_parallel,
            context_length=engine.context_length,
            kv_cache_type=engine.kv_cache_type,
            num_batch=engine.num_batch,
            num_thread=engine.num_thread,
            max_loaded=engine.max_loaded,
        )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("plan", "nope"), "there is no model 'nope'"),
        (("plan", "--vram", "3x"), "--vram '3x' is not a size"),
        (("plan", "--vram", "1GiB", "--gpus", "0"), "suppose one at least"),
        (("tune", "nope"), "there is no model 'nope'"),
        (("tune", "tiny-embed"), "makes embeddings"),
    ],
)
def test_what_cannot_be_planned_is_a_sentence(
    tmp_path: Path, store: Path, arguments: tuple[str, ...], says: str
) -> None:
    code, _, err = run(*arguments, "--state-dir", str(tmp_path), "--models", str(store))
    assert code == 1
    assert says in err


def test_a_plan_is_saved_for_the_agents_next_start(tmp_path: Path, store: Path) -> None:
    state = StateDir(tmp_path)
    before = AgentConfig(
        "n",
        "t",
        (),
        (),
        "127.0.0.1:1",
        engines=(EngineConfig(index=0, keep_alive="-1", models_dir=str(store)),),
    )
    save_config(state, before)
    code, out, err = run("plan", "--slots", "3", "--save", "--state-dir", str(tmp_path))
    assert code == 0, err
    assert "next start" in out
    after = load_config(state)
    assert msgspec.structs.replace(after, engines=()) == msgspec.structs.replace(before, engines=())
    assert {(one.num_parallel, one.keep_alive, one.kv_cache_type) for one in after.engines} == {
        (3, "-1", "f16"),
        (1, "-1", "f16"),  # what embeds
    }
    assert [one.index for one in after.engines] == list(range(len(after.engines)))


@pytest.mark.parametrize(
    ("engine", "arguments", "says"),
    [
        (EngineConfig(index=0), ("--vram", "24GiB"), "--save is for the GPUs that are here"),
        (EngineConfig(index=0, kind="ollama"), (), "a plan is for llamacpp"),
        (EngineConfig(index=0, attach="http://127.0.0.1:1"), (), "engine is attached"),
    ],
)
def test_what_cannot_be_saved_changes_nothing(
    tmp_path: Path, store: Path, engine: EngineConfig, arguments: tuple[str, ...], says: str
) -> None:
    state = StateDir(tmp_path)
    save_config(state, AgentConfig("n", "t", (), (), "127.0.0.1:1", engines=(engine,)))
    before = state.settings.read_bytes()
    code, _, err = run("plan", *arguments, "--save", "--state-dir", str(tmp_path), "--models", str(store))
    assert code == 1
    assert says in err
    assert state.settings.read_bytes() == before


def test_a_folder_that_is_no_store_is_said_to_be_none(tmp_path: Path) -> None:
    code, _, err = run("plan", "--state-dir", str(tmp_path))
    assert code == 1
    assert "is no model store" in err


def test_a_files_shape_is_that_of_the_model(store: Path) -> None:
    ((shape, digest),) = stored_shapes(store, ["tiny"])
    assert len(digest) == 64
    assert (shape.layers, shape.kv_heads, shape.key_length, shape.embedding_length) == (2, 4, 16, 64)
    assert shape.kv_bytes("f16") == 2 * 4 * (16 + 16) * 2
    assert shape.vocabulary == 260
    assert shape.weight_bytes >= shape.parameters * 2


def test_deepseeks_latent_rows_are_read(tmp_path: Path) -> None:
    from bridge_engine.modelgen import PRESETS, DeepSeekShape, generate

    name, preset = next((name, one) for name, one in PRESETS.items() if isinstance(one, DeepSeekShape))
    file = tmp_path / "d.gguf"
    generate(file, preset)
    shape = shape_of(name, read_header(file), file.stat().st_size)
    assert shape.mla_row == preset.kv_lora_rank + preset.rope_width


async def test_a_choice_is_measured_through_a_real_engine(store: Path) -> None:
    bench = Bench(EngineConfig(index=0), store, "tiny", context=512, tokens=8)
    measured = await bench.measure(Choice(slots=2, threads=1, batch=128), 100.0)
    assert not measured.fault
    assert measured.tokens_per_s > 0
    assert measured.ttft_s > 0


async def test_engines_on_a_gpu_are_measured_under_its_mps_again_and_again(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = tmp_path / "nvidia-cuda-mps-control"
    control.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {CONTROL} "$@"\n')
    control.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    opened: list[FakeGpus] = []

    def gpus() -> FakeGpus:
        opened.append(FakeGpus())
        return opened[-1]

    bench = Bench(
        EngineConfig(index=0), store, "tiny", context=512, tokens=8, gpus=gpus, device=FakeGpus().uuid()
    )
    for share in (75, 40):
        measured = await bench.measure(Choice(1, 1, 128, engines=2, thread_percentage=share), 110.0)
        assert not measured.fault
        assert measured.tokens_per_s > 0
    assert [one.closed for one in opened] == [True, True]


async def test_a_choice_that_cannot_run_is_a_fault_and_not_the_end(store: Path) -> None:
    bench = Bench(EngineConfig(index=0), store, "tiny", context=512, tokens=8)
    # Its heads are 16 wide, and 32 numbers share a scale.
    measured = await bench.measure(Choice(slots=1, threads=1, kv_type="q8_0"), 100.0)
    assert "500" in measured.fault


def test_records_are_kept_a_model_each_and_damaged_ones_named(tmp_path: Path) -> None:
    trial = Trial(Choice(slots=2), Measured(10.0, 0.1))
    record = TuningRecord("a", "cpu", "e", 1.0, 2048, trial, ("because",), (trial,))
    save_record(tmp_path / "new", "d1", record)
    save_record(tmp_path / "new", "d2", msgspec.structs.replace(record, model="b"))
    found = load_records(tmp_path / "new")
    assert {digest: one.model for digest, one in found.items()} == {"d1": "a", "d2": "b"}
    assert (tmp_path / "new" / FILE).stat().st_mode & 0o777 == 0o600
    (tmp_path / "new" / FILE).write_text("{")
    with pytest.raises(Fatal, match="cannot be used"):
        load_records(tmp_path / "new")
