"""The Helm chart: what a real helm makes of it, and what no rendering may leave out."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from typing import Any

import msgspec
import pytest
import yaml

from bridge_agent.admin import admin_app
from bridge_core.http1 import serve
from tests.chart_bed import CHART, each_shape, objects, pod_of, render

_LASTING = ("StatefulSet", "DaemonSet", "Deployment")


@pytest.fixture(scope="module", params=list(each_shape()), ids=lambda shape: str(shape[0]))
def rendered(request: pytest.FixtureRequest, helm: str) -> list[dict[str, Any]]:
    done = render(helm, request.param[1])
    assert done.returncode == 0, done.stderr
    return objects(done.stdout)


def test_the_kustomize_base_is_what_the_chart_makes(helm: str) -> None:
    check = [sys.executable, "tools/render_kustomize.py", "--check"]
    done = subprocess.run(check, cwd=CHART.parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}: run tools/render_kustomize.py"


def test_pods_are_restricted_unless_a_capability_was_asked_for(rendered: list[dict[str, Any]]) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted."""
    for thing in rendered:
        pod = pod_of(thing)
        if pod is None:
            continue
        spec, where = pod["spec"], thing["metadata"]["name"]
        assert spec["securityContext"]["runAsNonRoot"] is True, where
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert spec["automountServiceAccountToken"] is False, where
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), where
        for container in [*spec.get("initContainers", ()), *spec["containers"]]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, container["name"]
            assert context["capabilities"]["drop"] == ["ALL"], container["name"]
            if "add" not in context["capabilities"]:
                assert context["allowPrivilegeEscalation"] is False, container["name"]
                assert "runAsUser" not in context, container["name"]


