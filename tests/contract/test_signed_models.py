"""Models that have to be signed: what comes to a node, what it serves, and how one is signed."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bridge_agent.signing.gate import SignatureGate
from bridge_cli import signing
from bridge_cli.access import Access
from bridge_cli.models_command import model_reports
from bridge_cli.models_remote import ask_nodes, copies_of
from bridge_core import model_answers
from bridge_core.clients import Admin
from bridge_core.errors import BridgeError, Fatal
from bridge_core.model_answers import ModelAsked
from bridge_core.model_signing.bundle import write_bundle
from bridge_core.model_signing.content import MEDIA as SIGNATURE
from bridge_core.model_signing.content import content_of, with_signatures
from bridge_core.model_signing.keys import signed_with
from bridge_core.model_signing.policies import ModelSignaturePolicy, Signer
from bridge_core.model_signing.statement import write_statement
from bridge_core.model_store.layout import MANIFEST_MEDIA, Layer
from bridge_core.names import DEFAULT_HOST, canonical_or_same
from bridge_core.snapshot import Backend, Instance, MemberModel, Node, Route
from tests.contract.gateway_bed import Answer, issue, mesh
from tests.contract.models_bed import ModelsBed, bytes_of, digest_of, models_bed, offer
from tests.fakes.recorded_engine import RecordedEngine
from tests.support import eventually

KEY = ec.derive_private_key(7, ec.SECP256R1())
STRANGER = ec.derive_private_key(8, ec.SECP256R1())
BLOB = bytes_of(1 << 16)


def pem_of(key: ec.EllipticCurvePrivateKey) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def policy(*models: str, shadow: bool = False) -> ModelSignaturePolicy:
    return ModelSignaturePolicy("company", models or ("*",), (Signer("release", pem_of(KEY)),), shadow)


def signed(manifest: bytes, key: ec.EllipticCurvePrivateKey = KEY) -> tuple[bytes, bytes]:
    """A manifest with a signature of this key, and the signature."""
    content = content_of(manifest)
    bundle = write_bundle(signed_with(key, write_statement("m", content)))
    return with_signatures(content, [Layer(SIGNATURE, digest_of(bundle), len(bundle))]), bundle


@pytest.fixture
async def models(tmp_path: Path) -> AsyncIterator[ModelsBed]:
    async with models_bed(tmp_path, "a", "b") as bed, asyncio.TaskGroup() as group:
        bed.bed.publish(
            admin__op=Admin("op", "operator"),
            admin__eye=Admin("eye", "viewer"),
            node__b=Node("b", f"127.0.0.1:{bed.bed['b'].peer.port}"),
        )
        tasks = [group.create_task(desk.signatures.run()) for desk in bed.desks.values()]
        yield bed
        for task in tasks:
            task.cancel()


def offer_signed(
    models: ModelsBed, key: ec.EllipticCurvePrivateKey = KEY, name: str = "team/big:v1"
) -> bytes:
    """Puts a signed model into the registry outside; returns its manifest."""
    manifest, bundle = signed(offer(models.registry, name, BLOB), key)
    models.registry.manifests[name] = manifest
    models.registry.blobs[digest_of(bundle)] = bundle
    return manifest


def member(models: ModelsBed, manifest: bytes, name: str = "") -> MemberModel:
    return MemberModel(name or models.name(), hashlib.sha256(manifest).hexdigest())


def lay(models: ModelsBed, node: str, model: str, *blobs: bytes) -> bytes:
    """A model that an engine made on a node's disk, without a signature; returns its manifest."""
    name = f"{model}:v1"
    manifest = offer(models.registry, name, *blobs)
    for blob in (*blobs, json.dumps({"of": name}).encode()):
        models.put(node, blob)
    path = models.root(node) / "manifests" / DEFAULT_HOST / "library" / model / "v1"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(manifest)
    return manifest


async def ask(models: ModelsBed, model: str, node: str = "a") -> Answer:
    return await models.bed[node].infer(model=model, stream=False)


async def served(models: ModelsBed, model: str, node: str = "a") -> None:
    async def answered() -> bool:
        return (await ask(models, model, node)).status == 200

    await eventually(answered, 30)


# -- what comes


