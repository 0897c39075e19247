"""`bridgectl client|admin …` against a registry's gRPC: what is asked, what is printed, what is written."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from typer.testing import CliRunner, Result

from bridge_cli.context import Context, put_context
from bridge_cli.layout import Layout, MeshOptions
from bridge_cli.main import app
from bridge_core.identity.certificates import key_from_pem, read_csr
from bridge_wire.v1 import clients_pb2 as pb
from bridge_wire.v1 import registry_pb2 as wire
from tests.contract.admin_bed import Registry, serving

KEY = "brk_000000000000_00000000000000000000000000000000000000000004HUqs1"
ANNA = pb.ClientInfo(
    name="anna",
    groups=["staff"],
    attributes={"department": "finance"},
    keys=[pb.KeyInfo(id="000000000000", created_unix=1_700_000_000)],
    created_unix=1_700_000_000,
    created_by="spiffe://m/admin/root",
)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.setenv("BRIDGE_CONTEXT", str(tmp_path / "context.json"))
    monkeypatch.chdir(tmp_path)
    with serving(tmp_path) as [registry]:
        files = (str(tmp_path / name) for name in ("ca.pem", "admin.pem", "admin.key"))
        put_context("m", Context((f"127.0.0.1:{registry.port}",), *files), use=True)
        registry.answers["StatusRequest"] = wire.StatusResponse(
            leader=True, nodes=[wire.NodeStatus(name="n1", peer_address="192.0.2.7:11445")]
        )
        yield registry


def bridge(*argv: str) -> Result:
    return CliRunner().invoke(app, list(argv))


def asked(registry: Registry, kind: str) -> Any:
    return next(one for one in registry.asked if type(one).__name__ == kind)


def test_a_key_is_printed_alone_on_standard_output_and_the_next_step_beside_it(registry: Registry) -> None:
    registry.answer = pb.CreateClientResponse(key=KEY, client=ANNA)
    ended = bridge("client", "create", "anna", "--group", "staff", "--attr", "department=finance",
                   "--expires", "90d")  # fmt: skip
    assert ended.exit_code == 0, ended.output
    assert ended.stdout == f"{KEY}\n"
    assert KEY not in ended.stderr
    for line in (
        "Client anna; its API key is shown this once:",
        "OLLAMA_HOST=https://192.0.2.7:11443 OLLAMA_API_KEY=…",
        "OPENAI_BASE_URL=https://192.0.2.7:11443/v1 OPENAI_API_KEY=…",
        "ANTHROPIC_BASE_URL=https://192.0.2.7:11443 ANTHROPIC_API_KEY=…",
        f"SSL_CERT_FILE={registry.folder / 'ca.pem'}",
    ):
        assert line in ended.stderr
    request = asked(registry, "CreateClientRequest")
    assert (request.name, list(request.groups)) == ("anna", ["staff"])
    assert dict(request.attributes) == {"department": "finance"}
    assert abs(request.expires_unix - time.time() - 90 * 86_400) < 60
    assert not request.without_key


def test_every_node_of_one_machine_is_named_by_its_own_port(registry: Registry) -> None:
    registry.answers["StatusRequest"] = wire.StatusResponse(
        leader=True,
        nodes=[
            wire.NodeStatus(name="n1", peer_address="192.0.2.7:11445"),
            wire.NodeStatus(name="n2", peer_address="192.0.2.7:12445"),
            wire.NodeStatus(name="n3"),
            wire.NodeStatus(name="n4", peer_address="192.0.2.7:12445"),
        ],
    )
    registry.answer = pb.CreateClientResponse(key=KEY, client=ANNA)
    ended = bridge("client", "create", "anna")
    assert "over HTTPS: https://192.0.2.7:11443, https://192.0.2.7:12443\n" in ended.stderr
    assert "`bridge-agent status`" in ended.stderr


def test_no_key_is_made_that_nobody_sees(registry: Registry) -> None:
    registry.answers["CreateClientRequest"] = pb.CreateClientResponse(client=ANNA)
    registry.refusal = (grpc.StatusCode.INVALID_ARGUMENT, "no certificate today")
    ended = bridge("client", "create", "anna", "--cert")
    assert (ended.exit_code, "no certificate today" in ended.stderr) == (1, True)
    assert asked(registry, "CreateClientRequest").without_key
    assert "RotateClientRequest" not in registry.names
    registry.refusal = None
    registry.answers["CertifyClientRequest"] = pb.CertifyClientResponse(expires_unix=2_000_000_000)
    registry.answers["RotateClientRequest"] = pb.CreateClientResponse(key=KEY, client=ANNA)
    assert bridge("client", "create", "anna", "--cert").stdout == f"{KEY}\n"
    assert registry.names[-1] == "RotateClientRequest"


def test_the_mesh_of_this_machine_lends_its_addresses_to_no_other(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`up` keeps a mesh here; the context names another one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    state = tmp_path / ".local/state/bridge"
    state.mkdir(parents=True)
    (state / "mesh.json").write_bytes(msgspec.json.encode(Layout(state, MeshOptions()).mesh({})))
    registry.answer = pb.CreateClientResponse(key=KEY, client=ANNA)
    ended = bridge("client", "create", "anna")
    assert "https://192.0.2.7:11443" in ended.stderr, ended.output


def test_a_certificate_comes_with_a_key_that_was_made_here(registry: Registry) -> None:
    registry.answers["CreateClientRequest"] = pb.CreateClientResponse(client=ANNA)
    registry.answers["CertifyClientRequest"] = pb.CertifyClientResponse(
        certificate_chain_pem=b"chain", trust_bundle_pem=b"bundle", expires_unix=2_000_000_000
    )
    out = registry.folder / "out"
    ended = bridge("client", "create", "anna", "--cert", "--no-key", "--out", str(out), "--json")
    assert ended.exit_code == 0, ended.output
    said = json.loads(ended.stdout)
    assert (said["key"], said["cert"], said["certKey"]) == ("", str(out / "cert.pem"), str(out / "key.pem"))
    assert said["urls"] == ["https://192.0.2.7:11443"]
    key = key_from_pem((out / "key.pem").read_bytes())
    csr = read_csr(asked(registry, "CertifyClientRequest").csr_pem)
    assert csr.public_key.public_numbers() == key.public_key().public_numbers()
    assert (out / "key.pem").stat().st_mode & 0o777 == 0o600
    assert out.stat().st_mode & 0o777 == 0o700
    assert (out / "cert.pem").read_bytes() == b"chain"
    again = bridge("client", "create", "anna", "--cert", "--out", str(out))
    assert again.exit_code == 1
    assert "is there already" in again.stderr
    assert registry.names.count("CreateClientRequest") == 1  # nothing is made that could not be kept


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["create", "anna", "--attr", "department"], "--attr 'department' is not KEY=VALUE"),
        (["create", "anna", "--expires", "soon"], "--expires 'soon' is"),
        (["create", "anna", "--expires", "0s"], "--expires '0s' is less than a second"),
        (["create", "anna", "--cert", "--cert-ttl", "0s"], "--cert-ttl '0s' is less than a second"),
        (["rotate", "anna", "--overlap", "never"], "--overlap 'never' is"),
    ],
)
def test_a_malformed_option_is_named_before_anything_is_asked(
    registry: Registry, argv: list[str], says: str
) -> None:
    ended = bridge("client", *argv)
    assert ended.exit_code == 1
    assert says in ended.stderr
    assert not registry.asked


def test_clients_are_listed_and_shown_without_secrets(registry: Registry) -> None:
    blocked = pb.ClientInfo(name="otto", blocked=True, last_used_unix=1_700_000_000)
    gone = pb.ClientInfo(name="old", expires_unix=1)
    registry.answer = pb.ListClientsResponse(clients=[ANNA, blocked, gone])
    lines = bridge("client", "list").stdout.splitlines()
    assert lines[0].split() == ["NAME", "GROUPS", "KEYS", "STATE", "LAST", "USED"]
    assert [line.split()[0] for line in lines[1:]] == ["anna", "otto", "old"]
    assert ("active" in lines[1], "blocked" in lines[2], "expired" in lines[3]) == (True, True, True)
    registry.answer = pb.ListClientsResponse(clients=[ANNA])
    shown = bridge("client", "show", "anna").stdout
    for part in ("department=finance", "by admin/root", "key 000000000000", "never"):
        assert part in shown
    assert json.loads(bridge("client", "show", "anna", "--json").stdout)["name"] == "anna"
    registry.answer = pb.ListClientsResponse()
    assert "`bridgectl client create NAME` makes one" in bridge("client", "list").stdout


def test_a_client_is_rotated_blocked_and_deleted(registry: Registry) -> None:
    registry.answer = pb.CreateClientResponse(key=KEY, client=ANNA)
    rotated = bridge("client", "rotate", "anna", "--overlap", "7d")
    assert rotated.stdout == f"{KEY}\n"
    assert "those before count for 7d more" in rotated.stderr
    assert registry.asked[-1].overlap_seconds == 7 * 86_400
    assert "those before no longer count" in bridge("client", "rotate", "anna", "--overlap", "0s").stderr
    registry.answer = pb.BlockClientResponse()
    for verb, blocked in (("block", True), ("unblock", False)):
        assert json.loads(bridge("client", verb, "anna", "--json").stdout) == {
            "name": "anna",
            "blocked": blocked,
        }
        assert registry.asked[-1].blocked is blocked
    registry.answer = pb.DeleteClientResponse()
    assert bridge("client", "delete", "anna").stdout == "Client anna is deleted.\n"


def test_an_admin_is_made_with_its_own_key_and_told_how_to_go_on(registry: Registry) -> None:
    registry.answer = pb.CertifyClientResponse(
        certificate_chain_pem=b"chain", trust_bundle_pem=b"bundle", expires_unix=2_000_000_000
    )
    ended = bridge("admin", "create", "eve", "--role", "viewer")
    assert ended.exit_code == 0, ended.output
    folder = registry.folder / "admin-eve"
    assert str(folder) in ended.stdout
    assert (
        f"bridgectl context set eve --registry 127.0.0.1:{registry.port} --ca {folder}/ca.pem" in ended.stderr
    )
    request = asked(registry, "CreateAdminRequest")
    assert (request.name, request.role, request.ttl_seconds) == ("eve", "viewer", 90 * 86_400)
    key_from_pem((folder / "key.pem").read_bytes())
    wrong = bridge("admin", "create", "x", "--role", "root")
    assert (wrong.exit_code, "one of viewer, operator, admin" in wrong.stderr) == (1, True)


def test_admins_are_listed_and_deleted(registry: Registry) -> None:
    registry.answer = pb.ListAdminsResponse(
        admins=[
            pb.AdminInfo(name="admin", role="admin"),
            pb.AdminInfo(
                name="eve", role="viewer", created_unix=1_700_000_000, created_by="spiffe://m/admin/a"
            ),
        ]
    )
    lines = bridge("admin", "list").stdout.splitlines()
    assert lines[1].split() == ["admin", "admin", "with", "the", "mesh"]
    assert lines[2].endswith("by admin/a")
    registry.answer = pb.DeleteAdminResponse()
    assert bridge("admin", "delete", "eve").stdout == "Admin eve is deleted.\n"


def test_a_refusal_is_told_in_the_registrys_words(registry: Registry) -> None:
    registry.answers.clear()
    registry.refusal = (grpc.StatusCode.PERMISSION_DENIED, "this call needs the role operator")
    for argv in (("client", "create", "a"), ("client", "list"), ("admin", "list")):
        ended = bridge(*argv)
        assert (ended.exit_code, "this call needs the role operator" in ended.stderr) == (1, True)
