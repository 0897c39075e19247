"""Another machine in the network: what its unchanged clients reach with a key, and what it reaches without.

The other machine is a network namespace with a cable to the mesh's; it has the mesh's CA certificate and what
`bridgectl client create` printed, and knows nothing else.
"""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge_agent.authentication.attempt_rules import FREE
from bridge_core.identity import SpiffeId
from bridge_core.identity import certificates as x509
from bridge_registry.enrolment.pki_files import Pki, open_authority
from tests import independent_log
from tests.cluster.mesh_bed import end_hard
from tests.cluster.up_bed import BRIDGE
from tests.support import eventually

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.root,
    pytest.mark.etcd,
    pytest.mark.llamacpp,
    pytest.mark.timeout(400),
]

MESH, OTHER = "10.213.78.1", "10.213.78.2"
HTTPS, GRPC = f"https://{MESH}:11443", f"{MESH}:11444"

# What a user writes who has read the clients' own documentation: everything else is in the environment.
CLIENTS = """
import anthropic, ollama, openai
model, ask = "smollm2:135m", [{"role": "user", "content": "What is the capital of France?"}]
cold = {"temperature": 0, "num_predict": 16}
print("ollama", ollama.chat(model, ask, options=cold).message.content)
print("ollama", "".join(one.message.content for one in ollama.chat(model, ask, options=cold, stream=True)))
print("list", model in [one.model for one in ollama.list().models])
said = openai.OpenAI().chat.completions.create(model=model, messages=ask, temperature=0, max_tokens=16)
print("openai", said.choices[0].message.content)
said = anthropic.Anthropic().messages.create(
    model=model, messages=ask, max_tokens=16, extra_body={"temperature": 0}
)
print("anthropic", said.content[0].text)
"""
CALL = """
import os, sys, grpc
from bridge_wire.v1 import inference_pb2 as pb, inference_pb2_grpc as rpc
read = lambda name: open(name, "rb").read()
ca, *pair = sys.argv[2:]
credentials = grpc.ssl_channel_credentials(read(ca), *(map(read, reversed(pair)) if pair else ()))
key = os.environ.get("KEY")
with grpc.secure_channel(sys.argv[1], credentials) as channel:
    asked = b'{"prompt": "What is the capital of France?", "options": {"temperature": 0}}'
    ask = pb.InferenceRequest(model_name="smollm2:135m", input_data=asked)
    try:
        said = rpc.ModelInferenceStub(channel).Predict(
            ask, metadata=[("authorization", "Bearer " + key)] if key else [], timeout=60
        )
        print("OK", said.output_data.decode())
    except grpc.RpcError as fault:
        print(fault.code().name, fault.details())
"""
# A request by hand: the status, or how the connection ended.
RAW = """
import http.client, json, ssl, sys
host, version, ca, headers, *pair = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
context.maximum_version = ssl.TLSVersion[version]
if pair:
    context.load_cert_chain(*pair)
try:
    connection = http.client.HTTPSConnection(host, 11443, timeout=60, context=context)
    connection.request("GET", "/api/tags", headers=json.loads(headers))
    answer = connection.getresponse()
    answer.read()
    print(answer.status, answer.headers["retry-after"] or "")
except (OSError, http.client.HTTPException) as fault:
    print(type(fault).__name__, fault)
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Lan:
    """The mesh's machine and the other one."""

    def __init__(self, tag: str, folder: Path) -> None:
        self.here, self.there = f"bridge-{tag}m", f"bridge-{tag}o"
        self.state, self.other = folder / "state", folder / "other-machine"
        self.other.mkdir()
        self.key = ""

    def bridgectl(self, *words: str) -> str:
        """Runs it on the mesh's machine."""
        return self._run(self.here, BRIDGE, *words, "--state-dir", str(self.state))

    def python(self, script: str, *words: str, **environment: str) -> str:
        """Runs a script on the other machine."""
        bare = {"PATH": "/usr/bin:/bin", "HOME": str(self.other), **environment}
        return self._run(self.there, sys.executable, "-W", "ignore", "-c", script, *words, env=bare)

    def raw(self, *pair: str, version: str = "TLSv1_3", **headers: str) -> str:
        return self.python(RAW, MESH, version, str(self.other / "ca.pem"), json.dumps(headers), *pair).strip()

    def records(self) -> list[dict[str, Any]]:
        """What the node has on record of who was turned away."""
        return [one for one in map(json.loads, self.entries()) if one.get("reason")]

    def entries(self) -> list[bytes]:
        """All that the node has on record."""
        return independent_log.entries_of(self.state / "node1" / "audit" / "log")

    def _run(self, name: str, *words: str, env: dict[str, str] | None = None) -> str:
        ended = subprocess.run(
            ["ip", "netns", "exec", name, *words],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=env,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout


@pytest.fixture(scope="module")
def lan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    """A mesh that `up --host` made, a client of it, and the other machine."""
    if shutil.which("ip") is None:
        pytest.skip("two machines need iproute2")
    tag = uuid.uuid4().hex[:6]
    lan = Lan(tag, tmp_path_factory.mktemp("lan"))
    names, links = (lan.here, lan.there), (f"v{tag}m", f"v{tag}o")
    try:
        for name in names:
            ip("netns", "add", name)
        ip(
            *("link", "add", links[0], "netns", names[0]),
            *("type", "veth", "peer", links[1], "netns", names[1]),
        )
        for name, link, address in zip(names, links, (MESH, OTHER), strict=True):
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "addr", "add", f"{address}/24", "dev", link)
            ip("-n", name, "link", "set", link, "up")
    except (OSError, subprocess.CalledProcessError) as fault:
        remove(names)
        pytest.skip(f"two machines need root and network namespaces: {fault}")
    try:
        lan.bridgectl("up", "--nodes", "1", "--host", MESH)
        folder = lan.other / "alice"
        lan.key = lan.bridgectl("client", "create", "alice", "--cert", "--out", str(folder)).strip()
        mesh = json.loads((lan.state / "mesh.json").read_bytes())
        shutil.copy(mesh["ca"], lan.other / "ca.pem")
        yield lan
        lan.bridgectl("down")
    finally:
        remove(names)


