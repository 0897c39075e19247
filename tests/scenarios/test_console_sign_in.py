"""A browser that signs in to a registry's console, and what it may do there: over real gRPC, TLS and HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from typer.testing import CliRunner

from bridge_cli.main import app
from bridge_core.http1 import Pool
from bridge_core.identity import SpiffeId
from bridge_core.identity.certificates import create_csr, generate_key, key_to_pem
from bridge_wire.v1 import clients_pb2, console_pb2
from bridge_wire.v1 import registry_pb2 as pb
from bridge_wire.v1.console_pb2_grpc import ConsoleStub
from tests import independent_log
from tests.fakes.store import FakeEtcd, FakeStore
from tests.registry_bed import MESH, Bed, make_settings, running
from tests.support import eventually

ROUTE = """
apiVersion: bridge.deepseek.io/v1
kind: ModelRoute
metadata: {name: chat}
spec:
  backends: [{model: smollm2, weight: %d}, {model: tiny, weight: 0}]
"""
ROLLOUT = """
apiVersion: bridge.deepseek.io/v1
kind: Rollout
metadata: {name: chat-v2}
spec: {route: chat, stable: smollm2, canary: tiny}
"""


class Browser:
    """Keeps a cookie and a token, as the page does; `fields` are what a test makes it say instead."""

    def __init__(self, bed: Bed) -> None:
        self.port = bed.registry.admin_port
        self.cookie = self.token = ""
        self.set_cookie = ""

    async def send(
        self, path: str, said: object | None = None, fields: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        host = f"127.0.0.1:{self.port}"
        headers = {"host": host, "cookie": self.cookie, "x-bridge-console": self.token}
        if said is not None:
            headers |= {"origin": f"http://{host}", "content-type": "application/json"}
        headers |= fields or {}
        body = said if isinstance(said, bytes) else json.dumps(said).encode()
        pool = Pool(("127.0.0.1", self.port))
        try:
            async with pool.request(
                "GET" if said is None else "POST",
                f"/console/api/{path}",
                [(name.encode(), value.encode()) for name, value in headers.items() if value],
                b"" if said is None else body,
            ) as response:
                answer = await response.read(1 << 20)
        finally:
            await pool.close()
        found = response.headers.get(b"set-cookie")
        if found is not None:
            self.set_cookie = found.decode()
            self.cookie = self.set_cookie.partition(";")[0]
        text = answer.decode()
        return response.status, json.loads(text) if text.startswith("{") else {"error": text}

    async def sign_in(self, code: str, fields: dict[str, str] | None = None) -> tuple[int, Any]:
        status, said = await self.send("sign-in", {"code": code}, fields)
        self.token = said.get("token", "")
        return status, said


@contextlib.asynccontextmanager
async def admin(bed: Bed, name: str, role: str) -> AsyncIterator[ConsoleStub]:
    """The console's service, called by a new admin with this role."""
    key = generate_key()
    async with bed.clients() as clients:
        made = await clients.CreateAdmin(
            clients_pb2.CreateAdminRequest(
                name=name,
                role=role,
                csr_pem=create_csr(key, SpiffeId(MESH, "admin", name)),
                ttl_seconds=86_400,
            )
        )
    async with bed.called_by(made.certificate_chain_pem, key_to_pem(key)) as channel:
        yield ConsoleStub(channel)


async def code_of(bed: Bed) -> str:
    """A code of the founder's."""
    cert, key = (path.read_bytes() for path in bed.registry.settings.pki.pair("admin"))
    async with bed.called_by(cert, key) as channel:
        return str((await ConsoleStub(channel).SignIn(console_pb2.SignInRequest())).code)


async def signed_in(bed: Bed) -> Browser:
    browser = Browser(bed)
    status, said = await browser.sign_in(await code_of(bed))
    assert status == 200, said
    return browser


def told(bed: Bed) -> list[dict[str, Any]]:
    """The calls on the audit's record, but the test's own, which are not the console's."""
    folder = bed.registry.settings.state_dir / "audit/log"
    entries = [json.loads(one) for one in independent_log.entries_of(folder)]
    own = {"CreateToken", "Join", "CreateAdmin", "DeleteAdmin"}
    return [one for one in entries if one["kind"] == "admin" and one["call"] not in own]


