"""The registry fetches the key sets of identity providers, keeps them fresh, and publishes them."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from bridge_core import keyspace
from bridge_core.errors import BridgeError
from bridge_core.http1 import Exchange, serve
from bridge_core.identity.key_sets import MAX_BYTES, read_key_set
from bridge_core.store.api import KeyListing, Put, Unchanged
from bridge_registry.key_sets.fetching import fetch_key_set
from bridge_registry.key_sets.keeper import KeySetKeeper
from bridge_registry.membership.mesh_table import MeshTable
from bridge_registry.outside import is_public
from bridge_registry.publication.builder import SecurityDocuments
from bridge_registry.records import ConfigRecord, StoredDocument, pack
from tests.fakes.store import FakeEtcd, FakeStore
from tests.unit.test_identity_provider_documents import a_provider
from tests.unit.token_support import key_set, rsa

AUTHORITY = trustme.CA()


def trusting(authority: trustme.CA = AUTHORITY) -> ssl.SSLContext:
    made = ssl.create_default_context()
    authority.configure_trust(made)
    return made


@contextlib.asynccontextmanager
async def issuer(answer: Callable[[Exchange], None], name: str = "localhost") -> AsyncIterator[str]:
    """Serves over HTTPS, under this name in its certificate; gives the address of a key set."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(name).configure_cert(context)
    server = await serve(answer, name="issuer", host="127.0.0.1", port=0, ssl=context)
    try:
        yield f"https://localhost:{server.port}/keys"
    finally:
        await server.close(0.0)


def telling(body: bytes, status: int = 200, *more: tuple[bytes, bytes]) -> Callable[[Exchange], None]:
    return lambda exchange: exchange.respond(status, [(b"content-type", b"application/json"), *more], body)


async def reason_of(url: str, **more: object) -> str:
    with pytest.raises(BridgeError) as caught:
        await fetch_key_set(url, context=trusting(), **{"private": True, **more})  # type: ignore[arg-type]
    return str(caught.value)


async def test_a_set_is_fetched_and_kept_without_what_no_check_needs() -> None:
    noisy = {"keys": [{**rsa().as_dict(private=False), "x5c": ["MIIC"]}], "more": 1}
    async with issuer(telling(json.dumps(noisy).encode())) as url:
        text = await fetch_key_set(url, private=True, context=trusting())
    assert [key.kid for key in read_key_set(text)] == ["r1"]
    assert "x5c" not in text


async def test_an_address_that_is_not_public_is_asked_only_where_the_admin_says_so() -> None:
    asked: list[str] = []

    def answer(exchange: Exchange) -> None:
        asked.append(exchange.request.path)
        exchange.respond(200, (), key_set(rsa()).encode())

    async with issuer(answer) as url:
        assert "no public address" in await reason_of(url, private=False)
    assert asked == []


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (telling(b"", 302, (b"location", b"http://127.0.0.1:1/")), "answered 302"),
        (telling(b"{}", 500), "answered 500"),
        (telling(b"<html>"), "no key set"),
        (telling(b"\xff\xfe"), "no UTF-8"),
        (telling(json.dumps({"keys": [rsa().as_dict(private=True)]}).encode()), "'r1' is a private key"),
        (telling(b" " * (MAX_BYTES + 1)), ""),
    ],
)
async def test_an_answer_that_is_no_key_set_is_refused(answer: Callable[[Exchange], None], said: str) -> None:
    async with issuer(answer) as url:
        assert said in await reason_of(url)


async def test_a_certificate_of_another_name_or_authority_is_refused() -> None:
    async with issuer(telling(b"{}"), "other.example") as url:
        assert "certificate" in await reason_of(url)
    async with issuer(telling(key_set(rsa()).encode())) as url:
        with pytest.raises(BridgeError):
            await fetch_key_set(url, private=True, context=trusting(trustme.CA()))


