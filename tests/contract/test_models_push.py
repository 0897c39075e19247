"""Pushes to a node as a registry: what the spec says, what Ollama's client sends, what is refused."""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from bridge_agent.models.section import ModelsSection
from bridge_agent.models.upload_rules import IDLE_S, MOST_OF_ONE, PROVEN_S
from bridge_core.errors import BridgeError
from bridge_core.http1 import Pool
from bridge_core.model_store.layout import MANIFEST_MEDIA, MEDIA, ModelStore
from bridge_core.model_store.registry import Registry
from bridge_core.names import ModelName
from bridge_core.policy.statements import AccessPolicy, Resource, Subject
from bridge_core.snapshot import MemberModel
from bridge_engine.store.pull import pull
from bridge_engine.store.push import push
from tests.contract.gateway_bed import AUTHORITY, Answer, api_key, client_of
from tests.contract.models_bed import ModelsBed, bytes_of, digest_of, models_bed
from tests.support import eventually

KIB = 1 << 10
BLOB = bytes_of(300 * KIB)
CONFIG = b'{"of": "a model"}'
UPLOADS = "/v2/team/big/blobs/uploads/"


def layer(data: bytes, **more: Any) -> dict[str, Any]:
    return {"mediaType": f"{MEDIA}model", "digest": digest_of(data), "size": len(data), **more}


def manifest_of(*layers: dict[str, Any], config: bytes = CONFIG) -> bytes:
    about = {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": digest_of(config)}
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_MEDIA,
            "config": {**about, "size": len(config)},
            "layers": list(layers),
        }
    ).encode()


@dataclass
class Client:
    """What a client of registries does, at one node."""

    models: ModelsBed
    node: str = "a"

    async def ask(self, method: str, target: str, body: bytes = b"", **fields: str) -> Answer:
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        return await self.models.bed[self.node].ask(method, target, body, headers)

    async def begin(self, query: str = "", repository: str = "team/big") -> str:
        """The path of a new upload."""
        answer = await self.ask("POST", f"/v2/{repository}/blobs/uploads/{query}")
        assert answer.status == 202
        return urlsplit(answer.headers.get(b"location").decode()).path

    async def upload(self, data: bytes, repository: str = "team/big") -> None:
        where = await self.begin(repository=repository)
        answer = await self.ask("PUT", f"{where}?digest={digest_of(data)}", data)
        assert answer.status == 201, answer.body

    async def put(self, manifest: bytes, name: str = "team/big", tag: str = "v1") -> Answer:
        return await self.ask("PUT", f"/v2/{name}/manifests/{tag}", manifest, content_type=MANIFEST_MEDIA)


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json()["errors"][0]["code"]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with models_bed(tmp_path, "a") as models:
        yield Client(models)


def model_path(models: ModelsBed, tag: str = "v1") -> Path:
    return models.root("a") / "manifests/registry.ollama.ai/team/big" / tag


def listed(models: ModelsBed) -> None:
    """The node's engine has found what was pushed."""
    model = MemberModel("team/big:v1", digest_of(model_path(models).read_bytes())[7:])
    local = models.bed["a"].engine.instance("a/0")
    models.bed["a"].view.publish_local((msgspec.structs.replace(local, models=(model,)),))


def partials(models: ModelsBed) -> list[str]:
    folder = models.root("a") / "bridge-partial"
    return sorted(one.name for one in folder.iterdir()) if folder.exists() else []


async def test_a_push_of_our_own_engine_makes_a_model_that_can_be_pulled(
    client: Client, tmp_path: Path
) -> None:
    store = ModelStore(tmp_path / "engine")
    port = client.models.bed["a"].local.port
    name = ModelName.parse(f"127.0.0.1:{port}/team/big:v1")
    for data in (BLOB, CONFIG):
        store.blob_path(digest_of(data)).write_bytes(data)
    path = store.manifest_path(name)
    path.parent.mkdir(parents=True)
    path.write_bytes(manifest_of(layer(BLOB)))

    def pushed() -> list[dict[str, Any]]:
        return list(push(store, name, Registry(name, insecure=True)))

    assert (await asyncio.to_thread(pushed))[-1] == {"status": "success"}
    listed(client.models)
    assert client.models.blob("a", digest_of(BLOB)).read_bytes() == BLOB
    assert model_path(client.models).read_bytes() == path.read_bytes()
    assert partials(client.models) == []
    again = await asyncio.to_thread(pushed)  # nothing is sent twice
    assert [one.get("completed") for one in again if one.get("digest") == digest_of(BLOB)] == [len(BLOB)]
    other = ModelStore(tmp_path / "other")
    records = await asyncio.to_thread(lambda: list(pull(other, name, Registry(name, insecure=True))))
    assert records[-1] == {"status": "success"}
    assert other.blob_path(digest_of(BLOB)).read_bytes() == BLOB


