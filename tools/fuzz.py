"""`python tools/fuzz.py [--seconds 60] [--seed 1] [TARGET …]`: hostile bytes at everything that reads them.

Each target gets inputs grown from a few good ones: bits turned, pieces cut out, doubled and swapped, words of
the grammar put in, nested deeply, numbers made long. It may raise what its contract names, and nothing
else; it may not compute for longer than two seconds. What breaks that is kept as a file, to become a test.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import itertools
import logging
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import fuzz_signatures
import fuzz_stamps
import fuzz_tokens
import structlog

from bridge_agent.authentication.authenticator import Authenticator
from bridge_agent.authentication.mesh_secrets import MeshSecrets
from bridge_agent.authentication.refusal import Refused
from bridge_agent.gateway.arrival import Arrival
from bridge_agent.gateway.asked_facts import facts_of
from bridge_agent.gateway.config import STRANGERS, ListenerKind
from bridge_agent.gateway.peek import BadBody, Shape, peek
from bridge_agent.peers.hop import decompress
from bridge_agent.routing.view import MeshView
from bridge_cli.audit_verifying import verify
from bridge_core.audit import sealed as sealed_records
from bridge_core.audit import stamps
from bridge_core.audit.entries import decode as decode_entry
from bridge_core.audit.notes import BadNote, PublicKey, read_checkpoint, read_note
from bridge_core.audit.proofs import read_proof
from bridge_core.audit.tiles import framed, pack, unpack
from bridge_core.audit.witness_rules import judge, read_request
from bridge_core.audit.writing import LogWriter
from bridge_core.clients import ApiKey, Client
from bridge_core.config import load
from bridge_core.decoding import decode_json
from bridge_core.dialects import PATHS, translate
from bridge_core.dialects.errors import ApiError
from bridge_core.dialects.gojson import decode_value
from bridge_core.dialects.wire import Stamp
from bridge_core.errors import BridgeError
from bridge_core.http1 import Headers, Request
from bridge_core.http1.connection import ServerConnection
from bridge_core.http1.limits import HttpLimits
from bridge_core.http1.server import Server, json_error
from bridge_core.identity import JoinToken, SpiffeId
from bridge_core.identity import certificates as x509
from bridge_core.identity.api_keys import PEPPER, PEPPER_BYTES, RANDOM_BYTES, Pepper, damage, id_of, mint
from bridge_core.identity.certificates import read_csr
from bridge_core.identity.host_names import canonical_host
from bridge_core.identity.principal import Principal
from bridge_core.model_store.gguf import read_header
from bridge_core.names import ModelName
from bridge_core.policy.engine import PolicyBook
from bridge_core.policy.facts import Facts
from bridge_core.policy.statements import AccessPolicy
from bridge_core.sealing import Sealer, keyring
from bridge_core.sealing.blobs import BlobKey, header_of, unwrap
from bridge_core.sealing.files import open_bytes, seal_bytes
from bridge_core.sealing.key_source import KeySource
from bridge_core.sealing.keyring import DataKey, Keyring
from bridge_core.security_settings import SecuritySettings
from bridge_core.snapshot import Instance, Snapshot, Version, encode_entry
from bridge_core.snapshot_file import decode
from bridge_engine.schema import converted
from bridge_engine.templates import Template, TemplateFault, Values
from bridge_engine.templates.call_styles import FUNCTIONS, GEMMA, PAIRS, SEPARATED, FramedCallParser
from bridge_registry.console.act_rules import act_of, call_of
from bridge_registry.records import decode_authorities

LIMIT_S = 2.0
_ADDRESSES = itertools.count()
_TOKENS = (
    *(b'{"', b'":', b"[[[[", b"]]]]", b"\\u0000", b"\xff", b"\xed\xa0\x80", b"1e999", b"-1", b"null", b"NaN"),
    *(b"{{ range . }}", b"{{ end }}", b"{{ if ", b"$ref", b"allOf", b"\r\n", b"\r\n\r\n", b"0x", b"9" * 5000),
    *(
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\n",
        b"Expect: 100-continue\r\n",
        b"- &a *a",
        b"!!",
    ),
)


@dataclass(frozen=True)
class Target:
    """What is fed: good inputs to begin with, and the faults that its contract names."""

    feed: Callable[[bytes], Any]
    seeds: Sequence[bytes]
    allowed: tuple[type[Exception], ...]


class _Silence:
    """A transport that keeps nothing."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def write(self, _data: bytes) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def write_eof(self) -> None: ...
    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, **_limits: int) -> None: ...


