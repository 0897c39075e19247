"""Users with tokens, guessers and web pages at a gateway: who gets through, and what is on record."""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bridge_agent.authentication.attempt_rules import FREE
from bridge_agent.authentication.hop_proofs import of_certificate, of_key
from bridge_agent.gateway.config import ListenerKind, RequestRecord
from bridge_core.clients import Admin
from bridge_core.errors import BridgeError
from bridge_core.http1 import Pool, Server, serve
from bridge_core.identity import SpiffeId
from bridge_core.identity import certificates as x509
from bridge_core.identity.api_keys import Pepper, id_of
from bridge_core.snapshot import Snapshot, Version, encode_entry
from bridge_core.tls import peer_identity
from tests.contract.gateway_bed import (
    AUTHORITY,
    DOMAIN,
    SECRET,
    Answer,
    Bed,
    api_key,
    client_of,
    foreign_context,
    issue,
    mesh,
)
from tests.fakes.recorded_engine import RecordedEngine
from tests.support import eventually
from tests.unit.token_support import claims, key_set, provider, rsa, token

BODY = b'{"model":"solo","messages":[{"role":"user","content":"hi"}],"stream":false}'


def fresh(**changes: Any) -> bytes:
    """A token that counts now."""
    now = int(time.time())
    return token(claims(**{"exp": now + 600, "iat": now, **changes}))


class Door:
    """Node a's HTTPS listener, and what its gateway writes down."""

    def __init__(self, bed: Bed, server: Server, context: Any) -> None:
        self.bed, self.server, self.context = bed, server, context
        self.records: list[RequestRecord] = []
        bed["a"].gateway.on_record(lambda record, _: self.records.append(record))

    async def ask(
        self, *headers: tuple[str, bytes], path: str = "/api/chat", method: str = "POST", body: bytes = BODY
    ) -> Answer:
        """On a connection of its own, as a stranger's are."""
        pool = Pool(("127.0.0.1", self.server.port), ssl=self.context)
        pairs = [(name.encode(), value) for name, value in headers]
        try:
            async with pool.request(method, path, pairs, body) as response:
                return Answer(response.status, response.headers, await response.read())
        finally:
            await pool.close()

    def turned_away(self) -> list[tuple[int, str, str]]:
        """Status, reason and address of those that were."""
        return [
            (one.status, one.reason, one.remote[0] if one.remote else "")
            for one in self.records
            if one.reason
        ]


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    engines = {"a": RecordedEngine(("smollm2:135m",)), "b": RecordedEngine(("solo",))}
    async with mesh(tmp_path, engines) as bed:
        bed.entries["provider/corp"] = encode_entry(provider(keys=key_set(rsa())))
        bed.publish()
        gateway = bed["a"].gateway
        server = await serve(
            gateway.http_app(ListenerKind.TLS),
            name="https",
            ssl=bed["a"].tls.server(require_client=False),
            identify=peer_identity,
            error_body=gateway.error_body,
            stream_body=gateway.unread(ListenerKind.TLS),
            handshake_refused=gateway.handshake_refused(ListenerKind.TLS),
        )
        yield Door(bed, server, trusting(tmp_path))
        await server.close(0.0)


async def test_a_user_is_served_on_another_node_and_its_engine_sees_no_token(door: Door) -> None:
    here, there = door.records, list[RequestRecord]()
    door.bed["b"].gateway.on_record(lambda record, _: there.append(record))
    answer = await door.ask(("authorization", b"Bearer " + fresh()))
    assert answer.status == 200
    assert [(one.caller.principal, one.caller.via) for one in (*here, *there)] == [
        ("corp#ann", ""),
        ("corp#ann", "a"),
    ]
    assert there[0].caller.who.groups == ("finance-analysts",)
    (asked,) = [one for one in door.bed["b"].engine.asked if one.target == b"/api/chat"]
    assert not asked.headers.keys() & {
        b"authorization",
        b"x-bridge-proof",
        b"x-bridge-principal",
        b"x-api-key",
    }


@pytest.mark.parametrize("field", ["authorization", "x-api-key", "api-key"])
async def test_a_token_is_taken_where_a_key_is(door: Door, field: str) -> None:
    value = (b"Bearer " if field == "authorization" else b"") + fresh()
    assert (await door.ask((field, value))).status == 200


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (fresh(exp=int(time.time()) - 3600), "token_expired"),
        (fresh(aud="other"), "token_audience"),
        (fresh()[:-8], "token_signature"),
        (fresh(iss="https://evil.example"), "credential"),
        (b"eyJ.eyJ.eyJ", "credential"),
    ],
)
async def test_a_token_that_does_not_count_is_refused_and_on_record(
    door: Door, bad: bytes, reason: str
) -> None:
    answer = await door.ask(("authorization", b"Bearer " + bad))
    assert answer.status == 401
    assert b'error="invalid_token"' in (answer.headers.get(b"www-authenticate") or b"")
    assert door.turned_away() == [(401, reason, "127.0.0.1")]
    assert door.bed["b"].engine.asked == []


