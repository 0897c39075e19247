"""Which registries and store guards an agent knows: those of its file, and those that the mesh tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge_agent.config import StateDir
from bridge_agent.membership.registries import Registries, known_guards
from bridge_agent.membership.registry_client import RegistryClient
from bridge_core.bounds import MAX_PLACES
from bridge_core.errors import Fatal
from bridge_core.snapshot import MESH_KEY, MeshConfig, Snapshot, Version
from bridge_core.store.endpoints import Endpoints, StoreTiming
from bridge_registry.publication.builder import entries
from bridge_registry.records import Candidate


def published(*registries: Candidate) -> MeshConfig:
    made = entries(
        trust_domain="m", spec=None, routes=(), nodes={}, members=(), revoked=(), registries=registries
    )
    return Snapshot(Version(), {MESH_KEY: made[MESH_KEY]}).mesh


def test_registries_and_their_guards_are_published_each_once_and_in_one_order() -> None:
    mesh = published(
        Candidate("b", "b:11400", ("https://g2:1", "https://g1:1")),
        Candidate("a", "a:11400", ("https://g1:1",)),
        Candidate("a", "a:11400"),  # its candidacy of before, which has not run out
    )
    assert mesh.registries == ("a:11400", "b:11400")
    assert mesh.guards == ("https://g1:1", "https://g2:1")


def test_what_cannot_be_dialled_is_not_published_and_there_is_an_end_to_it() -> None:
    bad = [Candidate("x", address) for address in ("127.0.0.1:0", ":11400", "nowhere", "a" * 300 + ":1")]
    assert published(*bad).registries == ()
    many = [Candidate(f"r{at}", f"r{at}:11400") for at in range(MAX_PLACES + 1)]
    assert len(published(*many).registries) == MAX_PLACES


def test_the_nodes_own_stay_and_those_of_the_mesh_come_and_go(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    found = Registries(("a:1",), lambda address: RegistryClient(address, state))
    own = found[0]
    found.learn(MeshConfig(registries=("b:1", "a:1", "c:0", "nowhere")))
    assert found.addresses == ("a:1", "b:1")
    assert (found[0], len(found)) == (own, 2)
    found.learn(MeshConfig(registries=("d:1",)))
    assert [one.address for one in found] == ["a:1", "d:1"]


def test_a_guard_is_reached_by_tls_alone() -> None:
    mesh = MeshConfig(guards=("http://g:1", "g:2", "https://g:3", "https://g", "https://own:1"))
    assert known_guards(("https://own:1",), mesh) == ("https://own:1", "https://g:3")


async def test_an_endpoint_that_is_kept_stays_in_front_and_one_that_is_none_changes_nothing() -> None:
    endpoints = Endpoints(("http://a:1", "http://b:1"), None, StoreTiming())
    front = endpoints._endpoints[1]
    endpoints._endpoints.reverse()  # the other has failed
    endpoints.replace(("http://b:1", "http://c:1"))
    assert endpoints._endpoints[0] is front
    assert [one.url for one in endpoints._endpoints] == ["http://b:1", "http://c:1"]
    for wrong in ((), ("http://b:1", "gopher://d:1")):
        with pytest.raises(Fatal):
            endpoints.replace(wrong)
    assert [one.url for one in endpoints._endpoints] == ["http://b:1", "http://c:1"]
    await endpoints.close()