async def test_a_signed_model_is_pulled_and_served_and_goes_on_to_other_nodes(models: ModelsBed) -> None:
    models.bed.publish(signature__company=policy())
    manifest = offer_signed(models)
    assert (await models.pull("a"))[-1] == {"status": "success"}
    assert models.manifest_path("a").read_bytes() == manifest
    models.lists("a", member(models, manifest))
    await served(models, models.name())
    await served(models, models.name(), "b")  # where it is not, by way of where it is
    models.registry.manifests.clear()  # only the mesh has it now
    assert (await models.pull("b"))[-1] == {"status": "success"}
    assert models.manifest_path("b").read_bytes() == manifest
    (report,) = [one for one in copies_of(models.bed["a"].view.current, models.name()) if one.node == "a"]
    assert (report.signed, report.withheld) == (("release (company)",), "")


@pytest.mark.parametrize("key", [None, STRANGER])
async def test_what_nobody_of_the_policy_signed_is_not_pulled(
    models: ModelsBed, key: ec.EllipticCurvePrivateKey | None
) -> None:
    models.bed.publish(signature__company=policy())
    if key is None:
        offer(models.registry, "team/big:v1", BLOB)
    else:
        offer_signed(models, key)
    error = (await models.pull("a"))[-1]["error"]
    assert "team/big:v1 is refused: the ModelSignaturePolicy company asks for a signature of release" in error
    assert "`bridgectl models sign`" in error
    assert not models.manifest_path("a").exists()
    assert not models.blob("a", digest_of(BLOB)).exists()  # nor was it fetched to find that out
    (node, *_) = (
        await models.bed["a"].ask(
            "POST", "/api/pull", {"model": models.name(), "insecure": True, "stream": False}
        ),
        None,
    )
    assert node.status == 500


async def test_a_pull_takes_the_meshs_own_where_the_registrys_is_not_signed(models: ModelsBed) -> None:
    plain = offer(models.registry, "team/big:v1", BLOB)
    assert (await models.pull("a"))[-1] == {"status": "success"}
    manifest, bundle = signed(plain)
    models.put("a", bundle)
    models.manifest_path("a").write_bytes(manifest)
    models.bed.publish(signature__company=policy())
    models.lists("a", member(models, manifest))
    await served(models, models.name())
    records = await models.pull("b")
    assert records[-1] == {"status": "success"}
    assert {"status": "not signed at its registry: taken as the mesh has it"} in records
    assert models.manifest_path("b").read_bytes() == manifest
    assert (await models.pull("a"))[-1] == {"status": "success"}  # nor does one undo it here
    assert models.manifest_path("a").read_bytes() == manifest


async def test_an_edited_copy_that_another_node_gives_is_refused(models: ModelsBed) -> None:
    """A node that lies about what it has is believed no more than a registry."""
    manifest, bundle = signed(offer(models.registry, "team/big:v1", BLOB))
    models.registry.manifests.clear()
    other = bytes_of(1 << 10, seed=2)
    edited = manifest.replace(digest_of(BLOB).encode(), digest_of(other).encode())
    edited = edited.replace(b'"size":65536', b'"size":1024')
    for blob in (other, json.dumps({"of": "team/big:v1"}).encode(), bundle):
        models.put("b", blob)
    models.manifest_path("b").parent.mkdir(parents=True)
    models.manifest_path("b").write_bytes(edited)
    # As a node says that keeps to no policy.
    claimed = Instance("b/0", "b", models=(member(models, edited),))
    models.bed.publish(signature__company=policy(), instance__b=claimed)
    error = (await models.pull("a"))[-1]["error"]
    assert "is refused" in error
    assert not models.manifest_path("a").exists()


async def push(models: ModelsBed, manifest: bytes, *blobs: bytes, tag: str = "v1") -> Answer:
    node = models.bed["a"]
    for blob in (*blobs, json.dumps({"of": "team/big:v1"}).encode()):
        where = f"/v2/team/big/blobs/uploads/?digest={digest_of(blob)}"
        assert (await node.ask("POST", where, blob)).status == 201
    kind = {"content-type": MANIFEST_MEDIA}
    return await node.ask("PUT", f"/v2/team/big/manifests/{tag}", manifest, kind)


async def test_a_push_has_to_be_signed(models: ModelsBed) -> None:
    models.bed.publish(signature__company=policy("team/*"))
    manifest = offer(models.registry, "team/big:v1", BLOB)
    refused = await push(models, manifest, BLOB)
    assert (refused.status, refused.json()["errors"][0]["code"]) == (403, "DENIED")
    assert "signature of release" in refused.json()["errors"][0]["message"]
    whole, bundle = signed(manifest)
    assert (await push(models, whole, BLOB)).json()["errors"][0]["code"] == "MANIFEST_BLOB_UNKNOWN"
    assert (await push(models, whole, BLOB, bundle)).status == 201
    assert (await push(models, manifest, tag="latest")).status == 403  # another tag is the same policy's


