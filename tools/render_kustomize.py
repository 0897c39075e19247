"""Writes the kustomize base from the Helm chart, so that there is one source of both.

python tools/render_kustomize.py [--check]

With --check nothing is written, and it fails where the base is not what the chart makes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.chart_bed import find_helm, objects, render

BASE: Final = Path(__file__).parents[1] / "deploy" / "kustomize" / "base"
_HEAD: Final = "# Made from deploy/helm/bridge by tools/render_kustomize.py; change the chart.\n"
_HELMS: Final = ("helm.sh/chart", "app.kubernetes.io/managed-by")


class _Plain(yaml.SafeDumper):
    """Repeats what is the same: people read it."""

    def ignore_aliases(self, data: Any) -> bool:
        """All of them."""
        return True


def _text(things: list[dict[str, Any]]) -> str:
    return _HEAD + yaml.dump_all(things, Dumper=_Plain, sort_keys=True)


def rendered(helm: str) -> dict[str, str]:
    """The base's files."""
    done = render(helm, {})
    if done.returncode:
        raise SystemExit(done.stderr)
    parts: dict[str, list[dict[str, Any]]] = {}
    for thing in objects(done.stdout):
        metadata = thing["metadata"]
        if "helm.sh/hook" in metadata.get("annotations", {}):
            continue
        _without_helm(thing)
        metadata.pop("namespace", None)  # kustomization.yaml says it
        parts.setdefault(metadata["labels"]["app.kubernetes.io/component"], []).append(thing)
    files = {f"{part}.yaml": _text(found) for part, found in parts.items()}
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "bridge",
        "resources": sorted(files),
    }
    return {**files, "kustomization.yaml": _text([kustomization])}


def _without_helm(value: Any) -> None:
    if isinstance(value, dict):
        for label in _HELMS:
            value.pop(label, None)
        for inner in value.values():
            _without_helm(inner)
    elif isinstance(value, list):
        for inner in value:
            _without_helm(inner)


def main() -> int:
    """Returns the exit status."""
    helm = find_helm()
    if helm is None:
        print("no helm: on PATH, or named by BRIDGE_TEST_HELM", file=sys.stderr)
        return 2
    made = rendered(helm)
    there = {path.name: path.read_text() for path in BASE.glob("*.yaml")}
    if "--check" in sys.argv[1:]:
        differ = sorted(name for name in made.keys() | there.keys() if made.get(name) != there.get(name))
        print(f"differ: {', '.join(differ)}" if differ else "the base is what the chart makes")
        return int(bool(differ))
    BASE.mkdir(parents=True, exist_ok=True)
    for name in there.keys() - made.keys():
        (BASE / name).unlink()
    for name, text in made.items():
        (BASE / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
