"""Models removed from shared storage, a folder or a bucket: what was theirs alone, while nobody writes."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge_agent.models.section import ModelsSection
from bridge_agent.models.shared.hold import held
from bridge_agent.models.shared.section import SharedSection
from bridge_agent.models.shared.tier import SharedTier, TierLacks
from bridge_cli.models_remote import Outcome
from bridge_cli.shared_commands import remover_of
from bridge_core import model_answers
from bridge_core.clients import Admin
from bridge_core.errors import BridgeError, Fatal
from bridge_core.model_answers import ModelAsked, SharedSaid
from bridge_core.names import ModelName
from bridge_core.snapshot import Node
from tests.contract.models_bed import ModelsBed, bytes_of, digest_of, models_bed, offer
from tests.contract.test_models_admin_commands import ask
from tests.contract.test_shared_s3 import client_of, written
from tests.fakes.s3_store import s3_store
from tests.shared_bed import Leases

OWN, BOTH = bytes_of(5000), bytes_of(7000, seed=2)


@pytest.fixture(params=["folder", "memory", "radosgw"])
def section(request: Any, tmp_path: Path) -> Iterator[SharedSection]:
    with contextlib.ExitStack() as stack:
        if request.param == "folder":
            (tmp_path / "share").mkdir()
            yield SharedSection(str(tmp_path / "share"), publish=True)
        elif request.param == "memory":
            yield written(tmp_path / "s3.json", stack.enter_context(s3_store()).settings())
        elif "BRIDGE_TEST_S3" not in os.environ:
            pytest.skip("no BRIDGE_TEST_S3: bench/rados_gateway.sh")
        else:
            real = json.loads(Path(os.environ["BRIDGE_TEST_S3"]).read_text())
            made = written(tmp_path / "s3.json", {**real, "prefix": f"test/{secrets.token_hex(4)}"})
            client_of(made).ask("PUT", "", most=1 << 20)
            yield made


@pytest.fixture
async def models(tmp_path: Path, section: SharedSection) -> AsyncIterator[ModelsBed]:
    """Node b has two models, which share a blob, and has published both."""
    leases = Leases()
    chosen = ModelsSection(reserve=0, shared=section)
    async with models_bed(tmp_path, "a", "b", section=chosen, registries=(leases,)) as bed:
        bed.bed.publish(
            admin__op=Admin("op", "operator"),
            admin__eye=Admin("eye", "viewer"),
            node__b=Node("b", f"127.0.0.1:{bed.bed['b'].peer.port}"),
        )
        for name, blobs in (("team/big:v1", (OWN, BOTH)), ("team/other:v1", (BOTH,))):
            offer(bed.registry, name, *blobs)
            assert (await bed.pull("b", bed.name(name)))[-1] == {"status": "success"}
            assert await published(bed, name) == ""
        yield bed


async def published(models: ModelsBed, name: str) -> str:
    (said,), _ = await ask(models, model_answers.PUBLISH, ModelAsked(models.name(name)), "b")
    return said.fault


async def unpublished(models: ModelsBed, name: str, **fields: Any) -> tuple[str, list[str]]:
    asked = ModelAsked(models.name(name), **fields)
    (said,), shown = await ask(models, model_answers.UNPUBLISH, asked, "b")
    return said.fault, [record["status"] for _, record in shown]


def tier_of(models: ModelsBed) -> SharedTier:
    found = models.desks["b"].shared
    assert found is not None
    return found


def has(models: ModelsBed, data: bytes) -> bool:
    try:
        tier_of(models).open(digest_of(data)[7:], len(data)).close()
    except TierLacks:
        return False
    return True


async def test_a_model_goes_with_what_is_its_alone(models: ModelsBed) -> None:
    name = ModelName.parse(models.name())
    place, own, both = f"{name.host}/team/big/v1", digest_of(OWN)[7:19], digest_of(BOTH)[7:19]
    fault, said = await unpublished(models, "team/big:v1", dry_run=True)
    assert fault == ""
    assert f"would remove manifest {place}" in said
    assert f"would remove blob {own}" in said
    assert any(one.startswith(f"keeping blob {both}: {name.host}/team/other/v1 uses it") for one in said)
    assert has(models, OWN)
    assert tier_of(models).manifest(name) is not None

    fault, said = await unpublished(models, "TEAM/big:v1")
    assert fault == ""
    assert f"removing manifest {place}" in said
    assert (has(models, OWN), has(models, BOTH)) == (False, True)
    assert tier_of(models).manifest(name) is None
    assert tier_of(models).said().models == (models.name("team/other:v1"),)
    # What nodes have is theirs; and it may be published again.
    assert models.blob("b", digest_of(OWN)).exists()
    assert await published(models, "team/big:v1") == ""
    assert has(models, OWN)
    for one in ("team/big:v1", "team/other:v1"):
        assert (await unpublished(models, one))[0] == ""
    assert not has(models, BOTH)
    assert "has no model" in (await unpublished(models, "team/big:v1"))[0]


async def test_nobody_removes_while_another_one_writes_or_who_may_not(models: ModelsBed) -> None:
    tier = tier_of(models).writer().identity()
    name = ModelName.parse(models.name("team/another:v1"))
    async with held([models.desks["b"]._admin._unpublishing._registries[0]], tier, str(name).lower()):  # type: ignore[union-attr]
        fault, _ = await unpublished(models, "team/big:v1")
        assert "is publishing" in fault
    (said,), _ = await ask(models, model_answers.UNPUBLISH, ModelAsked(models.name()), "b", who="eye")
    assert "operator" in said.fault
    assert has(models, OWN)


async def test_a_publisher_whose_blob_was_removed_meanwhile_says_so(models: ModelsBed) -> None:
    """It was still for so long that its lease ran out, and found its blob there before that."""
    publishing = models.desks["b"]._admin._publishing
    assert publishing is not None
    list_model = publishing._writer.list_model

    def removed_meanwhile(*arguments: Any) -> None:
        publishing._writer.remove_blob(digest_of(OWN)[7:])
        list_model(*arguments)

    publishing._writer.list_model = removed_meanwhile  # type: ignore[assignment]
    assert "lacks a blob" in await published(models, "team/big:v1")
    publishing._writer.list_model = list_model  # type: ignore[method-assign]
    assert await published(models, "team/big:v1") == ""
    assert has(models, OWN)


async def test_a_lease_that_is_over_ends_the_removal(models: ModelsBed) -> None:
    unpublishing = models.desks["b"]._admin._unpublishing
    assert unpublishing is not None
    unpublishing._registries[0].valid_s = 0.0  # type: ignore[attr-defined]
    with pytest.raises(BridgeError, match=r"lease .* is over"):
        await anext(unpublishing.records(ModelName.parse(models.name()), dry_run=False))
    assert has(models, OWN)
    assert tier_of(models).manifest(ModelName.parse(models.name())) is not None


def test_who_removes_is_a_node_that_sees_it_and_may() -> None:
    def one(node: str, *models: str, publishes: bool = False) -> Outcome:
        return Outcome(node, shared=SharedSaid("/mnt", publishes, models=models))

    able = [one("c", "m:latest", publishes=True), one("b", "m:latest", publishes=True), one("a", "m:latest")]
    assert remover_of(able, "m") == "b"
    with pytest.raises(Fatal, match="may write there: a"):
        remover_of([one("a", "m:latest"), one("b", publishes=True)], "m")
    with pytest.raises(Fatal, match="no node sees"):
        remover_of([one("b", "other:v1", publishes=True)], "m")
