"""One message to one receiver: where it may go, with which secret, and what an answer means."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trustme

from bridge_core.errors import BridgeError
from bridge_core.http1 import Exchange, serve
from bridge_registry.alerts.delivery_rules import ReceiverPlan
from bridge_registry.alerts.posting import Answer, post

AUTHORITY = trustme.CA()
CA = AUTHORITY.cert_pem.bytes().decode()


class Receiver:
    """Answers, and keeps what it was sent."""

    def __init__(self, answer: Callable[[Exchange], None]) -> None:
        self.answer = answer
        self.bodies: list[bytes] = []
        self.headers: list[dict[bytes, bytes]] = []
        self.targets: list[str] = []

    def __call__(self, exchange: Exchange) -> None:
        request = exchange.request
        self.bodies.append(request.body)
        self.headers.append(dict(request.headers.pairs))
        self.targets.append(request.path)
        self.answer(exchange)


@contextlib.asynccontextmanager
async def receiving(
    answer: Callable[[Exchange], None] = lambda exchange: exchange.respond(200, (), b"fine"),
    *,
    secure: bool = False,
) -> AsyncIterator[tuple[Receiver, str]]:
    receiver, context = Receiver(answer), None
    if secure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        AUTHORITY.issue_cert("localhost").configure_cert(context)
    server = await serve(receiver, name="receiver", host="127.0.0.1", port=0, ssl=context)
    try:
        yield receiver, f"{'https' if secure else 'http'}://localhost:{server.port}"
    finally:
        await server.close(0.0)


def plan(url: str, **more: object) -> ReceiverPlan:
    return ReceiverPlan("r", "webhook", url, private=bool(more.pop("private", True)), **more)  # type: ignore[arg-type]


async def reason(of: ReceiverPlan, folder: Path) -> str:
    with pytest.raises(BridgeError) as caught:
        await post(of, b"{}", folder)
    return str(caught.value)


def secret(folder: Path, text: str, mode: int = 0o600) -> None:
    path = folder / "token"
    path.write_text(text)
    path.chmod(mode)


async def test_a_message_comes_with_its_secret_over_tls(tmp_path: Path) -> None:
    secret(tmp_path, "Bearer s3cret\n")
    async with receiving(secure=True) as (receiver, url):
        answer = await post(plan(f"{url}/a/b?c=d", ca=CA, authorization_file="token"), b'{"x":1}', tmp_path)
    assert answer == Answer(200, "fine")
    assert answer.taken
    assert receiver.bodies == [b'{"x":1}']
    assert receiver.targets == ["/a/b"]
    (headers,) = receiver.headers
    assert headers[b"authorization"] == b"Bearer s3cret"
    assert headers[b"content-type"] == b"application/json"


async def test_only_a_receiver_that_proves_its_name_gets_anything(tmp_path: Path) -> None:
    async with receiving(secure=True) as (receiver, url):
        other = trustme.CA().cert_pem.bytes().decode()
        assert await reason(plan(url, ca=other), tmp_path)
        assert await reason(plan(url), tmp_path), "the system does not trust it"
    assert receiver.bodies == []


async def test_an_address_that_is_not_public_is_sent_to_only_where_the_admin_says_so(tmp_path: Path) -> None:
    async with receiving() as (receiver, url):
        assert "no public address" in await reason(plan(url, private=False), tmp_path)
        assert "spec.allowPrivateAddress" in await reason(plan(url, private=False), tmp_path)
    assert receiver.bodies == []


async def test_nobody_is_followed_elsewhere(tmp_path: Path) -> None:
    async with receiving() as (innocent, there):

        def elsewhere(exchange: Exchange) -> None:
            exchange.respond(307, [(b"location", f"{there}/secret".encode())], b"")

        async with receiving(elsewhere) as (_, url):
            answer = await post(plan(url), b"{}", tmp_path)
    assert (answer.status, answer.taken) == (307, False)
    assert innocent.bodies == []


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        ("Bearer x", 0o644, "is open to other users"),
        ("a\r\nhost: evil", 0o600, "holds no value of a header"),
        ("", 0o600, "holds no value of a header"),
        ("é", 0o600, "holds no value of a header"),
        ("x" * 9000, 0o600, "is longer than"),
    ],
)
async def test_a_secret_that_is_none_is_not_sent_and_not_told(
    tmp_path: Path, text: str, mode: int, says: str
) -> None:
    secret(tmp_path, text, mode)
    async with receiving() as (receiver, url):
        told = await reason(plan(url, authorization_file="token"), tmp_path)
    assert says in told
    assert not text or text not in told
    assert receiver.bodies == []


async def test_a_secret_that_is_not_there_or_is_a_link_is_named(tmp_path: Path) -> None:
    async with receiving() as (receiver, url):
        assert "authorizationFile names a file there" in await reason(
            plan(url, authorization_file="token"), tmp_path
        )
        (tmp_path / "token").symlink_to("/etc/hostname")
        assert "is a link" in await reason(plan(url, authorization_file="token"), tmp_path)
    assert receiver.bodies == []


async def test_what_a_receiver_says_is_one_short_line(tmp_path: Path) -> None:
    def hostile(exchange: Exchange) -> None:
        exchange.respond(429, [(b"retry-after", b"30")], b"slow\n\x1b[2Jdown " + b"x" * 9000)

    async with receiving(hostile) as (_, url):
        answer = await post(plan(url), b"{}", tmp_path)
    assert (answer.status, answer.wait_s, answer.taken) == (429, 30.0, False)
    assert answer.says.startswith("slow \\x1b[2Jdown x")
    assert len(answer.says) < 1000


@pytest.mark.parametrize("after", [b"-1", b"nonsense", b"Wed, 21 Oct 2026 07:28:00 GMT", b"9" * 4000])
async def test_nonsense_about_when_to_come_again_is_not_followed(tmp_path: Path, after: bytes) -> None:
    async with receiving(lambda exchange: exchange.respond(503, [(b"retry-after", after)], b"")) as (_, url):
        answer = await post(plan(url), b"{}", tmp_path)
    assert 0.0 <= answer.wait_s <= 1e10


async def test_an_answer_without_end_is_an_answer(tmp_path: Path) -> None:
    async with receiving(lambda exchange: exchange.respond(200, (), b"x" * 100_000)) as (_, url):
        answer = await post(plan(url), b"{}", tmp_path)
    assert (answer.status, answer.says) == (200, "")


async def test_a_receiver_that_is_away_is_said_to_be(tmp_path: Path) -> None:
    async with receiving() as (_, url):
        pass
    assert await reason(plan(url), tmp_path)
    assert "does not resolve" in await reason(plan("https://nobody.invalid/"), tmp_path)
    assert "spec.ca holds no certificate" in await reason(
        plan("https://localhost/", ca="-----BEGIN CERTIFICATE-----\n%\n-----END CERTIFICATE-----"), tmp_path
    )
