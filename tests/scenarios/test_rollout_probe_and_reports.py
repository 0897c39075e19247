"""The agent's part in a rollout: asking its instances, and telling the registry."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Mapping

import pytest

from bridge_agent.engines.view import LocalInstance
from bridge_agent.health.rollout_probe import RolloutProber
from bridge_agent.membership.registry_api import LoadReport
from bridge_agent.telemetry.load_reporter import LoadReporter
from bridge_core.counts import Counts
from bridge_core.errors import Unavailable
from bridge_core.probe import Probe, ProbeResult, Question
from bridge_core.snapshot import MemberModel, Node, Snapshot, Version, encode_entry
from tests.support import eventually

ASK = Probe("roll", 1, "tiny", questions=(Question("2+2", "4"), Question("sky", "blue")))
WARM = Probe("roll", 0, "tiny", keep_alive_s=600.0)


class Engine:
    """Answers from a table, in place of an engine's API."""

    def __init__(self, bed: Bed, instance: str) -> None:
        self.bed, self.instance = bed, instance

    async def answer(self, model: str, prompt: str, *, system: str, max_tokens: int) -> str:
        self.bed.asked.append((self.instance, prompt))
        answer = self.bed.answers[prompt]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def load(self, model: str, *, keep_alive: str | int | None = None) -> None:
        self.bed.loaded.append((self.instance, model, keep_alive))

    async def close(self) -> None:
        self.bed.open -= 1


class Bed:
    def __init__(self) -> None:
        self.answers: dict[str, str | Exception] = {"2+2": " It is  4.", "sky": "Blue"}
        self.asked: list[tuple[str, str]] = []
        self.loaded: list[tuple[str, str, object]] = []
        self.open = 0
        self.now = 0.0
        self.probes: tuple[Probe, ...] = (ASK,)
        self.instances = tuple(
            LocalInstance(f"n1/{at}", "h", 1, "ready", (MemberModel("tiny:latest"),)) for at in range(2)
        )
        self.prober = RolloutProber(
            "n1", self.snapshot, lambda: self.instances, self.connect, lambda: self.now
        )

    def connect(self, instance: LocalInstance) -> Engine:
        self.open += 1
        return Engine(self, instance.id)

    def snapshot(self) -> Snapshot:
        entries = {"node/n1": encode_entry(Node("n1", labels={"zone": "a"}))}
        entries |= {f"probe/roll/{at}": encode_entry(probe) for at, probe in enumerate(self.probes)}
        return Snapshot(Version(1, 1), entries)

    def passed(self) -> dict[str, bool]:
        return {one.instance: one.passed for one in self.prober.results}


@pytest.fixture
def bed() -> Bed:
    return Bed()


async def test_every_own_instance_is_asked_once_a_round(bed: Bed) -> None:
    await bed.prober.look()
    await bed.prober.look()
    assert bed.passed() == {"n1/0": True, "n1/1": True}
    assert len(bed.asked) == 4
    assert bed.open == 0
    bed.probes = (Probe("roll", 2, "tiny", questions=ASK.questions),)
    assert bed.prober.results == ()
    await bed.prober.look()
    assert [one.round for one in bed.prober.results] == [2, 2]


async def test_a_wrong_answer_or_none_fails_with_the_words(bed: Bed) -> None:
    bed.answers = {"2+2": "5", "sky": Unavailable("the engine is gone")}
    await bed.prober.look()
    assert bed.prober.results[0] == ProbeResult(
        "roll", 1, "n1/0", False, "'2+2' was answered '5', expected '4'; the engine is gone"
    )
    bed.probes = (Probe("roll", 2, "tiny", questions=ASK.questions, pass_share=0.5),)
    bed.answers["sky"] = "the sky is BLUE"
    await bed.prober.look()
    assert bed.passed() == {"n1/0": True, "n1/1": True}


@pytest.mark.parametrize(
    "probe",
    [
        Probe("roll", 1, "tiny", instances=("n2/0",), questions=ASK.questions),
        Probe("roll", 1, "tiny", labels={"zone": "b"}, questions=ASK.questions),
        Probe("roll", 1, "other", questions=ASK.questions),
    ],
)
async def test_others_instances_are_not_asked(bed: Bed, probe: Probe) -> None:
    bed.probes = (probe,)
    await bed.prober.look()
    assert bed.asked == []


async def test_an_instance_is_asked_when_it_is_ready_again(bed: Bed) -> None:
    ready = bed.instances
    bed.instances = (LocalInstance("n1/0", "h", 0, "starting", (MemberModel("tiny"),)),)
    await bed.prober.look()
    assert bed.asked == []
    bed.instances = ready[:1]
    await bed.prober.look()
    assert bed.passed() == {"n1/0": True}


async def test_the_old_side_is_kept_loaded(bed: Bed) -> None:
    bed.probes = (WARM,)
    await bed.prober.look()
    await bed.prober.look()
    assert bed.loaded == [("n1/0", "tiny", "600s"), ("n1/1", "tiny", "600s")]
    bed.now = 61.0
    await bed.prober.look()
    assert len(bed.loaded) == 4


class FakeRegistry:
    """Takes reports until it is told to refuse."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.leads = True
        self.got: list[dict[tuple[str, str], Counts]] = []

    @contextlib.asynccontextmanager
    async def report_load(self) -> AsyncIterator[FakeRegistry]:
        yield self

    async def send(self, report: LoadReport, news: Mapping[tuple[str, str], Counts]) -> None:
        if not self.leads:
            raise Unavailable("another registry leads")
        self.got.append(dict(news))


async def test_reports_carry_what_changed_and_follow_the_leader() -> None:
    backends = {("a", "m"): Counts(1), ("b", "m"): Counts(1)}
    one, two = FakeRegistry("one"), FakeRegistry("two")
    two.leads = False
    reporter = LoadReporter(
        [one, two],  # type: ignore[list-item]  # as much of a registry as reports need
        lambda: LoadReport(1, 0, Version(1, 1), backends=dict(backends)),
        random.Random(1),
        every_s=0.001,
    )
    task = asyncio.create_task(reporter.run())
    try:
        await eventually(lambda: len(one.got) >= 2)
        assert one.got[:2] == [backends, {}]
        backends["a", "m"] = Counts(2)
        await eventually(lambda: {("a", "m"): Counts(2)} in one.got)
        one.leads, two.leads = False, True
        await eventually(lambda: two.got)
        assert two.got[0] == backends  # whole: this registry has not heard of any of it
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
