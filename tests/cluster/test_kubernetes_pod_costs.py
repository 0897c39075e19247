"""A real control plane ends the cheapest pods, by what `bridge-registry pod-costs` may tell it and no more.

No kubelet runs, so no pod starts; which of them a ReplicaSet lets go is the controller manager's to decide.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge_registry.pod_costs.cost_rules import ANNOTATION
from bridge_registry.pod_costs.writer import CostOptions, CostWriter
from bridge_wire.v1 import scaling_pb2 as pb
from tests.chart_bed import objects, render
from tests.fakes.store import FakeEtcd
from tests.fleet_bed import Fleet, apply
from tests.kube_bed import Kubernetes
from tests.metrics_bed import write_viewer
from tests.registry_bed import leading
from tests.support import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SPACE = "bridge-costs"
ACCOUNT = f"system:serviceaccount:{SPACE}:bridge-pod-costs"
POD = {"containers": [{"name": "agent", "image": "bridge"}]}
DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "agents", "namespace": SPACE},
    "spec": {
        "replicas": 4,
        "selector": {"matchLabels": {"app": "agent"}},
        "template": {"metadata": {"labels": {"app": "agent"}}, "spec": POD},
    },
}


def rights(helm: str) -> list[dict[str, Any]]:
    """The chart's account and what it may."""
    made = objects(render(helm, {"podCosts": {"enabled": True}}, release="bridge").stdout)
    found = [one for one in made if one["metadata"]["name"] == "bridge-pod-costs"]
    kept = [one for one in found if one["kind"] in {"ServiceAccount", "Role", "RoleBinding"}]
    assert len(kept) == 3
    for one in kept:
        one["metadata"]["namespace"] = SPACE
        for subject in one.get("subjects", ()):
            subject["namespace"] = SPACE
    return kept


@contextlib.contextmanager
def program(folder: Path, cluster: Kubernetes, account: Path, client: Path, registry: str) -> Iterator[None]:
    """The command, as the chart runs it."""
    with (folder / "costs.log").open("wb") as log:
        process = subprocess.Popen(
            [
                Path(sys.executable).with_name("bridge-registry"),
                "pod-costs",
                f"--registries={registry}",
                f"--client={client}",
                f"--namespace={SPACE}",
                "--api={}:{}".format(*cluster.address),
                f"--account={account}",
            ],
            stderr=log,
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, (folder / "costs.log").read_text()


async def test_the_cheapest_pods_go_first_and_the_account_may_do_nothing_else(
    cluster: Kubernetes, helm: str, tmp_path: Path
) -> None:
    def apply_list(*items: dict[str, Any]) -> None:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        cluster.kubectl("create", "--validate=false", "-f", "-", given=text)

    def pods() -> dict[str, str]:
        found = cluster.items("pods", "-n", SPACE)
        alive = [one["metadata"] for one in found if "deletionTimestamp" not in one["metadata"]]
        return {one["name"]: one.get("annotations", {}).get(ANNOTATION, "") for one in alive}

    def may(verb: str, what: str, part: str = "") -> bool:
        whole = [verb, what, f"--subresource={part}", "-n", SPACE, f"--as={ACCOUNT}"]
        said = cluster.kubectl("auth", "can-i", *whole, ok=False)
        return said.strip() == "yes"

    cluster.kubectl("create", "namespace", SPACE)
    apply_list(*rights(helm), DEPLOYMENT)
    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text(cluster.kubectl("create", "token", "bridge-pod-costs", "-n", SPACE))
    (account / "ca.crt").write_bytes(cluster.ca)
    assert may("patch", "pods", "status")
    denied = [("patch", "pods"), ("get", "pods"), ("list", "pods"), ("delete", "pods"), ("get", "secrets")]
    assert not [one for one in denied if may(*one)]
    await eventually(lambda: len(pods()) == 4, 60)
    # Two are taken out, one of which still answers; the last one that was made, which would go first by its
    # age, is busiest.
    names = sorted(pods())
    parts = [("active", 3), ("idle", 0), ("warm", 2), ("active", 1)]
    seen = [
        pb.ScaledInstance(instance=f"{name}/0", part=part, in_flight=busy, known=True)
        for name, (part, busy) in zip(names, parts, strict=True)
    ]
    answer = pb.AutoscalingResponse(policies=[pb.AutoscaleStatus(policy="p", instances=seen)])
    none = tmp_path / "none"
    writer = CostWriter(CostOptions((), none, none, none, SPACE, cluster.address, account))
    assert await writer.write(answer) == 4
    assert [pods()[name] for name in names] == ["10000400", "0", "200", "10000100"]
    # Through a pod's status its annotations can be written, and not what it runs.
    patch = json.dumps({"spec": {"containers": [{"name": "agent", "image": "other"}]}})
    cluster.kubectl("patch", "pod", names[0], "-n", SPACE, "--subresource=status", "-p", patch)
    spec = json.loads(cluster.kubectl("get", "pod", names[0], "-n", SPACE, "-o", "json"))["spec"]
    assert spec["containers"][0]["image"] == "bridge"
    for count, left in ((3, {0, 2, 3}), (2, {0, 3}), (1, {0})):
        cluster.kubectl("scale", "deployment", "agents", "-n", SPACE, f"--replicas={count}")
        kept = {names[at] for at in left}
        await eventually(lambda kept=kept: pods().keys() == kept, 60)
    # And the command, from a registry that leads: its nodes are called as pods are.
    named = ({"name": name, "namespace": SPACE} for name in ("n1", "n2", "n3"))
    apply_list(*({"apiVersion": "v1", "kind": "Pod", "metadata": one, "spec": POD} for one in named))
    etcd = FakeEtcd()
    async with leading(tmp_path / "registry", etcd) as bed, contextlib.AsyncExitStack() as stack:
        viewer = await write_viewer(bed, tmp_path / "viewer")
        fleet = Fleet(bed, etcd)
        await fleet.begin(stack)
        await apply(bed)
        with program(tmp_path, cluster, account, viewer, bed.address):

            async def told() -> bool:
                await fleet.step()
                found = await asyncio.to_thread(pods)
                dear = {name for name in ("n1", "n2", "n3") if int(found[name] or 0) >= 10_000_000}
                return dear == {one.partition("/")[0] for one in fleet.holders.active} and bool(dear)

            await eventually(told, 120)
    cluster.kubectl("delete", "namespace", SPACE, "--wait=false")
