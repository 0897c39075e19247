"""Nodes that bring models to each other: real links, real files, a registry outside."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bridge_agent.ancillaries import Ancillaries, RequestTasks
from bridge_agent.engines.view import LocalInstance
from bridge_agent.models.blob_keys import BlobKeys
from bridge_agent.models.desk import ModelDesk
from bridge_agent.models.section import ModelsSection
from bridge_agent.models.shared.hold import PublishRegistry
from bridge_agent.records import registered
from bridge_core.model_store.layout import CONFIG_MEDIA, MANIFEST_MEDIA, MEDIA
from bridge_core.sealing import open_sealer
from bridge_core.sealing.sealer import SealFolder
from bridge_core.snapshot import MemberModel
from tests.contract.gateway_bed import Bed, Clock, mesh
from tests.fakes.oci_registry import OciRegistry, oci_registry
from tests.fakes.recorded_engine import RecordedEngine

MIB = 1 << 20


def bytes_of(size: int, seed: int = 1) -> bytes:
    """So many bytes, of which no two pieces are alike."""
    return random.Random(seed).randbytes(size)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def manifest_of(*blobs: bytes, config: bytes = b"{}") -> bytes:
    """A manifest of layers with these blobs."""
    layers = [{"mediaType": f"{MEDIA}model", "digest": digest_of(one), "size": len(one)} for one in blobs]
    about = {"mediaType": CONFIG_MEDIA, "digest": digest_of(config), "size": len(config)}
    return json.dumps(
        {"schemaVersion": 2, "mediaType": MANIFEST_MEDIA, "config": about, "layers": layers}
    ).encode()


def offer(registry: OciRegistry, name: str, *blobs: bytes) -> bytes:
    """Puts a model of these blobs into a registry; returns its manifest."""
    config = json.dumps({"of": name}).encode()
    manifest = manifest_of(*blobs, config=config)
    registry.blobs.update({digest_of(one): one for one in (config, *blobs)})
    registry.manifests[name] = manifest
    return manifest


class ModelsBed:
    """The mesh, its nodes' stores, and the registry outside.

    Attributes:
        desks: By node.
        clock: What nodes count by when they look at their keyrings anew.
        listed: What engines of a node list, where a test says it (`lists`).
    """

    def __init__(self, bed: Bed, registry: OciRegistry, folder: Path) -> None:
        self.bed = bed
        self.registry = registry
        self.folder = folder
        self.desks: dict[str, ModelDesk] = {}
        self.clock = Clock()
        self.listed: dict[str, tuple[LocalInstance, ...]] = {}

    def later(self) -> None:
        """So much later that keyrings are looked at anew."""
        self.clock.passes(3600.0)

    def root(self, node: str) -> Path:
        return self.folder / node / "models"

    def lists(self, node: str, *models: MemberModel) -> None:
        """A node's engine lists these, and the node says to the mesh what it serves of them."""
        engine = self.bed[node].engine
        engine.models = tuple(dict.fromkeys((*engine.models, *(one.name for one in models))))
        self.listed[node] = (msgspec.structs.replace(engine.instance(f"{node}/0"), models=models),)
        self.show(node)

    def show(self, node: str) -> None:
        """Has what a node serves of what its engine lists put in force."""
        if node not in self.listed:
            return
        shown = self.desks[node].signatures.shown(self.listed[node])
        self.bed[node].view.publish_local(shown)
        self.bed.publish(**{f"instance__{node}": one for one in registered(shown, node)})

    def name(self, model: str = "team/big:v1") -> str:
        return f"{self.registry.host}/{model}"

    def manifest_path(self, node: str, model: str = "big", tag: str = "v1") -> Path:
        return self.root(node) / "manifests" / self.registry.host / "team" / model / tag

    def blob(self, node: str, digest: str) -> Path:
        return self.root(node) / "blobs" / digest.replace(":", "-")

    def put(self, node: str, data: bytes, digest: str | None = None) -> Path:
        """Puts a blob into a node's store, by another digest than its own where one is given."""
        path = self.blob(node, digest or digest_of(data))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    async def pull(self, node: str, name: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        """The records of a pull at a node, asked for as a client does."""
        body = {"model": name or self.name(), "insecure": True, **fields}
        answer = await self.bed[node].ask("POST", "/api/pull", body)
        return [json.loads(line) for line in answer.body.splitlines()]


@contextlib.asynccontextmanager
async def models_bed(
    folder: Path,
    *nodes: str,
    section: ModelsSection | None = None,
    give_up_s: float = 60.0,
    sealing: frozenset[str] = frozenset(),
    registries: Sequence[PublishRegistry] = (),
) -> AsyncIterator[ModelsBed]:
    """A mesh of these nodes, each with an empty store; those of `sealing` seal their blobs."""
    engines = {node: RecordedEngine(("smollm2:135m",)) for node in nodes}
    section = section or ModelsSection(reserve=0)
    with oci_registry() as registry:
        async with mesh(folder, engines) as bed, RequestTasks(Ancillaries(random.Random(1))) as group:
            models = ModelsBed(bed, registry, folder)
            for name, node in bed.nodes.items():
                models.root(name).joinpath("blobs").mkdir(parents=True)
                where = SealFolder(folder / name / "seal")
                open_sealer(where)
                desk = models.desks[name] = ModelDesk(
                    models.root(name),
                    msgspec.structs.replace(section, sealed=name in sealing),
                    view=node.view,
                    upstreams=node.upstreams,
                    group=group,
                    busy=lambda: False,
                    changed=lambda: None,
                    running=node.gateway.running,
                    instances=lambda name=name: models.listed.get(name, ()),
                    warmed=lambda name=name: models.show(name),
                    recorded=node.gateway.record_admin,
                    give_up_s=give_up_s,
                    keys=BlobKeys(lambda where=where: where, now=models.clock),
                    registries=registries,
                )
                for path, page in desk.admin_pages().items():
                    node.gateway.serve_admins(path, page)
                node.gateway.sign_with(desk.signatures)
                node.gateway.pull_with(desk.pulls, desk.shelf, desk.receiver)
                for path, page in desk.node_pages().items():
                    node.gateway.serve_nodes(path, page)
            yield models


async def settled(models: ModelsBed) -> bool:
    """No transfer runs any more."""
    await asyncio.sleep(0)
    return not any(desk.fetcher.under_way for desk in models.desks.values())