async def test_an_admin_drains_a_node_from_the_page_and_it_is_on_record(bed: Bed) -> None:
    await bed.join("n1")
    browser = await signed_in(bed)
    assert "; HttpOnly; SameSite=Strict" in browser.set_cookie
    assert "; Path=/console/api/;" in browser.set_cookie
    assert "Secure" not in browser.set_cookie
    status, who = await browser.send("session")
    assert (status, who["name"], who["role"]) == (200, "admin", "admin")
    assert 0 < who["left_s"] <= 1800

    status, said = await browser.send("act", {"act": "drain", "node": "n1", "drained": True})
    assert (status, said["done"]) == (200, "n1 is drained: it gets nothing new.")
    await eventually(lambda: bed.registry.publisher.table.nodes["n1"].state == "drained")
    status, _ = await browser.send("act", {"act": "drain", "node": "n1", "drained": False})
    assert status == 200
    await eventually(lambda: bed.registry.publisher.table.nodes["n1"].state == "active")

    await eventually(lambda: len(told(bed)) == 4)
    found = told(bed)
    assert [one["call"] for one in found] == ["SignIn", "BeginConsoleSession", "Drain", "Drain"]
    assert {one["principal"] for one in found} == {f"spiffe://{MESH}/admin/admin"}
    assert json.loads(found[2]["what"]) == {"node_name": "n1", "drained": True}
    assert found[2]["address"].endswith(" (console)")
    assert not any(secret in str(found) for secret in (browser.token, browser.cookie.partition("=")[2]))


async def test_a_rollout_is_held_and_a_revision_brought_back(bed: Bed) -> None:
    async with bed.admin() as stub:
        for text in (ROUTE % 100, ROUTE % 90, ROUTE % 90 + "---" + ROLLOUT):
            applied = await stub.Apply(pb.ApplyRequest(files=[pb.ConfigFile(name="route.yaml", text=text)]))
            assert not applied.faults
        first = (await stub.History(pb.HistoryRequest(limit=10))).revisions[-1].number
    await eventually(lambda: bed.registry.rollouts._positions.of("chat-v2") is not None)
    browser = await signed_in(bed)
    status, said = await browser.send("act", {"act": "rollout", "name": "chat-v2", "verb": "pause"})
    assert (status, said.get("done")) == (200, "chat-v2 is paused now."), said
    status, said = await browser.send("act", {"act": "rollback", "revision": first})
    assert status == 200, said
    assert said["done"].startswith(f"Revision {first + 3} brings back {first}.")
    async with bed.admin() as stub:
        newest = (await stub.History(pb.HistoryRequest(limit=1))).revisions[0]
    assert (newest.restores, newest.author) == (first, f"spiffe://{MESH}/admin/admin")


IMPOSSIBLE: tuple[tuple[object, str], ...] = (
    ({"act": "drain", "node": "none", "drained": True}, "there is no node 'none'"),
    ({"act": "rollback", "revision": 99}, "there is no revision 99"),
    ({"act": "rollout", "name": "none", "verb": "pause"}, "there is no rollout 'none'"),
    ({"act": "rollout", "name": "none", "verb": "explode"}, "does not decode"),
    ({"act": "revoke", "node": "n1"}, "does not decode"),
    ({"act": "drain", "node": "n1", "drained": True, "more": 1}, "does not decode"),
    ({"act": "drain", "node": "n" * 300, "drained": True}, "does not decode"),
    ({"act": "rollback", "revision": -1}, "does not decode"),
    (b'{"act": "drain"' + b" " * 5000, "4096 at most"),
    (b"[" * 4000, "does not decode"),
    (b"\xff", "does not decode"),
)


