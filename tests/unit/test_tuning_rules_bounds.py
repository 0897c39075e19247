"""Tuning and plans at their limits: what is tried, what is worth keeping, how cores are shared out."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from bridge_agent.engines.config import EngineConfig
from bridge_agent.limits.placement_rules import Device, EngineSizing, ModelShape, need
from bridge_agent.tuning import tune_rules as rules
from bridge_agent.tuning.plan_rules import ModelDemand, NodePlan, as_configs, plan_node
from bridge_agent.tuning.records import Choice, Measured, Trial, TuningRecord
from bridge_core.errors import Fatal

GIB = 1 << 30
CPU = Device("cpu", 100 * GIB, mps=False, cpu=True)
GPU = Device("GPU-0", 100 * GIB)


def trial(tokens: float, ttft_s: float = 0.5, *, slots: int = 1, fault: str = "") -> Trial:
    return Trial(Choice(slots=slots), Measured(tokens, ttft_s, fault))


@pytest.mark.parametrize(("tokens", "kept"), [(102.9, 1), (103.0, 1), (103.1, 2), (97.0, 1)])
def test_another_choice_has_to_gain_more_than_three_percent(tokens: float, kept: int) -> None:
    assert rules.choose([trial(100.0), trial(tokens, slots=2)], 2.0).choice.slots == kept


@pytest.mark.parametrize(("ttft_s", "kept"), [(1.99, 2), (2.0, 2), (2.01, 1)])
def test_a_first_token_is_in_time_up_to_the_limit(ttft_s: float, kept: int) -> None:
    assert rules.choose([trial(100.0), trial(200.0, ttft_s, slots=2)], 2.0).choice.slots == kept


def test_where_all_failed_the_first_is_told_and_where_all_are_late_the_soonest() -> None:
    failed = [trial(0, fault="a"), trial(0, slots=2, fault="b")]
    assert rules.choose(failed, 2.0) is failed[0]
    late = [trial(9, 5.0), trial(1, 3.0, slots=2), trial(5, 4.0, slots=4), trial(0, 0.0, slots=8, fault="x")]
    assert rules.choose(late, 2.0) is late[1]


def test_what_is_tried_comes_in_the_order_of_the_rule() -> None:
    space = rules.Space((1, 2), (8, 4), (512, 128), ("f16", "q8_0"), (75, 100), engines=3, ttft_s=2.0)
    first = Choice(1, 8, 512, "f16", 3, 75)
    tried: list[Trial] = []
    order: list[Choice] = []
    while (choice := rules.candidates(space, tried)) is not None:
        order.append(choice)
        tried.append(Trial(choice, Measured(100.0, 0.5)))
    assert order == [
        first,
        msgspec.structs.replace(first, threads=4),
        msgspec.structs.replace(first, slots=2),
        msgspec.structs.replace(first, batch=128),
        msgspec.structs.replace(first, kv_type="q8_0"),
        msgspec.structs.replace(first, thread_percentage=100),
    ]


def test_a_new_best_is_varied_from_its_beginning_again() -> None:
    space = rules.Space((1, 2), (8, 4))
    tried = [
        Trial(Choice(1, 8), Measured(100.0, 0.5)),
        Trial(Choice(1, 4), Measured(50.0, 0.5)),
        Trial(Choice(2, 8), Measured(200.0, 0.5)),
    ]
    assert rules.candidates(space, tried) == Choice(2, 4)
    late = [*tried[:2], Trial(Choice(2, 8), Measured(200.0, 2.5))]
    assert rules.candidates(space, late) is None, "what comes too late is no new best"


def test_a_space_begins_with_what_every_engine_can() -> None:
    assert rules.candidates(rules.Space(), []) == Choice(1, 0, 512, "f16", 1, 100)
    assert rules.Space().slots == (1, 2, 4, 8)
    assert rules.Space().ttft_s == 2.0


@pytest.mark.parametrize(("cores", "threads"), [(1, (1,)), (2, (2, 1)), (3, (3, 1)), (16, (16, 8))])
def test_without_a_gpu_all_and_half_of_the_cores_are_tried(cores: int, threads: tuple[int, ...]) -> None:
    space = rules.node_space(cores, gpu=False)
    assert space == rules.Space(
        (1, 2, 4, 8), threads, (512, 128), ("f16", "q8_0"), (100,), engines=1, ttft_s=2.0
    )


@pytest.mark.parametrize(("cores", "threads"), [(1, (1,)), (8, (1,)), (15, (1,)), (16, (2, 1)), (64, (8, 1))])
def test_beside_a_gpu_an_eighth_of_the_cores_and_one_are_tried(cores: int, threads: tuple[int, ...]) -> None:
    space = rules.node_space(cores, gpu=True)
    assert space == rules.Space(
        (1, 2, 4, 8, 16), threads, (512, 2048), ("f16", "q8_0"), (100,), engines=1, ttft_s=2.0
    )


@pytest.mark.parametrize(
    ("engines", "share", "percentages"),
    [
        (1, 75, (100,)),
        (2, 75, (75, 100, 37)),
        (2, 30, (30, 100, 20)),
        (2, 42, (42, 100, 21)),
        (2, 100, (100, 50)),
    ],
)
def test_engines_that_share_a_gpu_try_their_share_all_and_half_of_it(
    engines: int, share: int, percentages: tuple[int, ...]
) -> None:
    space = rules.node_space(8, gpu=True, engines=engines, planned_share=share)
    assert (space.percentages, space.engines) == (percentages, engines)
    assert space.slots == ((1,) if engines > 1 else (1, 2, 4, 8, 16))
    assert rules.node_space(8, gpu=True, engines=2).percentages == (100, 50)


def test_each_other_trial_is_explained_by_what_it_lacks() -> None:
    best = trial(200.0, 0.9, slots=2)
    others = [trial(100.0, 0.5), trial(400.0, 2.5, slots=4), trial(100.0, 2.0, slots=8), trial(0, fault="x")]
    kept, half, late, just, failed = rules.explain([best, *others], best, rules.Space())
    assert kept.endswith("200.0 tokens/s, first token after 900 ms: kept")
    assert "50% of the best" in half
    assert "later than the 2 s allowed" in late
    assert "50% of the best" in just, "at the limit it is in time"
    assert "could not be measured: x" in failed


def test_where_even_the_best_is_late_lateness_explains_nothing() -> None:
    best, other = trial(10.0, 3.0), trial(20.0, 4.0, slots=2)
    assert "200% of the best" in rules.explain([best, other], best, rules.Space())[1]
    just = trial(10.0, 2.0)
    assert "later than" in rules.explain([just, other], just, rules.Space())[1]


def test_a_best_that_gave_nothing_does_not_divide_by_it() -> None:
    best, other = trial(0.0), trial(0.0, slots=2)
    assert "0% of the best" in rules.explain([best, other], best, rules.Space())[1]
    assert rules.explain([best, trial(1.0, slots=2)], best, rules.Space())[1].endswith(
        "100000000000% of the best"
    )


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (Choice(1), "1 slot, all threads, batches of 512, f16 cache"),
        (Choice(2, 3), "2 slots, 3 threads, batches of 512, f16 cache"),
        (Choice(1, engines=2, thread_percentage=75), "2 engines at 75 %"),
    ],
)
def test_a_choice_in_words(choice: Choice, words: str) -> None:
    described = rules.describe(choice)
    assert words in described
    assert ("engines" in described) == (choice.engines > 1)


def shape(name: str = "m", weights: int = 4 * GIB, **more: Any) -> ModelShape:
    return ModelShape(name, weights, 22, 4, 64, 64, 2048, 32_000, 131_072, **more)


def planned(shapes: list[ModelShape], device: Device, **options: Any) -> NodePlan:
    settings: dict[str, Any] = {"cores": 16, "about": "", "wish": ModelDemand(), "records": {}}
    return plan_node([(one, one.name) for one in shapes], [device], **(settings | options))


def with_room(size: int) -> Device:
    """A GPU of which just so many bytes may be used."""
    return Device("GPU-0", math.ceil(size / 0.85))


def record(name: str, choice: Choice) -> TuningRecord:
    best = Trial(choice, Measured(77.0, 0.9))
    return TuningRecord(name, "x", "e", 0.0, 2048, best, (), (best,))


@pytest.mark.parametrize(
    ("device", "cores", "models", "threads"),
    [
        (GPU, 7, 1, 1),
        (GPU, 8, 1, 1),
        (GPU, 15, 1, 1),
        (GPU, 16, 2, 2),
        (CPU, 16, 1, 16),
        (CPU, 16, 3, 5),
        (CPU, 2, 3, 1),
    ],
)
def test_how_cores_are_shared_out(device: Device, cores: int, models: int, threads: int) -> None:
    plan = planned([shape(f"m{at}") for at in range(models)], device, cores=cores)
    assert {one.num_thread for one in plan.engines} == {threads}


def test_a_model_alone_needs_no_mps_and_two_do() -> None:
    assert not planned([shape()], GPU).mps
    assert planned([shape("a"), shape("b")], GPU).mps
    assert not planned([shape("a"), shape("b")], Device("GPU-0", 100 * GIB, mps=False)).mps
    assert planned([shape(weights=100 << 20)], GPU).mps, "the processes of one model share the device, too"


def test_a_plans_defaults_ask_for_four_slots_of_4096_tokens() -> None:
    engine = planned([shape()], GPU).engines[0]
    assert (engine.num_parallel, engine.context_length, engine.num_batch) == (4, 4096, 512)
    least = need(shape(), EngineSizing(1, 2048, "q8_0", 512))
    assert [one.context_length for one in planned([shape()], with_room(least)).engines] == [2048]
    assert planned([shape()], with_room(least - 1)).engines == (), "and no fewer than 2048"


def test_a_context_below_the_least_one_asked_for_is_itself_the_least() -> None:
    wish = ModelDemand(context=1024)
    assert planned([shape()], GPU, wish=wish).engines[0].context_length == 1024
    tuned = planned([shape()], GPU, wish=wish, records={"m": record("m", Choice(2))})
    assert tuned.engines[0].context_length == 1024


def test_models_that_were_measured_alike_share_an_instance_and_others_do_not() -> None:
    shapes = [shape("a"), shape("b")]
    alike = {name: record(name, Choice(4, threads=3)) for name in "ab"}
    assert [one.models for one in planned(shapes, CPU, records=alike).engines] == [("a", "b")]
    other = alike | {"b": record("b", Choice(4, threads=2))}
    engines = planned(shapes, CPU, records=other).engines
    assert [(one.models, one.num_thread) for one in engines] == [(("a",), 3), (("b",), 2)]
    assert [len([why for why in one.why if "measured here" in why]) for one in engines] == [1, 1]
    one_thread = {"a": record("a", Choice(4, threads=1))}
    assert [one.num_thread for one in planned(shapes, CPU, records=one_thread).engines] == [1, 8]
    half = {"a": alike["a"]}
    assert [one.num_thread for one in planned(shapes, CPU, records=half).engines] == [3, 8]


def test_each_copy_that_was_measured_counts_as_slots() -> None:
    tuned = planned([shape()], GPU, records={"m": record("m", Choice(2, engines=3))})
    assert sum(one.num_parallel for one in tuned.engines) == 6


def test_what_was_measured_is_told_in_words() -> None:
    told = planned([shape()], CPU, records={"m": record("m", Choice(2))}).engines[0].why[-1]
    assert "2 slots, all threads" in told
    assert "77 tokens/s, the first after 900 ms" in told


def test_an_embedding_model_takes_any_context_and_is_not_tuned() -> None:
    embedder = shape("e", 100 << 20, embeds=True)
    plan = planned([embedder], GPU, wish=ModelDemand(slots=8), records={"e": record("e", Choice(4))})
    assert [(one.num_parallel, one.num_batch) for one in plan.engines] == [(1, 2048)]
    # Where that does not fit it serves shorter texts.
    least = need(embedder, EngineSizing(1, 1, "q8_0", 2048))
    assert [one.context_length for one in planned([embedder], with_room(least)).engines] == [1]
    assert planned([embedder], with_room(least - 1)).engines == ()


def test_processes_of_one_model_are_instances_that_share_its_bytes() -> None:
    plan = planned([shape(weights=100 << 20)], GPU)
    assert [one.index for one in plan.engines] == [0, 1, 2, 3]
    assert len({one.bytes for one in plan.engines}) == 1
    assert {one.max_loaded for one in plan.engines} == {1}


def test_a_plan_becomes_the_agents_engines() -> None:
    plan = planned([shape("a"), shape("b", embeds=True)], GPU)
    like = EngineConfig(7, gpus="GPU-9")
    first, second = as_configs(plan, like)
    assert (first.index, first.gpus, first.num_parallel, first.max_loaded) == (0, "GPU-0", 4, 1)
    assert (first.context_length, first.kv_cache_type, first.num_batch, first.num_thread) == (
        4096,
        "f16",
        512,
        2,
    )
    assert (second.index, second.num_parallel, second.num_batch) == (1, 1, 2048)
    assert as_configs(planned([shape()], CPU), like)[0].gpus == "GPU-9"


@pytest.mark.parametrize(
    ("shapes", "like", "says"),
    [
        ([shape()], EngineConfig(0, kind="ollama"), "is ollama"),
        ([shape()], EngineConfig(0, attach="http://127.0.0.1:1"), "is attached"),
        ([], EngineConfig(0), "there is no model"),
        ([shape(), shape("huge", 200 * GIB)], EngineConfig(0), "huge needs"),
    ],
)
def test_a_plan_that_cannot_be_saved_says_why(
    shapes: list[ModelShape], like: EngineConfig, says: str
) -> None:
    with pytest.raises(Fatal, match=says):
        as_configs(planned(shapes, GPU), like)
