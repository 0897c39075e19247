"""What nodes report becomes verdicts, snapshots and alerts: in one process, on a simulated clock."""

from __future__ import annotations

from bridge_core import golden, keyspace
from bridge_core.counts import Counts
from bridge_core.errors import Unavailable
from bridge_core.gauges import Gauge
from bridge_core.golden import GoldenAnswer, Token
from bridge_core.names import canonical
from bridge_core.snapshot import Instance, MemberModel, Node, Snapshot, Version, encode_entry
from bridge_core.store.api import Unchanged
from bridge_core.verdicts import Reason, Verdict
from bridge_registry.alerts.alert_store import AlertStore
from bridge_registry.alerts.desk import AlertDesk
from bridge_registry.alerts.threshold_rules import RulePlan
from bridge_registry.health.keeper import FRESH_S, HealthKeeper
from bridge_registry.health.reported import InstanceHealth, NodeHealthReport
from bridge_registry.rpc.health_messages import health_of
from bridge_wire.v1 import health_pb2, registry_pb2
from tests.fakes.store import FakeEtcd, FakeStore

NODES = ("a", "b", "c")
MODEL = MemberModel("tiny:latest", "sha256:1")
RIGHT, WRONG = (Token(" Paris", 4.0),), (Token(" Rome", 4.0),)
FULL = Reason("infrastructure", "disk", "degraded", "1 GiB of 9 GiB are left for models", 5.0)


class Office:
    """Leads while it is told to; every time anew."""

    def __init__(self, bed: Bed) -> None:
        self._bed = bed

    def leads(self) -> bool:
        return self._bed.leads

    def fence(self) -> Unchanged:
        if not self._bed.leads:
            raise Unavailable("another registry leads")
        return Unchanged(f"{keyspace.LEADER}{self._bed.terms}", 0)


class Bed:
    def __init__(self) -> None:
        self.etcd, self.terms, self.rules = FakeEtcd(), 0, list[RulePlan]()
        self.now, self.leads, self.changes = 1_000_000.0, True, 0
        self.moving: set[str] = set()
        self.set_by = 0.0  # by how much the machine's clock was set
        self.entries = {f"node/{name}": encode_entry(Node(name, "h:1")) for name in NODES}
        for name in NODES:
            one = Instance(f"{name}/0", name, models=(MODEL,), loaded=("tiny:latest",))
            self.entries[f"instance/{name}/0"] = encode_entry(one)
        self.start()

    def start(self) -> None:
        """A registry that knows nothing but what is published and stored."""
        self.terms += 1
        self.keeper = HealthKeeper(self.snapshot, lambda: self.leads, self.changed)
        self.desk = AlertDesk(
            self.keeper,
            AlertStore(FakeStore(self.etcd), Office(self)),
            self.snapshot,
            lambda: self.rules,
            lambda: self.moving,
            now=lambda: self.now + self.set_by,
            clock=lambda: self.now,
        )

    def snapshot(self) -> Snapshot:
        return Snapshot(Version(1, self.changes), self.entries)

    def changed(self) -> None:
        self.changes += 1
        kept = {key: raw for key, raw in self.entries.items() if not key.startswith("verdict/")}
        told = {f"verdict/{one.instance}": encode_entry(one) for one in self.keeper.verdicts()}
        self.entries = kept | told

    async def rounds(self, many: int, *, wrong: str = "", full: str = "") -> None:
        """Every node reports, and every instance is asked, in each of so many rounds."""
        for _ in range(many):
            round_ = golden.round_of(self.now)
            for node in NODES:
                answers = tuple(
                    GoldenAnswer(
                        f"{owner}/0",
                        canonical("tiny"),
                        round_,
                        golden.question_of(round_),
                        WRONG if owner == wrong else RIGHT,
                        at=self.now,
                    )
                    for owner in NODES
                    if golden.asker_of(f"{owner}/0", owner, NODES, round_) == node
                )
                reasons = (FULL,) if node == full else ()
                report = NodeHealthReport((InstanceHealth(f"{node}/0", reasons),), (), answers)
                self.keeper.take(node, report, self.now)
            await self.desk.step()
            self.now += golden.ROUND_S

    def out(self) -> set[str]:
        return {one.instance for one in self.snapshot().verdicts.values() if one.out}


async def test_the_wrong_one_is_published_told_of_and_comes_back() -> None:
    bed = Bed()
    await bed.rounds(4)
    assert bed.changes == 0
    await bed.rounds(2, wrong="b")
    assert bed.out() == {"b/0"}
    (alert,) = bed.desk.alerts
    assert (alert.seen.id, alert.seen.severity) == ("wrong-answers@b/0", "critical")
    assert alert.seen.summary.startswith('b/0: tiny:latest answers " Rome" where a/0 and c/0 answer " Paris"')
    assert alert.seen.command == "bridgectl health b"
    assert "takes no requests" in next(iter(bed.keeper.concerns()))
    await bed.rounds(6)
    assert bed.out() == set()
    assert bed.desk.alerts[0].ended