async def test_what_ollamas_client_sends(client: Client) -> None:
    """As server/upload.go and server/images.go have it: parts by Content-Range, an etag with the digest."""
    for data in (BLOB, CONFIG):
        digest = digest_of(data)
        assert (await client.ask("HEAD", f"/v2/team/big/blobs/{digest}")).status == 404
        began = await client.ask("POST", UPLOADS)
        assert began.status == 202
        where = began.headers.get(b"location").decode()
        assert where.startswith(f"http://127.0.0.1:{client.models.bed['a'].local.port}{UPLOADS}")
        half = len(data) // 2
        for begin, part in ((0, data[:half]), (half, data[half:])):
            path = urlsplit(where).path
            sent = await client.ask(
                "PATCH",
                path,
                part,
                content_type="application/octet-stream",
                content_range=f"{begin}-{begin + len(part) - 1}",
                x_redirect_uploads="1",
            )
            assert sent.status == 202
            where = sent.headers.get(b"location").decode()
        etag = f"{hashlib.md5(data, usedforsecurity=False).hexdigest()}-2"
        done = await client.ask("PUT", f"{urlsplit(where).path}?digest={digest}&etag={etag}")
        assert done.status == 201
        assert (await client.ask("HEAD", f"/v2/team/big/blobs/{digest}")).status == 200
    put = await client.put(manifest_of(layer(BLOB)))
    assert put.status == 201
    assert put.headers.get(b"docker-content-digest").decode() == digest_of(manifest_of(layer(BLOB)))
    assert model_path(client.models).exists()
    assert client.models.bed["a"].gateway.records()[-1].model == "registry.ollama.ai/team/big:v1"


async def test_an_upload_goes_on_where_it_broke_off(client: Client) -> None:
    data = bytes_of(3 << 20)
    where = await client.begin()
    _, writer = await asyncio.open_connection("127.0.0.1", client.models.bed["a"].local.port)
    head = f"PATCH {where} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data[: 5 << 19])
    (name,) = await eventually(lambda: partials(client.models), 30)
    path = client.models.root("a") / "bridge-partial" / name
    await eventually(lambda: path.stat().st_size >= 1 << 20, 30)
    assert code(await client.ask("GET", where)) == (409, "BLOB_UPLOAD_INVALID")
    writer.close()

    async def given_up() -> Answer:
        answer = await client.ask("GET", where)
        assert answer.status == 204
        return answer

    answer = await eventually(given_up, 30)
    begin = int(answer.headers.get(b"range").partition(b"-")[2]) + 1
    assert 1 << 20 <= begin <= 5 << 19
    sent = await client.ask("PATCH", where, data[begin:], content_range=f"{begin}-{len(data) - 1}")
    assert (sent.status, sent.headers.get(b"range")) == (202, b"0-%d" % (len(data) - 1))
    assert (await client.ask("PUT", f"{where}?digest={digest_of(data)}")).status == 201
    assert client.models.blob("a", digest_of(data)).read_bytes() == data


async def test_a_part_that_is_sent_again_takes_the_place_of_what_came_of_it(client: Client) -> None:
    where = await client.begin()
    assert (await client.ask("PATCH", where, b"x" * 1000, content_range="0-999")).status == 202
    assert (await client.ask("PATCH", where, BLOB[:500], content_range="0-499")).status == 202
    assert (await client.ask("PATCH", where, BLOB[500:], content_range=f"500-{len(BLOB) - 1}")).status == 202
    assert (await client.ask("PUT", f"{where}?digest={digest_of(BLOB)}")).status == 201


async def test_a_blob_whole_in_one_request(client: Client) -> None:
    answer = await client.ask("POST", f"{UPLOADS}?digest={digest_of(BLOB)}", BLOB)
    assert answer.status == 201
    assert client.models.blob("a", digest_of(BLOB)).exists()


async def test_what_has_another_digest_is_forgotten(client: Client) -> None:
    where = await client.begin()
    answer = await client.ask("PUT", f"{where}?digest={digest_of(BLOB)}", BLOB + b"x")
    assert code(answer) == (400, "DIGEST_INVALID")
    assert not client.models.blob("a", digest_of(BLOB)).exists()
    assert partials(client.models) == []
    assert code(await client.ask("PATCH", where, BLOB)) == (404, "BLOB_UPLOAD_UNKNOWN")


async def test_an_upload_that_is_given_up_is_gone(client: Client) -> None:
    where = await client.begin()
    await client.ask("PATCH", where, BLOB)
    assert partials(client.models) != []
    assert (await client.ask("DELETE", where)).status == 204
    assert partials(client.models) == []
    assert (await client.ask("GET", where)).status == 404


