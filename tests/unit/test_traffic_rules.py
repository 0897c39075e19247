"""How much models and nodes are used, added up from counters that only grow."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge_core.counts import Counts
from bridge_registry.console.traffic_rules import CELLS, HOURS, OTHER, TrafficBook

BEGAN = 1_000.0  # of the book, Unix seconds
EARLIER, LATER = int(BEGAN * 1000) - 1, int(BEGAN * 1000)


def counted(requests: int, errors: int = 0) -> Counts:
    return Counts(requests=requests, errors=errors)


def take(
    book: TrafficBook, count: int, *, now: float = 0.0, began: int = LATER, node: str = "n1", **more: str
) -> None:
    models = {more.get("model", "m"): counted(count)}
    book.take(node, began, models, {"m"}, now=now, wall=BEGAN + now)


def test_what_was_counted_before_the_book_began_is_nobodys_news() -> None:
    book = TrafficBook(BEGAN)
    take(book, 100, began=EARLIER)
    assert book.totals == {}
    take(book, 103, began=EARLIER)
    assert book.totals["m"].requests == 3


def test_what_a_new_agent_counted_is_all_news() -> None:
    book = TrafficBook(BEGAN)
    take(book, 7, began=LATER)
    assert book.totals["m"].requests == 7


def test_an_agent_that_began_anew_counts_from_zero() -> None:
    book = TrafficBook(BEGAN)
    take(book, 5, began=LATER)
    take(book, 2, began=LATER + 1)
    assert book.totals["m"].requests == 7


def test_names_that_the_mesh_does_not_have_make_no_series() -> None:
    book = TrafficBook(BEGAN)
    for number in range(50):
        take(book, 1, model=f"made-up-{number}")
    assert set(book.totals) == {OTHER}
    assert book.totals[OTHER].requests == 50


def test_of_one_node_so_many_names_are_remembered() -> None:
    book = TrafficBook(BEGAN)
    for number in range(512 + 10):
        take(book, 1, model=f"made-up-{number}")
    assert book.totals[OTHER].requests == 512
    take(book, 3, model="made-up-0")
    assert book.totals[OTHER].requests == 512 + 2


def test_models_that_left_have_no_totals() -> None:
    book = TrafficBook(BEGAN)
    take(book, 5)
    take(book, 1, model="other")
    book.take("n1", LATER, {"m2": counted(1)}, {"m2"}, now=1.0, wall=BEGAN)
    assert set(book.totals) == {OTHER, "m2"}


def test_the_last_minute_ends() -> None:
    book = TrafficBook(BEGAN)
    take(book, 4, now=0.0)
    assert book.by_model(60.0 - 0.001)["m"].requests == 4
    assert book.by_node(60.0 - 0.001)["n1"].requests == 4
    assert book.by_model(60.0) == {}


def test_a_slot_is_five_seconds() -> None:
    book = TrafficBook(BEGAN)
    take(book, 1, now=0.0)
    take(book, 2, now=5.0 - 0.001)  # in the first slot, which ends with it
    take(book, 3, now=5.0)
    assert book.by_model(60.0)["m"].requests == 1
    assert book.by_model(60.0 + 5.0) == {}


def test_an_hour_of_minutes_is_kept() -> None:
    book = TrafficBook(0.0)
    for minute in range(60 + 5):
        book.take("n1", 1, {"m": counted(minute + 1, minute)}, {"m"}, now=minute * 60.0, wall=minute * 60.0)
    assert len(book.minutes) == 60
    minute, models, nodes = book.minutes[-1]
    assert (minute, models, nodes) == (60 + 4, {"m": (1, 1)}, {"n1": (1, 1)})


def test_a_node_that_left_is_forgotten() -> None:
    book = TrafficBook(BEGAN)
    take(book, 5, began=EARLIER)
    book.forget(["n2"])
    take(book, 9, began=EARLIER)  # as one that was never heard of
    assert book.totals == {}
    book.forget(["n1"])
    take(book, 10, began=EARLIER)
    assert book.totals["m"].requests == 1


@given(st.lists(st.tuples(st.sampled_from(["n1", "n2"]), st.integers(0, 50)), max_size=40))
def test_the_total_is_what_all_counters_grew_by(steps: list[tuple[str, int]]) -> None:
    book, counters = TrafficBook(0.0), {"n1": 0, "n2": 0}
    for at, (node, more) in enumerate(steps):
        counters[node] += more
        book.take(node, 1, {"m": counted(counters[node])}, {"m"}, now=at * 0.5, wall=at * 0.5)
    assert book.totals.get("m", Counts()).requests == sum(counters.values())
    now = len(steps) * 0.5
    assert sum(one.requests for one in book.by_node(now).values()) == sum(counters.values())
    assert sum(cell[0] for _, models, _ in book.minutes for cell in models.values()) == sum(counters.values())


def test_a_day_is_kept_by_the_hour_by_model_and_node() -> None:
    book = TrafficBook(0.0)
    book.take("n1", 0, {"m": counted(2, 1)}, {"m"}, now=0.0, wall=3599.9)
    book.take("n1", 0, {"m": counted(5, 1)}, {"m"}, now=1.0, wall=3600.0)
    book.take("n2", 0, {"m": counted(4)}, {"m"}, now=2.0, wall=3600.0)
    assert list(book.hours) == [
        (0, {("m", "n1"): (2, 1)}),
        (1, {("m", "n1"): (3, 0), ("m", "n2"): (4, 0)}),
    ]
    for hour in range(2, 30):
        book.take("n1", 0, {"m": counted(hour + 10)}, {"m"}, now=0.0, wall=hour * 3600.0)
    assert [at for at, _ in book.hours] == list(range(30 - HOURS, 30))


def test_of_an_hour_so_many_pairs_are_kept_apart_and_nothing_is_lost() -> None:
    book = TrafficBook(0.0)
    for number in range(CELLS + 5):
        book.take(f"n{number}", 0, {"m": counted(2)}, {"m"}, now=0.0, wall=0.0)
    book.take("n0", 0, {"m": counted(3)}, {"m"}, now=0.0, wall=0.0)
    ((_, pairs),) = book.hours
    assert (CELLS, HOURS) == (1000, 24)
    assert len(pairs) == CELLS + 1
    assert pairs["m", "n0"] == (3, 0)
    assert pairs["m", f"n{CELLS - 1}"] == (2, 0)
    assert pairs[OTHER, OTHER] == (10, 0)