async def test_an_alert_is_silenced_from_the_page_and_it_is_on_record(bed: Bed) -> None:
    browser = await signed_in(bed)
    asked = {"act": "silence", "matchers": ['node="n1"'], "seconds": 3600, "reason": "its disk is replaced"}
    status, said = await browser.send("act", asked)
    (made,) = bed.registry.alerting.desk.silences.lasting
    assert (status, made.by, made.reason) == (200, "admin", "its disk is replaced")
    assert f"(silence {made.id})" in said["done"]
    (shown,) = bed.registry.feed.look().silences
    assert (shown.name, shown.matchers) == (made.id, ('node="n1"',))
    status, said = await browser.send("act", {**asked, "reason": ""})
    assert (status, "a silence says why" in said["error"]) == (400, True)
    assert (await browser.send("act", {"act": "unsilence", "id": made.id}))[0] == 200
    assert bed.registry.alerting.desk.silences.lasting == ()
    assert (await browser.send("act", {"act": "unsilence", "id": made.id}))[0] == 400
    await eventually(lambda: len(told(bed)) == 6)
    acts = [(one["call"], one["outcome"]) for one in told(bed)][2:]
    assert acts == [
        ("Silence", "OK"),
        ("Silence", "INVALID_ARGUMENT"),
        ("Unsilence", "OK"),
        ("Unsilence", "INVALID_ARGUMENT"),
    ]
    assert json.loads(told(bed)[2]["what"]) == {
        "matchers": ['node="n1"'],
        "seconds": 3600,
        "reason": "its disk is replaced",
    }


async def test_what_cannot_be_done_is_said(bed: Bed) -> None:
    browser = await signed_in(bed)
    for act, says in IMPOSSIBLE:
        answered, said = await browser.send("act", act)
        assert answered == 400, said
        assert says in said["error"]


HALVES: tuple[dict[str, str], ...] = (
    {"cookie": ""},
    {"x-bridge-console": ""},
    {"x-bridge-console": "x"},
    {"cookie": "bridge_console_00000000=a.b"},
    {"cookie": "a" * 4000},
)


async def test_half_a_session_is_none(bed: Bed) -> None:
    await bed.join("n1")
    browser = await signed_in(bed)
    for fields in HALVES:
        assert (await browser.send("act", {"act": "drain", "node": "n1", "drained": True}, fields))[0] == 401
        assert (await browser.send("session", None, fields))[0] == 401
    assert (await browser.send("session"))[0] == 200
    assert bed.registry.publisher.table.nodes["n1"].state == "active"


OTHERS: tuple[dict[str, str], ...] = (
    {"origin": ""},
    {"origin": "null"},
    {"origin": "http://evil.example"},
    {"origin": "http://127.0.0.1:1"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"content-type": "text/plain"},
    {"content-type": ""},
)


async def test_another_page_acts_for_nobody(bed: Bed) -> None:
    """With both halves of a session, as no page of another origin has them."""
    await bed.join("n1")
    browser = await signed_in(bed)
    for fields in OTHERS:
        for path, said in (("act", {"act": "drain", "node": "n1", "drained": True}), ("sign-out", {})):
            assert (await browser.send(path, said, fields))[0] == 403, fields
        assert (await Browser(bed).sign_in(await code_of(bed), fields))[0] == 403
    assert (await browser.send("session"))[0] == 200
    assert bed.registry.publisher.table.nodes["n1"].state == "active"


async def test_a_code_is_good_once_and_a_session_until_it_is_signed_out(bed: Bed) -> None:
    code, browser = await code_of(bed), Browser(bed)
    assert (await browser.sign_in(code, {"origin": f"https://127.0.0.1:{browser.port}"}))[0] == 200
    assert browser.set_cookie.endswith("; Secure")  # where the page came over TLS
    for wrong in (code, "", "x.y", "x" * 201, code[:-1]):
        status, said = await Browser(bed).sign_in(wrong)
        assert status in {400, 401}
        assert "token" not in said
    pool = Pool(("127.0.0.1", browser.port))
    for path in ("sign-in", "sign-out", "act"):
        async with pool.request(
            "GET", f"/console/api/{path}", [(b"cookie", browser.cookie.encode())]
        ) as answer:
            assert answer.status == 405
    await pool.close()
    kept = browser.cookie
    assert (await browser.send("sign-out", {}))[0] == 200
    assert "Max-Age=0" in browser.set_cookie
    browser.cookie = kept
    assert (await browser.send("session"))[0] == 401