def http_request(data: bytes) -> None:
    """A connection that gets these bytes in three pieces."""

    async def serve() -> None:
        server = Server(
            lambda exchange: exchange.respond(200, (), exchange.request.body),
            name="fuzz",
            limits=HttpLimits(),
            stream_body=None,
            identify=None,
            error_body=json_error,
            varying=frozenset(),
        )
        connection = ServerConnection(server)
        connection.connection_made(_Silence())  # type: ignore[arg-type]  # as much of one as is used
        third = len(data) // 3 + 1
        for at in range(0, len(data), third):
            connection.data_received(data[at : at + third])
        connection.eof_received()
        connection.connection_lost(None)

    asyncio.run(serve())


def body(data: bytes) -> None:
    """A request's body to each of the translated routes."""
    for path in PATHS:
        try:
            translate(path, data, Stamp(0, "0" * 48))
        except ApiError:
            continue


def template(data: bytes) -> None:
    """A template, and what it makes of a conversation."""
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    Template(data.decode("utf-8", "replace")).render(Values(messages=messages))


def schema(data: bytes) -> None:
    """A schema that a client wants an answer in."""
    given = decode_value(data.decode("utf-8", "replace"), "no JSON")
    if isinstance(given, dict):
        converted(given)


def calls(data: bytes) -> None:
    """What a model may write for a call of a tool, in each family's way."""
    tool = {"function": {"name": "f", "parameters": {"properties": {"a": {"type": "integer"}}}}}
    for style in (FUNCTIONS, PAIRS, SEPARATED, GEMMA):
        parser = FramedCallParser(style, [tool])
        parser.feed(data.decode("utf-8", "replace"))
        parser.finish()


def gguf(data: bytes) -> None:
    """A file of weights."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        read_header(Path(file.name))


def credentials(data: bytes) -> None:
    """A request's head at an agent that knows one key; nothing but that key may be somebody's."""
    name, _, value = data.partition(b":")
    headers = Headers([(name.strip().lower(), value.strip()), (b"x-api-key", value)])
    request = Request("GET", b"/", headers)
    request.remote = (f"address {next(_ADDRESSES)}", 1)  # of its own: who fails often is not looked at
    caller = _AUTHENTICATOR.caller(request, ListenerKind.TLS)
    assert _KEY in headers.pairs[0][1], caller.who.text


_RING = Keyring((DataKey(b"k" * 8, bytes(32), 0.0),))
_BLOB = BlobKey(bytes(32), 5, b"s" * 32)


def sealed(data: bytes) -> None:
    """A sealed file, read to its end."""
    open_bytes(_RING, "fuzz", data)


def blob_header(data: bytes) -> None:
    """A sealed blob's header; what opens is what was wrapped."""
    assert unwrap(_RING, data) == _BLOB


_WHO = (
    Principal("client", "ann", "spiffe://m/client/ann", ("g", ""), {"k": "1", "": "x"}),
    Principal("user", "a#b", "corp#a#b", service_account=True),
    Principal("local", "n1", "local"),
    Principal("admin", "root", "spiffe://m/admin/root", (), {"role": "viewer"}),
)
_FACTS = (Facts(), Facts(-1.0, "::ffff:1.2.3.4%x", float("nan"), float("inf"), 1e308, {"name": ""}))


def policy(data: bytes) -> None:
    """A policy out of a snapshot, and whoever asks about anything."""
    book = PolicyBook([decode_json(data, AccessPolicy)], SecuritySettings())
    for who in _WHO:
        for facts in _FACTS:
            for name in (
                "registry.ollama.ai/library/m:latest",
                "",
                "a/b/c:d",
                "*",
                data.decode("latin-1")[:600],
            ):
                book.decide(who, "predict", "Model", name, facts)
            book.decide(who, "pull", "Node", "n1", facts)


def facts_of_body(data: bytes) -> None:
    """What conditions ask of a body."""
    caller = STRANGERS[ListenerKind.LOCAL]
    exchange: Any = SimpleNamespace(request=SimpleNamespace(remote=("127.0.0.1", 1)))
    facts_of(
        Arrival(exchange, caller, None, 0.0, "r"), peek(data, Shape("ChatRequest", frozenset())), 0.0, None
    )