def test_what_runs_on_is_probed_bounded_and_spread(rendered: list[dict[str, Any]]) -> None:
    for thing in rendered:
        if thing["kind"] not in _LASTING:
            continue
        spec = thing["spec"]["template"]["spec"]
        labels = thing["spec"]["template"]["metadata"]["labels"]
        assert thing["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert thing["kind"] == "DaemonSet" or spec["topologySpreadConstraints"]
        for container in spec["containers"]:
            assert container["resources"]["limits"]["memory"], container["name"]
            if container["name"] != "renewal":
                assert {"startupProbe", "livenessProbe"} <= container.keys(), container["name"]
        if thing["metadata"]["name"].endswith("-agent"):
            agent = spec["containers"][0]
            drain = int(agent["lifecycle"]["preStop"]["exec"]["command"][-1])
            assert spec["terminationGracePeriodSeconds"] > drain


async def test_probes_say_what_the_admin_listener_answers(helm: str) -> None:
    said = ""
    admin = admin_app(
        metrics=lambda exchange: exchange.respond(200),
        report=lambda: None,  # type: ignore[arg-type, return-value]  # no probe asks it
        not_ready=lambda: said,
        own_name="gpu-01",
    )
    server = await serve(admin, name="admin", host="127.0.0.1", port=0)
    specs = (pod_of(thing) for thing in objects(render(helm, {}).stdout))
    containers = [one for pod in specs if pod is not None for one in pod["spec"]["containers"]]
    asking = {
        (one["name"], kind): probe
        for one in containers
        for kind, probe in one.items()
        if kind.endswith("Probe") and "/dev/tcp/" in str(probe)
    }
    assert {name for name, _ in asking} == {"agent", "registry", "store-guard"}

    async def answers(probe: dict[str, Any]) -> bool:
        argv = [
            re.sub(r"(/127\.0\.0\.1/)\d+", rf"\g<1>{server.port}", one) for one in probe["exec"]["command"]
        ]
        process = await asyncio.create_subprocess_exec(*argv, stderr=asyncio.subprocess.DEVNULL)
        return await process.wait() == 0

    try:
        assert [one for one, probe in asking.items() if not await answers(probe)] == []
        said = "it drains"
        refused = {one for one, probe in asking.items() if not await answers(probe)}
        assert refused == {one for one in asking if one[1] == "readinessProbe"}
    finally:
        await server.close(0.0)
    assert not any([await answers(probe) for probe in asking.values()])


def test_services_policies_and_budgets_select_pods_that_there_are(rendered: list[dict[str, Any]]) -> None:
    pods = [pod["metadata"]["labels"] for thing in rendered if (pod := pod_of(thing)) is not None]
    selectors = []
    for thing in rendered:
        spec = thing.get("spec", {})
        if thing["kind"] == "Service":
            selectors.append(spec["selector"])
        elif thing["kind"] in {"NetworkPolicy", "PodDisruptionBudget"}:
            selectors.append((spec.get("podSelector") or spec["selector"])["matchLabels"])
        elif thing["kind"] == "PodMonitor":
            selectors.append(spec["selector"]["matchLabels"])
    for selector in selectors:
        assert any(selector.items() <= labels.items() for labels in pods), selector


def test_ports_of_services_are_ports_of_containers(rendered: list[dict[str, Any]]) -> None:
    pods = [pod for thing in rendered if (pod := pod_of(thing)) is not None]
    for service in [thing["spec"] for thing in rendered if thing["kind"] == "Service"]:
        named = {
            port["name"]: port["containerPort"]
            for pod in pods
            if service["selector"].items() <= pod["metadata"]["labels"].items()
            for container in pod["spec"]["containers"]
            for port in container.get("ports", ())
        }
        assert {named[port["targetPort"]] for port in service["ports"]} == {
            port["port"] for port in service["ports"]
        }


@pytest.mark.parametrize(
    "values",
    [
        {"registry": {"replicas": 0}},
        {"registry": {"replica": 2}},
        {"etcd": {"replicas": 2}},
        {"etcd": {"endpoints": "http://a:2379"}},
        {"agent": {"engine": "llamacpp'; rm -rf /; '"}},
        {"agent": {"labels": {"a": "$(b)"}}},
        {"agent": {"capabilities": ["BPF"]}},
        {"agent": {"drainSeconds": 0}},
        {"agent": {"join": "anybody"}},
        {"trustDomain": "a; b"},
        {"externalMetrics": {"enabled": True, "allowedNames": []}},
        {"externalMetrics": {"enabled": True, "caBundle": "Zm9v"}},
        {"backup": {"enabled": True}},
    ],
    ids=str,
)
def test_values_that_cannot_be_meant_are_refused(helm: str, values: dict[str, Any]) -> None:
    done = render(helm, values)
    assert done.returncode != 0
    assert (
        "values don't meet the specifications" in done.stderr or "needs backup.keySecretName" in done.stderr
    )


def test_long_release_names_make_names_that_are_short_enough(helm: str) -> None:
    done = render(helm, {}, release="a" * 53)
    assert done.returncode == 0, done.stderr
    for thing in objects(done.stdout):
        assert len(thing["metadata"]["name"]) <= 52, thing["kind"]  # a StatefulSet's pods add eleven


def test_every_value_has_a_place_in_the_schema() -> None:
    schema = msgspec.json.decode((CHART / "values.schema.json").read_bytes())

    def walk(values: dict[str, Any], part: dict[str, Any], path: str) -> None:
        assert part["additionalProperties"] is False, path
        for name, value in values.items():
            assert name in part["properties"], f"{path}{name}"
            below = part["properties"][name]
            assert "description" in below or "enum" in below or "properties" in below, f"{path}{name}"
            if "properties" in below:
                walk(value, below, f"{path}{name}.")

    walk(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "")


@pytest.mark.parametrize("publish", [False, True])
def test_shared_storage_is_mounted_read_only_unless_agents_may_publish(helm: str, publish: bool) -> None:
    volume = {"persistentVolumeClaim": {"claimName": "bridge-shared-models"}}
    done = render(helm, {"agent": {"shared": {"volume": volume, "publish": publish}}})
    assert done.returncode == 0, done.stderr
    (agent,) = (
        pod["spec"]
        for thing in objects(done.stdout)
        if thing["metadata"]["name"].endswith("-agent") and (pod := pod_of(thing)) is not None
    )
    assert {"name": "shared", **volume} in agent["volumes"]
    (container,) = agent["containers"]
    mount = {"name": "shared", "mountPath": "/shared", "readOnly": not publish}
    assert mount in container["volumeMounts"]
    command = container["command"][-1]
    assert "--shared /shared" in command
    assert ("--publish" in command) is publish
    # What pods evict and remove is theirs: the shared folder is not the models folder.
    assert "--models /models" in command
