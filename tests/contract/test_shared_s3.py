"""A bucket as shared storage: one suite for a store in memory and a real radosgw, then hostile stores."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import secrets
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from bridge_agent.models.piece_rules import piece_count, span
from bridge_agent.models.section import ModelsSection
from bridge_agent.models.shared.hold import held
from bridge_agent.models.shared.s3.client import S3Client
from bridge_agent.models.shared.s3.settings import SettingsFile
from bridge_agent.models.shared.s3.storage import S3Storage
from bridge_agent.models.shared.s3.writes import PART, S3Writer, part_pieces
from bridge_agent.models.shared.section import SharedSection
from bridge_agent.models.shared.storage import PublishFault
from bridge_agent.models.shared.tier import SharedTier, TierFault, TierLacks
from bridge_core import model_answers
from bridge_core.clients import Admin
from bridge_core.model_answers import ModelAsked
from bridge_core.names import ModelName
from bridge_core.snapshot import Node
from tests.contract.models_bed import MIB, ModelsBed, bytes_of, digest_of, manifest_of, models_bed, offer
from tests.contract.test_models_admin_commands import ask
from tests.fakes.s3_store import SECRET, S3Store, s3_store
from tests.shared_bed import Leases, forever, goes_on, pieces

SIZE = 9 * MIB + 321  # three pieces
BLOB = bytes_of(SIZE)
HEX = digest_of(BLOB)[7:]
LARGE = BLOB + BLOB + BLOB[: 3 * MIB]  # two parts
NAME = ModelName.parse("team/big:v1")
PLACE = f"{NAME.host}/team/big/v1"


def written(path: Path, settings: dict[str, Any]) -> SharedSection:
    """A section whose file says this."""
    path.write_text(json.dumps(settings))
    path.chmod(0o600)
    return SharedSection(s3=f"file:{path}", publish=True, timeout_s=60.0)


def client_of(section: SharedSection) -> S3Client:
    return S3Client(SettingsFile(section.s3, {}), section.timeout_s)


@pytest.fixture
def store() -> Iterator[S3Store]:
    with s3_store() as made:
        yield made


@pytest.fixture(params=["memory", "radosgw"])
def section(request: Any, tmp_path: Path) -> Iterator[SharedSection]:
    """Where an empty tier is."""
    with contextlib.ExitStack() as stack:
        if request.param == "memory":
            settings = stack.enter_context(s3_store()).settings()
        elif "BRIDGE_TEST_S3" not in os.environ:
            pytest.skip("no BRIDGE_TEST_S3: bench/rados_gateway.sh")
        else:
            real = json.loads(Path(os.environ["BRIDGE_TEST_S3"]).read_text())
            settings = {**real, "prefix": f"test/{secrets.token_hex(4)}"}
        section = written(tmp_path / "s3.json", settings)
        if request.param == "radosgw":
            client_of(section).ask("PUT", "", most=MIB)  # the bucket; one that is there is no fault
        yield section


def tier_of(section: SharedSection) -> SharedTier:
    return SharedTier(section)


def publish(tier: SharedTier, data: bytes = BLOB) -> bytes:
    writer = tier.writer()
    writer.claim(NAME, "mark", forever)
    writer.blob(digest_of(data)[7:], len(data), pieces(data), goes_on=goes_on)
    manifest = manifest_of(data)
    writer.list_model(NAME, manifest, "mark", forever)
    return manifest


def everything(tier: SharedTier, data: bytes) -> bytes:
    blob = tier.open(digest_of(data)[7:], len(data))
    try:
        return b"".join(blob.piece(piece) for piece in range(piece_count(len(data))))
    finally:
        blob.close()


# -- what every store keeps


def test_what_was_published_is_read_whole(section: SharedSection) -> None:
    tier = tier_of(section)
    assert tier.manifest(NAME) is None
    manifest = publish(tier)
    assert tier.manifest(NAME) == tier.manifest(ModelName.parse("Team/BIG:v1")) == manifest
    assert everything(tier, BLOB) == BLOB
    tier.look()
    assert (tier.said().models, tier.said().fault) == (("team/big:v1",), "")
    with pytest.raises(TierLacks):
        tier.open("ab" * 32, 5)
    blob = tier.open(HEX, SIZE)
    assert blob.read(SIZE - 5, 100) == BLOB[-5:]
    assert blob.read(SIZE, 100) == b""


@pytest.mark.parametrize("data", [b"", b"x", LARGE], ids=["empty", "a byte", "two parts"])
def test_blobs_of_all_sizes(section: SharedSection, data: bytes) -> None:
    tier = tier_of(section)
    through: list[int] = []
    tier.writer().blob(digest_of(data)[7:], len(data), pieces(data), goes_on=through.append)
    assert through[-1] == len(data)
    assert everything(tier, data) == data


def test_a_tier_has_one_identity_and_keeps_it(section: SharedSection) -> None:
    first = tier_of(section).writer().identity()
    assert len(first) == 32
    assert tier_of(section).writer().identity() == first


def test_bytes_with_another_digest_are_not_kept_in_one_part_or_several(section: SharedSection) -> None:
    tier = tier_of(section)
    for data in (BLOB, LARGE):
        with pytest.raises(PublishFault, match="does not have its digest"):
            tier.writer().blob(digest_of(data)[7:], len(data), pieces(data[:-1] + b"\0"), goes_on=goes_on)
        with pytest.raises(TierLacks):
            tier.open(digest_of(data)[7:], len(data))


def test_who_leaves_midway_leaves_nothing(section: SharedSection) -> None:
    def leave(_: int) -> None:
        raise PublishFault("nobody waits")

    for data in (BLOB, LARGE):
        with pytest.raises(PublishFault, match="nobody waits"):
            tier_of(section).writer().blob(digest_of(data)[7:], len(data), pieces(data), goes_on=leave)
        with pytest.raises(TierLacks):
            tier_of(section).open(digest_of(data)[7:], len(data))


def test_a_writer_that_stood_still_replaces_nothing(section: SharedSection) -> None:
    first, later = (tier_of(section).writer() for _ in range(2))
    old, new = manifest_of(BLOB), manifest_of(BLOB, config=b'{"new": 1}')
    first.claim(NAME, "first", forever)
    later.claim(NAME, "second", forever)
    later.list_model(NAME, new, "second", forever)
    with pytest.raises(PublishFault, match="another writer began"):
        first.list_model(NAME, old, "first", forever)
    with pytest.raises(PublishFault, match="another writer began"):
        first.unlist(NAME, PLACE, "first", forever)
    with pytest.raises(PublishFault, match=r"lease .* is over"):
        later.list_model(NAME, old, "second", lambda: False)
    assert tier_of(section).manifest(NAME) == new


@pytest.mark.parametrize("listed", [False, True])
def test_a_writer_that_stands_still_after_its_last_look_replaces_nothing(
    section: SharedSection, listed: bool
) -> None:
    """The look at the lease is the last thing before the conditional PUT: another publishes meanwhile."""
    first, later = (tier_of(section).writer() for _ in range(2))
    if listed:
        publish(tier_of(section))
    new = manifest_of(BLOB, config=b'{"new": 1}')
    first.claim(NAME, "first", forever)

    def meanwhile() -> bool:
        later.claim(NAME, "second", forever)
        later.list_model(NAME, new, "second", forever)
        return True

    with pytest.raises(PublishFault, match="at this moment"):
        first.list_model(NAME, manifest_of(BLOB, config=b"{1}"), "first", meanwhile)
    assert tier_of(section).manifest(NAME) == new


def test_what_is_removed_is_gone_and_may_come_again(section: SharedSection) -> None:
    tier = tier_of(section)
    manifest, writer = publish(tier), tier.writer()
    assert [one.place for one in tier.storage.listed()] == [PLACE]
    writer.claim(NAME, "remover", forever)
    writer.unlist(NAME, PLACE, "remover", forever)
    writer.remove_blob(HEX)
    writer.remove_blob(HEX)  # one that is gone
    assert tier.manifest(NAME) is None
    assert list(tier.storage.listed()) == []
    with pytest.raises(TierLacks):
        tier.open(HEX, SIZE)
    assert publish(tier) == tier.manifest(NAME) == manifest
    assert everything(tier, BLOB) == BLOB


def test_a_blob_that_was_replaced_gives_no_byte_more_to_who_had_it_open(section: SharedSection) -> None:
    tier = tier_of(section)
    publish(tier)
    blob = tier.open(HEX, SIZE)
    assert blob.piece(0) == BLOB[: 4 * MIB]
    client_of(section).ask("PUT", f"blobs/sha256-{HEX}", body=bytes_of(SIZE, seed=3), most=MIB)
    with pytest.raises(TierFault, match="412"):
        blob.piece(1)


def test_a_blob_that_is_wrong_is_put_right_by_who_publishes_it(section: SharedSection) -> None:
    tier = tier_of(section)
    for wrong in (bytes_of(SIZE, seed=3), BLOB[:-1]):
        client_of(section).ask("PUT", f"blobs/sha256-{HEX}", body=wrong, most=MIB)
        publish(tier)
        assert everything(tier, BLOB) == BLOB


def test_a_key_that_is_wrong_and_a_bucket_that_is_not_there_are_said(
    section: SharedSection, tmp_path: Path
) -> None:
    settings = json.loads(Path(section.s3.removeprefix("file:")).read_text())
    for change, why in (
        ({"secret_key": "another"}, "SignatureDoesNotMatch"),
        ({"access_key": "nobody"}, "InvalidAccessKeyId"),
        ({"bucket": "no-such-bucket"}, "NoSuchBucket"),
    ):
        tier = tier_of(written(tmp_path / "other.json", {**settings, **change}))
        tier.look()
        assert why in tier.said().fault
        with pytest.raises(PublishFault, match=why):
            tier.writer().identity()
    with pytest.raises(TierFault, match="NoSuchBucket"):
        tier_of(written(tmp_path / "other.json", {**settings, "bucket": "no-such-bucket"})).open(HEX, SIZE)


# -- the whole way


@pytest.fixture
async def models(tmp_path: Path, section: SharedSection) -> AsyncIterator[ModelsBed]:
    chosen = ModelsSection(reserve=0, shared=section)
    async with models_bed(tmp_path, "a", "b", section=chosen, registries=(Leases(),)) as bed:
        bed.bed.publish(
            admin__op=Admin("op", "operator"), node__b=Node("b", f"127.0.0.1:{bed.bed['b'].peer.port}")
        )
        yield bed


async def test_what_one_node_published_another_one_pulls(models: ModelsBed) -> None:
    offer(models.registry, "team/big:v1", LARGE)
    assert (await models.pull("b"))[-1] == {"status": "success"}
    (said,), _ = await ask(models, model_answers.PUBLISH, ModelAsked(models.name()), "b")
    assert (said.done, said.fault) == ("published", "")
    await models.desks["b"].removals.remove(ModelName.parse(models.name()), by="a test")
    models.registry.manifests.clear()
    models.registry.blobs.clear()
    assert (await models.pull("a"))[-1] == {"status": "success"}
    assert models.blob("a", digest_of(LARGE)).read_bytes() == LARGE
    tier = models.desks["a"].shared
    assert tier is not None
    assert tier.said().counts.blobs == 2


async def test_a_pull_whose_store_fails_midway_is_finished_from_the_registry(
    tmp_path: Path, store: S3Store
) -> None:
    section = written(tmp_path / "s3.json", store.settings())
    async with models_bed(tmp_path, "a", section=ModelsSection(reserve=0, shared=section)) as models:
        offer(models.registry, "team/big:v1", LARGE)
        store.objects[f"bridge/x/blobs/sha256-{digest_of(LARGE)[7:]}"] = LARGE

        def misbehaves(handler: Any, key: str) -> bool:
            if handler.headers.get("Range", "").startswith(f"bytes={8 * MIB}-"):
                handler.fail(403, "AccessDenied")
                return True
            return False

        store.misbehaves = misbehaves
        assert (await models.pull("a"))[-1] == {"status": "success"}
        assert models.blob("a", digest_of(LARGE)).read_bytes() == LARGE
        assert models.registry.sent <= len(LARGE) - 8 * MIB + MIB


async def test_several_ranges_are_on_their_way_at_one_time(tmp_path: Path, store: S3Store) -> None:
    section = written(tmp_path / "s3.json", store.settings())
    together = threading.Barrier(4, timeout=60.0)  # nobody goes on before four have asked

    def misbehaves(handler: Any, _: str) -> bool:
        if handler.headers.get("Range", "").split("-")[0] in {f"bytes={n * 4 * MIB}" for n in range(4)}:
            together.wait()
        return False

    store.misbehaves = misbehaves
    async with models_bed(tmp_path, "a", section=ModelsSection(reserve=0, shared=section)) as models:
        offer(models.registry, "team/big:v1", LARGE)
        store.objects[f"bridge/x/blobs/sha256-{digest_of(LARGE)[7:]}"] = LARGE
        assert (await models.pull("a"))[-1] == {"status": "success"}
        assert models.blob("a", digest_of(LARGE)).read_bytes() == LARGE
        assert not together.broken


def test_a_range_that_breaks_off_goes_on_from_where_it_broke(tmp_path: Path, store: S3Store) -> None:
    store.objects[f"bridge/x/blobs/sha256-{HEX}"] = BLOB

    def misbehaves(handler: Any, _: str) -> bool:
        if handler.headers.get("Range", "") != f"bytes=0-{4 * MIB - 1}":
            return False
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes 0-{4 * MIB - 1}/{SIZE}")
        handler.send_header("Content-Length", str(4 * MIB))
        handler.end_headers()
        handler.wfile.write(BLOB[:MIB])
        handler.close_connection = True
        return True

    tier = tier_of(written(tmp_path / "s3.json", store.settings()))
    blob = tier.open(HEX, SIZE)
    store.misbehaves = misbehaves
    assert blob.piece(0) == BLOB[: 4 * MIB]
    assert store.seen[-1][2] == f"bytes={MIB}-{4 * MIB - 1}"
    assert tier.said().counts.faults == 0


# -- stores that are hostile, or another kind


def raw(status: str, *lines: str, body: bytes = b"") -> Callable[[Any], None]:
    def answer(handler: Any) -> None:
        head = "\r\n".join((f"HTTP/1.1 {status}", *lines, "", ""))
        handler.wfile.write(head.encode() + body)
        handler.close_connection = True

    return answer


def range_of(body: bytes, *, begin: int = 0, end: int = 9, size: int = SIZE, length: int = 10) -> Any:
    return raw(
        "206 Partial Content",
        f"Content-Range: bytes {begin}-{end}/{size}",
        f"Content-Length: {length}",
        body=body,
    )


HOSTILE_READS: dict[str, tuple[Callable[[Any], None], str]] = {
    "no ranges": (raw("200 OK", "Content-Length: 10", body=b"x" * 10), "does not serve ranges"),
    "another range": (range_of(b"x" * 10, begin=1, end=10), "another range"),
    "another size": (range_of(b"x" * 10, size=SIZE + 1), "another range"),
    "more bytes": (range_of(b"x" * 11, end=9, length=11), "another range"),
    "no length": (raw("206 Partial", f"Content-Range: bytes 0-9/{SIZE}", body=b"x" * 99), "another range"),
    "chunks without end": (
        raw(
            "206 Partial",
            f"Content-Range: bytes 0-9/{SIZE}",
            "Transfer-Encoding: chunked",
            body=b"5\r\nxxxxx\r\n" * 9,
        ),
        "another range",
    ),
    "a redirect": (
        raw("307 Temporary", "Location: http://127.0.0.1:1/x", "Content-Length: 0"),
        "not followed",
    ),
    "forbidden": (raw("403 Forbidden", "Content-Length: 0"), "answered 403"),
    "gone": (raw("404 Not Found", "Content-Length: 0"), "answered 404"),
    "no HTTP": (lambda handler: handler.wfile.write(b"220 ftp ready\r\n"), "failed"),
    "endless headers": (raw("200 OK", *(f"X-{n}: y" for n in range(500)), "Content-Length: 0"), "failed"),
    "an endless error": (raw("400 Bad", "Content-Length: 99999999", body=b"<Code>" * 20_000), "more than"),
    "busy": (raw("503 Slow Down", "Content-Length: 0"), "answered 503"),
}


@pytest.mark.parametrize("what", HOSTILE_READS)
def test_a_store_that_answers_wrongly_gives_no_byte(tmp_path: Path, store: S3Store, what: str) -> None:
    store.objects[f"bridge/x/blobs/sha256-{HEX}"] = BLOB
    tier = tier_of(written(tmp_path / "s3.json", store.settings()))
    blob = tier.open(HEX, SIZE)
    answer, why = HOSTILE_READS[what]

    def misbehaves(handler: Any, _: str) -> bool:
        answer(handler)
        handler.close_connection = True
        return True

    store.misbehaves = misbehaves
    with pytest.raises(TierFault, match=why) as fault:
        blob.read(0, 10)
    assert SECRET not in str(fault.value)


BOMB = b"""<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<ListBucketResult><Contents><Key>&b;</Key><Size>1</Size></Contents></ListBucketResult>"""


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (BOMB, "DOCTYPE"),
        (b"<a>" * 99_999, "in each other"),
        (b"<ListBucketResult>", "no XML"),
        (b"\xff\xfe\x00", "no XML"),
        (b"<r><Contents><Key>" + b"k" * 5000 + b"</Key></Contents></r>", "characters"),
        (b"<r>" + b"<Contents><Key>k</Key><Size>1</Size></Contents>" * 1001 + b"</r>", "1000"),
        (b"<r><Contents><Key>k</Key><Size>-1</Size></Contents></r>", "no number"),
        (b"x" * (9 << 20), "more than"),
        (b"<Error><Code>InternalError</Code></Error>", "after it had begun"),
    ],
)
def test_a_listing_that_no_store_answers_is_refused(
    tmp_path: Path, store: S3Store, document: bytes, why: str
) -> None:
    def misbehaves(handler: Any, key: str) -> bool:
        if key:
            return False
        handler.give(200, document)
        return True

    store.misbehaves = misbehaves
    tier = tier_of(written(tmp_path / "s3.json", store.settings()))
    tier.look()
    assert why in tier.said().fault


def test_a_listing_of_many_pages_is_read_and_one_without_end_is_not(tmp_path: Path, store: S3Store) -> None:
    for number in range(23):
        store.objects[f"bridge/x/manifests/h/n/model/{number:02}"] = b"{}"
    store.objects["bridge/x/manifests/odd"] = b"{}"
    store.objects["bridge/x/manifests/h/n/model/removed"] = b""
    store.page = 5
    tier = tier_of(written(tmp_path / "s3.json", store.settings()))
    tier.look()
    assert len(tier.said().models) == 23
    store.page = 1
    tier.look()
    assert (len(tier.said().models), tier.said().fault) == (17, "")
    assert tier.manifest(ModelName.parse("h/n/MODEL:22")) is None  # not said to be none that is away


def test_a_store_that_drips_is_given_up_in_time(tmp_path: Path, store: S3Store) -> None:
    """Byte by byte it never stalls: what counts is the time as a whole."""
    store.objects[f"bridge/x/blobs/sha256-{HEX}"] = BLOB
    now = [0.0]
    section = written(tmp_path / "s3.json", store.settings())
    client = S3Client(SettingsFile(section.s3, {}), 20.0, now=lambda: now[0])
    blob = S3Storage(client).open(HEX)
    assert blob is not None
    sent = threading.Event()

    def misbehaves(handler: Any, _: str) -> bool:
        handler.wfile.write(f"HTTP/1.1 206 P\r\nContent-Range: bytes 0-9/{SIZE}\r\nContent-".encode())
        now[0] = 21.0
        with contextlib.suppress(OSError):
            handler.wfile.write(b"Length: 10\r\n\r\n")
        sent.set()
        return True

    store.misbehaves = misbehaves
    with pytest.raises(OSError, match="did not answer in time"):
        blob.read(0, 10)
    assert sent.wait(60.0)


def test_a_connection_that_was_closed_while_it_was_idle_is_no_fault(tmp_path: Path, store: S3Store) -> None:
    client = client_of(written(tmp_path / "s3.json", store.settings()))
    store.objects["bridge/x/one"] = b"1"
    closing = [True]

    def misbehaves(handler: Any, _: str) -> bool:
        handler.give(200, b"1")
        handler.close_connection = closing[0]  # after it had said that it stays
        return True

    store.misbehaves = misbehaves
    for _ in range(3):
        assert client.ask("GET", "one", most=10).body == b"1"
    assert len(store.seen) == 3


def test_nothing_is_written_where_conditions_are_not_kept(tmp_path: Path, store: S3Store) -> None:
    store.keeps_conditions = False
    with pytest.raises(PublishFault, match="whatever the conditions say"):
        tier_of(written(tmp_path / "s3.json", store.settings())).writer().identity()


def test_uploads_that_nobody_completed_go_after_a_day(tmp_path: Path, store: S3Store) -> None:
    writer = tier_of(written(tmp_path / "s3.json", store.settings())).writer()
    old = (dt.datetime.now(dt.UTC) - dt.timedelta(days=2)).isoformat()
    young = dt.datetime.now(dt.UTC).isoformat()
    ours, other = f"bridge/x/blobs/sha256-{HEX}", "bridge/other/blobs/sha256-1"
    store.uploads.update(a=(ours, {}, old), b=(ours, {}, young), c=(other, {}, old), d=(ours, {}, "when?"))
    writer.tidy()
    assert sorted(store.uploads) == ["b", "c", "d"]


@pytest.mark.parametrize("size", [PART, PART + 1, 1 << 30, 1 << 37, 1 << 42])
def test_parts_are_as_large_as_s3_wants_them(size: int) -> None:
    each = part_pieces(size)
    parts = -(-piece_count(size) // each)
    assert parts <= 10_000
    assert span(size, 0)[1] * each >= 5 << 20


# -- who may read what


def test_tls_is_checked_against_the_ca_that_is_named(tmp_path: Path) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    stranger.cert_pem.write_to_path(str(tmp_path / "stranger.pem"))
    with s3_store(context) as store:
        store.objects[f"bridge/x/blobs/sha256-{HEX}"] = BLOB
        settings = store.settings(ca=str(tmp_path / "ca.pem"))
        assert everything(tier_of(written(tmp_path / "s3.json", settings)), BLOB) == BLOB
        for ca, why in (
            (str(tmp_path / "stranger.pem"), "certificate verify failed"),
            ("/no/such", "cannot be"),
        ):
            tier = tier_of(written(tmp_path / "s3.json", {**settings, "ca": ca}))
            tier.look()
            assert why in tier.said().fault


def test_a_file_that_others_may_read_or_that_says_too_much_is_refused(tmp_path: Path, store: S3Store) -> None:
    section = written(tmp_path / "s3.json", store.settings())
    tier = tier_of(section)
    path = tmp_path / "s3.json"
    for spoil, why in (
        (lambda: path.chmod(0o644), "open to other users"),
        (lambda: written(path, store.settings(bukket="x")), "bukket"),
        (lambda: written(path, store.settings(endpoint="http://example.org")), "in the clear"),
        (lambda: written(path, store.settings(prefix="../x")), "prefix"),
        (path.unlink, "No such file"),
    ):
        spoil()
        tier.look()
        tier.answers()
        assert why in tier_fault(tier)
        assert SECRET not in tier_fault(tier)
    written(path, store.settings())
    tier.look()
    assert tier.said().fault == ""


def tier_fault(tier: SharedTier) -> str:
    with pytest.raises(PublishFault) as fault:
        tier.writer().identity()
    return str(fault.value)


def test_keys_that_are_replaced_count_from_the_next_question_on(tmp_path: Path, store: S3Store) -> None:
    tier = tier_of(written(tmp_path / "s3.json", store.settings(secret_key="old")))
    tier.look()
    assert "SignatureDoesNotMatch" in tier.said().fault
    written(tmp_path / "new.json", store.settings()).s3  # noqa: B018 - beside it, and renamed
    (tmp_path / "new.json").replace(tmp_path / "s3.json")
    tier.answers()
    tier.look()
    assert tier.said().fault == ""


def test_what_systemd_gives_is_read_where_it_puts_it(tmp_path: Path, store: S3Store) -> None:
    written(tmp_path / "bridge-s3", store.settings()).s3  # noqa: B018
    file = SettingsFile("credential:bridge-s3", {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert file.read().bucket == "models"
    assert SECRET not in repr(file.read())
    assert SECRET not in repr(file.read().signer)
    with pytest.raises(OSError, match="systemd gave this process none"):
        SettingsFile("credential:bridge-s3", {}).read()


async def test_two_that_publish_at_once_one_is_refused(tmp_path: Path, section: SharedSection) -> None:
    """The lease is of the tier, whoever asks for it under whichever name of the store."""
    tier = tier_of(section).writer().identity()
    leases = Leases("a")
    async with held([leases], tier, str(NAME).lower()):
        with pytest.raises(Exception, match="node a is publishing"):
            async with held(
                [Leases("b", of=leases)], tier_of(section).writer().identity(), str(NAME).lower()
            ):
                raise AssertionError
    assert isinstance(tier_of(section).writer(), S3Writer)