def text(read: Callable[[str], Any]) -> Callable[[bytes], Any]:
    """A target that reads text."""
    return lambda data: read(data.decode("utf-8", "surrogateescape"))


_CHAT = (
    b'{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true,"tools":[],'
    b'"format":{"type":"object"}}'
)
_RESPONSES = b'{"model":"m","input":[{"type":"function_call","call_id":"c","name":"f","arguments":"{}"}]}'
_MESSAGES = (
    b'{"model":"m","max_tokens":5,"system":[{"type":"text","text":"s"}],"messages":[{"role":"assistant","content":'
    b'[{"type":"tool_use","id":"c","name":"f","input":{}}]},{"role":"user","content":[{"type":"tool_result",'
    b'"tool_use_id":"c","content":[{"type":"text","text":"1"}]}]}],"output_config":{"effort":"high"}}'
)
_SCHEMA = (
    b'{"type":"object","properties":{"a":{"$ref":"#/$defs/B"},"b":{"anyOf":[{"type":"integer","minimum":1},'
    b'{"enum":["x"]}]}},"required":["a"],"allOf":[{"properties":{"c":{"type":"string","pattern":"^a{1,3}$"}}}],'
    b'"$defs":{"B":{"type":"array","items":{"$ref":"#"},"minItems":0}}}'
)
_CALLS = (
    b"<tool_call><function=f><parameter=a>1</parameter></function></tool_call>",
    b"<tool_call>f<arg_key>a</arg_key><arg_value>1</arg_value></tool_call>",
    "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜>".encode(),
    b'<|tool_call>call:f{a:[1,{b:<|"|>x<|"|>}]}<tool_call|>',
)
_TEMPLATE = (
    b'{{ define "t" }}{{ range $i, $m := . }}{{ $x := printf "%5s" (json $m) }}{{ html $x }}{{ end }}'
    b"{{ end }}"
    b'{{ template "t" .Messages }}{{ with slice .Messages 1 }}{{ len . }}{{ end }}'
)
_PEPPER = bytes(PEPPER_BYTES)
_KEY = mint(bytes(RANDOM_BYTES)).encode()


def _authenticator() -> Authenticator:
    key = ApiKey(id_of(_KEY).decode(), Pepper(_PEPPER).hash(_KEY).hex())
    entries = {"client/a": encode_entry(Client("a", keys=(key,)))}
    secrets = MeshSecrets()
    secrets.take({PEPPER: _PEPPER})
    return Authenticator(MeshView("n", Snapshot(Version(1, 1), entries)), "n", secrets)


_AUTHENTICATOR = _authenticator()
_YAML = Path(__file__).resolve().parents[1].joinpath("mesh_config/routes.yaml").read_bytes()
_POLICY = (
    b'{"name":"p","subjects":[{"kind":"User","name":"a*"},{"kind":"Group","name":"g"}],"resources":[{"kinds":["Model",'
    b'"Node"],"names":["m","*:7b","hf.co/*/*"]}],"actions":["predict","*"],"conditions":[{"key":"k","operator":"Gt",'
    b'"values":["1"]},{"key":"network","operator":"CIDR","values":["10.0.0.0/8"]},{"key":"node.name","operator":'
    b'"Matches","values":["a*b*c"]},{"key":"time","operator":"Lt","values":["08:00"]}],"effect":"Allow"}'
)
_FACTS_BODY = (
    b'{"model":"m","options":{"num_ctx":4096},"keep_alive":"1h5m","images":["a"],"messages":[{"images":["x"],'
    b'"content":[{"type":"image_url"},{"type":["image"],"content":[{"type":"image"}]}]}],"input":[{"type":1}]}'
)
_POLICY_YAML = b"""apiVersion: security.deepseek.io/v1
kind: ModelAccessPolicy
metadata: {name: p}
spec:
  subjects: [{kind: ServiceAccount, name: "k#a:b"}, {kind: Group, name: "*"}]
  resources: [{kinds: ["Model", "Node"], names: ["m*"]}]
  actions: ["predict", "pull"]
  conditions: [{key: num_ctx, operator: Gt, values: ["1"]}, {key: weekday, operator: In, values: [Mon]}]
  effect: Deny
"""
_GGUF = b"GGUF\x03\x00\x00\x00" + bytes(8) + (1).to_bytes(8, "little") + (3).to_bytes(8, "little") + b"a.b"
_HTTP = b"POST /api/chat HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}GET / HTTP/1.1\r\nHost: a\r\n\r\n"

