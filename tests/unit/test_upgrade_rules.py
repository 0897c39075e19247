"""In which order a mesh is renewed, and what must not be begun."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_cli.upgrade_commands import lines_of, whole_of
from bridge_cli.upgrade_rules import Part, Whole, plan
from bridge_core.formats import HOP, WRITTEN
from bridge_wire.v1 import registry_pb2 as wire

TARGET = "1.2.0"
OLD = "1.1.0"


def part(name: str, *models: str, **more: object) -> Part:
    return Part(
        **{
            "name": name,
            "state": "serving",
            "version": OLD,
            "speaks": dict(WRITTEN),
            "models": models,
            **more,
        }
    )  # type: ignore[arg-type]  # test shorthand


def mesh(*parts: Part, **more: object) -> Whole:
    said = {"registry": "r1", "leader": "r1", "registry_version": OLD, "speaks": WRITTEN, "store_fault": ""}
    return Whole(parts=parts, **{**said, **more})  # type: ignore[arg-type]  # test shorthand


def agents(whole: Whole, **more: bool) -> list[tuple[str, ...]]:
    return [one.names for one in plan(whole, TARGET, **more).steps if one.what.startswith("agent")]


def test_control_plane_first_then_agents_whose_restart_costs_least() -> None:
    made = plan(
        mesh(
            part("only-one", "rare", "m"),
            part("busy", "m", in_flight=5),
            part("calm", "m", in_flight=1),
            part("new", version=TARGET),
            part("empty"),
            part("cordoned", "m", state="drained"),
        ),
        TARGET,
    )
    assert [one.what for one in made.steps] == ["backup", "registries"] + ["agent"] * 5
    assert [one.names[0] for one in made.steps[2:]] == ["cordoned", "empty", "calm", "busy", "only-one"]
    assert made.steps[2].keep_drained == ("cordoned",)
    assert "it alone has rare" in made.steps[-1].why
    assert not made.refused
    assert "cordoned, and to stay so: cordoned" in made.notes
    assert "busy runs 1.1.0, not 1.2.0" in made.differ


def test_a_model_that_only_a_drained_or_absent_node_has_too_is_alone() -> None:
    others = (part("n2", "m", state="drained"), part("n3", "m", state="away"))
    made = plan(mesh(part("n1", "m"), *others), TARGET)
    assert "it alone has m" in made.steps[-1].why
    assert "n3 is away: renew it before it comes back, or when it does" in made.notes


def test_agents_that_show_no_proof_are_renewed_together() -> None:
    old = {**WRITTEN, HOP: 1}
    whole = mesh(
        part("n1", "m", speaks=old), part("n2", "m", speaks=old), part("n3", state="drained", speaks=old)
    )
    made = plan(whole, TARGET)
    (step,) = [one for one in made.steps if one.what.startswith("agent")]
    assert (step.what, step.names, step.keep_drained) == ("agents together", ("n3", "n1", "n2"), ("n3",))
    assert "renew all agents of the mesh together" in step.why
    assert any("n1 writes hop 1, not 2" in line and "does not read" in line for line in made.differ)


def test_nothing_is_due_in_a_mesh_of_this_version_unless_asked_for_again() -> None:
    whole = mesh(part("n1", version=TARGET), registry_version=TARGET)
    assert plan(whole, TARGET).steps == ()
    assert agents(whole, again=True) == [("n1",)]
    assert "--again" in "\n".join(lines_of(plan(whole, TARGET)))


@pytest.mark.parametrize(
    ("whole", "words"),
    [
        (mesh(leader=""), "no registry leads"),
        (mesh(store_fault="for 3 s"), "etcd does not answer for 3 s"),
        (mesh(rollouts={"v2": "progressing"}), "the rollout v2 is progressing"),
        (mesh(rollouts={"v2": "paused"}), "the rollout v2 is paused"),
        (mesh(part("n1", rejected="digest")), "n1 refused the last snapshot: digest"),
        (mesh(part("n1", version="1.3.0")), "n1 runs 1.3.0: that is newer than 1.2.0"),
        (mesh(registry_version="1.2.1"), "the registry runs 1.2.1: that is newer"),
        (mesh(part("n1", speaks={**WRITTEN, "snapshot": 9})), "n1 writes version 9 of the format 'snapshot'"),
        (mesh(speaks={"warp": 1}), "the registry writes version 1 of the format 'warp'"),
    ],
)  # fmt: skip
def test_what_must_not_be_begun_is_refused_by_name(whole: Whole, words: str) -> None:
    assert [words in one for one in plan(whole, TARGET).refused] == [True]


def test_a_rollout_that_is_over_refuses_nothing() -> None:
    assert not plan(mesh(rollouts={"v2": "complete", "v3": "rolled-back"}), TARGET).refused


def test_a_version_is_not_jumped_over() -> None:
    made = plan(mesh(part("n1", version="1.9.0"), registry_version="1.9.0"), "3.0.0")
    assert [one.startswith(("the registry", "n1")) for one in made.refused] == [True, True]
    assert "renew to 2.x first" in made.refused[1]
    assert not plan(mesh(part("n1", version="1.9.0"), registry_version="1.9.0"), "2.0.0").refused


def test_versions_that_are_no_numbers_are_not_judged() -> None:
    assert not plan(mesh(part("n1", version="test"), part("n2", version="")), TARGET).refused


names = st.lists(st.sampled_from([f"n{n}" for n in range(12)]), unique=True, max_size=12)


@given(names, st.data())
def test_every_agent_that_is_due_is_renewed_once_and_the_absent_never(
    found: list[str], data: st.DataObject
) -> None:
    states = st.sampled_from(["serving", "drained", "away", "no engine", "revoked"])
    models = st.lists(st.sampled_from("abc"), unique=True)
    hops = st.sampled_from([1, 2])
    parts = [
        part(
            name,
            *data.draw(models),
            state=data.draw(states),
            version=data.draw(st.sampled_from([OLD, TARGET])),
            speaks={**WRITTEN, HOP: data.draw(hops)},
        )
        for name in found
    ]
    due = {
        one.name
        for one in parts
        if one.state not in {"away", "revoked"} and (one.version != TARGET or one.speaks[HOP] != 2)
    }
    steps = agents(mesh(*parts))
    told = [name for step in steps for name in step]
    assert len(told) == len(set(told))
    assert set(told) == due
    apart = any(one.speaks[HOP] == 1 for one in parts if one.name in due)
    assert all(len(step) == 1 for step in steps) or (apart and len(steps) == 1)


def test_what_the_registry_tells_becomes_the_plan_that_is_printed() -> None:
    status = wire.StatusResponse(
        registry="r2",
        registry_version=OLD,
        leader_name="r1",
        speaks=WRITTEN,
        nodes=[
            wire.NodeStatus(name="n1", state="active", reports=True, instances=["n1/0"], models=["m:latest"],
                            version=OLD, speaks=WRITTEN),
            wire.NodeStatus(name="n2", state="drained", reports=True, instances=["n2/0"], version=OLD,
                            speaks=WRITTEN, in_flight=2),
        ],
    )  # fmt: skip
    rollouts = wire.RolloutsResponse(rollouts=[wire.RolloutStatus(name="v2", phase="paused")])
    whole = whole_of(status, rollouts)
    assert whole.parts[0].models == ("m:latest",)
    assert msgspec.json.encode(plan(whole, TARGET))
    text = "\n".join(lines_of(plan(whole, TARGET)))
    assert "REFUSED  the rollout v2 is paused" in text
    assert "2. registry r2: all of them, and their store guards; r1, which leads, last" in text
    assert "bridgectl drain n1 --undo" in text
    assert "drain n2" not in text
    assert text.index("agent of n2") < text.index("agent of n1")


def test_nothing_is_backed_up_where_nothing_is_due_and_all_is_where_anything_is() -> None:
    one_agent = plan(mesh(part("n1"), registry_version=TARGET), TARGET)
    assert [one.what for one in one_agent.steps] == ["backup", "agent"]
    registry_alone = plan(mesh(part("n1", version=TARGET)), TARGET)
    assert [one.what for one in registry_alone.steps] == ["backup", "registries"]


def test_another_format_than_that_of_requests_keeps_agents_one_by_one() -> None:
    older = {**WRITTEN, "snapshot": 0}
    assert agents(mesh(part("n1", speaks=older), part("n2", speaks=older))) == [("n1",), ("n2",)]


def test_a_node_without_models_goes_before_a_calmer_one_with_them() -> None:
    parts = (part("with", "m"), part("also", "m", in_flight=1), part("without", in_flight=3))
    assert agents(mesh(*parts)) == [("without",), ("with",), ("also",)]
    parts = (part("alone", "a"), part("shared", "m", in_flight=7), part("other", "m", in_flight=8))
    assert agents(mesh(*parts))[-1] == ("alone",)


@pytest.mark.parametrize(
    ("models", "words"),
    [(("a",), "alone has a:"), (("a", "b"), "a and 1 more:"), (("a", "b", "c"), "a and 2 more:")],
)
def test_of_the_models_that_a_node_alone_has_one_is_named(models: tuple[str, ...], words: str) -> None:
    (step,) = [one for one in plan(mesh(part("n1", *models)), TARGET).steps if one.what == "agent"]
    assert words in step.why


def test_why_a_step_is_where_it_is() -> None:
    made = plan(mesh(part("busy", "m", in_flight=2), part("calm", "m")), TARGET)
    assert [one.why for one in made.steps[2:]] == ["", "2 requests there end first"]
    assert part("x").in_flight == 0


def test_the_same_version_is_none_to_refuse_and_a_fourth_number_says_nothing() -> None:
    assert not plan(mesh(part("n1", version=TARGET)), TARGET).refused
    assert not plan(mesh(part("n1", version="1.2.0.7"), registry_version="1.2.0"), TARGET).refused


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ((part("n1", "m"),), True),
        ((part("n1", "m"), part("n2", "m", state="drained")), True),
        ((part("n1", "m"), part("n2", "m")), False),
        ((part("n1", state="drained"),), False),
        ((part("n1", "m", version=TARGET),), False),
    ],
)
def test_a_mesh_of_one_serving_node_is_told_that_clients_wait(parts: tuple[Part, ...], told: bool) -> None:
    notes = plan(mesh(*parts), TARGET).notes
    assert any("one node alone serves" in one for one in notes) is told


def test_a_registry_of_before_formats_is_told_of() -> None:
    words = "the registry tells no formats"
    assert any(words in one for one in plan(mesh(speaks={}), TARGET).notes)
    assert not any(words in one for one in plan(mesh(), TARGET).notes)
