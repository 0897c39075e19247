"""Pages point at what is there, and the list of decisions is whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "tests/README.md"])
_LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in _LINK.findall(page.read_text("utf-8")):
        if "://" in target:
            continue
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found), f"{target}#{anchor}"


def test_every_decision_is_listed_once() -> None:
    listed = re.findall(
        r"^\| \[[^]]*\]\(([^)]*)\)", (ROOT / "docs/adr/README.md").read_text("utf-8"), re.MULTILINE
    )
    there = [page.name for page in (ROOT / "docs/adr").glob("*.md") if page.name != "README.md"]
    assert sorted(listed) == sorted(there)


def test_the_files_that_the_architecture_names_are_there() -> None:
    page = (ROOT / "docs/architecture.md").read_text("utf-8")
    steps = re.findall(r"^\| \d+\. .* \| `([^`]*)` \|$", page, re.MULTILINE)
    assert len(steps) == 15
    assert [name for name in steps if not (ROOT / name).is_file()] == []