_ROOT = x509.create_root("m", now=time.time(), ttl_s=1e8)
_ISSUER = x509.create_intermediate(_ROOT, "m", now=time.time(), ttl_s=1e7)
_LEAF = x509.issue(
    _ISSUER,
    _ISSUER.key.public_key(),
    SpiffeId("m", "node", "n1"),
    now=time.time(),
    ttl_s=1e5,
    dns_names=["a"],
)


def der(pem: bytes) -> bytes:
    """What is between a PEM's lines."""
    return base64.b64decode(b"".join(pem.splitlines()[1:-1]))


def pem(data: bytes, kind: str = "CERTIFICATE") -> bytes:
    """Any bytes as PEM: what is in it gets past the base64."""
    body = base64.encodebytes(data).replace(b"\n", b"")
    lines = b"\n".join(body[at : at + 64] for at in range(0, len(body), 64))
    return b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (kind.encode(), lines, kind.encode())


def certificate(data: bytes) -> None:
    """A certificate that a stranger sends: read, judged, and taken for a proof or a CA."""
    shown = pem(data)
    with contextlib.suppress(BridgeError):
        x509.read_chain(shown + _ROOT.pem, _ISSUER.key, "m", now=time.time())
    with contextlib.suppress(BridgeError):
        x509.read_chain(_ISSUER.pem + shown, _ISSUER.key, "m", now=time.time())
    x509.leads_to(shown, _ROOT.certificate, _ROOT.certificate)
    x509.issued_by(shown, _ISSUER.certificate)
    x509.is_signed_by(x509.from_pem(shown), data[:72], x509.possession(b"n", b"csr", shown))
    x509.describe(shown)


def audit_log(data: bytes) -> None:
    """A log's folder whose every file holds some of these bytes, checked and taken up."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "log"
        made = LogWriter(folder, "m/node/a", lambda _: b"begun")
        made.append([b'{"kind":"request","at":%d}' % number for number in range(300)])
        made.checkpoint()
        for at, path in enumerate(
            ("checkpoint", "key.pub", "tile/entries/000.zst", "tail/1.entries", "cosigned")
        ):
            if not data or data[0] >> at & 1:
                (folder / path).write_bytes(data[1:])
        with contextlib.suppress(BadNote):
            verify(folder)
        LogWriter(folder, "m/node/a", lambda _: b"begun")


def audit_bundle(data: bytes) -> None:
    """A bundle's file, and each of its entries."""
    for entry in unpack(data)[0]:
        decode_entry(entry)
    decode_entry(data)


def cosigner(data: bytes) -> None:
    """What a log asks of a cosigner, and what that one remembers."""
    note = read_request(data)
    judge(note, PublicKey("m/node/a", bytes(32)), None)


_BUNDLE = pack(b"".join(framed(b'{"kind":"request","at":1}') for _ in range(256)))
_NOTE = ("m/node/a\n1\n" + "A" * 43 + "=\n\n\u2014 m/node/a " + "A" * 91 + "=\n").encode()
_PROOF = b"c2sp.org/tlog-proof@v1\nextra eyJyZWNvcmQiOiJ4In0=\nindex 0\n\n" + _NOTE


_JOIN = str(JoinToken.mint("ab" * 32, bytes(40))).encode()
_SEALER = Sealer(_RING)
_PARTS = sealed_records.seal_part(_SEALER, 0, 0, framed(b"one") + framed(b"two"))
_TAIL = _PARTS + sealed_records.seal_part(_SEALER, 0, 2, framed(b"three"))


def sealed_tail(data: bytes) -> None:
    """A sealed tail as it lies, then these bytes as what somebody who has the key sealed."""
    for sealer in (_SEALER, None):
        sealed_records.open_tail(sealer, 0, data)
    made = sealed_records.open_tail(_SEALER, 0, sealed_records.seal_part(_SEALER, 0, 0, data))
    assert len(made.entries) <= len(data)


def time_stamp(data: bytes) -> None:
    """What a time-stamp authority answers."""
    stamps.check(data, b"head", [_ROOT.certificate])
    raise AssertionError("a stamp of nobody was taken")


