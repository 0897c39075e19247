"""A node as a registry: our own client of one pulls from it unchanged, and what else it is asked."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.gateway.config import Outcome
from bridge_agent.models.range_rules import Unsatisfiable, wanted
from bridge_core.http1 import Pool
from bridge_core.model_store.layout import MANIFEST_MEDIA, ModelStore
from bridge_core.model_store.registry import Registry
from bridge_core.names import ModelName
from bridge_core.policy.statements import AccessPolicy, Resource, Subject
from bridge_core.snapshot import Instance, MemberModel
from bridge_engine.store.pull import pull
from tests.contract.gateway_bed import AUTHORITY, api_key, client_of
from tests.contract.models_bed import MIB, ModelsBed, bytes_of, digest_of, models_bed, offer
from tests.support import eventually

BLOB = bytes_of(5 * MIB + 77)
NAME = "registry.ollama.ai/team/big:v1"
PATH = "/v2/team/big"


def a_has(bed: ModelsBed, blob: bytes) -> None:
    """Puts the model into a's store, and lists it."""
    manifest = offer(bed.registry, "team/big:v1", blob)
    for one in bed.registry.blobs.values():
        bed.put("a", one)
    path = bed.root("a") / "manifests/registry.ollama.ai/team/big/v1"
    path.parent.mkdir(parents=True)
    path.write_bytes(manifest)
    listed = MemberModel("team/big:v1", digest_of(manifest)[7:])
    local = bed.bed["a"].engine.instance("a/0")
    bed.bed["a"].view.publish_local((msgspec.structs.replace(local, models=(listed,)),))
    bed.bed.publish(instance__a=Instance("a/0", "a", models=(listed,)))


@pytest.fixture
async def models(tmp_path: Path) -> AsyncIterator[ModelsBed]:
    """Node a has the model; b has nothing."""
    async with models_bed(tmp_path, "a", "b") as bed:
        a_has(bed, BLOB)
        yield bed


def pulled(port: int, root: Path) -> list[dict[str, object]]:
    name = ModelName.parse(f"127.0.0.1:{port}/team/big:v1")
    return list(pull(ModelStore(root), name, Registry(name, insecure=True)))


@pytest.mark.parametrize("node", ["a", "b"])
async def test_a_client_of_registries_pulls_from_a_node(models: ModelsBed, tmp_path: Path, node: str) -> None:
    root = tmp_path / "elsewhere"
    records = await asyncio.to_thread(pulled, models.bed[node].local.port, root)
    assert records[-1] == {"status": "success"}
    assert (root / "blobs" / digest_of(BLOB).replace(":", "-")).read_bytes() == BLOB
    # What b lacks went through it, and did not stay.
    assert not models.blob("b", digest_of(BLOB)).exists()


async def test_what_a_registry_says(models: ModelsBed) -> None:
    node = models.bed["a"]
    assert (await node.ask("GET", "/v2/")).status == 200
    manifest = await node.ask("GET", f"{PATH}/manifests/v1")
    assert manifest.headers.get(b"content-type") == MANIFEST_MEDIA.encode()
    said = manifest.headers.get(b"docker-content-digest")
    assert said == b"sha256:" + hashlib.sha256(manifest.body).hexdigest().encode()
    head = await node.ask("HEAD", f"{PATH}/blobs/{digest_of(BLOB)}")
    assert (head.status, head.headers.get(b"content-length")) == (200, b"%d" % len(BLOB))
    head = await node.ask("HEAD", f"{PATH}/manifests/v1")
    assert head.headers.get(b"content-length") == b"%d" % len(manifest.body)


@pytest.mark.parametrize("node", ["a", "b"])
@pytest.mark.parametrize(
    ("field", "begin", "end"),
    [
        ("bytes=0-0", 0, 1),
        (f"bytes={4 * MIB - 3}-{4 * MIB + 3}", 4 * MIB - 3, 4 * MIB + 4),
        ("bytes=5000000-", 5_000_000, len(BLOB)),
        ("bytes=-5", len(BLOB) - 5, len(BLOB)),
    ],
)
async def test_a_part_of_a_blob(models: ModelsBed, node: str, field: str, begin: int, end: int) -> None:
    answer = await models.bed[node].ask("GET", f"{PATH}/blobs/{digest_of(BLOB)}", headers={"range": field})
    assert (answer.status, answer.body) == (206, BLOB[begin:end])
    assert answer.headers.get(b"content-range") == b"bytes %d-%d/%d" % (begin, end - 1, len(BLOB))