async def test_nothing_is_made_under_a_name_that_has_to_be_signed(models: ModelsBed) -> None:
    models.bed.publish(signature__company=policy("prod/*", "risk"))
    node = models.bed["a"]
    spellings = ("risk", "RISK:latest", "library/risk", "registry.ollama.ai/library/risk:latest", "prod/x:v2")
    for name in spellings:
        for field in ("model", "name"):
            body = {field: name, "from": "smollm2:135m"}
            for where in ({}, {"X-Bridge-Node": "b"}, {"X-Bridge-Node": "all"}):
                answer = await node.ask("POST", "/api/create", body, where)
                assert answer.status == 403, (name, where, answer.body)
                assert "what is made here has no signature" in answer.json()["error"]
        answer = await node.ask("POST", "/api/copy", {"source": "smollm2:135m", "destination": name})
        assert answer.status == 404  # it is not in this store
    made = [one.target for node in models.bed.nodes.values() for one in node.engine.asked]
    assert b"/api/create" not in made
    assert b"/api/copy" not in made
    free = await node.ask("POST", "/api/create", {"model": "risky", "from": "smollm2:135m"})
    assert free.status == 200


async def test_a_copy_carries_its_signature_and_none_goes_around_it(models: ModelsBed) -> None:
    models.bed.publish(signature__company=policy("prod/*"))
    lay(models, "a", "plain", BLOB)
    manifest = lay(models, "a", "good", BLOB)
    whole, bundle = signed(manifest)
    models.put("a", bundle)
    path = models.root("a") / "manifests" / DEFAULT_HOST / "library" / "good" / "v1"
    path.write_bytes(whole)
    node = models.bed["a"]
    copy = {"source": "plain:v1", "destination": "prod/m"}
    for where in ({}, {"X-Bridge-Node": "a"}):
        answer = await node.ask("POST", "/api/copy", copy, where)
        assert answer.status == 403
        assert "prod/m:latest is refused: the ModelSignaturePolicy company asks" in answer.json()["error"]
    everywhere = await node.ask("POST", "/api/copy", copy, {"X-Bridge-Node": "all"})
    assert (everywhere.status, "at one node" in everywhere.json()["error"]) == (403, True)
    answer = await node.ask("POST", "/api/copy", {"source": "good:v1", "destination": "prod/m"})
    assert (answer.status, answer.body) == (200, b"")
    made = models.root("a") / "manifests" / DEFAULT_HOST / "prod" / "m" / "latest"
    assert made.read_bytes() == whole
    node.engine.models += ("prod/m",)
    assert (await ask(models, "prod/m")).status == 200  # before the engine listed it
    lost = await node.ask("POST", "/api/copy", {"source": "gone", "destination": "prod/n"})
    assert (lost.status, lost.json()) == (404, {"error": 'model "gone" not found'})


# -- what is served


async def test_what_was_there_before_the_policy_is_not_served_until_it_is_signed(models: ModelsBed) -> None:
    manifest = lay(models, "a", "old", BLOB)
    models.lists("a", member(models, manifest, "old:v1"))
    assert (await ask(models, "old:v1")).status == 200
    models.bed.publish(signature__company=policy(), route__chat=Route("chat", (Backend("old:v1"),)))

    async def withheld() -> Answer:
        answer = await ask(models, "old:v1")
        assert "it has no signature" in answer.json().get("error", "")
        return answer

    answer = await eventually(withheld, 30)
    assert answer.status == 403
    assert answer.json()["error"].startswith("model 'old:v1' is not served: the ModelSignaturePolicy company")
    for name, node in (
        ("OLD:v1", "a"),
        ("library/old:v1", "a"),
        ("chat", "a"),
        ("old:v1", "b"),
        ("chat", "b"),
    ):
        assert (await ask(models, name, node)).status == 403, name
    openai = await models.bed["a"].ask(
        "POST", "/v1/chat/completions", {"model": "old:v1", "messages": [{"role": "user", "content": "x"}]}
    )
    assert (openai.status, openai.json()["error"]["message"][:25]) == (403, "model 'old:v1' is not ser")
    assert (await models.bed["a"].ask("GET", "/v1/models/old:v1")).status == 403
    tags = (await models.bed["a"].ask("GET", "/api/tags")).json()["models"]
    assert [one["name"] for one in tags] == ["smollm2:135m"]  # the other node's, which is attached here
    assert not any(b"old" in one.body for node in models.bed.nodes.values() for one in node.engine.asked[1:])
    (report,) = [one for one in model_reports(models.bed["a"].view.current) if one.name == "old:v1"]
    assert [(one.node, "it has no signature" in one.why) for one in report.withheld] == [("a", True)]
    assert models.desks["a"].signatures.concerns()[0].startswith("old:v1 is not served: ")
    whole, bundle = signed(manifest)
    models.put("a", bundle)
    path = models.root("a") / "manifests" / DEFAULT_HOST / "library" / "old" / "v1"
    path.write_bytes(whole)
    models.lists("a", member(models, whole, "old:v1"))
    await served(models, "old:v1")
    await served(models, "chat", "b")
    models.bed.publish(signature__company=None)
    await eventually(lambda: not models.desks["a"].signatures.concerns(), 30)


