"""Which settings a tuner tries and keeps, and how a plan becomes engines."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.limits.placement_rules import Device, ModelShape
from bridge_agent.tuning import tune_rules as rules
from bridge_agent.tuning.node_facts import supposed
from bridge_agent.tuning.plan_rules import ModelDemand, NodePlan, plan_node
from bridge_agent.tuning.records import Choice, Measured, Trial, TuningRecord
from bridge_agent.tuning.tune import tune
from bridge_core.errors import Fatal, Unavailable
from bridge_engine.cli import default_threads

GIB = 1 << 30
SPACE = rules.Space(slots=(1, 2, 4), threads=(2, 1), batches=(512, 128), kv_types=("f16", "q8_0"))


def shape(name: str = "m", weights: int = 4 * GIB) -> ModelShape:
    return ModelShape(name, weights, 22, 4, 64, 64, 2048, 32_000, 131_072)


class World:
    """Measures by a formula; takes a second of its own clock for each."""

    def __init__(self, gives, cost_s: float = 1.0) -> None:
        self.gives, self.cost_s = gives, cost_s
        self.now = 0.0
        self.tried: list[Choice] = []

    async def measure(self, choice: Choice, limit_s: float) -> Measured:
        self.tried.append(choice)
        self.now += self.cost_s
        return self.gives(choice)


def more_slots_are_faster(choice: Choice) -> Measured:
    penalty = 0.5 if choice.threads == 2 else 1.0
    return Measured(100.0 * choice.slots * penalty * (1.1 if choice.kv_type == "q8_0" else 1.0), 0.1)


async def test_it_finds_the_best_of_all_by_varying_one_thing_at_a_time() -> None:
    world = World(more_slots_are_faster)
    best, trials = await tune(world, SPACE, limit_s=1000, clock=lambda: world.now)
    assert best.choice == Choice(slots=4, threads=1, batch=512, kv_type="q8_0")
    assert len(world.tried) == len(set(world.tried)) == len(trials) < 3 * 2 * 2 * 2


async def test_a_gain_that_is_noise_changes_nothing() -> None:
    world = World(lambda choice: Measured(100.0 + choice.slots / 2, 0.1))
    best, _ = await tune(world, SPACE, limit_s=1000, clock=lambda: world.now)
    assert best.choice == Choice(slots=1, threads=2)


async def test_a_first_token_that_comes_too_late_is_not_worth_its_tokens() -> None:
    world = World(lambda choice: Measured(100.0 * choice.slots, 1.5 * choice.slots))
    best, trials = await tune(world, SPACE, limit_s=1000, clock=lambda: world.now)
    assert best.choice.slots == 1
    assert any("later than the 2 s allowed" in reason for reason in rules.explain(trials, best, SPACE))


async def test_where_none_comes_in_time_the_soonest_is_kept() -> None:
    world = World(lambda choice: Measured(100.0 * choice.slots, 10.0 - choice.slots))
    best, _ = await tune(world, SPACE, limit_s=1000, clock=lambda: world.now)
    assert best.choice.slots == 4


async def test_it_ends_when_another_trial_would_not_be_done_in_time() -> None:
    world = World(more_slots_are_faster, cost_s=10.0)
    _, trials = await tune(world, SPACE, limit_s=35.0, clock=lambda: world.now)
    assert len(trials) == 3
    assert world.now <= 35.0


async def test_what_cannot_run_is_passed_over_and_said() -> None:
    def gives(choice: Choice) -> Measured:
        return (
            Measured(fault="no such precision") if choice.kv_type == "q8_0" else more_slots_are_faster(choice)
        )

    world = World(gives)
    best, trials = await tune(world, SPACE, limit_s=1000, clock=lambda: world.now)
    assert best.choice.kv_type == "f16"
    assert any(
        "could not be measured: no such precision" in one for one in rules.explain(trials, best, SPACE)
    )


async def test_where_nothing_can_be_measured_it_says_why() -> None:
    world = World(lambda _: Measured(fault="the engine does not start"))
    with pytest.raises(Unavailable, match="the engine does not start"):
        await tune(world, SPACE, limit_s=1000, clock=lambda: world.now)


@given(st.data())
def test_the_kept_trial_is_in_time_wherever_one_is_and_every_trial_is_explained(data: st.DataObject) -> None:
    figures = st.tuples(st.floats(0, 1e4), st.floats(0, 5), st.booleans())
    trials: list[Trial] = []
    while (choice := rules.candidates(SPACE, trials)) is not None:
        tokens, ttft, failed = data.draw(figures)
        trials.append(Trial(choice, Measured(fault="x") if failed else Measured(tokens, ttft)))
        assert len(trials) <= 3 * 2 * 2 * 2
    best = rules.choose(trials, SPACE.ttft_s)
    worked = [one.measured for one in trials if not one.measured.fault]
    assert not (best.measured.fault and worked)
    in_time = [one for one in worked if one.ttft_s <= SPACE.ttft_s]
    if in_time:
        assert best.measured.ttft_s <= SPACE.ttft_s
        assert best.measured.tokens_per_s * rules.WORTH * 1.0001 >= max(one.tokens_per_s for one in in_time)
    assert len(rules.explain(trials, best, SPACE)) == len(trials)


def test_a_node_without_a_gpu_varies_threads_and_one_with_engines_under_mps_their_share() -> None:
    cpu = rules.node_space(8, gpu=False)
    assert cpu.threads == (8, 4)
    assert cpu.percentages == (100,)
    shared = rules.node_space(16, gpu=True, engines=4, planned_share=75)
    assert shared.percentages == (75, 100, 37)
    assert shared.slots == (1,)
    assert 1 in shared.threads


def planned(names: list[str], devices: list[Device], **options) -> NodePlan:
    shapes = [(shape(name, options.pop("weights", 4 * GIB)), name) for name in names]
    settings = {"cores": 16, "about": "", "wish": ModelDemand(), "records": {}} | options
    return plan_node(shapes, devices, **settings)


def test_models_that_run_alike_share_an_instance() -> None:
    plan = planned(["a", "b"], [Device("GPU-0", 100 * GIB)])
    assert [(one.models, one.max_loaded, one.num_parallel, one.gpus) for one in plan.engines] == [
        (("a", "b"), 2, 4, "GPU-0")
    ]
    assert plan.engines[0].num_thread == 2, "a GPU's engine needs few threads"
    assert plan.mps


def test_an_embedding_model_has_one_slot_and_a_batch_for_a_whole_text() -> None:
    embedder = msgspec.structs.replace(shape("e", 100 << 20), embeds=True)
    plan = plan_node(
        [(embedder, "e")],
        [Device("GPU-0", 80 * GIB)],
        cores=16,
        about="",
        wish=ModelDemand(slots=8),
        records={},
    )
    assert [(one.num_parallel, one.num_batch) for one in plan.engines] == [(1, 2048)]


def test_a_small_model_gets_an_instance_for_each_slot() -> None:
    plan = planned(["small"], [Device("GPU-0", 100 * GIB)], weights=100 << 20)
    assert [(one.index, one.num_parallel, one.thread_percentage) for one in plan.engines] == [
        (number, 1, 75) for number in range(4)
    ]
    assert sum(one.bytes for one in plan.engines) <= 85 * GIB


def test_without_a_gpu_the_cores_are_shared_out() -> None:
    plan = planned(["a", "b"], [Device("cpu", 100 * GIB, mps=False, cpu=True)])
    assert [(one.gpus, one.num_thread) for one in plan.engines] == [(None, 8)]
    assert not plan.mps


def test_what_was_measured_goes_before_what_is_planned() -> None:
    best = Trial(Choice(slots=2, threads=3, batch=128, kv_type="q8_0"), Measured(77.0, 0.25))
    record = TuningRecord("a", "cpu", "e", 0.0, 2048, best, (), (best,))
    plan = planned(["a"], [Device("cpu", 100 * GIB, mps=False, cpu=True)], records={"a": record})
    engine = plan.engines[0]
    assert (engine.num_parallel, engine.num_thread, engine.num_batch, engine.kv_cache_type) == (
        2,
        3,
        128,
        "q8_0",
    )
    assert any("measured here" in reason and "77 tokens/s" in reason for reason in engine.why)


def test_only_a_server_pinned_to_a_gpu_leaves_the_cores_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(variable, raising=False)
    cores = len(os.sched_getaffinity(0))
    server = Path("/opt/llama-server")
    assert default_threads(server) == default_threads(None) == 0
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "GPU-1")
    assert default_threads(server) == max(1, cores // 8)
    assert default_threads(None) == 0
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "")
    assert default_threads(server) == 0


def test_supposed_gpus_need_to_be_one_at_least() -> None:
    assert len(supposed("24GiB", gpus=3, cores=4).devices) == 3
    with pytest.raises(Fatal, match="suppose one"):
        supposed("24GiB", gpus=0)
    for text in ("24GB", "0GiB", "much"):
        with pytest.raises(Fatal, match=f"--vram '{text}' is"):
            supposed(text)
