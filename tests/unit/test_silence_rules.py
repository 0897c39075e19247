"""What people silence by hand: matchers as Alertmanager writes them, and what a silence has to say."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_registry.alerts import matcher_rules, silence_rules
from bridge_registry.alerts.matcher_rules import Matcher, fits, fits_one, matcher_of
from bridge_registry.alerts.silence_rules import LONGEST_S, MOST, SHORTEST_S, Silence, SilenceRefused, silent

LABELS = {"alertname": "disk", "node": "n1", "severity": "critical", "of": 'the "big" one'}
TEXT = st.text('ab.|*\\"=~! é\n', max_size=12)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("disk", Matcher("alertname", "=", "disk")),
        (" disk-will-fill ", Matcher("alertname", "=", "disk-will-fill")),
        ("node=n1", Matcher("node", "=", "n1")),
        ('node = "n 1"', Matcher("node", "=", "n 1")),
        (r'of="the \"big\" one"', Matcher("of", "=", 'the "big" one')),
        (r'of="a\\b"', Matcher("of", "=", "a\\b")),
        ("severity!=warning", Matcher("severity", "!=", "warning")),
        ("node=~gpu.*|n1", Matcher("node", "=~", "gpu.*|n1")),
        ('node!~"a|b"', Matcher("node", "!~", "a|b")),
        ("runbook=", Matcher("runbook", "=", "")),
    ],
)
def test_matchers_are_written_as_alertmanager_writes_them(text: str, wanted: Matcher) -> None:
    assert matcher_of(text) == wanted
    assert matcher_of(str(wanted)) == wanted


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no matcher"),
        ("two words", "is no matcher"),
        ("1node=n1", "is no matcher"),
        ('node="n1', "begins with a quote"),
        ('node="n"1"', "begins with a quote"),
        ("node=~n1+", "has '+'"),
        ("node=~(a|b)", "has '('"),
        ("node=~[ab]", "has '['"),
        ("node=~a*", "has '*'"),
        (r"node=~\d", r"has '\\d'"),
        ("node=~a\\", "a backslash"),
        ("n" * 65 + "=x", "too long"),
        ("node=" + "x" * 257, "too long"),
    ],
)
def test_what_is_no_matcher_is_refused_and_says_why(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        matcher_of(text)


@given(st.sampled_from(["node", "of"]), st.sampled_from(["=", "!="]), TEXT)
def test_what_is_said_of_a_matcher_reads_as_the_same(name: str, op: str, value: str) -> None:
    matcher = Matcher(name, op, value)  # type: ignore[arg-type]  # one of two
    assert matcher_of(str(matcher)) == matcher
    assert fits_one(matcher, value) is (op == "=")
    assert fits_one(matcher, value + "x") is (op == "!=")


@given(st.text("ab.|\\*", max_size=10), st.text("ab.|*\n", max_size=10))
def test_a_pattern_means_what_it_means_everywhere(pattern: str, value: str) -> None:
    """Where it is taken at all, python's expressions say the same."""
    try:
        matcher = matcher_of(f"node=~{pattern}")
    except ValueError:
        return
    wanted = re.fullmatch(pattern.strip(), value, re.DOTALL) is not None
    assert fits_one(matcher, value) is wanted
    assert fits_one(Matcher("node", "!~", matcher.value), value) is not wanted


def test_a_pattern_that_would_try_every_way_is_done_at_once() -> None:
    matcher = matcher_of("node=~" + ".*a" * 80 + "b")
    assert not fits_one(matcher, "a" * 256)


def test_all_matchers_have_to_fit_and_a_label_that_is_not_there_is_empty() -> None:
    def meant(*texts: str) -> bool:
        return fits([matcher_of(one) for one in texts], LABELS)

    assert meant("disk", "node=n1", "severity!=warning", "of=~.*big.*")
    assert not meant("disk", "node=n2")
    assert not meant("vram", "node=n1")
    assert meant("instance=", "disk")
    assert meant("instance!=n1/0", "disk")
    assert not meant("instance=~.*.", "disk")


