"""Renders the Helm chart with every combination of values that changes its shape, and has it validated.

python tools/check_chart.py [COMMAND …]

COMMAND reads YAML on standard input and fails on what is wrong with it: `kubectl apply --dry-run=server
-f -` on a cluster of yours, `kubeconform -strict -`. Without one only the rendering is tried. PodMonitors are
left out: they are not Kubernetes' own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.chart_bed import combinations, find_helm, objects, render


def main() -> int:
    """Returns the exit status."""
    helm = find_helm()
    if helm is None:
        print("no helm: on PATH, or named by BRIDGE_TEST_HELM", file=sys.stderr)
        return 2
    done = failed = 0
    seen: set[str] = set()
    for name, values in combinations():
        rendered = render(helm, values)
        if rendered.returncode:
            print(f"{name}: {rendered.stderr}", file=sys.stderr)
            failed += 1
            continue
        done += 1
        for one in objects(rendered.stdout):
            if one["kind"] != "PodMonitor":
                seen.add(yaml.safe_dump(one))
    print(f"{done} combinations render, {failed} do not; {len(seen)} different objects")
    if len(sys.argv) > 1:
        failed += subprocess.run(
            sys.argv[1:], input="---\n".join(sorted(seen)), text=True, check=False
        ).returncode
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