@pytest.mark.parametrize(
    "url", ["http://localhost/keys", "ftp://localhost", "https://", "file:///etc/passwd"]
)
async def test_nothing_but_https_is_fetched(url: str) -> None:
    assert "https" in await reason_of(url)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "127.0.0.1",
            "10.0.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "224.0.0.1",
            "::1",
        ),
        *("fe80::1", "fd00::1", "::ffff:127.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "ff02::1", "::"),
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    ],
)
def test_what_is_not_public_is_known_however_it_is_written(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@given(st.ip_addresses(v=4))
def test_an_address_inside_another_is_as_public_as_it_is(address: ipaddress.IPv4Address) -> None:
    wanted = address.is_global and not address.is_multicast
    for inside in (f"::ffff:{address}", ipaddress.IPv6Address((0x64FF9B << 96) + int(address))):
        assert is_public(ipaddress.ip_address(inside)) is wanted


class Leads:
    """A registry that leads while `leading`."""

    leading = True

    def leads(self) -> bool:
        return self.leading

    def fence(self) -> Unchanged:
        return Unchanged("/bridge/v1/leader/x", 0)


class Bench:
    """A keeper over a store in memory, with a clock and an issuer of the test's."""

    def __init__(self) -> None:
        self.etcd = FakeEtcd()
        self.store = FakeStore(self.etcd)
        self.table = MeshTable(())
        self.leadership = Leads()
        self.now, self.asked = 1000.0, list[str]()
        self.answer: str | BridgeError = key_set(rsa())
        self.keeper = KeySetKeeper(self.store, self.leadership, self.table, self._fetch, lambda: self.now)  # type: ignore[arg-type]  # as much of one as is used

    async def _fetch(self, url: str, *, private: bool) -> str:
        self.asked.append(url)
        if isinstance(self.answer, BridgeError):
            raise self.answer
        return self.answer

    async def applied(self, *documents: str) -> None:
        names = (one.partition("name: ")[2].partition("}")[0] for one in documents)
        stored = {
            f"IdentityProvider/{name}": StoredDocument(text, 1, 1)
            for name, text in zip(names, documents, strict=True)
        }
        await self.store.commit([Put(keyspace.CONFIG, pack(ConfigRecord(1, stored)))])

    async def look(self) -> None:
        listing = await self.store.list(keyspace.ROOT)
        self.table.apply(KeyListing(listing.items, listing.revision), 0.0)
        await self.keeper.look()
        listing = await self.store.list(keyspace.ROOT)
        self.table.apply(KeyListing(listing.items, listing.revision), 0.0)

    def published(self) -> dict[str, str]:
        documents = SecurityDocuments(providers=self.table.providers, key_sets=self.table.key_sets)
        return {key: json.loads(raw).get("keys", "") for key, raw in documents.entries().items()}


async def test_a_set_is_fetched_once_published_and_fetched_again_when_it_is_old() -> None:
    bench = Bench()
    await bench.applied(a_provider())
    await bench.look()
    await bench.look()
    assert bench.asked == ["https://login.example.com/keys"]
    assert bench.published() == {"provider/corp": key_set(rsa())}
    bench.now += 3600
    bench.answer = key_set(rsa("r2"))
    await bench.look()
    assert bench.published() == {"provider/corp": key_set(rsa("r2"))}


async def test_a_set_stays_in_use_while_its_issuer_is_away_and_status_says_so() -> None:
    bench = Bench()
    await bench.applied(a_provider())
    await bench.look()
    bench.now += 3600
    bench.answer = BridgeError("login.example.com answered 503")
    await bench.look()
    assert bench.published() == {"provider/corp": key_set(rsa())}
    (told,) = bench.keeper.concerns()
    assert "answered 503" in told
    assert "stays in use" in told
    bench.now += 10
    bench.answer = key_set(rsa())
    await bench.look()
    assert list(bench.keeper.concerns()) == []


async def test_a_provider_that_is_pointed_elsewhere_has_no_keys_of_the_old_address() -> None:
    bench = Bench()
    await bench.applied(a_provider())
    await bench.look()
    await bench.applied(a_provider("jwksUri: https://evil.example/keys"))
    bench.answer = BridgeError("away")
    await bench.look()
    assert bench.published() == {"provider/corp": ""}


async def test_a_provider_that_goes_takes_its_set_along() -> None:
    bench = Bench()
    await bench.applied(a_provider())
    await bench.look()
    await bench.applied()
    await bench.look()
    assert bench.published() == {}
    assert not [key for key in bench.etcd.items if key.startswith(keyspace.KEY_SETS)]


async def test_only_who_leads_fetches() -> None:
    bench = Bench()
    bench.leadership.leading = False
    await bench.applied(a_provider())
    await bench.look()
    assert bench.asked == []


async def test_one_issuer_that_is_away_keeps_no_other_from_being_fetched(tmp_path: Path) -> None:
    bench = Bench()
    other = a_provider("jwksUri: https://other.example/keys", "other", "https://other.example")
    await bench.applied(a_provider(), other)
    bench.answer = BridgeError("away")
    await bench.look()
    assert len(bench.asked) == 2
    assert len(list(bench.keeper.concerns())) == 2
