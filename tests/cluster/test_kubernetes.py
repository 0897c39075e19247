"""The chart on a real Kubernetes control plane: installed, upgraded and uninstalled by a real helm.

No kubelet runs, so no pod starts; that they exist says that controllers made them and admission let them in.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge_agent.membership.join import JoinRefused
from bridge_registry.enrolment.pod_rules import KubernetesApi
from tests.chart_bed import CHART, KUSTOMIZE, each_shape, objects, render
from tests.fakes.store import FakeEtcd
from tests.kube_bed import Kubernetes
from tests.kubernetes_api import FakeApi
from tests.pod_bed import Cluster, clustered
from tests.support import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

# What anybody who is known may ask: about themselves, and what the API is.
ANYBODYS = {
    "selfsubjectaccessreviews.authorization.k8s.io",
    "selfsubjectrulesreviews.authorization.k8s.io",
    "selfsubjectreviews.authentication.k8s.io",
}


class Release:
    """One release of the chart in a namespace of its own."""

    def __init__(self, cluster: Kubernetes, helm: str, namespace: str, level: str) -> None:
        self.cluster, self.helm, self.namespace = cluster, helm, namespace
        cluster.kubectl("create", "namespace", namespace)
        cluster.kubectl("label", "namespace", namespace, f"pod-security.kubernetes.io/enforce={level}")

    def do(self, verb: str, values: dict[str, Any] | None = None, *more: str) -> str:
        """One of helm's verbs."""
        argv = [verb, "mesh", *more, "-n", self.namespace]
        if verb in {"install", "upgrade"}:
            argv += [str(CHART), "--values", "-"]
        return self.cluster.run(self.helm, *argv, given=json.dumps(values or {})).stdout

    def objects(self) -> set[str]:
        """What there is of the release, kind/name; not what Kubernetes has in every namespace."""
        kinds = "all,secret,configmap,serviceaccount,role,rolebinding,pdb,networkpolicy,cronjob,pvc"
        found = self.cluster.kubectl("get", kinds, "-n", self.namespace, "-o", "name").split()
        usual = {"configmap/kube-root-ca.crt", "serviceaccount/default"}
        return set(found) - usual

    def pods(self, part: str) -> list[str]:
        """Names of the pods that controllers made of a part."""
        selector = f"app.kubernetes.io/instance=mesh,app.kubernetes.io/component={part}"
        found = self.cluster.items("pods", "-n", self.namespace, "-l", selector)
        return sorted(one["metadata"]["name"] for one in found)

    def refusals(self) -> list[str]:
        """Why controllers could not make pods."""
        events = self.cluster.items("events", "-n", self.namespace, "--field-selector", "reason=FailedCreate")
        return [str(one["message"]) for one in events]


async def test_install_upgrade_rollback_and_uninstall_in_a_restricted_namespace(
    cluster: Kubernetes, helm: str
) -> None:
    release = Release(cluster, helm, "bridge", "restricted")
    notes = release.do("install")
    assert "bridge-registry init" in notes
    await eventually(lambda: release.pods("registry")[:1] == ["mesh-bridge-registry-0"], 60)
    await eventually(lambda: release.pods("etcd"), 60)
    await eventually(lambda: release.pods("agent"), 60)
    assert not release.refusals()
    claims = {one["metadata"]["name"] for one in cluster.items("pvc", "-n", "bridge")}
    assert "state-mesh-bridge-registry-0" in claims
    release.do(
        "upgrade",
        {
            "registry": {"replicas": 3},
            "agent": {"kind": "Deployment", "replicas": 2},
            "backup": {"enabled": True, "keySecretName": "key"},
        },
    )
    (deployment,) = cluster.items("deployments", "-n", "bridge")
    assert deployment["spec"]["replicas"] == 2
    assert cluster.items("cronjobs", "-n", "bridge")
    assert not cluster.items("daemonsets", "-n", "bridge")
    await eventually(lambda: len(release.pods("agent")) >= 2, 60)
    assert not release.refusals()
    release.do("rollback", None, "1")
    assert cluster.items("daemonsets", "-n", "bridge")
    assert not cluster.items("cronjobs", "-n", "bridge")
    release.do("uninstall")

    def left() -> set[str]:
        # Without a kubelet nobody ends pods that are bound to a node.
        return {one for one in release.objects() if not one.startswith("pod/")}

    await eventually(lambda: all(one.startswith("persistentvolumeclaim/") for one in left()), 90)
    assert "persistentvolumeclaim/state-mesh-bridge-registry-0" in left()


async def test_service_accounts_of_the_chart_may_do_nothing(cluster: Kubernetes, helm: str) -> None:
    release = Release(cluster, helm, "denied", "restricted")
    release.do("install", {"backup": {"enabled": True, "keySecretName": "key"}})
    accounts = [one["metadata"]["name"] for one in cluster.items("serviceaccounts", "-n", "denied")]
    assert len(accounts) >= 2
    for name in accounts:
        who = f"--as=system:serviceaccount:denied:{name}"
        for verb, what in (
            ("get", "secrets"), ("list", "pods"), ("create", "pods"), ("create", "pods/exec"),
            ("get", "nodes"), ("create", "serviceaccounts/token"), ("create", "tokenreviews"), ("*", "*"),
        ):  # fmt: skip
            allowed = cluster.kubectl("auth", "can-i", verb, what, who, "-n", "denied", ok=False)
            assert allowed.strip() == "no", (name, verb, what)
        listed = cluster.kubectl("auth", "can-i", "--list", who, "-n", "denied", "--no-headers")
        resources = {line.split()[0] for line in listed.splitlines() if not line.startswith((" ", "["))}
        assert resources <= ANYBODYS, (name, resources)
    await eventually(lambda: release.pods("agent") and release.pods("registry"), 60)
    for pod in cluster.items("pods", "-n", "denied"):
        names = [volume["name"] for volume in pod["spec"].get("volumes", ())]
        assert not [name for name in names if name.startswith("kube-api-access")], "no token is mounted"