async def test_what_there_is_not(models: ModelsBed) -> None:
    node = models.bed["a"]
    beyond = await node.ask(
        "GET", f"{PATH}/blobs/{digest_of(BLOB)}", headers={"range": f"bytes={len(BLOB)}-"}
    )
    assert (beyond.status, beyond.headers.get(b"content-range")) == (416, b"bytes */%d" % len(BLOB))
    for path, code in (
        (f"{PATH}/manifests/v2", "MANIFEST_UNKNOWN"),
        (f"{PATH}/blobs/sha256:{'0' * 64}", "BLOB_UNKNOWN"),
        (f"{PATH}/blobs/passwd", "BLOB_UNKNOWN"),
        # Of another model, whatever the node has by that digest.
        (f"/v2/team/other/blobs/{digest_of(BLOB)}", "BLOB_UNKNOWN"),
        ("/v2/a/b/c/d/e", "NAME_UNKNOWN"),
    ):
        answer = await node.ask("GET", path)
        assert (answer.status, json.loads(answer.body)["errors"][0]["code"]) == (404, code), path
    assert (await node.ask("DELETE", f"{PATH}/manifests/v1")).status == 405


async def test_a_manifest_that_is_not_the_one_that_the_mesh_means_is_not_given(models: ModelsBed) -> None:
    listed = MemberModel("team/big:v1", "0" * 64)
    models.bed.publish(instance__a=Instance("a/0", "a", models=(listed,)))
    for page in f"{PATH}/manifests/v1", f"{PATH}/blobs/{digest_of(BLOB)}":
        assert (await models.bed["b"].ask("GET", page)).status == 404
    assert (await models.bed["a"].ask("GET", f"{PATH}/manifests/v1")).status == 200  # its own


async def test_who_leaves_before_a_blob_is_whole_is_on_record(tmp_path: Path) -> None:
    blob = bytes_of(40 * MIB)
    async with models_bed(tmp_path, "a") as bed:
        a_has(bed, blob)
        node = bed.bed["a"]
        async with node.pool.request("GET", f"{PATH}/blobs/{digest_of(blob)}") as answer:
            assert answer.status == 200
        await eventually(lambda: [one.outcome for one in node.gateway.records()] == [Outcome.CANCELLED])
        assert node.gateway.records()[0].model == NAME


async def test_a_key_that_may_pull_and_one_that_may_not(models: ModelsBed) -> None:
    may = AccessPolicy(
        "weights", (Subject("User", "fetcher"),), (Resource(("Model",), ("team/*",)),), ("pull",)
    )
    models.bed.publish(
        client__fetcher=client_of("fetcher"), client__other=client_of("other"), policy__weights=may
    )
    async with models.bed["a"].https() as server:
        context = ssl.create_default_context(cadata=AUTHORITY.pem.decode())
        context.check_hostname = False
        pool = Pool(("127.0.0.1", server.port), ssl=context)
        try:
            for who, expected in (("fetcher", 200), ("other", 403), ("", 401)):
                key = [(b"authorization", f"Bearer {api_key(who)}".encode())] if who else []
                for page in (f"{PATH}/manifests/v1", f"{PATH}/blobs/{digest_of(BLOB)}"):
                    async with pool.request("GET", page, key) as answer:
                        await answer.read()
                        assert answer.status == expected, (who, page)
        finally:
            await pool.close()


@given(st.integers(0, 200), st.binary(max_size=20))
def test_what_is_no_range_of_bytes_is_the_whole(size: int, field: bytes) -> None:
    assert wanted(field, size) is None or field.startswith(b"bytes=")


@given(st.integers(0, 200), st.from_regex(rb"[0-9,-]{0,12}", fullmatch=True))
def test_any_range_is_a_part_or_the_whole(size: int, field: bytes) -> None:
    with contextlib.suppress(Unsatisfiable):
        part = wanted(b"bytes=" + field, size)
        assert part is None or 0 <= part[0] < part[1] <= size


@given(st.integers(1, 200), st.integers(0, 300), st.integers(0, 300))
def test_a_range_is_what_the_rfc_says(size: int, first: int, last: int) -> None:
    data = bytes(size)
    if last < first:
        assert wanted(b"bytes=%d-%d" % (first, last), size) is None
        return
    try:
        part = wanted(b"bytes=%d-%d" % (first, last), size)
    except Unsatisfiable:
        assert first >= size
        return
    assert part is not None
    assert part[0] == first
    assert len(data[part[0] : part[1]]) == part[1] - part[0] == min(last + 1, size) - first
    assert wanted(b"bytes=%d-" % first, size) == (first, size)
    if last:
        assert wanted(b"bytes=-%d" % last, size) == (max(0, size - last), size)
