"""The Helm chart as a real helm renders it, with every combination of values that changes its shape."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

CHART: Final = Path(__file__).parents[1] / "deploy" / "helm" / "bridge"
KUSTOMIZE: Final = CHART.parents[1] / "kustomize"
KUBE: Final = "1.24.0"  # the oldest that is promised
_SHAPES: Final[dict[str, tuple[dict[str, Any], ...]]] = {
    "agents": (
        {},
        {
            "agent": {
                "join": "serviceAccount",
                "shared": {
                    "volume": {"persistentVolumeClaim": {"claimName": "bridge-shared-models"}},
                    "publish": True,
                },
            }
        },
        {"agent": {"kind": "Deployment", "replicas": -1, "gpus": 2, "runtimeClassName": "nvidia"}},
        {
            "agent": {
                "capabilities": ["SYS_ADMIN", "SETFCAP"],
                "modelsVolume": {"hostPath": {"path": "/srv/models", "type": "Directory"}},
                "shared": {"volume": {"nfs": {"server": "nfs.example", "path": "/models"}}},
                "labels": {"isolation": "strict", "zone": "a"},
                "numParallel": 4,
                "tracesEndpoint": "http://collector.observability:4318/v1/traces",
                "engine": "attach=http://10.0.0.1:11434",
            }
        },
    ),
    "etcd": ({}, {"etcd": {"endpoints": "https://a.example:2379,https://b.example:2379"}}),
    "registry": (
        {},
        {"registry": {"replicas": 1, "meshConfig": {"routes.yaml": "kind: ModelRoute\nspec: {a: 'b'}\n"}}},
    ),
    "backup": ({}, {"backup": {"enabled": True, "keySecretName": "key", "storage": {"className": "slow"}}}),
    "monitoring": ({}, {"podMonitor": {"enabled": True}}),
    "metrics": (
        {},
        {
            "externalMetrics": {
                "enabled": True,
                "caBundle": "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n",
                "annotations": {"example.test/why": "shape"},
            }
        },
    ),
    "costs": ({}, {"podCosts": {"enabled": True, "clientSecretName": "viewer"}}),
    "network": (
        {},
        {"networkPolicy": {"enabled": False}, "imagePullSecrets": [{"name": "pull"}]},
        {"networkPolicy": {"clients": []}, "image": {"digest": "sha256:" + "0" * 64}},
    ),
}


def find_helm() -> str | None:
    """A real helm: named by BRIDGE_TEST_HELM, or on PATH; None: there is none."""
    return os.environ.get("BRIDGE_TEST_HELM") or shutil.which("helm")


def combinations() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every combination, with a name."""
    for choice in itertools.product(*(range(len(shapes)) for shapes in _SHAPES.values())):
        values: dict[str, Any] = {}
        for (_, shapes), number in zip(_SHAPES.items(), choice, strict=True):
            values |= shapes[number]
        yield "".join(map(str, choice)), values


def each_shape() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each shape by itself: as few as have every template in them."""
    yield "plain", {}
    for name, shapes in _SHAPES.items():
        for number, values in enumerate(shapes[1:], 1):
            yield f"{name}-{number}", values


def render(
    helm: str, values: dict[str, Any], *more: str, release: str = "mesh"
) -> subprocess.CompletedProcess[str]:
    """`helm template` of the chart."""
    argv = [helm, "template", release, str(CHART), "--namespace", "bridge", "--kube-version", KUBE]
    return subprocess.run(
        [*argv, "--values", "-", *more],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def objects(text: str) -> list[dict[str, Any]]:
    """What a rendering holds."""
    return [found for found in yaml.safe_load_all(text) if found]


def pod_of(thing: dict[str, Any]) -> dict[str, Any] | None:
    """The pod that an object makes: metadata and spec; None: it makes none."""
    spec = thing.get("spec", {})
    if thing["kind"] == "Pod":
        return thing
    if thing["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    template: dict[str, Any] | None = spec.get("template")
    return template
