"""A real Kubernetes control plane for tests: etcd, API server and controller manager on the loopback.

Without a kubelet nothing runs, but everything is admitted or refused as in a cluster: schemas, Pod Security,
RBAC, and pods that controllers make of what was installed. BRIDGE_TEST_KUBE names a folder with the two
programs; `tools/build_kubernetes.sh` makes one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from bridge_core.etcd_server import find_etcd
from tests.ports import free_port

PROGRAMS: Final = ("kube-apiserver", "kube-controller-manager")
_STARTS_S: Final = 120.0
_CALL_S: Final = 120.0


def find_kubernetes() -> Path | str:
    """The folder of the programs; a str: why there is none."""
    named = os.environ.get("BRIDGE_TEST_KUBE")
    if not named:
        return "no Kubernetes: tools/build_kubernetes.sh FOLDER, then BRIDGE_TEST_KUBE=FOLDER"
    missing = [name for name in PROGRAMS if not (Path(named) / name).is_file()]
    if missing:
        return f"no {missing[0]} in {named}: tools/build_kubernetes.sh makes it"
    if shutil.which("kubectl") is None:
        return "no kubectl on PATH"
    return Path(named)


class Kubernetes:
    """A control plane that runs.

    Attributes:
        kubeconfig: Of an admin who may everything.
    """

    def __init__(self, folder: Path) -> None:
        self.kubeconfig = folder / "kubeconfig"
        self._folder = folder

    @property
    def ca(self) -> bytes:
        """Of the API server's certificate, PEM."""
        return (self._folder / "ca.pem").read_bytes()

    @property
    def front_proxy_ca(self) -> Path:
        """Whose certificate the API server shows extension servers."""
        return self._folder / "front-proxy-ca.pem"

    @property
    def address(self) -> tuple[str, int]:
        """The API server's."""
        server = json.loads(self.kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
        return "127.0.0.1", int(server.rpartition(":")[2])

    def run(
        self, program: str, *argv: str, given: str = "", ok: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Runs kubectl or helm against it, as an admin."""
        environment = {
            **os.environ,
            "KUBECONFIG": str(self.kubeconfig),
            "HELM_CACHE_HOME": str(self._folder / "helm"),
            "HELM_CONFIG_HOME": str(self._folder / "helm"),
            "HELM_DATA_HOME": str(self._folder / "helm"),
            "HOME": str(self._folder),
        }
        done = subprocess.run(
            [program, *argv],
            input=given,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_CALL_S,
            check=False,
        )
        if ok and done.returncode:
            raise AssertionError(f"{program} {' '.join(argv)}: {done.stdout}{done.stderr}")
        return done

    def kubectl(self, *argv: str, given: str = "", ok: bool = True) -> str:
        """What kubectl prints."""
        return self.run("kubectl", *argv, given=given, ok=ok).stdout

    def items(self, kind: str, *argv: str) -> list[dict[str, Any]]:
        """Objects of a kind."""
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, *argv, "-o", "json"))["items"]
        return found


@contextlib.contextmanager
def running(programs: Path, folder: Path) -> Iterator[Kubernetes]:
    """A control plane with its files in `folder`, ended with the block.

    Raises:
        AssertionError: it does not come up; the end of its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    etcd, peer, api = (free_port() for _ in range(3))
    _write_identities(folder, api)
    sa_key = str(folder / "sa.key")
    with contextlib.ExitStack() as stack:
        start = _Starter(stack, folder)
        start(
            "etcd",
            find_etcd(),
            f"--data-dir={folder / 'etcd'}",
            f"--listen-client-urls=http://127.0.0.1:{etcd}",
            f"--advertise-client-urls=http://127.0.0.1:{etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster=default=http://127.0.0.1:{peer}",
            "--unsafe-no-fsync",
        )
        start(
            "kube-apiserver",
            programs / "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{etcd}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={api}",
            f"--tls-cert-file={folder / 'api.pem'}",
            f"--tls-private-key-file={folder / 'api.key'}",
            f"--client-ca-file={folder / 'ca.pem'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={folder / 'sa.pub'}",
            f"--service-account-signing-key-file={sa_key}",
            "--authorization-mode=Node,RBAC",
            # The aggregation layer: how extension servers know that it is the API server that asks.
            f"--requestheader-client-ca-file={folder / 'front-proxy-ca.pem'}",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={folder / 'front-proxy.pem'}",
            f"--proxy-client-key-file={folder / 'front-proxy.key'}",
            "--service-cluster-ip-range=10.96.0.0/24",
        )
        cluster = Kubernetes(folder)
        start.wait(lambda: cluster.run("kubectl", "get", "--raw", "/readyz", ok=False).stdout == "ok")
        start(
            "kube-controller-manager",
            programs / "kube-controller-manager",
            f"--kubeconfig={cluster.kubeconfig}",
            f"--service-account-private-key-file={sa_key}",
            f"--root-ca-file={folder / 'ca.pem'}",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            "--horizontal-pod-autoscaler-sync-period=2s",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_port()}",
        )
        start.wait(lambda: bool(cluster.items("serviceaccounts", "-n", "default")))
        yield cluster


class _Starter:
    """Starts programs, and ends them in reverse."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder
        self._last: tuple[subprocess.Popen[bytes], Path] | None = None

    def __call__(self, name: str, *argv: object) -> None:
        log = self._folder / f"{name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                list(map(str, argv)), stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self._folder
            )
        self._stack.callback(_end, process)
        self._last = process, log

    def wait(self, ready: Any) -> None:
        """Returns once `ready()`; raises AssertionError with the last program's log otherwise."""
        assert self._last is not None
        process, log = self._last
        end = time.monotonic() + _STARTS_S
        while not ready():
            if process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"{log.name}: {log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.2)  # to ask is a process that takes a core


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _write_identities(folder: Path, port: int) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    front = trustme.CA()
    front.cert_pem.write_to_path(str(folder / "front-proxy-ca.pem"))
    masters: Any = {"common_name": "admin", "organization_name": "system:masters"}
    for name, leaf in (
        ("api", ca.issue_cert("127.0.0.1", "localhost", "kubernetes.default.svc")),
        ("admin", ca.issue_cert("admin@example.test", **masters)),
        ("front-proxy", front.issue_cert("front-proxy.test", common_name="front-proxy-client")),
    ):
        (folder / f"{name}.pem").write_bytes(b"".join(one.bytes() for one in leaf.cert_chain_pems))
        (folder / f"{name}.key").write_bytes(leaf.private_key_pem.bytes())
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (folder / "sa.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    (folder / "sa.pub").write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "test",
                "cluster": {
                    "server": f"https://127.0.0.1:{port}",
                    "certificate-authority": str(folder / "ca.pem"),
                },
            }
        ],
        "users": [
            {
                "name": "admin",
                "user": {
                    "client-certificate": str(folder / "admin.pem"),
                    "client-key": str(folder / "admin.key"),
                },
            }
        ],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        "current-context": "test",
    }
    (folder / "kubeconfig").write_text(json.dumps(config))