async def test_a_registry_that_begins_to_lead_takes_nobody_back_by_that() -> None:
    bed = Bed()
    await bed.rounds(4)
    await bed.rounds(2, wrong="b")
    bed.start()
    await bed.rounds(1, wrong="b")
    assert bed.out() == {"b/0"}


async def test_what_an_agent_says_of_its_own_is_told_while_it_reports_and_takes_nobody_out() -> None:
    bed = Bed()
    await bed.rounds(1, full="a")
    assert bed.snapshot().verdicts["a/0"].reasons == (FULL,)
    assert bed.out() == set()
    changes = bed.changes
    await bed.rounds(3, full="a")
    assert bed.changes == changes, "a snapshot does not change because something is still so"
    bed.now += FRESH_S
    await bed.desk.step()
    assert not bed.snapshot().verdicts
    assert {one.seen.name for one in bed.desk.alerts if not one.ended} >= {"node-away"}


async def test_who_begins_anew_is_not_acquitted_by_that_and_who_has_no_such_model_is() -> None:
    bed = Bed()
    await bed.rounds(4)
    await bed.rounds(2, wrong="b")
    for state, out in (("starting", {"b/0"}), ("ready", set())):
        bed.entries["instance/b/0"] = encode_entry(Instance("b/0", "b", state=state))
        await bed.desk.step()
        assert bed.out() == out


async def test_a_clock_that_is_set_makes_no_node_away() -> None:
    bed = Bed()
    await bed.rounds(1, full="a")
    bed.set_by = 3600.0
    await bed.rounds(1, full="a")
    assert set(bed.snapshot().verdicts) == {"a/0"}
    assert not [one for one in bed.desk.alerts if one.seen.name == "node-away"]


async def test_who_led_before_begins_anew_and_says_nothing_in_between() -> None:
    bed = Bed()
    await bed.rounds(4)
    await bed.rounds(2, wrong="b")
    bed.leads = False
    await bed.desk.step()
    assert not list(bed.keeper.concerns())
    assert not bed.keeper.heard
    bed.leads, bed.terms = True, bed.terms + 1
    await bed.desk.step()
    assert bed.out() == {"b/0"}
    assert bed.keeper.compared("a/0") == "not asked yet"
    assert not [one for one in bed.desk.alerts if one.seen.name == "node-away"]


async def test_only_convictions_outlive_an_office() -> None:
    bed = Bed()
    wrong = Reason("business", "wrong-answers", "failing", "it answers wrong", 5.0)
    silent = Reason("business", "no-answer", "degraded", "it does not answer", 6.0)
    bed.entries["verdict/b/0"] = encode_entry(Verdict("b/0", (wrong, silent), True))
    await bed.desk.step()
    assert bed.snapshot().verdicts == {"b/0": Verdict("b/0", (wrong,), True)}


async def test_what_did_not_change_publishes_nothing() -> None:
    bed = Bed()
    bed.entries.pop("instance/c/0")
    await bed.rounds(5, wrong="b")
    changes = bed.changes
    assert {one.code for each in bed.snapshot().verdicts.values() for one in each.reasons} == {
        "split-answers"
    }
    await bed.rounds(12, wrong="b")
    assert bed.changes == changes


async def test_reports_of_hostile_agents_are_cut_down_to_what_is_theirs_to_say() -> None:
    bed = Bed()
    round_ = golden.round_of(bed.now)
    turn = golden.asker_of("b/0", "b", NODES, round_)
    (other,) = set(NODES) - {"b", turn}

    def answer(**more: object) -> health_pb2.GoldenAnswer:
        said = {
            "instance": "b/0",
            "model": "m" * 9999,
            "round": round_,
            "question": golden.question_of(round_),
        }
        return health_pb2.GoldenAnswer(**{**said, **more})

    message = registry_pb2.LoadReport(
        health=[
            health_pb2.InstanceHealth(
                instance=f"{turn}/0",
                reasons=[
                    health_pb2.HealthReason(aspect="business", code="x", level="failing"),
                    health_pb2.HealthReason(aspect="service", code="y" * 999, level="failing", since_unix=-1),
                    health_pb2.HealthReason(aspect="service", code="z", level="terrible"),
                ],
                counts=health_pb2.InstanceCounts(requests=1 << 60),
            ),
            health_pb2.InstanceHealth(instance="b/0"),
        ],
        gauges=[
            health_pb2.Gauge(name="no_such_gauge", value=1),
            health_pb2.Gauge(name="queue", of=f"{turn}/0", value=float("nan")),
            health_pb2.Gauge(name="queue", of=f"{turn}/0", value=3),
            health_pb2.Gauge(name="queue", of=f"{other}/0", value=0),
            health_pb2.Gauge(name="queue", value=1),
        ],
        golden=[
            answer(tokens=[health_pb2.GoldenToken(text="x" * 999, margin=float("inf"))] * 99),
            answer(round=round_ + 7),
            answer(question=golden.question_of(round_ + 1)),
            answer(instance="nobody/0"),
        ],
    )
    report = health_of(message, turn, bed.snapshot(), bed.now)
    (own,) = report.instances
    assert own.instance == f"{turn}/0"
    assert [(one.code, one.since) for one in own.reasons] == [("y" * 64, 0.0)]
    assert own.counts.requests == 0
    assert [one.value for one in report.gauges] == [3.0]
    (one,) = report.golden
    assert len(one.tokens) == golden.MAX_TOKENS
    assert {(len(token.text), token.margin) for token in one.tokens} == {(256, -1.0)}
    assert health_of(message, other, bed.snapshot(), bed.now).golden == (), "it is not its turn"