async def test_a_role_bounds_the_page_as_it_bounds_bridgectl(bed: Bed) -> None:
    await bed.join("n1")
    async with admin(bed, "vera", "viewer") as console:
        await eventually(lambda: "vera" in bed.registry.publisher.table.admins)
        made = await console.SignIn(console_pb2.SignInRequest())
        assert (made.role, made.registry, made.seconds) == ("viewer", "r1", 60)
        browser = Browser(bed)
        assert (await browser.sign_in(made.code))[0] == 200
    status, said = await browser.send("act", {"act": "drain", "node": "n1", "drained": True})
    assert status == 403
    assert "needs the role operator, and vera has the role viewer" in said["error"]
    await eventually(
        lambda: ("Drain", "PERMISSION_DENIED") in [(one["call"], one["outcome"]) for one in told(bed)]
    )
    assert (await browser.send("session"))[0] == 200


async def test_an_admin_who_is_deleted_is_signed_out(bed: Bed) -> None:
    await bed.join("n1")
    async with admin(bed, "olga", "operator") as console:
        await eventually(lambda: "olga" in bed.registry.publisher.table.admins)
        made = await console.SignIn(console_pb2.SignInRequest())
        unused = await console.SignIn(console_pb2.SignInRequest())
        browser = Browser(bed)
        assert (await browser.sign_in(unused.code))[0] == 200
        assert (await Browser(bed).sign_in(made.code))[0] == 401  # the newer one took its place
        late = await console.SignIn(console_pb2.SignInRequest())
    async with bed.clients() as clients:
        await clients.DeleteAdmin(clients_pb2.DeleteAdminRequest(name="olga"))
    await eventually(lambda: bed.registry.publisher.table.admins["olga"].deleted)
    status, said = await browser.send("act", {"act": "drain", "node": "n1", "drained": True})
    assert status == 401
    assert "was revoked" in said["error"]
    assert (await browser.send("session"))[0] == 401
    assert (await Browser(bed).sign_in(late.code))[0] == 403
    assert bed.registry.publisher.table.nodes["n1"].state == "active"


async def test_a_registry_that_does_not_lead_lets_nobody_in(bed: Bed, etcd: FakeEtcd, tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "second", "r2")
    shutil.copytree(bed.registry.settings.state_dir / "pki", settings.state_dir / "pki")
    store = FakeStore(etcd)
    async with running(settings, store) as second:
        await eventually(lambda: second.registry._standing().leader_name == "r1")
        with pytest.raises(grpc.aio.AioRpcError, match="the registry r1 leads"):
            await code_of(second)
    await store.close()


async def test_the_command_prints_an_address_that_signs_in(
    bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRIDGE_CONTEXT", str(tmp_path / "none/context.json"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    pki = bed.registry.settings.pki
    cert, key = pki.pair("admin")
    where = ["--registry", bed.address, "--ca", str(pki.ca), "--cert", str(cert), "--key", str(key)]
    ended = await asyncio.to_thread(CliRunner().invoke, app, ["console", *where])
    assert ended.exit_code == 0, ended.output
    page, _, code = ended.stdout.strip().partition("#sign-in/")
    assert page == f"http://127.0.0.1:{bed.registry.admin_port}/console/"
    assert "Good once, for 60 s, in a browser on r1's machine; role admin." in ended.stderr
    assert (await Browser(bed).sign_in(code))[0] == 200
    ended = await asyncio.to_thread(CliRunner().invoke, app, ["console", "--json", *where])
    assert json.loads(ended.stdout)["role"] == "admin"


async def test_who_called_is_shown_to_who_is_signed_in_alone(bed: Bed) -> None:
    async with bed.clients() as clients:
        await clients.CreateClient(clients_pb2.CreateClientRequest(name="app", groups=["team"]))
    assert (await Browser(bed).send("clients"))[0] == 401
    browser = await signed_in(bed)
    await eventually(lambda: "app" in bed.registry.publisher.table.clients)

    async def told() -> dict[str, Any] | None:
        status, found = await browser.send("clients")
        assert status in {200, 503}, found  # quotas are served a moment after the registry leads
        return found if status == 200 else None

    said = await eventually(told)
    assert (said["days"], said["usage"], said["quotas"]) == (7, [], [])
    (client,) = said["clients"]
    assert client == {"name": "app", "groups": ["team"], "keys": 1, "blocked": False, "expires": 0, "used": 0}