async def over_link(door: Door, folder: Path, *headers: tuple[bytes, bytes]) -> int:
    """A request that node a's certificate sends to node b's peer listener."""
    pool = Pool(("127.0.0.1", door.bed["b"].peer.port), ssl=foreign_context(folder, "node", "a"))
    try:
        async with pool.request("POST", "/api/chat", [(b"x-bridge-hop", b"a"), *headers], BODY) as response:
            await response.read()
            return response.status
    finally:
        await pool.close()


async def test_a_node_cannot_invent_a_user(door: Door, tmp_path: Path) -> None:
    away = list[RequestRecord]()
    door.bed["b"].gateway.on_record(lambda record, _: away.append(record))
    name, proof = b"x-bridge-principal", b"x-bridge-proof"
    assert await over_link(door, tmp_path, (name, b"corp#root")) == 403
    assert await over_link(door, tmp_path, (name, b"corp#root"), (proof, fresh())) == 403
    assert await over_link(door, tmp_path, (name, b"corp#ann"), (proof, fresh()[:-8])) == 403
    assert await over_link(door, tmp_path, (name, b"other#ann"), (proof, fresh())) == 403
    assert [(one.status, one.reason, one.caller.principal) for one in away] == [
        (403, "unproven", "spiffe://bed.local/node/a")
    ] * 4
    assert door.bed["b"].engine.asked == []
    assert await over_link(door, tmp_path, (name, b"corp#ann"), (proof, fresh())) == 200


@pytest.mark.parametrize("shown", ["key", "certificate", "both"])
async def test_a_client_is_proven_to_the_node_that_answers(door: Door, tmp_path: Path, shown: str) -> None:
    door.bed.publish(client__alice=client_of("alice", groups=("staff",)))
    there = list[RequestRecord]()
    door.bed["b"].gateway.on_record(lambda record, _: there.append(record))
    if shown != "key":
        door.context = trusting(tmp_path, issue(tmp_path, "client", "alice"))
    headers = [("x-api-key", api_key("alice").encode())] if shown != "certificate" else []
    assert (await door.ask(*headers)).status == 200
    (record,) = there
    assert (record.caller.principal, record.caller.via) == ("spiffe://bed.local/client/alice", "a")
    assert record.caller.who.groups == ("staff",)
    (asked,) = [one for one in door.bed["b"].engine.asked if one.target == b"/api/chat"]
    assert b"x-bridge-proof" not in asked.headers


async def test_a_node_cannot_invent_a_client_or_an_admin(door: Door, tmp_path: Path) -> None:
    door.bed.publish(client__alice=client_of("alice"), admin__root=Admin("root", "admin"))
    away = list[RequestRecord]()
    door.bed["b"].gateway.on_record(lambda record, _: away.append(record))
    key = api_key("alice").encode()
    kept = door.bed.entries["client/alice"]
    stolen = [b"key %b %b" % (id_of(key), one) for one in re.findall(rb"[0-9a-f]{64}", kept)]
    for who in (b"client/alice", b"admin/root", b"node/b"):
        name = (b"x-bridge-principal", b"spiffe://bed.local/" + who)
        for proof in (b"", *stolen, of_certificate(b"\x30\x00")):
            assert await over_link(door, tmp_path, name, (b"x-bridge-proof", proof)) == 403
    assert {(one.status, one.reason, one.caller.principal) for one in away} == {
        (403, "unproven", "spiffe://bed.local/node/a")
    }
    assert door.bed["b"].engine.asked == []
    alice = (b"x-bridge-principal", b"spiffe://bed.local/client/alice")
    right = of_key(id_of(key), Pepper(SECRET).proof(key))
    assert await over_link(door, tmp_path, alice, (b"x-bridge-proof", right)) == 200


async def test_a_key_that_the_owner_has_not_heard_of_yet_is_no_refusal_for_good(door: Door) -> None:
    late = client_of("late")
    door.bed["a"].view.publish(
        Snapshot(Version(1, 1000), door.bed.entries | {"client/late": encode_entry(late)})
    )
    answer = await door.ask(("x-api-key", api_key("late").encode()))
    assert (answer.status, answer.headers.get(b"retry-after") is not None) == (503, True)
    assert door.bed["b"].engine.asked == []


async def test_a_client_cannot_bring_a_proof_of_its_own(door: Door) -> None:
    answer = await door.ask(("x-bridge-principal", b"corp#ann"), ("x-bridge-proof", fresh()))
    assert answer.status == 401


