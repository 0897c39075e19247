"""The Debian package on a machine with systemd: installed, upgraded under its services, removed, purged.

Asked for by BRIDGE_TEST_SYSTEMD (see tests/systemd_bed.py) and BRIDGE_TEST_DEB, what `make deb` made.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator

import pytest

from tests import systemd_bed
from tests.systemd_bed import DISK, SEED, STATE, TOKEN, Machine, alive, engine, generates, joining, ready

_PACKAGE = os.environ.get("BRIDGE_TEST_DEB", "")
_why = systemd_bed.missing() or ("" if _PACKAGE else "BRIDGE_TEST_DEB is not set: make deb")
pytestmark = [
    pytest.mark.faults,
    pytest.mark.root,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(bool(_why), reason=f"no machine with systemd for the Debian package: {_why}"),
]
SERVICES = ("bridge-etcd", "bridge-store-guard", "bridge-registry", "bridge-agent")

Shell = Callable[[str], str]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with systemd_bed.machine(tmp_path_factory.mktemp("packaged")) as machine:
        yield machine


@pytest.fixture(scope="module")
def sh(machine: Machine) -> Shell:
    """Runs a script that finds the package's commands alone."""
    return lambda script: machine.sh(f"export PATH=/usr/sbin:/usr/bin:/sbin:/bin; {script}", 600)


def test_a_node_is_installed_upgraded_and_purged(machine: Machine, sh: Shell) -> None:
    shutil.copy(_PACKAGE, machine.disk / "bridge.deb")
    sh(f"dpkg -i {DISK}/bridge.deb")
    assert sh("systemctl list-units --all 'bridge*' --no-legend --state=active") == ""  # nobody asked for it
    # The system's interpreter, which is renewed with it, and no copy.
    interpreter = sh("readlink -f /usr/lib/deepseek-ollama-bridge/bin/python3")
    assert interpreter.startswith("/usr/bin/python3")
    said = sh("bridge-registry service install --host 127.0.0.1")
    assert "/etc/systemd/system/bridge-registry.service\n" not in said  # used where the package has it
    sh(SEED)
    machine.until(lambda: machine.ok(f"/usr/bin/{TOKEN}"), 180)
    sh(joining("deb1"))
    ready(machine)
    generates(machine)
    before = {name: machine.show(name, "MainPID") for name in SERVICES}
    process = engine(machine)

    sh(f"dpkg -i {DISK}/bridge.deb")  # as an upgrade does
    ready(machine)
    for name in SERVICES:
        assert machine.show(name, "ActiveState") == "active", name
        assert machine.show(name, "MainPID") != before[name], name
        assert machine.show(name, "FragmentPath").endswith(f"/lib/systemd/system/{name}.service")
    assert engine(machine) == process  # it was kept
    generates(machine)

    sh("dpkg -r deepseek-ollama-bridge")
    assert sh("systemctl list-units --all 'bridge*' --no-legend --state=active,failed") == ""
    assert not alive(machine, process)
    assert machine.ok(f"test -e {STATE}/agent.json")
    assert sh("find /etc/systemd/system /usr/lib/systemd/system -name 'bridge-*'") == ""
    sh("dpkg -P deepseek-ollama-bridge")
    gone = "/usr/lib/deepseek-ollama-bridge /usr/bin/bridgectl /etc/bridge /var/lib/bridge /var/lib/private"
    assert sh(f"ls -d {gone}/bridge 2>/dev/null || true") == ""