TARGETS: dict[str, Target] = {
    "console-act": Target(
        lambda data: call_of(act_of(data)),
        [b'{"act": "drain", "node": "n1", "drained": true}', b'{"act": "rollback", "revision": 7}'],
        (BridgeError,),
    ),
    "audit-tail": Target(sealed_tail, [_TAIL, _PARTS[:60], framed(b"a")], ()),
    "timestamp": Target(time_stamp, [fuzz_stamps.ANSWER, b"0\x000\x03\x02\x01\x00"], (BridgeError,)),
    "audit-log": Target(
        audit_log, [b"\x01" + _NOTE, b"\x04" + _BUNDLE, b"\x08" + framed(b"x"), b"\x02a+b+c"], ()
    ),
    "audit-bundle": Target(audit_bundle, [_BUNDLE, b'{"kind":"request"}'], (BridgeError,)),
    "audit-note": Target(lambda data: read_checkpoint(read_note(data).text), [_NOTE], (BridgeError,)),
    "audit-cosigner": Target(
        cosigner, [b"old 0\n\n" + _NOTE, b"old 7\n" + b"A" * 43 + b"=\n\n" + _NOTE], (BridgeError,)
    ),
    "audit-proof": Target(lambda data: read_proof(data).check(), [_PROOF], (BridgeError,)),
    "audit-key": Target(
        text(PublicKey.parse), [PublicKey("m/node/a", bytes(32)).text.encode()], (BridgeError,)
    ),
    "http": Target(
        http_request, [_HTTP, _HTTP.replace(b"Content-Length: 2", b"Transfer-Encoding: chunked")], ()
    ),
    "peek": Target(lambda data: peek(data, Shape("ChatRequest", frozenset({"model"}))), [_CHAT], (BadBody,)),
    "dialects": Target(body, [_CHAT, _RESPONSES, _MESSAGES], ()),
    "schema": Target(schema, [_SCHEMA], (ApiError,)),
    "calls": Target(calls, _CALLS, ()),
    "template": Target(
        template,
        [
            b"{{ range .Messages }}{{ .Role }}: {{ .Content }}{{ end }}",
            _TEMPLATE,
        ],
        (TemplateFault,),
    ),
    "gguf": Target(gguf, [_GGUF], (BridgeError,)),
    "snapshot": Target(decode, [b'{"version":{"epoch":1,"revision":2},"entries":{}}'], (BridgeError,)),
    "member": Target(
        lambda data: encode_entry(decode_json(data, Instance)),
        [b'{"id":"n1/0","node":"n1","slots":4,"models":[{"name":"m","details":{"families":["f"]}}]}'],
        (BridgeError,),
    ),
    "host": Target(text(canonical_host), [b"GPU-01.example.com.", b"::ffff:10.0.0.1"], (BridgeError,)),
    "mesh_config": Target(text(lambda said: load([("f.yaml", said)])), [_YAML, _POLICY_YAML], ()),
    "policy": Target(policy, [_POLICY, _POLICY.replace(b"Allow", b"Deny")], (BridgeError,)),
    "facts": Target(facts_of_body, [_FACTS_BODY], (BadBody,)),
    "name": Target(text(ModelName.parse), [b"registry.ollama.ai/library/m:latest"], (BridgeError,)),
    "token": Target(
        text(JoinToken.parse),
        [str(JoinToken.mint("ab" * 32, bytes(40))).encode(), b"brj1.a.b.c"],
        (BridgeError,),
    ),
    "key-source": Target(
        text(KeySource.parse), [b"file:/a", b"credential:a", b"exec:/a 'b c'"], (BridgeError,)
    ),
    "credentials": Target(
        credentials, [b"authorization: Bearer " + _KEY, b"api-key: " + _KEY, b"x: " + _KEY], (Refused,)
    ),
    "api_key": Target(lambda data: (damage(data), id_of(data), Pepper(_PEPPER).hash(data)), [_KEY], ()),
    "model-manifest": Target(fuzz_signatures.manifest, fuzz_signatures.MANIFESTS, ()),
    "model-signature": Target(fuzz_signatures.bundle, fuzz_signatures.BUNDLES, ()),
    "model-statement": Target(fuzz_signatures.statement, fuzz_signatures.STATEMENTS, (BridgeError,)),
    "model-signer": Target(fuzz_signatures.chain, fuzz_signatures.CHAINS, (BridgeError,)),
    "jwt": Target(fuzz_tokens.token, fuzz_tokens.TOKENS, (BridgeError,)),
    "claims": Target(fuzz_tokens.claims, fuzz_tokens.CLAIMS, (BridgeError,)),
    "key_set": Target(fuzz_tokens.key_set, fuzz_tokens.KEY_SETS, (BridgeError,)),
    "spiffe": Target(text(SpiffeId.parse), [b"spiffe://mesh/node/n1"], (BridgeError,)),
    "csr": Target(
        read_csr,
        [b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"],
        (BridgeError,),
    ),
    "sealed": Target(
        sealed,
        [seal_bytes(_RING, "fuzz", bytes(24), b"x" * size) for size in (0, 100, 16_384, 40_000)],
        (BridgeError,),
    ),
    "blob_header": Target(blob_header, [header_of(_RING, _BLOB, bytes(24))], (BridgeError,)),
    "keyring": Target(
        lambda data: keyring.decode(data, bytes(32)),
        [keyring.encode(_RING, bytes(32), bytes(24))],
        (BridgeError,),
    ),
    "csr_inside": Target(
        lambda data: read_csr(pem(data, "CERTIFICATE REQUEST")),
        [der(x509.create_csr(_ISSUER.key, SpiffeId("m", "node", "n1"), dns_names=["a"], addresses=["::1"]))],
        (BridgeError,),
    ),
    "certificate": Target(
        certificate, [der(x509.to_pem(_LEAF)), der(_ISSUER.pem), der(_ROOT.pem)], (BridgeError,)
    ),
    "authorities": Target(
        decode_authorities,
        [b'{"issuers":[{"pin":"a","certificate":"c","root":"r","root_pin":"b","sealed_key":"AAAA"}]}'],
        (BridgeError,),
    ),
    "zstd": Target(
        lambda data: decompress(data, 1 << 20), [b"\x28\xb5\x2f\xfd\x04\x00\x01\x00\x00a"], (BridgeError,)
    ),
}


def changed(draw: random.Random, data: bytes) -> bytes:
    """A hostile relative of an input."""
    made = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 8))):
        at = draw.randrange(len(made) + 1)
        end = min(len(made), at + draw.randrange(1, 32))
        match draw.randrange(7):
            case 0 if made:
                made[at % len(made)] ^= 1 << draw.randrange(8)
            case 1:
                del made[at:end]
            case 2:
                made[at:at] = made[at:end] * draw.choice((1, 2, 50))
            case 3:
                made[at:at] = draw.choice(_TOKENS)
            case 4:
                made[at:at] = draw.choice((b"[", b'{"a":', b"(", b"{{ if . }}")) * draw.choice((3, 900, 5000))
            case 5:
                made[at:end] = draw.randbytes(end - at)
            case _:
                del made[at:]
        del made[1 << 20 :]
    return bytes(made)