async def test_pods_join_by_their_service_accounts_token_and_no_secret(
    cluster: Kubernetes, helm: str, tmp_path: Path
) -> None:
    """The registry runs beside the API server, as the chart's own service account with the chart's rights."""
    release = Release(cluster, helm, "joining", "restricted")
    release.do("install", {"agent": {"join": "serviceAccount"}})
    (pod,) = await eventually(lambda: release.pods("agent"), 60)
    assert not release.refusals()
    registry = cluster.kubectl("create", "token", "mesh-bridge-registry", "-n", "joining").strip()
    told = tmp_path / "told"
    told.mkdir()
    (told / "token").write_text(registry)
    (told / "ca.crt").write_bytes(cluster.ca)
    api = KubernetesApi(("joining:mesh-bridge-agent",), ("mesh-bridge.joining.svc",), cluster.address, told)

    def token(audience: str, *bound: str, account: str = "mesh-bridge-agent") -> str:
        argv = ["create", "token", account, "-n", "joining", f"--audience={audience}", *bound]
        return cluster.kubectl(*argv).strip()

    ours, of_pod = "bridge-join.bridge.local", ("--bound-object-kind=Pod", f"--bound-object-name={pod}")
    async with clustered(tmp_path, FakeEtcd(), api) as bed:
        joining = Cluster(tmp_path, FakeApi(), bed)
        for wrong, words in (
            (token("https://kubernetes.default.svc", *of_pod), "does not know|was not made for"),
            (token(ours), "bound to no pod"),
            (token(ours, account="mesh-bridge-registry"), "may not join this mesh"),
            (token(ours, *of_pod)[:-8] + "AAAAAAAA", "does not know"),
        ):
            with pytest.raises(JoinRefused, match=words):
                await joining.joins(pod, wrong)
        with pytest.raises(JoinRefused, match="joins under no other name"):
            await joining.joins("another", token(ours, *of_pod))
        good = token(ours, *of_pod)
        assert (await joining.joins(pod, good)).joined
        # A token ends with its pod, once the API server has forgotten what it knew of it, some seconds later.
        cluster.kubectl("delete", "pod", pod, "-n", "joining", "--force", "--grace-period=0")

        async def ended() -> bool:
            return "does not know" in (await joining.refused(pod, good))[1]

        await eventually(ended, 60)
    for account, allowed in (("mesh-bridge-registry", "yes"), ("mesh-bridge-agent", "no")):
        who = f"--as=system:serviceaccount:joining:{account}"
        said = cluster.kubectl("auth", "can-i", "create", "tokenreviews", who, ok=False)
        assert said.strip() == allowed
    release.do("uninstall")
    assert "token-review" not in cluster.kubectl("get", "clusterroles,clusterrolebindings", "-o", "name")


async def test_pod_security_refuses_what_goes_beyond_restricted_and_says_so(
    cluster: Kubernetes, helm: str
) -> None:
    release = Release(cluster, helm, "walled", "restricted")
    release.do("install", {"agent": {"capabilities": ["SYS_ADMIN"]}})
    reasons = await eventually(release.refusals, 60)
    assert all("violates PodSecurity" in one and "SYS_ADMIN" in one for one in reasons)
    assert not release.pods("agent")
    await eventually(lambda: release.pods("registry"), 60)  # they need nothing of the sort
    cluster.kubectl(
        "label", "--overwrite", "namespace", "walled", "pod-security.kubernetes.io/enforce=privileged"
    )
    release.do("upgrade", {"agent": {"capabilities": ["SYS_ADMIN"], "drainSeconds": 60}})
    await eventually(lambda: release.pods("agent"), 90)


def test_each_shape_of_the_chart_and_the_kustomize_base_are_valid(cluster: Kubernetes, helm: str) -> None:
    """`tools/check_chart.py kubectl apply --dry-run=server -f -` does it with all combinations."""
    cluster.kubectl("create", "namespace", "shapes")
    dry = ["apply", "--dry-run=server", "--validate=strict", "-n", "shapes", "-f", "-"]
    seen: set[str] = set()
    for _, values in each_shape():
        for one in objects(render(helm, values).stdout):
            if one["kind"] != "PodMonitor":  # not Kubernetes' own
                one["metadata"].pop("namespace", None)
                seen.add(yaml.safe_dump(one))
    cluster.kubectl(*dry, given="---\n".join(sorted(seen)))
    for folder in ("base", "example"):
        built = cluster.kubectl("kustomize", str(KUSTOMIZE / folder))
        cluster.kubectl(*dry, given=built.replace("namespace: bridge", "namespace: shapes"))


def test_the_api_takes_the_autoscaler_example(cluster: Kubernetes) -> None:
    example = CHART.parents[1] / "keda" / "hpa-prometheus.yaml"
    cluster.kubectl("create", "namespace", "scaled")
    text = example.read_text().replace("namespace: bridge", "namespace: scaled")
    cluster.kubectl("apply", "--dry-run=server", "-f", "-", given=text)
