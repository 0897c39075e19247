"""Which of a node's models are served where policies ask for signatures."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.engines.view import LocalInstance
from bridge_agent.records import registered
from bridge_agent.routing.view import Index
from bridge_agent.signing.judging_rules import Judged
from bridge_agent.signing.signature_rules import ANOTHERS, BEING_CHECKED, Sorted, sort_out
from bridge_core.model_signing.policies import ModelSignaturePolicy, SignatureBook, Signer
from bridge_core.names import canonical
from bridge_core.snapshot import (
    EMPTY,
    Instance,
    LoadingModel,
    MemberModel,
    SignedModel,
    WithheldModel,
    encode_entry,
)

OWN = frozenset({"n/0"})
GOOD, BAD = Judged(("release (p)",)), Judged((), "it has no signature")


def book(*models: str, shadow: bool = False) -> SignatureBook:
    return SignatureBook([ModelSignaturePolicy("p", models, (Signer("release", "key"),), shadow)])


def instance(*models: str, id_: str = "n/0", digest: str = "d") -> LocalInstance:
    listed = tuple(MemberModel(name, digest) for name in models)
    loading = tuple(LoadingModel(name) for name in models)
    return LocalInstance(id_, "127.0.0.1", 1, "ready", listed, loaded=models, loading=loading)


def names(sorted_: Sorted) -> list[str]:
    return [model.name for one in sorted_.instances for model in one.models]


def test_without_a_policy_nothing_is_looked_at() -> None:
    given_ = (instance("a", "b"),)
    assert sort_out(given_, OWN, SignatureBook(()), {}) == Sorted(given_)


def test_what_nobody_looked_at_is_withheld_and_to_be_looked_at() -> None:
    found = sort_out((instance("a", "free"),), OWN, book("a"), {})
    (one,) = found.instances
    assert names(found) == ["free"]
    assert one.withheld == (WithheldModel("a", "d", BEING_CHECKED),)
    assert (one.loaded, [each.name for each in one.loading]) == (("free",), ["free"])
    assert found.unknown == {canonical("a")}


def test_what_is_signed_is_served_by_the_digest_that_was_looked_at() -> None:
    known = {canonical("a"): {"d": GOOD}}
    found = sort_out((instance("a"),), OWN, book("a"), known)
    assert (names(found), found.unknown) == (["a"], frozenset())
    assert found.instances[0].signed == (SignedModel("a", ("release (p)",)),)
    assert names(sort_out((instance("a", digest="sha256:d"),), OWN, book("a"), known)) == ["a"]
    other = sort_out((instance("a", digest="e"),), OWN, book("a"), known)
    assert (names(other), other.unknown) == ([], {canonical("a")})


def test_what_is_refused_is_withheld_but_not_looked_at_again() -> None:
    found = sort_out((instance("a"),), OWN, book("a"), {canonical("a"): {"d": BAD}})
    assert (names(found), found.unknown) == ([], frozenset())
    assert found.instances[0].withheld[0].why == "it has no signature"


def test_a_shadow_takes_nothing_out_and_is_looked_at() -> None:
    found = sort_out((instance("a"),), OWN, book("a", shadow=True), {})
    assert (names(found), found.unknown) == (["a"], {canonical("a")})
    assert found.instances[0].withheld == ()


def test_of_another_ones_store_nothing_can_be_said() -> None:
    found = sort_out((instance("a", "b", id_="n/1"),), OWN, book("a"), {canonical("a"): {"d": GOOD}})
    assert (names(found), found.unknown) == (["b"], frozenset())
    assert found.instances[0].withheld[0].why == ANOTHERS


_NAMES = st.sampled_from(["a", "A:latest", "library/a", "b:v1", "x/c"])
_JUDGED = st.sampled_from([GOOD, BAD, Judged((), "", "not yet")])


@given(
    st.lists(_NAMES, max_size=4),
    st.sampled_from(["n/0", "n/1"]),
    st.sampled_from(["d", "e", ""]),
    st.sets(st.sampled_from(["a", "b:v1", "x/*", "*"]), max_size=3),
    st.booleans(),
    st.dictionaries(_NAMES.map(canonical), st.dictionaries(st.sampled_from(["d", "f"]), _JUDGED)),
)
def test_nothing_is_served_that_was_not_found_signed(
    models: list[str],
    id_: str,
    digest: str,
    asked: set[str],
    shadow: bool,
    known: dict[str, dict[str, Judged]],
) -> None:
    policies = book(*asked, shadow=shadow) if asked else SignatureBook(())
    given_ = instance(*models, id_=id_, digest=digest)
    found = sort_out((given_,), OWN, policies, known)
    (one,) = found.instances
    # Each model is served or withheld, and none is lost.
    assert sorted([*names(found), *(held.name for held in one.withheld)]) == sorted(models)
    for name in names(found):
        judged = known.get(canonical(name), {}).get(digest)
        free = not policies.enforced(canonical(name))
        assert free or (id_ in OWN and judged is not None and not judged.refused)
    for signed in one.signed:
        assert known[canonical(signed.name)][digest].by == signed.by
    assert not {held.name for held in one.withheld} & {*one.loaded, *(each.name for each in one.loading)}
    assert found.unknown <= {canonical(name) for name in models}


def test_routing_does_not_see_what_is_withheld_and_says_why() -> None:
    held = instance("free")
    held = msgspec.structs.replace(held, withheld=(WithheldModel("A:latest", "d", "no"),))
    index = Index("n", EMPTY, (held,))
    assert index.copies(canonical("a")) == {}
    assert index.withheld(canonical("a")) == {"n": "no"}
    assert index.withheld(canonical("free")) == {}
    (record,) = registered((held,), "n")
    assert record.withheld == held.withheld
    assert msgspec.json.decode(encode_entry(record), type=Instance) == record