async def test_who_guesses_is_held_up_and_who_is_known_is_not(door: Door) -> None:
    good, late = ("authorization", b"Bearer " + fresh()), ("authorization", b"Bearer " + fresh(sub="bob"))
    assert (await door.ask(good)).status == 200
    for number in range(FREE + 1):
        guess = ("x-api-key", b"brk_%016x_%s" % (number, b"A" * 50))
        assert (await door.ask(guess)).status in (401, 429)
        assert (await door.ask(("authorization", b"Bearer " + fresh()[:-8]))).status in (401, 429)
    held_up = await door.ask(late)
    assert held_up.status == 429
    assert int(held_up.headers.get(b"retry-after") or b"0") >= 1
    assert (await door.ask(good)).status == 200
    assert (429, "too_many", "127.0.0.1") in door.turned_away()
    assert door.bed["a"].gateway.counters.turned_away["too_many"] >= 1


def stranger_of_another_ca(folder: Path) -> ssl.SSLContext:
    (folder / "foreign").mkdir()
    other = x509.create_authority(DOMAIN, now=time.time(), ttl_s=600)
    return trusting(folder, issue(folder / "foreign", "client", "alice", other))


def certificate_that_has_ended(folder: Path) -> ssl.SSLContext:
    key = x509.generate_key()
    alice = SpiffeId(DOMAIN, "client", "alice")
    leaf = x509.issue(AUTHORITY, key.public_key(), alice, now=time.time() - 7200, ttl_s=600)
    cert, private = folder / "old.pem", folder / "old.key"
    cert.write_bytes(x509.to_pem(leaf) + AUTHORITY.pem)
    private.write_bytes(x509.key_to_pem(key))
    return trusting(folder, (cert, private))


def older_tls(folder: Path) -> ssl.SSLContext:
    made = trusting(folder)
    made.maximum_version = ssl.TLSVersion.TLSv1_2
    return made


def trusting(folder: Path, pair: tuple[Path, ...] = ()) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=folder / "ca.pem")
    made.check_hostname = False
    if pair:
        made.load_cert_chain(pair[0], pair[1])
    return made


@pytest.mark.parametrize("make", [stranger_of_another_ca, certificate_that_has_ended, older_tls])
async def test_a_handshake_that_tls_refuses_is_on_record(door: Door, tmp_path: Path, make: Any) -> None:
    door.context = make(tmp_path)
    with pytest.raises(BridgeError):
        await door.ask()
    await eventually(lambda: door.turned_away() == [(0, "handshake", "127.0.0.1")])


async def test_who_looks_whether_a_port_is_open_is_on_no_record(door: Door) -> None:
    for sent in (b"", b"\x16\x03\x01"):
        _, writer = await asyncio.open_connection("127.0.0.1", door.server.port)
        writer.write(sent)
        writer.close()
        await writer.wait_closed()
    await eventually(lambda: door.server.strangers == 0)
    assert door.turned_away() == []


async def test_who_shows_nothing_guesses_nothing(door: Door) -> None:
    for _ in range(FREE + 5):
        assert (await door.ask()).status == 401
    assert (await door.ask(("authorization", b"Bearer " + fresh()))).status == 200
    assert door.turned_away() == [(401, "nothing_shown", "127.0.0.1")] * (FREE + 5)


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        # DNS rebinding: a page's own name, re-pointed at this machine. It is same-origin by then.
        ({"Host": "evil.example:11434"}, "host"),
        ({"Host": "evil.local:11434", "Origin": "http://evil.local:11434"}, "host"),
        ({"Host": "evil.internal", "Origin": "http://evil.internal"}, "host"),
        ({"Host": "bed-host.evil.example"}, "host"),
        ({"Host": "bed-host.local.evil.example"}, "host"),
        # A page that posts without asking first: text/plain needs no preflight.
        ({"Origin": "http://evil.example", "Content-Type": "text/plain"}, "origin"),
        ({"Origin": "null", "Content-Type": "text/plain"}, "origin"),
        ({"Origin": "http://localhost.evil.example"}, "origin"),
        ({"Origin": "http://127.0.0.1.evil.example"}, "origin"),
        ({"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, "origin"),
        # What a page embeds comes without an Origin.
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}, "page"),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, "page"),
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/api/chat"), ("GET", "/api/tags"), ("GET", "/v1/models"), ("DELETE", "/api/delete")],
)
async def test_a_web_page_reaches_nothing_and_is_on_record(
    door: Door, method: str, path: str, headers: dict[str, str], reason: str
) -> None:
    node = door.bed["a"]
    answer = await node.ask(method, path, BODY if method != "GET" else None, headers)
    assert (answer.status, answer.body) == (403, b"")
    assert b"access-control-allow-origin" not in answer.headers
    assert door.turned_away() == [(403, reason, "127.0.0.1")]
    assert node.engine.asked == []


async def test_a_link_that_a_user_follows_is_answered(door: Door) -> None:
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert (await door.bed["a"].ask("GET", "/", headers=followed)).body == b"Ollama is running"


async def test_a_preflight_of_a_foreign_page_is_refused(door: Door) -> None:
    asks = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answer = await door.bed["a"].ask("OPTIONS", "/api/chat", headers=asks)
    assert answer.status == 403
    assert door.turned_away() == [(403, "origin", "127.0.0.1")]
