"""Which links are cut, who is far, and who is said to reach whom."""

from __future__ import annotations

from bridge_agent.routing.link_rules import LinkBook


def test_a_link_is_cut_once_its_node_is_silent_and_cannot_be_connected_to() -> None:
    links = LinkBook()
    links.not_brought("c", "refused")  # once: it may be starting again
    assert links.fault("c") == ""
    links.fell_silent("c")
    assert links.fault("c") == "refused"
    links.answered("c", 0.001, ())
    assert links.fault("c") == ""


def test_a_node_that_hangs_is_silent_and_its_link_is_not_cut() -> None:
    links = LinkBook()
    links.fell_silent("c")
    assert (links.fault("c"), links.unreached()) == ("", ("c",))


def test_a_node_is_far_when_even_its_quickest_answer_took_long() -> None:
    links = LinkBook()
    for took in (0.1, 0.5, 0.4):
        links.answered("c", took, ())
        assert links.far == {}  # too few to tell
    links.answered("c", 0.3, ())
    assert links.far == {"c": 0.1}
    for _ in range(4):
        links.answered("c", 0.3, ())
        assert links.far == {"c": 0.1}
    links.answered("c", 0.3, ())
    assert links.far == {"c": 0.3}  # the last eight count
    links.answered("c", 0.1 - 0.001, ())
    assert links.far == {}


def test_a_machine_that_is_slow_now_and_then_is_not_far() -> None:
    links = LinkBook()
    for _ in range(5):
        for took in (0.002, 0.4, 0.5, 0.9, 0.3, 0.4, 0.5, 0.9):
            links.answered("b", took, ())
            assert links.far == {}


def test_the_words_name_the_link_and_who_has_one() -> None:
    links = LinkBook()
    links.answered("b", 0.001, ())
    links.answered("d", 0.001, ("c",))
    said = links.words("a", "c", "10.0.0.3:11445", "Connection refused")
    assert said == "a cannot reach c at 10.0.0.3:11445: Connection refused; b can"
    links.fell_silent("b")
    assert links.words("a", "c", "x", "y") == "a cannot reach c at x: y"


def test_who_is_gone_is_forgotten() -> None:
    links = LinkBook()
    links.answered("b", 0.001, ())
    for _ in range(4):
        links.answered("c", 0.5, ())
    links.fell_silent("c")
    links.not_brought("c", "refused")
    links.forget({"b"})
    assert (links.far, links.unreached(), links.fault("c"), links.who_can("z")) == ({}, (), "", ("b",))