def remove(names: tuple[str, ...]) -> None:
    for name in names:
        found = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
        for pid in found.stdout.split():
            end_hard(int(pid))
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def pair_of(lan: Lan) -> tuple[str, str]:
    """Alice's certificate and key."""
    return str(lan.other / "alice" / "cert.pem"), str(lan.other / "alice" / "key.pem")


def test_unchanged_clients_with_a_key_are_served_over_https(lan: Lan) -> None:
    told = lan.python(
        CLIENTS,
        OLLAMA_HOST=HTTPS,
        OLLAMA_API_KEY=lan.key,
        OPENAI_BASE_URL=f"{HTTPS}/v1",
        OPENAI_API_KEY=lan.key,
        ANTHROPIC_BASE_URL=HTTPS,
        ANTHROPIC_API_KEY=lan.key,
        SSL_CERT_FILE=str(lan.other / "ca.pem"),
    )
    assert [line.split()[0] for line in told.splitlines() if line.split()] == [
        *("ollama", "ollama", "list", "openai", "anthropic")
    ]
    assert told.count("Paris") == 4
    assert "list True" in told


@pytest.mark.parametrize("by", ["key", "certificate"])
def test_grpc_is_served_with_a_key_or_a_certificate(lan: Lan, by: str) -> None:
    ca = str(lan.other / "ca.pem")
    told = (
        lan.python(CALL, GRPC, ca, KEY=lan.key) if by == "key" else lan.python(CALL, GRPC, ca, *pair_of(lan))
    )
    assert told.startswith("OK")
    assert "Paris" in told


def test_a_certificate_alone_is_enough_over_https(lan: Lan) -> None:
    assert lan.raw(*pair_of(lan)) == "200"


def test_the_open_listeners_are_not_there_for_the_network(lan: Lan) -> None:
    script = "import socket, sys; print(socket.socket().connect_ex((sys.argv[1], int(sys.argv[2]))))"
    for port in ("11434", "11446", "11401", "11405", "2379", "11402"):
        assert lan.python(script, MESH, port).strip() != "0", port


async def test_who_shows_nothing_is_told_so_and_on_record(lan: Lan) -> None:
    assert lan.raw().split() == ["401"]
    assert lan.python(CALL, GRPC, str(lan.other / "ca.pem")).startswith("UNAUTHENTICATED")

    def on_record() -> bool:
        found = [one for one in lan.records() if one["reason"] == "nothing_shown"]
        return len(found) >= 2 and {(one["status"], one["address"]) for one in found} == {(401, OTHER)}

    await eventually(on_record)


def test_an_older_tls_is_refused(lan: Lan) -> None:
    assert "SSL" in lan.raw(version="TLSv1_2") or "Reset" in lan.raw(version="TLSv1_2")


@pytest.mark.parametrize("which", ["foreign", "expired", "nobody's"])
def test_a_certificate_that_does_not_count_is_refused(lan: Lan, which: str) -> None:
    now, domain = time.time(), "bridge.local"
    own = open_authority(Pki(lan.state / "registry" / "pki", "test"))
    authority = x509.create_authority(domain, now=now, ttl_s=600) if which == "foreign" else own
    key = x509.generate_key()
    made = now - 7200 if which == "expired" else now
    identity = SpiffeId(domain, "client", "bob" if which == "nobody's" else "alice")
    leaf = x509.issue(authority, key.public_key(), identity, now=made, ttl_s=600)
    cert, private = lan.other / "bad.pem", lan.other / "bad.key"
    cert.write_bytes(x509.to_pem(leaf) + authority.pem)
    private.write_bytes(x509.key_to_pem(key))
    told = lan.raw(str(cert), str(private))
    assert not told.startswith("200"), told


async def test_who_guesses_is_held_up_and_alice_is_not(lan: Lan) -> None:
    guesses, told = 0, ["401"]
    while told[0] == "401":  # each makes the time longer: a guess of a slow machine meets it in the end, too
        told = lan.raw(**{"x-api-key": f"brk_{guesses:016x}_{'A' * 50}"}).split()
        guesses += 1
        assert guesses < FREE + 12
    assert told[0] == "429"
    assert int(told[1]) >= 1
    assert guesses > FREE
    assert lan.raw(authorization=f"Bearer {lan.key}") == "200"

    def on_record() -> bool:
        found = [(one["reason"], one["address"]) for one in lan.records()]
        return ("too_many", OTHER) in found and ("credential", OTHER) in found

    await eventually(on_record)
    assert lan.key.encode() not in b"".join(lan.entries())


def test_the_ca_of_the_mesh_is_needed_to_talk_to_it(lan: Lan) -> None:
    context = ssl.create_default_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    told = lan.python(RAW, MESH, "TLSv1_3", "/etc/ssl/certs/ca-certificates.crt", "{}")
    assert "CERTIFICATE_VERIFY_FAILED" in told or "FileNotFound" in told
