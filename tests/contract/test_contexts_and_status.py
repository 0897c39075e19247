"""Which registry a command asks, and what `bridgectl status` and `nodes` say of a mesh."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner, Result

from bridge_cli.main import app
from bridge_wire.v1 import registry_pb2 as wire
from tests.contract.admin_bed import Registry, serving
from tests.ports import free_port

NOW = int(time.time())


@pytest.fixture
def registries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Registry]]:
    """Two of one mesh; no context, no mesh on this machine."""
    monkeypatch.setenv("BRIDGE_CONTEXT", str(tmp_path / "config/context.json"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with serving(tmp_path, 2) as both:
        for one in both:
            one.answers["HistoryRequest"] = wire.HistoryResponse()
        yield both


def bridgectl(*argv: str) -> Result:
    return CliRunner().invoke(app, argv)


def set_context(name: str, *registries: Registry) -> Result:
    where = ",".join(one.address for one in registries)
    return bridgectl("context", "set", name, "--registry", where, "--pki", str(registries[0].folder))


def free_address() -> str:
    return f"127.0.0.1:{free_port()}"


def status(**more: object) -> wire.StatusResponse:
    said = {
        "trust_domain": "lab",
        "leader": True,
        "registry": "r1",
        "leader_name": "r1",
        "leader_address": "r1.example:11400",
        "registry_version": "1.0",
        "version": wire.SnapshotVersion(epoch=3, revision=7),
        "now_unix": int(time.time()),
    }
    return wire.StatusResponse(**{**said, **more})


def node(name: str, **more: object) -> wire.NodeStatus:
    said = {
        "name": name,
        "state": "active",
        "reports": True,
        "instances": [f"{name}/0"],
        "models": ["registry.ollama.ai/library/tiny:latest"],
        "version": "1.0",
        "began_unix": int(time.time()) - 9_000,
        "heard_unix": int(time.time()),
        "certificate_expires_unix": int(time.time()) + 81_000,  # half an hour more than what is told
        "peer_address": f"{name}.example:11445",
    }
    return wire.NodeStatus(**{**said, **more})


def test_without_any_mesh_both_ways_to_one_are_named(registries: list[Registry]) -> None:
    for command in ("history", "status", "nodes"):
        ended = bridgectl(command)
        assert ended.exit_code == 1
        assert "no registry is known" in ended.stderr
        assert "`bridgectl context set`" in ended.stderr
        assert "`bridgectl up`" in ended.stderr


def test_a_context_takes_the_place_of_four_flags(registries: list[Registry]) -> None:
    first, second = registries
    assert set_context("lab", first).stdout == "Context lab, the current one\n"
    assert bridgectl("history").exit_code == 0
    assert first.names == ["HistoryRequest"]
    assert set_context("other", second).stdout == "Context other (`bridgectl context use other`)\n"
    bridgectl("history", "--context", "other")
    assert second.names == ["HistoryRequest"]
    bridgectl("context", "use", "other")
    bridgectl("history")
    assert second.names == ["HistoryRequest"] * 2
    assert bridgectl("context", "list").stdout == (f"  lab  {first.address}\n* other  {second.address}\n")
    assert f"ca          {first.folder}/ca.pem" in bridgectl("context", "show", "lab").stdout
    shown = json.loads(bridgectl("context", "show", "--json").stdout)
    assert shown["registries"] == [second.address]
    bridgectl("context", "remove", "other")
    ended = bridgectl("context", "show", "other")
    assert (ended.exit_code, "contexts: lab" in ended.stderr) == (1, True)


def test_the_file_is_its_owners_alone_and_a_damaged_one_is_named(registries: list[Registry]) -> None:
    set_context("lab", registries[0])
    path = Path(os.environ["BRIDGE_CONTEXT"])
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    for rubbish in (b"{", b'{"current": "\xff"}', b'{"contexts": []}', b"[" * 100_000, b'{"curent": ""}'):
        path.write_bytes(rubbish)
        ended = bridgectl("history")
        assert ended.exit_code == 1
        assert f"cannot read {path}" in ended.stderr


def test_a_context_whose_identity_cannot_be_used_is_not_kept(registries: list[Registry]) -> None:
    one = registries[0]
    ended = bridgectl("context", "set", "lab", "--registry", one.address, "--pki", str(one.folder / "no"))
    assert ended.exit_code == 1
    assert "no/ca.pem" in ended.stderr or "no/admin" in ended.stderr
    ended = bridgectl("context", "set", "lab", "--registry", one.address)
    assert "--pki FOLDER, or --ca, --cert and --key" in ended.stderr
    ended = bridgectl("context", "set", "lab", "--registry", "here", "--pki", str(one.folder))
    assert "'here' is not an address" in ended.stderr
    assert "No context" in bridgectl("context", "list").stdout


def test_the_first_registry_that_answers_is_asked(registries: list[Registry]) -> None:
    one = registries[1]
    set_context("lab", registries[0])
    gone = free_address()
    ended = bridgectl("history", "--registry", f"{gone},{one.address}")
    assert (ended.exit_code, one.names) == (0, ["HistoryRequest"])
    other = free_address()
    ended = bridgectl("history", "--registry", f"{gone},{other}")
    assert ended.exit_code == 1
    for address in (gone, other):
        assert f"no registry answers at {address}" in ended.stderr


def test_a_registry_that_hangs_is_passed_over(registries: list[Registry]) -> None:
    set_context("lab", registries[0])
    with socket.create_server(("127.0.0.1", 0)) as hung:
        hanging = f"127.0.0.1:{hung.getsockname()[1]}"
        ended = bridgectl("history", "--registry", f"{hanging},{registries[1].address}")
    assert (ended.exit_code, registries[1].names) == (0, ["HistoryRequest"])


def test_one_that_does_not_lead_sends_the_command_to_the_leader(registries: list[Registry]) -> None:
    follower, leader = registries
    follower.refusal = (grpc.StatusCode.UNAVAILABLE, "the registry r2 leads")
    follower.answers = {"StatusRequest": status(leader=False, leader_address=leader.address)}
    leader.answer = wire.RevokeTokenResponse()
    set_context("lab", follower)
    assert bridgectl("token", "revoke", "t1").stdout == "Token t1 is revoked.\n"
    assert leader.names == ["RevokeTokenRequest"]


def test_a_refusal_of_the_leader_is_told_and_not_tried_twice(registries: list[Registry]) -> None:
    leader = registries[0]
    leader.refusal = (grpc.StatusCode.UNAVAILABLE, "the node's record changed meanwhile")
    leader.answers = {"StatusRequest": status(leader_address=leader.address)}
    set_context("lab", leader)
    ended = bridgectl("token", "revoke", "t1")
    assert (ended.exit_code, ended.stderr) == (1, "bridgectl: the node's record changed meanwhile\n")
    assert leader.names.count("RevokeTokenRequest") == 1


def test_a_mesh_in_order_is_told_in_some_lines(registries: list[Registry]) -> None:
    now = int(time.time())
    lives = [
        wire.CertificateLife(kind="root", name="0a1b", ends_unix=now + 25 * 3600 + 60),
        wire.CertificateLife(kind="registry", name="r1", ends_unix=now + 6 * 3600 + 60),
    ]
    registries[0].answer = status(nodes=[node("n1"), node("n2", state="drained")], certificates=lives)
    set_context("lab", registries[0])
    ended = bridgectl("status")
    assert ended.exit_code == 0, ended.output
    assert ended.stdout.splitlines() == [
        "mesh       lab, snapshot 3.7",
        "registry   r1 leads at r1.example:11400, version 1.0",
        "etcd       answers",
        "nodes      2: 1 serving, 1 drained",
        "versions   1.0 on 2",
        "identities valid for 22 h or more (n1 ends first)",
        "ends in    registry r1 6 h, root 0a1b 25 h",
        "you        your certificate is valid for 9 min",
        "models     tiny:latest on n1, n2",
    ]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"leader": False, "leader_name": "", "leader_address": ""}, "NOBODY LEADS"),
        ({"store_fault": "for 9 s: refused"}, "DOES NOT ANSWER for 9 s: refused"),
    ],
)
def test_a_mesh_that_cannot_be_changed_is_told_by_the_exit_code(
    registries: list[Registry], said: dict[str, object], words: str
) -> None:
    registries[0].answer = status(**said)
    set_context("lab", registries[0])
    ended = bridgectl("status")
    assert ended.exit_code == 1
    assert words in ended.stdout
    assert json.loads(bridgectl("status", "--json").stdout)["mesh"]["broken"] is True


def test_the_leader_is_asked_how_the_mesh_is(registries: list[Registry]) -> None:
    follower, leader = registries
    follower.answer = status(leader=False, leader_address=leader.address)
    leader.answer = status(nodes=[node("n1")])
    set_context("lab", follower)
    assert "1 serving" in bridgectl("status").stdout
    leader.refusal = (grpc.StatusCode.UNAVAILABLE, "this registry stops")
    leader.answer = None
    assert "none" in bridgectl("status").stdout  # what the other one knows


def test_nodes_are_listed_and_one_is_shown_in_full(registries: list[Registry]) -> None:
    silent = [wire.SilentPeer(node="n10", since_unix=NOW - 60)]
    registries[0].answer = status(
        nodes=[
            node("n10", reports=False, instances=[], models=[]),
            node("n2", silent_peers=silent, in_flight=4),
            node("n3", state="revoked", reports=False),
        ]
    )
    set_context("lab", registries[0])
    lines = bridgectl("nodes").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", "n2", "n3", "n10"]
    assert " ".join(lines[1].split()) == "n2 serving 2 h 1.0 22 h 4 n2.example:11445 tiny:latest"
    assert "away" in lines[3]
    full = bridgectl("nodes", "n2").stdout
    assert "cannot reach n10 since" in full
    assert [one["name"] for one in json.loads(bridgectl("nodes", "--json").stdout)] == ["n2", "n3", "n10"]
    ended = bridgectl("nodes", "n9")
    assert (ended.exit_code, "there is no node 'n9'" in ended.stderr) == (1, True)


def test_history_and_tokens_are_told_as_json_with_numbers(registries: list[Registry]) -> None:
    one = registries[0]
    one.answers["HistoryRequest"] = wire.HistoryResponse(
        revisions=[wire.Revision(number=2, author="a", applied_unix=NOW, changed=["Mesh/m"])]
    )
    one.answers["ListTokensRequest"] = wire.ListTokensResponse(
        tokens=[wire.TokenInfo(id="t", uses_left=3, labels={"zone": "a"})]
    )
    set_context("lab", one)
    [revision] = json.loads(bridgectl("history", "--json").stdout)
    assert (revision["number"], revision["changed"], revision["appliedUnix"]) == (2, ["Mesh/m"], NOW)
    [token] = json.loads(bridgectl("token", "list", "--json").stdout)
    assert (token["usesLeft"], token["labels"]) == (3, {"zone": "a"})