def run(name: str, target: Target, seconds: float, seed: int) -> bytes | None:
    """Feeds a target; the input that it did not bear."""
    draw, corpus, count = random.Random(f"{name}{seed}"), list(target.seeds), 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        data = changed(draw, draw.choice(corpus)) if count else corpus[0]
        count += 1
        signal.setitimer(signal.ITIMER_PROF, LIMIT_S)  # of its own: a busy disk or machine is no fault of it
        try:
            target.feed(data)
        except target.allowed:
            continue
        except Exception:  # noqa: BLE001 - whatever it is, it is what was looked for
            traceback.print_exc()
            return data
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        if len(corpus) < 500 and len(data) < 4096:
            corpus.append(data)  # it was read: its relatives get further than noise does
    print(f"{name}: {count} inputs, {len(corpus)} kept")
    return None


def _late(_number: int, _frame: FrameType | None) -> None:
    raise TimeoutError(f"longer than {LIMIT_S:g} s")


def main() -> int:
    """Feeds the targets one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS], default=[])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    signal.signal(signal.SIGPROF, _late)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    broken = 0
    for name in asked.targets or TARGETS:
        data = run(name, TARGETS[name], asked.seconds, asked.seed)
        if data is not None:
            broken += 1
            kept = Path(tempfile.gettempdir()) / f"fuzz-{name}.bin"
            kept.write_bytes(data)
            print(f"{name}: broken by the {len(data)} bytes in {kept}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
