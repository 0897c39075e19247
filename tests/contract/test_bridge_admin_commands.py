"""`bridgectl token|apply|…` against a registry's gRPC: what is asked, what is printed, how it fails."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import trustme
from typer.testing import CliRunner, Result

from bridge_cli.main import app
from bridge_wire.v1 import registry_pb2 as wire
from tests.contract.admin_bed import Registry, serving


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with serving(tmp_path) as [registry]:
        yield registry


def bridge(registry: Registry, *argv: str) -> Result:
    folder = registry.folder
    where = ["--registry", f"127.0.0.1:{registry.port}", "--ca", str(folder / "ca.pem")]
    where += ["--cert", str(folder / "admin.pem"), "--key", str(folder / "admin.key")]
    return CliRunner().invoke(app, [*argv, *where])


def test_a_token_is_printed_alone_on_standard_output(registry: Registry) -> None:
    registry.answer = wire.CreateTokenResponse(token="brj1.a.b.c", id="a", expires_unix=2_000_000_000)
    ended = bridge(
        registry, "token", "create", "--ttl", "30m", "--uses", "2", "--label", "zone=a", "--node", "n1"
    )
    assert ended.exit_code == 0, ended.output
    assert ended.stdout == "brj1.a.b.c\n"
    (asked,) = registry.asked
    assert (asked.ttl_seconds, asked.uses, asked.node_name) == (1_800, 2, "n1")
    assert dict(asked.labels) == {"zone": "a"}


@pytest.mark.parametrize("argv", [["--ttl", "soon"], ["--ttl", "0s"], ["--label", "zone"]])
def test_a_malformed_option_is_named(registry: Registry, argv: list[str]) -> None:
    ended = bridge(registry, "token", "create", *argv)
    assert ended.exit_code == 1
    assert f"{argv[0]} '{argv[1]}'" in ended.stderr
    assert not registry.asked


def test_an_upgrade_is_planned_only_and_needs_the_word_for_it(registry: Registry) -> None:
    ended = bridge(registry, "upgrade")
    assert ended.exit_code == 1
    assert "bridgectl upgrade --plan" in ended.stderr
    assert not registry.asked


def test_tokens_are_listed_and_revoked(registry: Registry) -> None:
    registry.answer = wire.ListTokensResponse(
        tokens=[wire.TokenInfo(id="tok1", expires_unix=2_000_000_000, uses_left=3, created_by="admin")]
    )
    assert "tok1" in bridge(registry, "token", "list").stdout
    registry.answer = wire.RevokeTokenResponse()
    assert bridge(registry, "token", "revoke", "tok1").exit_code == 0
    assert registry.asked[-1].id == "tok1"


def test_a_folder_is_applied_with_file_names(registry: Registry, tmp_path: Path) -> None:
    config = tmp_path / "mesh_config"
    (config / "routes").mkdir(parents=True)
    (config / "mesh.yaml").write_text("kind: Mesh\n")
    (config / "routes" / "chat.yml").write_text("kind: ModelRoute\n")
    (config / "README.md").write_text("not this")
    registry.answer = wire.ApplyResponse(revision=7, changed=["ModelRoute/chat"])
    ended = bridge(registry, "apply", "-f", str(config), "--prune")
    assert ended.stdout == "Revision 7: ModelRoute/chat\n"
    (asked,) = registry.asked
    assert asked.prune
    assert {file.name: file.text for file in asked.files} == {
        str(config / "mesh.yaml"): "kind: Mesh\n",
        str(config / "routes" / "chat.yml"): "kind: ModelRoute\n",
    }


def test_every_fault_is_printed_with_file_and_line(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: Mesh\n")
    registry.answer = wire.ApplyResponse(
        faults=[
            wire.Fault(file="a.yaml", line=3, path="spec.ttl", message="not a number"),
            wire.Fault(file="a.yaml", message="twice"),
        ]
    )
    ended = bridge(registry, "apply", "-f", str(tmp_path / "a.yaml"))
    assert ended.exit_code == 1
    assert ended.stderr.splitlines() == [
        "a.yaml:3: spec.ttl: not a number",
        "a.yaml: twice",
        "bridgectl: nothing was applied: 2 faults",
    ]


def test_a_diff_is_printed_and_told_by_the_exit_code(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: Mesh\n")
    registry.answer = wire.DiffResponse(unified_diff="-a\n+b\n")
    ended = bridge(registry, "diff", "-f", str(tmp_path / "a.yaml"))
    assert (ended.exit_code, ended.stdout) == (1, "-a\n+b\n")
    registry.answer = wire.DiffResponse()
    assert bridge(registry, "diff", "-f", str(tmp_path / "a.yaml")).exit_code == 0


def test_documents_history_and_rollback(registry: Registry) -> None:
    documents = [wire.ConfigDocument(yaml="kind: Mesh\n"), wire.ConfigDocument(yaml="kind: ModelRoute")]
    registry.answer = wire.GetConfigResponse(documents=documents)
    assert bridge(registry, "get").stdout == "kind: Mesh\n---\nkind: ModelRoute\n"
    registry.answer = wire.HistoryResponse(
        revisions=[wire.Revision(number=2, author="admin/a", applied_unix=2_000_000_000, changed=["Mesh/m"])]
    )
    assert "admin/a  Mesh/m" in bridge(registry, "history").stdout
    registry.answer = wire.ApplyResponse(revision=3, changed=["Mesh/m"])
    assert "Revision 3" in bridge(registry, "rollback", "1").stdout


def test_draining_waits_until_it_is_safe_and_says_what_is_left(registry: Registry) -> None:
    busy = wire.NodeStatus(name="node1", state="drained", in_flight=2, reports=True)
    registry.answers = {
        "DrainRequest": wire.DrainResponse(),
        "StatusRequest": wire.StatusResponse(nodes=[busy]),
    }
    assert bridge(registry, "drain", "node1", "--undo").stdout == "node1 is back in service.\n"
    assert not registry.asked[-1].drained
    left = bridge(registry, "drain", "node1", "--timeout", "0")
    assert left.stdout == "node1 takes no new requests; 2 requests in flight.\n"
    ended = bridge(registry, "drain", "node1", "--timeout", "0.01")
    assert ended.exit_code == 1
    assert "node1 is not safe to stop after 0.01 s: 2 requests in flight" in ended.output
    safe = wire.NodeStatus(name="node1", state="drained", reports=True, safe_to_stop=True)
    registry.answers["StatusRequest"] = wire.StatusResponse(nodes=[safe])
    assert bridge(registry, "drain", "node1").stdout == "node1 is drained: safe to stop.\n"
    assert [type(one).__name__ for one in registry.asked[-2:]] == ["DrainRequest", "StatusRequest"]
    assert registry.asked[-2].drained


def test_a_node_is_revoked(registry: Registry) -> None:
    registry.answer = wire.RevokeResponse()
    assert bridge(registry, "revoke", "node1").stdout.startswith("node1 is revoked.")
    assert registry.asked[-1].node_name == "node1"


def test_rollouts_are_shown_and_commanded(registry: Registry) -> None:
    one = wire.RolloutStatus(
        name="roll",
        phase="rolled-back",
        step=1,
        steps=10,
        reason="error rate 20.0% (6 of 30) against 0 of 90",
        stable=wire.RolloutSide(backend="old", share=1.0, requests=90),
        canary=wire.RolloutSide(backend="new", requests=30, error_rate=0.2, ttft_p50=0.25),
        events=[wire.RolloutEvent(at_unix=1_800_000_000, what="began: step 1 of 10")],
    )
    registry.answer = wire.RolloutsResponse(rollouts=[one])
    said = bridge(registry, "rollout", "status").stdout
    assert "roll: rolled-back, step 2 of 10" in said
    assert "error rate 20.0% (6 of 30) against 0 of 90" in said
    assert "began: step 1 of 10" in said
    assert "begin it anew with `bridgectl rollout restart roll`" in said
    for phase, words in (("complete", "remove the Rollout document in the same apply"), ("paused", "")):
        changed = wire.RolloutStatus(name="roll", phase=phase, canary=one.canary, stable=one.stable)
        registry.answer = wire.RolloutsResponse(rollouts=[changed])
        said = bridge(registry, "rollout", "status").stdout
        assert ("It is over" in said) == bool(words)
        assert words in said
    registry.answer = wire.RolloutsResponse(rollouts=[one])
    shown = json.loads(bridge(registry, "rollout", "status", "roll", "--json").stdout)
    assert (shown[0]["canary"]["errorRate"], registry.asked[-1].name) == (0.2, "roll")
    registry.answer = wire.RolloutsResponse()
    assert bridge(registry, "rollout", "status").stdout == "No rollout is applied.\n"
    for verb in ("pause", "resume", "promote", "abort", "restart"):
        registry.answer = wire.RolloutStatus(name="roll", phase="paused")
        assert bridge(registry, "rollout", verb, "roll").stdout == "roll is paused.\n"
        assert (registry.asked[-1].name, registry.asked[-1].verb) == ("roll", verb)


def test_what_the_registry_says_is_what_is_printed(registry: Registry) -> None:
    registry.refusal = (grpc.StatusCode.NOT_FOUND, "there is no revision 9")
    ended = bridge(registry, "rollback", "9")
    assert ended.exit_code == 1
    assert ended.stderr == "bridgectl: there is no revision 9\n"


def test_a_registry_that_is_not_there_is_named(registry: Registry) -> None:
    registry.port = 1
    ended = bridge(registry, "history")
    assert ended.exit_code == 1
    assert ended.stderr.startswith("bridgectl: no registry answers at 127.0.0.1:1: Connection refused\n")
    assert "Traceback" not in ended.output


def foreign_ca(folder: Path) -> None:
    trustme.CA().cert_pem.write_to_path(folder / "ca.pem")


def foreign_pair(folder: Path) -> None:
    other = trustme.CA().issue_cert("admin.test")
    other.cert_chain_pems[0].write_to_path(folder / "admin.pem")
    other.private_key_pem.write_to_path(folder / "admin.key")


def rubbish(folder: Path) -> None:
    (folder / "admin.pem").write_bytes(b"rubbish")


def no_key(folder: Path) -> None:
    (folder / "admin.key").unlink()


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (foreign_ca, "it has to be of the mesh of {folder}/ca.pem"),
        (foreign_pair, "hung up: it is stopping, or does not accept this certificate ({folder}/admin.pem)"),
        (rubbish, "{folder}/admin.pem holds no certificate"),
        (no_key, "there is no key file {folder}/admin.key"),
    ],
)
def test_an_identity_that_does_not_fit_is_named(
    registry: Registry, harm: Callable[[Path], None], says: str
) -> None:
    harm(registry.folder)
    ended = bridge(registry, "history")
    assert ended.exit_code == 1
    assert says.format(folder=registry.folder) in ended.stderr
    assert "--ca, --cert and --key name an admin's identity" in ended.stderr


def test_an_address_that_is_none_is_named(registry: Registry) -> None:
    folder = registry.folder
    identity = ["--ca", str(folder / "ca.pem"), "--cert", str(folder / "admin.pem")]
    ended = CliRunner().invoke(
        app, ["history", "--registry", "here", *identity, "--key", str(folder / "admin.key")]
    )
    assert ended.exit_code == 1
    assert ended.stderr.startswith("bridgectl: 'here' is not an address\n")


def test_restore_says_what_was_the_matter_and_what_was_put_back(registry: Registry) -> None:
    registry.answer = wire.RestoreResponse(
        reason="the store came back empty: it holds no mesh", nodes=3, documents=1, revocations=2, removed=1
    )
    ended = bridge(registry, "restore", "--from-snapshot")
    assert ended.exit_code == 0
    assert "came back empty" in ended.stdout
    put = "3 nodes, 1 document of mesh_config, 2 revocations, 0 join tokens"
    assert f"Put back: {put}.\nRemoved: 1 record" in ended.stdout
    assert not registry.asked[-1].accept_store
    assert "as it is" in bridge(registry, "restore", "--accept-store").stdout
    assert registry.asked[-1].accept_store


@pytest.mark.parametrize("flags", [[], ["--from-snapshot", "--accept-store"]])
def test_restore_is_told_which_way(registry: Registry, flags: list[str]) -> None:
    ended = bridge(registry, "restore", *flags)
    assert ended.exit_code == 1
    assert registry.asked == []


def test_a_rollback_says_what_it_deletes_and_history_that_it_was_one(registry: Registry) -> None:
    changed = ["ModelRoute/a", "ModelRoute/b"]
    registry.answer = wire.ApplyResponse(revision=3, changed=changed, removed=["ModelRoute/b"])
    assert "Revision 3: ModelRoute/a, ModelRoute/b (deleted)" in bridge(registry, "rollback", "1").stdout
    registry.answer = wire.HistoryResponse(
        revisions=[wire.Revision(number=3, author="spiffe://m/admin/a", changed=changed, restores=1)]
    )
    assert "back to revision 1" in bridge(registry, "history").stdout


def test_warnings_of_an_apply_are_printed_and_are_no_failure(registry: Registry, tmp_path: Path) -> None:
    registry.answer = wire.ApplyResponse(
        revision=1, changed=["ModelRoute/a"], warnings=["route a: no node has m"]
    )
    (tmp_path / "a.yaml").write_text("kind: x")
    ended = bridge(registry, "apply", "-f", str(tmp_path / "a.yaml"))
    assert ended.exit_code == 0
    assert "warning: route a: no node has m" in ended.stderr


def test_a_token_may_let_its_nodes_have_host_names(registry: Registry) -> None:
    registry.answer = wire.CreateTokenResponse(token="brj1.x", id="x", expires_unix=1)
    flags = ("--dns-name", "gpu-01.example", "--dns-name", "*.rack.example")
    assert bridge(registry, "token", "create", *flags).exit_code == 0
    assert list(registry.asked[-1].dns_names) == ["gpu-01.example", "*.rack.example"]
