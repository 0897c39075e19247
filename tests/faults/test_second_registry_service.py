"""A second registry as a service of systemd, over an etcd that is somebody else's, as docs/operations says.

Asked for by the variable BRIDGE_TEST_SYSTEMD (see tests/systemd_bed.py).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import systemd_bed
from tests.registry_processes import SHARED
from tests.systemd_bed import Machine

_why = systemd_bed.missing()
pytestmark = [
    pytest.mark.faults,
    pytest.mark.root,
    pytest.mark.etcd,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(_why), reason=f"no machine with systemd: {_why}"),
]
FIRST = "/srv/registry1"  # of the one that runs by hand
PKI = f"{FIRST}/pki"
COPIED = "/var/lib/private/bridge/registry/pki"
ETCD = "https://127.0.0.1:2379"
PEER = "http://127.0.0.1:2380"
GUARDS = "https://127.0.0.1:12404,https://127.0.0.1:11404"
ADMIN = f"--ca {PKI}/ca.pem --cert {PKI}/admin.pem --key {PKI}/admin.key"
BOTH = f"--registry 127.0.0.1:12400,127.0.0.1:11400 {ADMIN}"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with systemd_bed.machine(tmp_path_factory.mktemp("machine")) as machine:
        yield machine


def start(machine: Machine, unit: str, command: str) -> None:
    machine.sh(f"systemd-run --quiet --unit={unit} {command}")


def start_etcd(machine: Machine) -> None:
    """One that is none of our services."""
    find = "from bridge_core.etcd_server import find_etcd; print(find_etcd())"
    binary = machine.sh(f'python3 -c "{find}"').strip()
    start(
        machine,
        "foreign-etcd",
        f"{binary} --data-dir /srv/etcd --client-cert-auth --trusted-ca-file {PKI}/etcd-ca.pem "
        f"--cert-file {PKI}/etcd.pem --key-file {PKI}/etcd.key "
        f"--listen-client-urls {ETCD} --advertise-client-urls {ETCD} "
        f"--listen-peer-urls {PEER} --initial-advertise-peer-urls {PEER} --initial-cluster default={PEER}",
    )


def test_it_joins_the_first_and_leads_when_that_is_gone(machine: Machine) -> None:
    machine.sh(f"bridge-registry init --state-dir {FIRST} --name registry1 --host 127.0.0.1")
    start_etcd(machine)
    hand = f"--state-dir {FIRST} --name registry1 --etcd {ETCD}"
    bridge_registry = machine.sh("command -v bridge-registry").strip()
    start(
        machine,
        "guard-by-hand",
        f"{bridge_registry} store-guard {hand} --listen 127.0.0.1:12404 --admin 127.0.0.1:12405",
    )
    start(
        machine,
        "registry-by-hand",
        f"{bridge_registry} run {hand} --host 127.0.0.1 --grpc 127.0.0.1:12400 --admin 127.0.0.1:12401 "
        f"--store-guard {GUARDS}",
    )
    machine.until(lambda: machine.ok("curl -s http://127.0.0.1:12401/readyz | grep -q leading"), 60)
    machine.sh(f"install -d -m 0700 {COPIED}")
    machine.sh(f"install -m 0600 {' '.join(f'{PKI}/{file}' for file in SHARED)} {COPIED}")
    said = machine.sh(
        "bridge-registry service install --name registry2 --host 127.0.0.1 "
        f"--etcd {ETCD} --store-guard {GUARDS}"
    )
    assert "enabled and started bridge-store-guard.service, bridge-registry.service" in said
    assert not machine.ok("test -e /etc/systemd/system/bridge-etcd.service")
    machine.until(lambda: machine.ok("curl -sf http://127.0.0.1:11401/readyz | grep -q registry1"), 60)
    machine.until(lambda: machine.ok("curl -sf http://127.0.0.1:11405/readyz"), 60)
    token = machine.sh(f"bridgectl token create {BOTH}").strip().splitlines()[-1]
    assert token.startswith("brj1.")
    machine.sh("systemctl stop registry-by-hand guard-by-hand")
    machine.until(lambda: machine.ok("curl -sf http://127.0.0.1:11401/readyz | grep -q leading"), 60)
    status = machine.sh(f"bridgectl status {BOTH} || true")
    assert "registry2 leads" in status
    assert "no store guard" not in status
    assert machine.sh(f"bridgectl token create {BOTH}").strip().splitlines()[-1].startswith("brj1.")
    machine.reboot()
    start_etcd(machine)
    machine.until(lambda: machine.ok("curl -sf http://127.0.0.1:11401/readyz | grep -q leading"), 90)
