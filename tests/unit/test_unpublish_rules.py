"""What goes from shared storage with a model: never what another one there uses."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.models.shared.unpublish_rules import Found, found, going
from bridge_core.names import ModelName

NAME = ModelName.parse("team/big:v1")
OTHER = ModelName.parse("team/other:v1")


def test_only_what_nobody_else_names_goes() -> None:
    goes = going(NAME, [Found("a", NAME, {"1": 10, "2": 20}), Found("b", OTHER, {"2": 20, "3": 30})])
    assert (goes.places, goes.blobs, goes.kept) == (("a",), {"1": 10}, {"2": "b uses it"})


def test_all_spellings_of_the_name_go_together() -> None:
    shouted = ModelName.parse("Team/BIG:v1")
    goes = going(NAME, [Found("a", NAME, {"1": 10}), Found("A", shouted, {"1": 10, "2": 20})])
    assert (goes.places, goes.blobs, goes.kept) == (("a", "A"), {"1": 10, "2": 20}, {})


def test_a_manifest_that_cannot_be_read_may_name_anything() -> None:
    for unreadable in (Found("x", OTHER, None), Found("x", None, None), Found("x", NAME, None)):
        goes = going(NAME, [Found("a", NAME, {"1": 10}), unreadable])
        assert goes.blobs == {}
        assert goes.kept == {"1": "the manifest x cannot be read"}
        assert "a" in goes.places
    assert going(NAME, [Found("x", OTHER, None), Found("y", None, {"1": 1})]).places == ()


def test_what_is_no_manifest_cannot_be_read() -> None:
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{'ab' * 32}", "size": 5}
    good = {
        "schemaVersion": 2,
        "mediaType": "application/x",
        "config": {**layer, "size": 5},
        "layers": [layer],
    }
    assert found("a", NAME, json.dumps(good).encode()).blobs == {"ab" * 32: 5}
    for bad in (
        None,
        b"",
        b"{",
        json.dumps({**good, "layers": [{**layer, "digest": "sha256:../x"}]}).encode(),
    ):
        assert found("a", NAME, bad).blobs is None


BLOBS = st.dictionaries(st.sampled_from("123456"), st.just(1), max_size=4)
NAMES = st.sampled_from([NAME, OTHER, ModelName.parse("Team/Big:v1"), None])


@given(st.lists(st.tuples(NAMES, BLOBS | st.none()), max_size=6))
def test_no_blob_goes_that_may_be_in_use(all_: list[tuple[ModelName | None, dict[str, int] | None]]) -> None:
    goes = going(NAME, [Found(str(at), name, blobs) for at, (name, blobs) in enumerate(all_)])
    for at, (name, blobs) in enumerate(all_):
        own = name is not None and str(name).lower() == str(NAME).lower()
        assert (str(at) in goes.places) is own
        if not own:
            assert not (goes.blobs.keys() if blobs is None else goes.blobs.keys() & blobs.keys())
    named = {one for name, blobs in all_ if blobs and str(name).lower() == str(NAME).lower() for one in blobs}
    assert goes.blobs.keys() | goes.kept.keys() == named
    assert not goes.blobs.keys() & goes.kept.keys()