async def test_a_model_that_is_exchanged_on_the_disk_is_withheld(models: ModelsBed) -> None:
    models.bed.publish(signature__company=policy())
    manifest = lay(models, "a", "m", BLOB)
    whole, bundle = signed(manifest)
    models.put("a", bundle)
    path = models.root("a") / "manifests" / DEFAULT_HOST / "library" / "m" / "v1"
    path.write_bytes(whole)
    models.lists("a", member(models, whole, "m:v1"))
    await served(models, "m:v1")
    path.write_bytes(manifest)
    models.lists("a", member(models, manifest, "m:v1"))
    assert (await ask(models, "m:v1")).status == 403  # at once, before anybody looked


async def test_what_was_found_of_a_model_that_is_gone_is_forgotten_and_asked_anew(models: ModelsBed) -> None:
    models.bed.publish(signature__company=policy())
    manifest = offer_signed(models)
    assert (await models.pull("a"))[-1] == {"status": "success"}
    gate, name = models.desks["a"].signatures, canonical_or_same(models.name())
    assert not gate.refuses(name)  # judged when it was pulled, before any engine listed it
    models.lists("a", member(models, manifest))
    await served(models, models.name())
    models.lists("a")
    await eventually(lambda: gate.refuses(name), 30)
    models.lists("a", member(models, manifest))
    await served(models, models.name())


async def test_another_policy_asks_anew(models: ModelsBed) -> None:
    models.bed.publish(signature__company=policy("m:v1", shadow=True))
    manifest = lay(models, "a", "m", BLOB)
    models.lists("a", member(models, manifest, "m:v1"))
    await served(models, "m:v1")
    await eventually(models.desks["a"].signatures.concerns, 30)
    assert models.desks["a"].signatures.concerns()[0].startswith("m:v1 would not be")
    models.bed.publish(signature__company=policy("m:v1"))

    async def withheld() -> bool:
        return (await ask(models, "m:v1")).status == 403

    await eventually(withheld, 30)
    models.bed.publish(signature__company=policy("other"))
    await served(models, "m:v1")


async def test_models_of_an_engine_with_a_store_of_its_own_are_not_served(models: ModelsBed) -> None:
    models.bed.publish(signature__company=policy())
    models.listed["b"] = ()
    shown = models.desks["b"].signatures.shown((models.bed["b"].engine.instance("b/0"),))
    assert shown[0].models == ()
    assert "the engine that has it is attached" in shown[0].withheld[0].why


async def test_a_node_whose_engines_bring_models_themselves_brings_none_that_has_to_be_signed(
    tmp_path: Path,
) -> None:
    async with mesh(tmp_path, {"a": RecordedEngine()}) as bed:
        node = bed["a"]

        def show() -> None:
            node.view.publish_local(gate.shown((node.engine.instance("a/0"),)))

        gate = SignatureGate(node.view, None, lambda: (), show)
        node.gateway.sign_with(gate)
        bed.publish(signature__company=policy("prod/*", "smollm2:135m"))
        for where in ({}, {"X-Bridge-Node": "a"}, {"X-Bridge-Node": "all"}):
            for body in ({"model": "prod/m"}, {"name": "Prod/m:v2", "stream": False}):
                answer = await node.ask("POST", "/api/pull", body, where)
                assert answer.status == 403, (where, answer.body)
                assert "an engine that pulls it by itself checks no signature" in answer.json()["error"]
        copied = await node.ask("POST", "/api/copy", {"source": "smollm2:135m", "destination": "prod/m"})
        assert (copied.status, "no store of its own" in copied.json()["error"]) == (403, True)
        assert node.engine.asked == []
        assert (await node.ask("POST", "/api/pull", {"model": "free"})).status == 200
        await eventually(lambda: node.view.index.withheld(f"{DEFAULT_HOST}/library/smollm2:135m"), 30)
        refused = await node.infer(stream=False)
        assert "its store is its own" in refused.json()["error"]


# -- signing


