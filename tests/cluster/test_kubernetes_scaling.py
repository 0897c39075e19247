"""A HorizontalPodAutoscaler of a real control plane scales a Deployment by what the autoscaler wants.

The API server's aggregation layer asks `bridge-registry external-metrics`, a process, which asks a registry.
No kubelet runs, so no pod starts; how many there are to be is what a HorizontalPodAutoscaler decides.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from tests.chart_bed import CHART, objects, render
from tests.fakes.store import FakeEtcd
from tests.fleet_bed import POLICY, Fleet, apply
from tests.kube_bed import Kubernetes
from tests.metrics_bed import write_server, write_viewer
from tests.registry_bed import Bed, leading
from tests.support import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

API = "v1beta1.external.metrics.k8s.io"
METRIC = "bridge_scaling_wanted_instances"
WANTED = f"/apis/external.metrics.k8s.io/v1beta1/namespaces/bridge/{METRIC}"
POD = {"containers": [{"name": "agent", "image": "bridge"}]}
DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "bridge-agent", "namespace": "bridge"},
    "spec": {
        "replicas": 1,
        "selector": {"matchLabels": {"app": "agent"}},
        "template": {"metadata": {"labels": {"app": "agent"}}, "spec": POD},
    },
}


def autoscaler() -> dict[str, Any]:
    """The example, from one pod on and without its patience."""
    example: dict[str, Any] = yaml.safe_load((CHART.parents[1] / "keda" / "hpa-prometheus.yaml").read_text())
    spec = example["spec"]
    spec["minReplicas"] = 1
    spec["metrics"][0]["external"]["metric"]["selector"]["matchLabels"]["policy"] = "p"
    spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"] = 0
    return example


def registration(helm: str, ca: trustme.CA, port: int) -> list[dict[str, Any]]:
    """The chart's APIService, and in place of its pods' Service one that leads to this machine."""
    values = {"externalMetrics": {"enabled": True, "caBundle": ca.cert_pem.bytes().decode()}}
    (service,) = (
        one for one in objects(render(helm, values, release="bridge").stdout) if one["kind"] == "APIService"
    )
    assert base64.b64decode(service["spec"]["caBundle"]).strip() == ca.cert_pem.bytes().strip()
    service["spec"]["service"]["port"] = port
    name = service["spec"]["service"]["name"]
    here = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "bridge"},
        "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]},
    }
    return [here, service]


@contextlib.contextmanager
def adapter(folder: Path, cluster: Kubernetes, tls: Path, client: Path, registry: str) -> Iterator[Path]:
    """The command, as the chart runs it; the file that says where it listens."""
    ready = folder / "ready.json"
    with (folder / "adapter.log").open("wb") as log:
        process = subprocess.Popen(
            [
                Path(sys.executable).with_name("bridge-registry"),
                "external-metrics",
                f"--registries={registry}",
                f"--tls={tls}",
                f"--client={client}",
                f"--request-header-ca={cluster.front_proxy_ca}",
                "--namespaces=bridge",
                "--listen=127.0.0.1:0",
                f"--ready-file={ready}",
            ],
            stderr=log,
        )
    try:
        yield ready
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, (folder / "adapter.log").read_text()


@contextlib.contextmanager
def explained(cluster: Kubernetes, log: Path) -> Iterator[None]:
    """What fails in the block says what the control plane and the adapter say of it."""
    try:
        yield
    except AssertionError as fault:
        asked = (("get", "apiservice", API, "-o", "yaml"), ("describe", "hpa", "-n", "bridge"))
        for argv in asked:
            told = cluster.run("kubectl", *argv, ok=False)
            fault.add_note(told.stdout + told.stderr)
        fault.add_note(log.read_text())
        raise


@pytest.fixture
async def bed(tmp_path: Path, etcd: FakeEtcd) -> AsyncIterator[Bed]:
    async with leading(tmp_path, etcd) as found:
        yield found


@pytest.fixture
def etcd() -> FakeEtcd:
    return FakeEtcd()


async def test_a_horizontal_pod_autoscaler_follows_the_policy_and_rbac_denies_the_rest(
    cluster: Kubernetes, helm: str, bed: Bed, etcd: FakeEtcd, tmp_path: Path
) -> None:
    ca = trustme.CA()
    tls = write_server(ca, tmp_path / "tls")
    viewer = await write_viewer(bed, tmp_path / "viewer")
    await apply(bed)

    async def kubectl(*argv: str, ok: bool = True, given: Any = None) -> str:
        text = "" if given is None else json.dumps({"apiVersion": "v1", "kind": "List", "items": given})
        return await asyncio.to_thread(cluster.kubectl, *argv, given=text, ok=ok)

    async def replicas() -> int:
        return int(
            await kubectl(
                "get", "deployment", "bridge-agent", "-n", "bridge", "-o", "jsonpath={.spec.replicas}"
            )
        )

    with (
        adapter(tmp_path, cluster, tls, viewer, bed.address) as ready,
        explained(cluster, tmp_path / "adapter.log"),
    ):
        async with contextlib.AsyncExitStack() as stack:
            fleet = Fleet(bed, etcd)
            await fleet.begin(stack)
            await fleet.until(lambda: len(fleet.holders.active) == 1)
            await eventually(ready.exists, 60)
            port = int(json.loads(ready.read_text())["listen"].rpartition(":")[2])
            await kubectl("create", "namespace", "bridge")
            await kubectl(
                "create", "--validate=false", "-f", "-", given=[*registration(helm, ca, port), DEPLOYMENT]
            )

            async def available() -> bool:
                await fleet.step()
                said = "jsonpath={.status.conditions[?(@.type=='Available')].status}"
                return (await kubectl("get", "apiservice", API, "-o", said)) == "True"

            await eventually(available, 240)

            async def told() -> bool:
                await fleet.step()
                value = json.loads(await kubectl("get", "--raw", f"{WANTED}?labelSelector=policy%3Dp"))
                return [one["value"] for one in value["items"]] == ["1"]

            await eventually(told, 60)  # once the adapter has asked a registry
            # Who may read it, and who may not. On a busy machine what was known a while ago is too old (503),
            # or the API server's look at the adapter takes too long: what is refused for that is asked again.
            hpa = "--as=system:serviceaccount:kube-system:horizontal-pod-autoscaler"

            async def read_by_hpa() -> bool:
                return bool(json.loads(await kubectl("get", "--raw", WANTED, hpa))["items"])

            await eventually(read_by_hpa, 60)
            nobody = "--as=system:serviceaccount:bridge:default"
            denied = await asyncio.to_thread(cluster.run, "kubectl", "get", "--raw", WANTED, nobody, ok=False)
            assert "is forbidden" in denied.stderr
            elsewhere = WANTED.replace("namespaces/bridge", "namespaces/default")

            async def refused_elsewhere() -> bool:
                refused = await asyncio.to_thread(cluster.run, "kubectl", "get", "--raw", elsewhere, ok=False)
                if not refused.returncode:
                    pytest.fail(f"metrics were served elsewhere: {refused.stdout}")
                assert "no metrics are served in the namespace" in refused.stderr
                return True

            await eventually(refused_elsewhere, 60)
            # Outwards: requests wait, the policy wants all three.
            await kubectl("create", "--validate=false", "-f", "-", given=[autoscaler()])
            fleet.queued = dict.fromkeys(fleet.queued, 40)

            async def scaled_to(count: int) -> bool:
                await fleet.step()
                return await replicas() == count

            await eventually(lambda: scaled_to(3), 240)
            # And inwards, as the policy has it.
            await apply(bed, POLICY.replace("max: 3", "max: 1"))
            await eventually(lambda: scaled_to(1), 240)
        # The nodes are gone with their reports, and the registry with what it knew: nothing is moved.
        await kubectl("patch", "deployment", "bridge-agent", "-n", "bridge", "-p", '{"spec":{"replicas":2}}')
    found = await asyncio.to_thread(cluster.run, "kubectl", "get", "--raw", WANTED, ok=False)
    assert found.returncode
    assert await replicas() == 2
    await kubectl("delete", "apiservice", API)
    await kubectl("delete", "namespace", "bridge", "--wait=false")
