"""Model names: every spelling of one model is one canonical name; bad names are refused."""

import pytest

from bridge_core import names
from bridge_core.names import InvalidName, ModelName, canonical, display

TINY = "registry.ollama.ai/library/tiny:latest"

SAME = [
    "tiny",
    "tiny:latest",
    "TINY",
    "Tiny:Latest",
    "library/tiny",
    "Library/tiny:latest",
    "registry.ollama.ai/library/tiny",
    "Registry.Ollama.AI/library/tiny:LATEST",
    "https://registry.ollama.ai/library/tiny:latest",
    "http://registry.ollama.ai/library/tiny",
]

OTHERS = [
    ("smollm2:135m", "registry.ollama.ai/library/smollm2:135m", "smollm2:135m"),
    ("SmolLM2:135M", "registry.ollama.ai/library/smollm2:135m", "SmolLM2:135M"),
    ("team/x", "registry.ollama.ai/team/x:latest", "team/x:latest"),
    ("team/x:7b-q4_K_M", "registry.ollama.ai/team/x:7b-q4_k_m", "team/x:7b-q4_K_M"),
    ("hf.co/bartowski/Llama-3.2:Q4", "hf.co/bartowski/llama-3.2:q4", "hf.co/bartowski/Llama-3.2:Q4"),
    ("127.0.0.1:5000/a/b:c", "127.0.0.1:5000/a/b:c", "127.0.0.1:5000/a/b:c"),
    ("localhost:5000/a/b", "localhost:5000/a/b:latest", "localhost:5000/a/b:latest"),
    ("_x", "registry.ollama.ai/library/_x:latest", "_x:latest"),
    ("1.5b", "registry.ollama.ai/library/1.5b:latest", "1.5b:latest"),
]

BAD = [
    "",
    "!!",
    "a b",
    "a b/c:d:e",
    ":tag",
    "x:",
    "/x",
    "x/",
    "a//x",
    "-x",
    ".x",
    "x:-t",
    "x:t/u:v w",
    "a.b/x",
    "a/b/c/d/e f",
    "x" * 81,
    "x:" + "t" * 81,
    "n" * 81 + "/x",
    "h" * 351 + "/n/x",
    "x\n",
    "tiny\x00",
    "tınу",
    "\u212aimi",
    "x@sha256:abc",
    "../x",
]


@pytest.mark.parametrize("name", SAME)
def test_spellings_of_one_model(name):
    assert canonical(name) == TINY


@pytest.mark.parametrize(("name", "full", "short"), OTHERS)
def test_other_models(name, full, short):
    assert canonical(name) == full
    assert display(name) == short
    assert canonical(full) == full
    assert canonical(short) == full


@pytest.mark.parametrize("name", BAD)
def test_bad_names(name):
    with pytest.raises(InvalidName):
        canonical(name)


def test_display_of_a_canonical_name_is_short():
    assert display(TINY) == "tiny:latest"
    assert ModelName.parse("x").short() == "x:latest"


def test_what_is_no_name_is_shown_as_it_is() -> None:
    assert names.display_or_same("registry.ollama.ai/library/tiny:latest") == "tiny:latest"
    assert [names.display_or_same(one) for one in ("", "a b", "/")] == ["", "a b", "/"]


def test_numbers_at_the_end_of_names_are_sorted_as_numbers() -> None:
    assert sorted(["n10", "n9", "m", "n", "n" + "9" * 30], key=names.natural)[:4] == ["m", "n", "n9", "n10"]