async def test_a_disk_that_will_be_full_is_told_of_and_not_while_its_node_is_drained() -> None:
    bed = Bed()
    await bed.desk.step()
    used = 0.5

    async def minutes(many: int, fill: float) -> None:
        nonlocal used
        for _ in range(many):
            used += fill
            for _ in range(12):  # reports of five seconds
                for node in NODES:
                    gauge = Gauge("disk_used_bytes", "models", (used if node == "b" else 0.5) * 1e9, 1e9)
                    bed.keeper.take(node, NodeHealthReport((InstanceHealth(f"{node}/0"),), (gauge,)), bed.now)
                await bed.desk.step()
                bed.now += 5.0

    await minutes(30, 0.0)
    assert bed.desk.alerts == ()
    await minutes(65, 0.003)
    (alert,) = bed.desk.alerts
    assert (alert.seen.id, alert.silenced, alert.ended) == ("disk-will-fill@b:models", "", 0.0)
    assert alert.seen.summary.startswith("the disk of node b that has models will be full in ")
    bed.entries["node/b"] = encode_entry(Node("b", "h:1", state="drained"))
    await minutes(1, 0.003)
    assert bed.desk.alerts[0].silenced == "node b is drained"
    bed.start()
    await minutes(3, 0.003)
    (kept,) = bed.desk.alerts
    assert (kept.seen.id, kept.since, kept.ended) == (alert.seen.id, alert.since, 0.0), "who leads next"
    assert len(bed.desk.forecasts()) == 0, "knows nothing yet"


async def test_a_node_that_becomes_slow_is_told_of_where_the_others_of_its_model_do_not() -> None:
    bed = Bed()
    done = dict.fromkeys(NODES, Counts())
    await bed.desk.step()

    async def windows(many: int, slow: str = "") -> None:
        for _ in range(many):
            for node in NODES:
                at = 25 if node == slow else 20  # three times as long
                done[node] = done[node].plus(Counts(10, ttft=(0,) * at + (10,)))
                own = (InstanceHealth(f"{node}/0", (), done[node]),)
                gauges = (Gauge("in_flight", f"{node}/0", 1.0, 4.0),)
                bed.keeper.take(node, NodeHealthReport(own, gauges), bed.now)
            await bed.desk.step()
            bed.now += 5.0

    await windows(120)
    assert bed.desk.alerts == ()
    await windows(4, slow="b")
    (alert,) = bed.desk.alerts
    assert (alert.seen.id, alert.seen.severity) == ("slow-first-byte@b/0", "warning")
    assert alert.seen.summary.startswith("b/0 takes 3.1 times as long to a first byte as is usual for it")
    await windows(12)
    assert bed.desk.alerts[0].ended


async def test_a_node_that_fails_more_than_it_used_to_is_told_of_and_not_while_a_rollout_moves() -> None:
    bed = Bed()
    done = dict.fromkeys(NODES, Counts())
    await bed.desk.step()

    async def windows(many: int, bad: str = "") -> None:
        for _ in range(many):
            for node in NODES:
                failed = 2 if node == bad else 0
                done[node] = done[node].plus(Counts(20, errors=failed, ttft=(0,) * 20 + (20 - failed,)))
                own = (InstanceHealth(f"{node}/0", (), done[node]),)
                bed.keeper.take(node, NodeHealthReport(own), bed.now)
            await bed.desk.step()
            bed.now += 5.0

    await windows(120)
    assert bed.desk.alerts == ()
    await windows(8, bad="b")
    (alert,) = bed.desk.alerts
    assert (alert.seen.id, alert.seen.severity, alert.silenced) == ("error-rate@b/0", "warning", "")
    bed.moving = {"chat"}
    await windows(1, bad="b")
    assert bed.desk.alerts[0].silenced == "rollout chat moves"
    await windows(40)
    assert bed.desk.alerts[0].ended