def test_a_pattern_of_a_version_that_knew_more_silences_nothing() -> None:
    for op in ("=~", "!~"):
        assert not fits_one(Matcher("node", op, "n[0-9]"), "n1")  # type: ignore[arg-type]  # one of two


def made(
    *matchers: str, reason: str = "a new disk is on its way", lasts_s: float = 3600.0, known: int = 0
) -> Silence:
    there = {str(at): Silence(str(at), (matcher_of("x"),), "ann", "r", 1.0, 2.0) for at in range(known)}
    return silence_rules.made(there, "ab12", matchers, by="ann", reason=reason, lasts_s=lasts_s, now=100.0)


def test_a_silence_says_who_until_when_and_why() -> None:
    found = made("disk", "node=n1")
    assert found == Silence(
        "ab12",
        (Matcher("alertname", "=", "disk"), Matcher("node", "=", "n1")),
        "ann",
        "a new disk is on its way",
        100.0,
        3700.0,
    )
    assert found.says() == ("silence ab12 by ann until 1970-01-01T01:01:40.000Z: a new disk is on its way")


@pytest.mark.parametrize(
    ("matchers", "more", "says"),
    [
        (("disk",), {"reason": " \t"}, "says why"),
        (("disk",), {"reason": "x" * 257}, "more than 256"),
        (("disk",), {"lasts_s": SHORTEST_S - 0.1}, "lasts 1m to 30d"),
        (("disk",), {"lasts_s": LONGEST_S + 0.1}, "lasts 1m to 30d"),
        (("disk",), {"lasts_s": float("nan")}, "lasts 1m to 30d"),
        ((), {}, "1 to 8 matchers"),
        (("disk",) * 9, {}, "1 to 8 matchers"),
        (("no matcher at all",), {}, "is no matcher"),
        (("node=",), {}, "every alert"),
        (("node=~.*",), {}, "every alert"),
        (("node!=n1", "of=~x|"), {}, "every alert"),
        (("disk",), {"known": MOST}, "64 silences already"),
    ],
)
def test_what_is_no_silence_is_refused_and_says_why(
    matchers: tuple[str, ...], more: dict[str, float | str | int], says: str
) -> None:
    with pytest.raises(SilenceRefused, match=re.escape(says)):
        made(*matchers, **more)  # type: ignore[arg-type]  # test shorthand


def test_the_bounds_themselves_are_taken() -> None:
    assert made("disk", lasts_s=SHORTEST_S).ends == 100.0 + SHORTEST_S
    assert made("disk", lasts_s=LONGEST_S).ends == 100.0 + LONGEST_S
    assert made("disk", reason="x" * 256, known=MOST - 1).reason == "x" * 256
    assert len(made(*["disk"] * matcher_rules.MOST_MATCHERS).matchers) == 8


def test_what_would_reach_a_terminal_raw_is_written_out() -> None:
    assert made("disk", reason="\x1b[31mred\nline").reason == "\\x1b[31mred\\x0aline"


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 40)), max_size=8), st.integers(0, 40))
def test_a_silence_is_there_until_it_ends_and_the_longest_says_why(
    spans: list[tuple[int, int]], now: int
) -> None:
    known = [
        Silence(f"{at:02}", (matcher_of("disk"),), "ann", "r", float(made_at), float(ends))
        for at, (made_at, ends) in enumerate(spans)
    ]
    there = silence_rules.lasting(known, float(now))
    assert set(there) == {one.id for one in known if one.ends > now}
    assert [one.ends for one in there.values()] == sorted(one.ends for one in there.values())
    said = silent(there.values(), LABELS)
    longest = max((one.ends for one in there.values()), default=0.0)
    assert bool(said) is bool(there)
    assert not there or any(said == one.says() for one in there.values() if one.ends == longest)
    assert silent(there.values(), {**LABELS, "alertname": "vram"}) == ""
