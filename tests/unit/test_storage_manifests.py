"""The storage classes and claims of `deploy/storage`: provisioners that exist, and all that they require."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "deploy" / "storage"
# https://github.com/ceph/ceph-csi/blob/devel/docs/{rbd,cephfs}/deploy.md: what a class must say.
REQUIRED = {
    "rbd.csi.ceph.com": {"clusterID", "pool"},
    "cephfs.csi.ceph.com": {"clusterID", "fsName"},
}
MODES = {"rbd.csi.ceph.com": ["ReadWriteOnce"], "cephfs.csi.ceph.com": ["ReadWriteMany"]}
SECRETS = ("provisioner", "controller-expand", "node-stage")


@pytest.fixture(params=["ceph-rbd.yaml", "cephfs.yaml"])
def documents(request: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    class_, claim = yaml.safe_load_all((FOLDER / request.param).read_text())
    return class_, claim


def test_classes_name_a_provisioner_and_what_it_requires(
    documents: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    class_, _ = documents
    assert (class_["apiVersion"], class_["kind"]) == ("storage.k8s.io/v1", "StorageClass")
    parameters = class_["parameters"]
    assert REQUIRED[class_["provisioner"]] <= parameters.keys()
    for secret in SECRETS:
        for part in ("name", "namespace"):
            assert parameters[f"csi.storage.k8s.io/{secret}-secret-{part}"]
    assert all(isinstance(value, str) for value in parameters.values())  # the API takes nothing else


def test_claims_are_of_their_class_and_as_shared_as_it_allows(
    documents: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    class_, claim = documents
    assert (claim["apiVersion"], claim["kind"]) == ("v1", "PersistentVolumeClaim")
    assert claim["spec"]["storageClassName"] == class_["metadata"]["name"]
    assert claim["spec"]["accessModes"] == MODES[class_["provisioner"]]
    assert claim["spec"]["resources"]["requests"]["storage"]
