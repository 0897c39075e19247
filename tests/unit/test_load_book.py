from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge_core.counts import BOUNDS, Counter, Counts
from bridge_core.probe import ProbeResult
from bridge_core.snapshot import Instance, Node, Snapshot, Version, encode_entry
from bridge_registry.membership.drain_rules import safe_to_stop
from bridge_registry.membership.load_book import LoadReports, NodeLoad, NodeLoadReport

KEY = ("chat", "m")


def report(requests: int | None, began: int = 1, **more: object) -> NodeLoadReport:
    backends = {} if requests is None else {KEY: Counts(requests)}
    return NodeLoadReport(began, 0, Version(1, 1), backends, **more)  # type: ignore[arg-type]  # test shorthand


def test_only_what_was_added_since_the_first_report_counts_and_once() -> None:
    book = LoadReports()
    for requests in (100, 130, 131):
        book.take_report("n1", report(requests), 0.0)
    assert book.take(*KEY) == Counts(31)
    assert book.take(*KEY) == Counts()


def test_the_mesh_is_added_up_and_a_restarted_agent_counts_from_zero() -> None:
    book = LoadReports()
    for node in ("n1", "n2"):
        book.take_report(node, report(50), 0.0)
        book.take_report(node, report(60), 0.0)
    book.take_report("n1", report(4, began=2), 0.0)
    assert book.take(*KEY) == Counts(24)


def test_a_backend_that_is_new_in_a_known_agents_report_counts_whole() -> None:
    book = LoadReports()
    book.take_report("n1", report(None), 0.0)
    book.take_report("n1", report(3), 0.0)
    assert book.take(*KEY) == Counts(3)


def test_the_newest_probe_result_of_each_instance_is_kept() -> None:
    book = LoadReports()
    for round_, passed in ((1, True), (2, False)):
        result = ProbeResult("roll", round_, "n1/0", passed)
        book.take_report("n1", report(None, results=(result,)), 0.0)
    assert [one.round for one in book.results("roll")] == [2]
    book.forget("roll")
    assert book.results("roll") == ()


def test_counts_of_known_values() -> None:
    counter = Counter()
    for ttft_s in (0.1, 0.1, 0.1, 5.0):
        counter.answered(ttft_s, tokens=10, generating_s=0.5, broken=ttft_s > 1)
    counter.failed()
    counts = counter.counts
    assert (counts.requests, counts.errors, counts.stream_errors, counts.answered) == (5, 1, 1, 4)
    assert 0.1 <= counts.ttft_quantile(0.5) <= 0.125
    assert 5.0 <= counts.ttft_quantile(0.95) <= 6.25
    assert counts.tokens_per_s == 20.0
    assert Counts().ttft_quantile(0.5) == Counts().tokens_per_s == 0.0


@given(st.lists(st.floats(0.0, 10_000.0), min_size=1, max_size=50))
def test_a_quantile_is_never_below_the_value_and_at_most_a_quarter_above(values) -> None:
    counter = Counter()
    for value in values:
        counter.answered(value, tokens=0, generating_s=0.0, broken=False)
    median = sorted(values)[(len(values) - 1) // 2]
    found = counter.counts.ttft_quantile(0.5)
    assert found >= min(median, BOUNDS[-1])
    assert found <= max(BOUNDS[0], median * 1.2500001)


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 9)), max_size=20), st.integers(0, 20))
def test_plus_undoes_since(values, at) -> None:
    counter, states = Counter(), [Counts()]
    for ttft_s, tokens in values:
        counter.answered(ttft_s, tokens=tokens, generating_s=1.0, broken=False)
        states.append(counter.counts)
    earlier, last = states[min(at, len(states) - 1)], states[-1]
    again = earlier.plus(last.since(earlier))
    assert (again.requests, again.ttft, again.tokens) == (last.requests, last.ttft, last.tokens)


def snapshots(*states: str, instance: bool = True) -> dict[Version, Snapshot]:
    found = {}
    for at, state in enumerate(states):
        entries = {"node/n1": encode_entry(Node("n1", state=state))}
        if instance:
            entries["instance/n1/0"] = encode_entry(Instance("n1/0", "n1"))
        found[Version(1, at)] = Snapshot(Version(1, at), entries)
    return found


def test_a_drained_node_is_safe_to_stop_once_all_know_and_nothing_is_in_flight() -> None:
    old, new = Version(1, 0), Version(1, 1)
    published = snapshots("active", "drained")

    def safe(heard: list[Version | None], in_flight: int, snapshot: Version, at: float = 0.0) -> bool:
        return safe_to_stop("n1", published, heard, NodeLoad(at, 1, in_flight, snapshot), 1.0)

    assert safe([new, new], 0, new)
    assert not safe([new, old], 0, new)  # one agent may still send it requests
    assert not safe([new, None], 0, new)
    assert not safe([new], 1, new)
    assert not safe([new], 0, old)  # its word is from before
    assert not safe([new], 0, new, at=-60.0)  # it says nothing, but its engine is there
    assert not safe_to_stop("n1", snapshots("active"), [old], None, 1.0)
    assert safe_to_stop("n1", snapshots("drained", instance=False), [], None, 1.0)