@pytest.mark.parametrize(
    ("content_range", "body", "expected"),
    [
        ("5-9", b"12345", (416, "BLOB_UPLOAD_INVALID")),
        ("a-b", b"12345", (400, "BLOB_UPLOAD_INVALID")),
        ("4-0", b"12345", (416, "BLOB_UPLOAD_INVALID")),
        ("0-9", b"12345", (400, "SIZE_INVALID")),
        ("0-3", b"12345", (400, "SIZE_INVALID")),
        (f"0-{1 << 50}", b"12345", (400, "SIZE_INVALID")),
        ("-1-3", b"12345", (400, "BLOB_UPLOAD_INVALID")),
    ],
)
async def test_parts_that_do_not_fit(
    client: Client, content_range: str, body: bytes, expected: tuple[int, str]
) -> None:
    where = await client.begin()
    assert code(await client.ask("PATCH", where, body, content_range=content_range)) == expected
    assert (await client.ask("GET", where)).headers.get(b"range") == b"0-0"


@pytest.mark.parametrize(
    "digest", ["", "sha512:" + "0" * 128, "sha256:../../etc/passwd", "sha256:" + "0" * 63]
)
async def test_digests_that_are_none(client: Client, digest: str) -> None:
    where = await client.begin()
    assert code(await client.ask("PUT", f"{where}?digest={digest}", BLOB)) == (400, "DIGEST_INVALID")


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        (b"", "MANIFEST_INVALID"),
        (b"{}", "MANIFEST_INVALID"),
        (b"[" * 10_000, "MANIFEST_INVALID"),
        (manifest_of(layer(BLOB, digest="sha256:../../../etc/passwd")), "MANIFEST_INVALID"),
        (manifest_of(layer(BLOB, size=-1)), "MANIFEST_INVALID"),
        (manifest_of(layer(BLOB, size=1 << 60)), "MANIFEST_INVALID"),
        (manifest_of(layer(BLOB, size=5)), "MANIFEST_INVALID"),
        (manifest_of(layer(BLOB, name="../../x")), "MANIFEST_INVALID"),
        (manifest_of(layer(BLOB, mediaType="application/vnd.x.symlink")), "MANIFEST_INVALID"),
        (manifest_of(layer(BLOB), layer(b"never sent")), "MANIFEST_BLOB_UNKNOWN"),
    ],
)
async def test_manifests_that_are_not_taken(client: Client, manifest: bytes, expected: str) -> None:
    for data in (BLOB, CONFIG):
        await client.upload(data)
    assert code(await client.put(manifest)) == (400, expected)
    assert not model_path(client.models).exists()


async def test_a_manifest_does_not_give_away_a_blob_that_its_writer_does_not_have(client: Client) -> None:
    secret = bytes_of(10 * KIB, 9)
    client.models.put("a", secret)  # of a model that this caller may not pull, or of none
    await client.upload(CONFIG)
    assert code(await client.put(manifest_of(layer(secret)))) == (400, "MANIFEST_BLOB_UNKNOWN")
    assert (await client.ask("HEAD", f"/v2/team/big/blobs/{digest_of(secret)}")).status == 404
    await client.upload(secret)  # who has its bytes may name it
    assert (await client.put(manifest_of(layer(secret)))).status == 201


async def test_a_blob_of_a_model_that_the_caller_may_pull_is_mounted(client: Client) -> None:
    for data in (BLOB, CONFIG):
        await client.upload(data)
    await client.put(manifest_of(layer(BLOB)), tag="latest")
    uploads = "/v2/team/copy/blobs/uploads/"
    query = f"?mount={digest_of(BLOB)}&from=team/big"
    assert (await client.ask("POST", uploads + query)).status == 201
    for bad in (
        f"?mount={digest_of(b'x')}&from=team/big",
        f"?mount={digest_of(BLOB)}&from=../..",
        "?mount=x",
    ):
        assert (await client.ask("POST", uploads + bad)).status == 202


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("PUT", "/v2/team/big/manifests/..", 400),
        ("PUT", "/v2/%2e%2e/big/manifests/v1", 400),
        ("PUT", f"/v2/team/big/manifests/sha256:{'0' * 64}", 400),
        ("POST", "/v2/team/big/blobs/uploads/../../x", 405),
        ("PATCH", UPLOADS + "0" * 32, 404),
        ("PATCH", UPLOADS, 405),
        ("POST", UPLOADS + "0" * 32, 404),
        ("DELETE", "/v2/team/big/manifests/v1", 405),
        ("PUT", "/v2/a/b/c/d/manifests/v1", 405),
    ],
)
async def test_addresses_that_are_none(client: Client, method: str, path: str, expected: int) -> None:
    assert (await client.ask(method, path, b"x")).status == expected


