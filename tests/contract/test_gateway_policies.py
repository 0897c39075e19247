"""Access policies in force at gateways: who gets what answer, and what an engine never sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridge_agent.gateway.grpc_adapter.in_process import InProcessExchange
from bridge_core.config import access_policy, load
from bridge_core.config.documents import ModelAccessPolicyDocument
from bridge_core.http1 import Headers, Request
from bridge_core.policy.statements import AccessPolicy, Condition
from bridge_core.security_settings import SecuritySettings
from bridge_core.snapshot import Backend, Node, Route, Snapshot, Version, encode_entry
from tests.contract.policy_bed import PolicyBed, policy, policy_mesh
from tests.fakes.recorded_engine import RecordedEngine

RISK = "risk-assessment-v3"
GUIDE = """
apiVersion: security.deepseek.io/v1
kind: ModelAccessPolicy
metadata: {name: finance-team-policy}
spec:
  subjects: [{kind: Group, name: finance-analysts}]
  resources: [{kinds: ["Model"], names: ["risk-assessment-v3"]}]
  actions: ["predict", "explain"]
  conditions: [{key: "department", operator: In, values: ["finance"]}]
"""
INFERENCE = {
    "/api/generate": {"prompt": "x", "stream": False},
    "/api/chat": {"messages": [{"role": "user", "content": "x"}], "stream": False},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/completions": {"prompt": "x"},
    "/v1/responses": {"input": "x"},
    "/v1/messages": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 9},
}


def guide() -> AccessPolicy:
    loaded = load([("guide.yaml", GUIDE)])
    assert loaded.faults == ()
    parsed = loaded.documents[0].parsed
    assert isinstance(parsed, ModelAccessPolicyDocument)
    return access_policy(parsed)


def two(*models: str) -> dict[str, RecordedEngine]:
    """Node a has a model that everybody may use, b has these."""
    return {"a": RecordedEngine(("smollm2:135m",)), "b": RecordedEngine(models)}


def untouched(bed: PolicyBed) -> bool:
    return not any(bed.engine(node).asked for node in bed.bed.nodes)


def error_of(body: Any) -> str:
    error = body["error"]
    return error if isinstance(error, str) else error["message"]


# -- the guide's example


@pytest.mark.parametrize("path", INFERENCE)
async def test_the_guides_policy_lets_finance_predict_and_nobody_else(tmp_path: Path, path: str) -> None:
    async with policy_mesh(tmp_path, two(RISK), guide()) as bed:
        body = {"model": RISK, **INFERENCE[path]}
        assert (await bed.ask("client/ann", "POST", path, body)).status == 200
        asked = len(bed.engine("b").asked)
        for who in ("client/bob", "client/eve", "node/a", "local"):
            answer = await bed.ask(who, "POST", path, body)
            assert answer.status == 403, who
            assert error_of(answer.json()) == f"this caller may not predict model '{RISK}:latest'"
        assert len(bed.engine("b").asked) == asked
        assert (await bed.ask("admin/root", "POST", path, body)).status == 200
        other = {**body, "model": "smollm2:135m"}
        assert (await bed.ask("client/eve", "POST", path, other)).status == 200


async def test_a_refusal_has_the_protocols_shape_and_names_no_rule(tmp_path: Path) -> None:
    async with policy_mesh(tmp_path, two(RISK), guide()) as bed:
        answers = {
            path: (await bed.ask("client/eve", "POST", path, {"model": RISK, **body}))
            for path, body in INFERENCE.items()
        }
        assert answers["/v1/chat/completions"].json()["error"]["type"] == "permission_error"
        assert answers["/v1/messages"].json()["type"] == "error"
        assert answers["/v1/messages"].json()["error"]["type"] == "permission_error"
        assert isinstance(answers["/api/chat"].json()["error"], str)
        assert not any(b"finance" in answer.body for answer in answers.values())


async def test_a_closed_model_is_in_no_list_of_those_who_may_not_use_it(tmp_path: Path) -> None:
    async with policy_mesh(tmp_path, two(RISK), guide()) as bed:
        for who, sees in {
            "client/ann": True,
            "client/eve": False,
            "local": False,
            "admin/root": True,
        }.items():
            for node in ("a", "b"):
                for path in ("/api/tags", "/v1/models", "/api/ps"):
                    answer = await bed.ask(who, "GET", path, node=node)
                    assert answer.status == 200
                    named = RISK.encode() in answer.body
                    assert named is sees, (who, path)
                shown = await bed.ask(who, "POST", "/api/show", {"model": RISK}, node=node)
                one = await bed.ask(who, "GET", f"/v1/models/{RISK}", node=node)
                assert (shown.status, one.status) == ((200, 200) if sees else (404, 404)), who


async def test_what_may_not_be_shown_looks_like_what_is_not_there(tmp_path: Path) -> None:
    async with policy_mesh(
        tmp_path, two(RISK), guide(), policy("no", "Group/x", ("predict",), "gone")
    ) as bed:
        for method, path, body in (("POST", "/api/show", {}), ("GET", "/v1/models/{}", None)):
            answers = []
            for name in (RISK, "no-such-model"):
                asked = None if body is None else {"model": name}
                answer = await bed.ask("client/eve", method, path.format(name), asked)
                answers.append((answer.status, answer.body.replace(name.encode(), b"NAME")))
            assert answers[0] == answers[1]


async def test_a_loaded_model_is_listed_to_those_who_see_it(tmp_path: Path) -> None:
    async with policy_mesh(tmp_path, two(RISK), guide()) as bed:
        await bed.ask("client/ann", "POST", "/api/generate", {"model": RISK, "prompt": "x", "stream": False})
        for node in ("a", "b"):
            seen = (await bed.ask("admin/root", "GET", "/api/ps", node=node)).json()["models"]
            hidden = (await bed.ask("client/eve", "GET", "/api/ps", node=node)).json()["models"]
            assert [one for one in hidden if RISK in one["name"]] == []
            assert {one["name"] for one in hidden} <= {one["name"] for one in seen}


# -- what is on record


async def test_the_record_names_the_rule_that_decided(tmp_path: Path) -> None:
    shadow = policy("later", "Group/finance-analysts", ("predict",), RISK, effect="Deny", shadow=True)
    deny = policy("no-bob", "User/bob", ("predict",), RISK, effect="Deny")
    async with policy_mesh(tmp_path, two(RISK), guide(), shadow, deny) as bed:
        body = {"model": RISK, "prompt": "x", "stream": False}
        for who in ("client/ann", "client/bob", "client/eve"):
            await bed.ask(who, "POST", "/api/generate", body)
        kept = bed.bed["a"].gateway.records()
        assert [(one.status, one.rule, one.shadowed) for one in kept] == [
            (200, "finance-team-policy", ("later",)),
            (403, "no-bob", ()),
            (403, "", ()),
        ]
        (owners,) = bed.bed["b"].gateway.records()
        assert (owners.caller.principal, owners.rule) == (
            "spiffe://bed.local/client/ann",
            "finance-team-policy",
        )
        counters = bed.bed["a"].gateway.counters
        assert (counters.denied, counters.ended.shadowed) == ({"predict": 2}, {"later": 1})


async def test_explain_shows_a_nodes_own_programs_no_request_for_a_closed_model(tmp_path: Path) -> None:
    async with policy_mesh(tmp_path, two(RISK), guide()) as bed:
        for model in (RISK, "smollm2:135m"):
            body = {"model": model, "prompt": "x", "stream": False}
            asked = await bed.ask(
                "client/ann", "POST", "/api/generate", body, {"X-Request-Id": f"id-{model}"}
            )
            assert asked.status == 200
            exchange = InProcessExchange(Request("GET", f"/explain?id=id-{model}".encode(), Headers([])))
            await bed.bed["a"].gateway.explain(exchange)
            with exchange as reader:
                hops = msgspec.json.decode(await reader.whole(1 << 20))
            assert len(hops) == (0 if model == RISK else 1)


# -- the owner decides again


async def test_the_owner_decides_by_its_own_snapshot(tmp_path: Path) -> None:
    async with policy_mesh(tmp_path, two(RISK)) as bed:
        entries = {**bed.bed.entries, "policy/guide": encode_entry(guide())}
        bed.bed["b"].view.publish(Snapshot(Version(1, 99), entries))
        body = {"model": RISK, "prompt": "x", "stream": False}
        assert (await bed.ask("client/eve", "POST", "/api/generate", body)).status == 403
        assert bed.engine("b").asked == []
        assert (await bed.ask("client/ann", "POST", "/api/generate", body)).status == 200


async def test_a_node_that_speaks_for_a_client_gives_it_no_groups(tmp_path: Path) -> None:
    async with policy_mesh(tmp_path, two(RISK)) as bed:
        entries = {**bed.bed.entries, "policy/guide": encode_entry(guide())}
        del entries["client/ann"]
        bed.bed["b"].view.publish(Snapshot(Version(1, 99), entries))
        body = {"model": RISK, "prompt": "x", "stream": False}
        assert (await bed.ask("client/ann", "POST", "/api/generate", body)).status == 403
        assert bed.engine("b").asked == []


async def test_labels_of_the_node_that_answers_narrow_where_a_request_goes(tmp_path: Path) -> None:
    engines = {name: RecordedEngine((RISK,)) for name in ("a", "b", "c")}
    eu = policy("eu", "User/ann", ("predict",), RISK, conditions=(Condition("node.zone", "In", ("eu",)),))
    async with policy_mesh(tmp_path, engines, eu) as bed:
        body = {"model": RISK, "prompt": "x", "stream": False}
        assert (await bed.ask("client/ann", "POST", "/api/generate", body)).status == 403
        port = bed.bed["c"].peer.port
        bed.bed.publish(node__c=Node("c", f"127.0.0.1:{port}", labels={"zone": "eu"}))
        for node in ("a", "b", "c"):
            for _ in range(3):
                answer = await bed.ask("client/ann", "POST", "/api/generate", body, node=node)
                assert (answer.status, answer.headers.get(b"x-bridge-node")) == (200, b"c")
        assert (await bed.ask("client/eve", "POST", "/api/generate", body)).status == 403
        assert (bed.engine("a").asked, bed.engine("b").asked) == ([], [])


async def test_a_denial_by_labels_keeps_off_those_nodes_alone(tmp_path: Path) -> None:
    engines = {name: RecordedEngine(("m",)) for name in ("a", "b")}
    deny = policy(
        "not-on-a", "User/*", ("predict",), conditions=(Condition("node.name", "In", ("a",)),), effect="Deny"
    )
    async with policy_mesh(tmp_path, engines, deny) as bed:
        body = {"model": "m", "prompt": "x", "stream": False}
        for node in ("a", "b"):
            answer = await bed.ask("client/eve", "POST", "/api/generate", body, node=node)
            assert (answer.status, answer.headers.get(b"x-bridge-node")) == (200, b"b")
        unload = {"model": "m", "keep_alive": 0}
        assert (await bed.ask("client/eve", "POST", "/api/generate", unload)).status == 200


# -- routes


async def test_who_may_use_a_route_needs_no_right_to_what_is_behind_it_and_gets_none(tmp_path: Path) -> None:
    engines = two("secret-7b", "spare-7b")
    both = policy("chat", "User/ann", ("predict",), "chat")
    behind = policy("behind", "User/nobody", ("predict",), "secret-7b", "spare-7b")
    async with policy_mesh(tmp_path, engines, both, behind) as bed:
        bed.bed.publish(
            route__chat=Route("chat", (Backend("gone"),), fallback="second"),
            route__second=Route("second", (Backend("secret-7b"),), fallback="spare-7b"),
        )
        body = {"prompt": "x", "stream": False}
        assert (await bed.ask("client/ann", "POST", "/api/generate", {**body, "model": "chat"})).status == 200
        assert (await bed.ask("client/eve", "POST", "/api/generate", {**body, "model": "chat"})).status == 403
        for name in ("secret-7b", "spare-7b"):
            told = await bed.ask("client/ann", "POST", "/api/generate", {**body, "model": name})
            assert told.status == 403
        listed = (await bed.ask("client/ann", "GET", "/api/tags")).json()["models"]
        assert "chat:latest" in {one["name"] for one in listed}
        assert not {"secret-7b:latest", "spare-7b:latest"} & {one["name"] for one in listed}
        bed.bed.publish(route__second=Route("second", (Backend("gone"),), fallback="spare-7b"))
        assert (await bed.ask("client/ann", "POST", "/api/generate", {**body, "model": "chat"})).status == 200


async def test_a_hop_that_names_a_route_which_leads_elsewhere_is_asked_about_the_model(
    tmp_path: Path,
) -> None:
    engines = two("secret-7b")
    policies = (
        policy("chat", "User/ann", ("predict",), "chat"),
        policy("s", "User/x", ("predict",), "secret-7b"),
    )
    async with policy_mesh(tmp_path, engines, *policies) as bed:
        entries = {**bed.bed.entries, "route/chat": encode_entry(Route("chat", (Backend("secret-7b"),)))}
        bed.bed["a"].view.publish(Snapshot(Version(1, 99), entries))  # the owner has no such route
        body = {"model": "chat", "prompt": "x", "stream": False}
        assert (await bed.ask("client/ann", "POST", "/api/generate", body)).status == 403
        assert bed.engine("b").asked == []


# -- the defaults

CHANGES = (
    ("POST", "/api/pull", {"model": "x", "stream": False}),
    ("POST", "/api/push", {"model": "smollm2:135m", "stream": False}),
    ("POST", "/api/create", {"model": "x", "from": "smollm2:135m", "stream": False}),
    ("POST", "/api/copy", {"source": "smollm2:135m", "destination": "x"}),
    ("DELETE", "/api/delete", {"model": "smollm2:135m"}),
    ("POST", "/api/blobs/sha256:" + "0" * 64, b"x"),
    ("HEAD", "/api/blobs/sha256:" + "0" * 64, None),
    ("POST", "/api/me", {}),
    ("POST", "/api/experimental/web_search", {}),
)


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
async def test_what_changes_a_node_takes_an_admin_or_a_policy(
    tmp_path: Path, method: str, path: str, body: Any
) -> None:
    async with policy_mesh(tmp_path, two("m")) as bed:
        for who in ("client/ann", "node/b"):
            assert (await bed.ask(who, method, path, body)).status == 403, who
        assert untouched(bed)
        for who in ("admin/root", "local"):
            assert (await bed.ask(who, method, path, body)).status != 403, who
        everything = policy("ann-may", "User/ann", ("*",))
        bed.put(everything, msgspec.structs.replace(policy("n", "User/ann", ("admin",), kind="Node")))
        assert (await bed.ask("client/ann", method, path, body)).status != 403


@pytest.mark.parametrize(("method", "path", "body"), CHANGES[:6])
async def test_a_nodes_own_programs_change_no_other_node(
    tmp_path: Path, method: str, path: str, body: Any
) -> None:
    where = {"X-Bridge-Node": "b"}
    async with policy_mesh(tmp_path, {"a": RecordedEngine(), "b": RecordedEngine()}) as bed:
        told = await bed.ask("local", method, path, body, where)
        assert told.status == 403
        assert "on node 'b': it takes an admin's certificate, or a policy" in told.json()["error"]
        if "blobs" not in path:
            assert (await bed.ask("local", method, path, body, {"X-Bridge-Node": "all"})).status == 403
        assert untouched(bed)
        assert (await bed.ask("admin/root", method, path, body, where)).status != 403
        bed.put(policy("a-may", "Node/a", ("pull", "push", "create", "copy", "delete"), "b", kind="Node"))
        assert (await bed.ask("local", method, path, body, where)).status != 403


async def test_an_owner_lets_no_other_nodes_programs_change_it(tmp_path: Path) -> None:
    """Whatever the node that it came in at believes."""
    async with policy_mesh(tmp_path, two("m")) as bed:
        lax = policy("lax", "Node/*", ("delete",), kind="Node")
        bed.bed["a"].view.publish(
            Snapshot(Version(1, 99), {**bed.bed.entries, "policy/lax": encode_entry(lax)})
        )
        told = await bed.ask("local", "DELETE", "/api/delete", {"model": "m"}, {"X-Bridge-Node": "b"})
        assert told.status == 403
        assert untouched(bed)


async def test_everything_that_a_mutation_names_is_asked_about(tmp_path: Path) -> None:
    async with policy_mesh(tmp_path, {"a": RecordedEngine(("mine/x", "other"))}) as bed:
        bed.put(policy("own", "User/ann", ("copy", "create", "pull", "delete"), "mine/*"))
        allowed = {"source": "mine/x", "destination": "mine/y"}
        assert (await bed.ask("client/ann", "POST", "/api/copy", allowed)).status == 200
        before = len(bed.engine("a").asked)
        for method, path, body in (
            ("POST", "/api/copy", {"source": "mine/x", "destination": "other"}),
            ("POST", "/api/copy", {"source": "other", "destination": "mine/y"}),
            ("POST", "/api/create", {"model": "mine/z", "from": "other"}),
            ("POST", "/api/create", {"model": "mine/z", "name": "other"}),
            ("DELETE", "/api/delete", {"model": "mine/x", "name": "other"}),
            ("POST", "/api/pull", {"model": "mine.example/a/b"}),
            ("POST", "/api/pull", {"model": "mine/a/b"}),
            ("POST", "/api/pull", {"model": "mine/../other"}),
        ):
            assert (await bed.ask("client/ann", method, path, body)).status == 403, body
        assert len(bed.engine("a").asked) == before


async def test_the_default_of_the_mesh_holds_where_no_policy_is_about_a_model(tmp_path: Path) -> None:
    body = {"model": "smollm2:135m", "prompt": "x", "stream": False}
    async with policy_mesh(tmp_path, two("m")) as bed:
        bed.put(policy("ann", "User/ann", ("predict",), "smollm2"), security=SecuritySettings("Deny"))
        assert (await bed.ask("client/ann", "POST", "/api/generate", {**body, "model": "m"})).status == 403
        assert (await bed.ask("client/ann", "GET", "/api/tags")).json()["models"] == []
        bed.put(policy("ann", "User/ann", ("predict",), "smollm2:135m"), security=SecuritySettings("Deny"))
        assert (await bed.ask("client/ann", "POST", "/api/generate", body)).status == 200
        listed = (await bed.ask("client/ann", "GET", "/api/tags")).json()["models"]
        assert [one["name"] for one in listed] == ["smollm2:135m"]


@pytest.mark.parametrize(
    ("listener", "predicts", "deletes"), [("open", 200, 200), ("policy", 200, 403), ("off", 401, 401)]
)
async def test_the_loopback_listener_is_open_or_by_policy_or_off(
    tmp_path: Path, listener: Any, predicts: int, deletes: int
) -> None:
    async with policy_mesh(tmp_path, two("m")) as bed:
        bed.put(security=SecuritySettings(local_listener=listener))
        body = {"model": "smollm2:135m", "prompt": "x", "stream": False}
        assert (await bed.ask("local", "POST", "/api/generate", body)).status == predicts
        assert (await bed.ask("local", "DELETE", "/api/delete", body)).status == deletes


# -- conditions about the request


@pytest.mark.parametrize(
    ("condition", "passes", "fails"),
    [
        (
            Condition("num_ctx", "Lt", ("4097",)),
            {"options": {"num_ctx": 4096}},
            {"options": {"num_ctx": 4097}},
        ),
        (Condition("num_ctx", "Lt", ("4097",)), {"options": {"num_ctx": 1.5}}, {}),
        (Condition("num_ctx", "Lt", ("4097",)), {"options": {"num_ctx": 1}}, {"options": {"num_ctx": "1"}}),
        (Condition("num_ctx", "Lt", ("4097",)), {"options": {"num_ctx": 1}}, {"options": {"num_ctx": True}}),
        (Condition("keep_alive", "Lt", ("601",)), {"keep_alive": "10m"}, {"keep_alive": "1h"}),
        (Condition("keep_alive", "Lt", ("601",)), {"keep_alive": 600}, {"keep_alive": -1}),
        (Condition("keep_alive", "Lt", ("601",)), {"keep_alive": 600}, {"keep_alive": "-1s"}),
        (Condition("keep_alive", "Lt", ("601",)), {"keep_alive": 600}, {"keep_alive": "ten"}),
        (Condition("images", "Lt", ("2",)), {"images": ["QUJD"]}, {"images": ["QUJD", "QUJD"]}),
        (Condition("network", "CIDR", ("127.0.0.0/8",)), {}, None),
    ],
)
async def test_conditions_ask_about_the_request_as_the_engine_will_see_it(
    tmp_path: Path, condition: Condition, passes: dict[str, Any], fails: dict[str, Any] | None
) -> None:
    async with policy_mesh(tmp_path, two("m")) as bed:
        bed.put(policy("if", "User/eve", ("predict",), "m", conditions=(condition,)))
        body = {"model": "m", "prompt": "x", "stream": False}
        assert (await bed.ask("client/eve", "POST", "/api/generate", {**body, **passes})).status == 200
        if fails is not None:
            assert (await bed.ask("client/eve", "POST", "/api/generate", {**body, **fails})).status == 403
        elsewhere = msgspec.structs.replace(condition, values=("10.0.0.0/8",))
        if condition.key == "network":
            bed.put(policy("if", "User/eve", ("predict",), "m", conditions=(elsewhere,)))
            assert (await bed.ask("client/eve", "POST", "/api/generate", body)).status == 403
        assert len(bed.engine("b").asked) == 1


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/api/chat", {"messages": [{"role": "user", "content": "", "images": ["QUJD"]}]}),
        ("/api/chat", {"messages": [{"role": "user", "content": "", "Images": ["QUJD"]}]}),
        ("/api/generate", {"prompt": "", "images": ["QUJD"]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [PICTURE]}]}),
        ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}),
        ("/v1/messages", {"max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "image"}]}]}),
        (
            "/v1/messages",
            {
                "max_tokens": 1,
                "messages": [
                    {"role": "user", "content": [{"type": "tool_result", "content": [{"type": "image"}]}]}
                ],
            },
        ),
    ],
)
async def test_an_image_is_counted_in_every_protocols_shape(
    tmp_path: Path, path: str, fields: dict[str, Any]
) -> None:
    deny = policy(
        "blind", "User/*", ("predict",), conditions=(Condition("images", "Gt", ("0",)),), effect="Deny"
    )
    async with policy_mesh(tmp_path, two("m"), deny) as bed:
        assert (await bed.ask("client/eve", "POST", path, {"model": "m", **fields})).status == 403
        assert untouched(bed)


# -- unloading


async def test_unloading_is_an_action_of_its_own(tmp_path: Path) -> None:
    deny = policy("stay", "User/*", ("unload",), effect="Deny")
    async with policy_mesh(tmp_path, two("m"), deny) as bed:
        for body in (
            {"model": "m", "keep_alive": 0},
            {"model": "m", "keep_alive": "0s", "prompt": ""},
            {"model": "m", "keep_alive": "-0m"},
        ):
            assert (await bed.ask("client/eve", "POST", "/api/generate", body)).status == 403, body
        assert (
            await bed.ask("client/eve", "POST", "/api/chat", {"model": "m", "keep_alive": 0})
        ).status == 403
        assert untouched(bed)
        body = {"model": "m", "prompt": "x", "stream": False, "keep_alive": 0}
        assert (await bed.ask("client/eve", "POST", "/api/generate", body)).status == 200


# -- tricks with paths and names

TRICKS = (
    ("/api/chat", RISK),
    ("/api/chat", RISK.upper()),
    ("/api/chat", f"{RISK}:latest"),
    ("/api/chat", f"{RISK}:LATEST"),
    ("/api/chat", f"library/{RISK}"),
    ("/api/chat", f"registry.ollama.ai/library/{RISK}"),
    ("/api/chat", f"https://registry.ollama.ai/library/{RISK}:latest"),
    ("/api/chat", f"REGISTRY.ollama.AI/Library/{RISK}"),
    ("/api/chat", f"{RISK}@sha256:{'f' * 64}"),
    ("/api/chat", f"sha256:{'f' * 64}"),
    ("/api/chat", f" {RISK}"),
    ("/api/chat", f"{RISK}\0"),
    ("/api/chat", f"./{RISK}"),
    ("//api/chat", RISK),
    ("/api//chat", RISK),
    ("/./api/chat", RISK),
    ("/x/../api/chat", RISK),
    ("/api/chat/", RISK),
    ("/api/%63hat", RISK),
    ("/%61pi/chat", RISK),
    ("/api%2fchat", RISK),
    ("/api/%2e/chat", RISK),
    ("/x/%2e%2e/api/chat", RISK),
    ("/api/chat?x=1", RISK),
    ("/api/chat%3f", RISK),
    ("/API/CHAT", RISK),
    ("/api/chat;x", RISK),
    ("/api/chat%00", RISK),
)


@pytest.mark.parametrize(("path", "name"), TRICKS)
async def test_no_spelling_of_a_path_or_a_name_gets_around_a_policy(
    tmp_path: Path, path: str, name: str
) -> None:
    async with policy_mesh(tmp_path, two(RISK), guide()) as bed:
        body = {"model": name, "messages": [{"role": "user", "content": "x"}], "stream": False}
        answer = await bed.ask("client/eve", "POST", path, body)
        assert answer.status in {301, 307, 400, 403, 404, 405}
        location = answer.headers.get(b"location")
        if location is not None:
            assert (await bed.ask("client/eve", "POST", location.decode(), body)).status in {403, 404}
        assert untouched(bed)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"smollm2:135m","model":"RISK","messages":[]}',
        b'{"model":"smollm2:135m","Model":"RISK","messages":[]}',
        b'{"model":"smollm2:135m","mod\\u0065l":"RISK","messages":[]}',
        b'{"model":"smollm2:135m","messages":[]}{"model":"RISK"}',
        b'{"model":"smollm2:135m","name":"RISK","model":"RISK","messages":[]}',
        b'{"model":"RIS\\u004b","messages":[]}',
    ],
)
async def test_a_body_of_two_readings_gets_around_no_policy(tmp_path: Path, body: bytes) -> None:
    async with policy_mesh(
        tmp_path, two("risk"), policy("no", "User/*", ("predict",), "risk", effect="Deny")
    ) as bed:
        for path in ("/api/chat", "/v1/chat/completions", "/v1/messages"):
            assert (await bed.ask("client/eve", "POST", path, body)).status in {400, 403}
        assert untouched(bed)


@pytest.mark.parametrize(
    "path",
    [
        f"/v1/models/{name}"
        for name in (RISK, f"{RISK}:latest", f"library%2f{RISK}", f"%72{RISK[1:]}", RISK.upper())
    ],
)
async def test_a_model_in_a_path_is_asked_about_in_every_spelling(tmp_path: Path, path: str) -> None:
    async with policy_mesh(tmp_path, two(RISK), guide()) as bed:
        assert (await bed.ask("client/ann", "GET", path)).status == 200
        assert (await bed.ask("client/eve", "GET", path)).status == 404


def test_every_route_has_an_action_or_tells_of_no_model() -> None:
    from bridge_agent.gateway.routes import ROUTES

    assert {route.path for route in ROUTES if not route.action} == {"/", "/api/version", "/api/status"}