def access(models: ModelsBed, who: str = "op") -> Access:
    cert, key, ca = issue(models.folder, "admin", who)
    return Access((), ca, cert, key)


def key_file(folder: Path, key: ec.EllipticCurvePrivateKey = KEY) -> Path:
    path = folder / "release.pem"
    form = serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    path.chmod(0o600)
    return path


async def sign(models: ModelsBed, name: str, *nodes: str, who: str = "op") -> list[signing.Signed]:
    to, snapshot = access(models, who), models.bed["a"].view.current
    there = await signing.signable(to, snapshot, name, list(nodes))
    return await signing.bring(
        to, snapshot, there, signing.make_signature(there, key_file(models.folder), None)
    )


async def test_an_admin_signs_what_is_there_everywhere_alike(models: ModelsBed) -> None:
    manifests = [lay(models, node, "m", BLOB) for node in "ab"]
    models.bed.publish(signature__company=policy())
    for node, manifest in zip("ab", manifests, strict=True):
        models.lists(node, member(models, manifest, "m:v1"))
    done = await sign(models, "m:v1")
    assert [(one.node, one.fault) for one in done] == [("a", ""), ("b", "")]
    paths = [models.root(node) / "manifests" / DEFAULT_HOST / "library" / "m" / "v1" for node in "ab"]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    for node, path in zip("ab", paths, strict=True):
        models.lists(node, member(models, path.read_bytes(), "m:v1"))
    await served(models, "m:v1")
    # Once more by the same key: in the place of the first, which goes.
    first = content_of(paths[0].read_bytes()).signatures
    await sign(models, "m:v1", "a")
    second = content_of(paths[0].read_bytes()).signatures
    assert (len(first), len(second)) == (1, 1)
    assert not models.blob("a", first[0].digest).exists() or first == second
    record = models.bed["a"].gateway.records()[-1]
    assert (record.path, record.caller.who.name) == (model_answers.SIGN, "op")


async def test_verify_says_by_whom_a_model_is_signed_or_that_it_is_not(models: ModelsBed) -> None:
    for name in ("good", "bad"):
        models.lists("a", member(models, lay(models, "a", name, BLOB), f"{name}:v1"))
    models.bed.publish(signature__company=policy())
    await sign(models, "good:v1", "a")
    (at_a,) = await ask_nodes(
        access(models, "eye"),
        models.bed["a"].view.current,
        ["a"],
        path=model_answers.VERIFY,
        asked=ModelAsked(),
        show=lambda _node, _record: None,
    )
    assert at_a.done == "5 blobs read, 0 of them wrong; good:v1 is signed by release (company)"
    assert "bad:v1 sha256:" in at_a.faults[0]
    assert "it has no signature" in at_a.faults[0]


async def test_who_may_not_or_signs_something_else_changes_nothing(models: ModelsBed) -> None:
    manifest = lay(models, "a", "m", BLOB)
    other = lay(models, "b", "m", bytes_of(1 << 10, seed=9))
    models.lists("a", member(models, manifest, "m:v1"))
    models.lists("b", member(models, other, "m:v1"))
    with pytest.raises(BridgeError, match="this takes an admin of the role operator"):
        await sign(models, "m:v1", "a", who="eye")
    with pytest.raises(Fatal, match=r"nodes have different models by the name m:v1: a [0-9a-f]{12}; b "):
        await sign(models, "m:v1")
    with pytest.raises(BridgeError, match="nobody has gone"):
        await sign(models, "gone")
    to, snapshot = access(models), models.bed["a"].view.current
    at_a = await signing.signable(to, snapshot, "m:v1", ["a"])
    at_b = await signing.signable(to, snapshot, "m:v1", ["b"])
    bundle = signing.make_signature(at_b, key_file(models.folder), None)
    (done,) = await signing.bring(to, snapshot, at_a, bundle)
    assert "is none of this model's" in done.fault
    (models.folder / "model.sig").write_bytes(bundle)
    with pytest.raises(Fatal, match="is none of this model's"):
        signing.read_signature(at_a, models.folder / "model.sig")
    assert signing.read_signature(at_b, models.folder / "model.sig") == bundle
    path = models.root("a") / "manifests" / DEFAULT_HOST / "library" / "m" / "v1"
    assert path.read_bytes() == manifest
    open_key = key_file(models.folder)
    open_key.chmod(0o644)
    with pytest.raises(Fatal, match="is open to other users"):
        signing.make_signature(at_a, open_key, None)
    signing.write_out(at_a, models.folder / "out")
    assert (models.folder / "out" / "manifest.json").read_bytes() == at_a.content.data