async def test_uploads_are_bounded_and_end_when_nothing_comes(client: Client) -> None:
    receiver, ahead = client.models.desks["a"].receiver, [0.0]
    now = receiver._now
    receiver._now = lambda: now() + ahead[0]
    first = await client.begin()
    await client.ask("PATCH", first, BLOB)
    for _ in range(MOST_OF_ONE - 1):
        await client.begin()
    assert code(await client.ask("POST", UPLOADS)) == (429, "TOOMANYREQUESTS")
    ahead[0] = IDLE_S
    await client.begin()
    assert (await client.ask("GET", first)).status == 404
    assert partials(client.models) == []


async def test_a_whole_upload_that_is_refused_leaves_nothing_behind(client: Client) -> None:
    for _ in range(MOST_OF_ONE):
        answer = await client.ask(
            "POST", f"{UPLOADS}?digest={digest_of(BLOB)}", BLOB, content_range="from here on"
        )
        assert code(answer) == (400, "BLOB_UPLOAD_INVALID")
    assert partials(client.models) == []
    await client.upload(BLOB)


async def test_an_address_that_asks_for_too_much_is_refused_in_words(client: Client) -> None:
    many = "&".join(f"a{number}=1" for number in range(20))
    assert code(await client.ask("POST", f"{UPLOADS}?{many}")) == (400, "UNSUPPORTED")
    assert code(await client.ask("PUT", f"{await client.begin()}?{many}", BLOB)) == (400, "UNSUPPORTED")


async def test_a_blob_that_no_manifest_came_for_is_removed_and_one_of_a_model_stays(client: Client) -> None:
    receiver = client.models.desks["a"].receiver
    now = receiver._now
    for data in (BLOB, CONFIG, b"an orphan"):
        await client.upload(data)
    await client.put(manifest_of(layer(BLOB)))
    receiver._now = lambda: now() + PROVEN_S
    await receiver.tidy()
    assert not client.models.blob("a", digest_of(b"an orphan")).exists()
    assert client.models.blob("a", digest_of(BLOB)).exists()


@pytest.mark.parametrize(
    "section", [ModelsSection(reserve=1 << 49), ModelsSection(reserve=0, disk_budget=100 * KIB)]
)
async def test_a_disk_without_room_refuses_before_it_is_full(tmp_path: Path, section: ModelsSection) -> None:
    async with models_bed(tmp_path, "a", section=section) as models:
        client = Client(models)
        where = await client.begin()
        answer = await client.ask("PUT", f"{where}?digest={digest_of(BLOB)}", BLOB)
        assert code(answer) == (507, "DENIED")
        assert not models.blob("a", digest_of(BLOB)).exists()


async def test_over_tls_a_key_needs_the_right_to_create_here(client: Client) -> None:
    may = AccessPolicy(
        "push",
        (Subject("User", "pusher"),),
        (Resource(("Model",), ("team/*",)), Resource(("Node",), ("a",))),
        ("create",),
    )
    client.models.bed.publish(
        client__pusher=client_of("pusher"), client__other=client_of("other"), policy__push=may
    )
    async with client.models.bed["a"].https() as server:
        context = ssl.create_default_context(cadata=AUTHORITY.pem.decode())
        context.check_hostname = False
        pool = Pool(("127.0.0.1", server.port), ssl=context)

        async def ask(who: str, method: str, target: str, body: bytes = b"") -> tuple[int, str]:
            key = [(b"authorization", f"Bearer {api_key(who)}".encode())] if who else []
            try:
                async with pool.request(method, target, [*key, (b"host", b"bed-host:1")], body) as answer:
                    await answer.read()
                    return answer.status, (answer.headers.get(b"location") or b"").decode()
            except BridgeError:  # who is refused need not be heard to the end
                return 0, ""

        try:
            for who, expected in (("other", 403), ("", 401)):
                assert (await ask(who, "POST", UPLOADS))[0] == expected
            status, where = await ask("pusher", "POST", UPLOADS)
            assert status == 202
            assert where.startswith("https://")
            path = urlsplit(where).path
            assert (await ask("other", "PATCH", path, b"x"))[0] in (0, 403)
            assert (await ask("pusher", "PUT", f"{path}?digest={digest_of(BLOB)}", BLOB))[0] == 201
            assert (await ask("pusher", "POST", f"{UPLOADS}?digest={digest_of(CONFIG)}", CONFIG))[0] == 201
            manifest = manifest_of(layer(BLOB))
            assert (await ask("pusher", "PUT", "/v2/private/big/manifests/v1", manifest))[0] == 403
            assert (await ask("pusher", "PUT", "/v2/team/big/manifests/v1", manifest))[0] == 201
        finally:
            await pool.close()
