r"""Writes what an installation is made of as CycloneDX 1.5: its Python packages, and Debian's below them.

    python3 tools/sbom.py --name bridge-agent --python /opt/bridge/lib \
        --debian /var/lib/dpkg/status >sbom.cdx.json

It reads what is installed, not what was asked for. Two installations of the same packages give the same
bytes: the serial number is made of the components, and the time is SOURCE_DATE_EPOCH's (0 where it is not
set). Needs nothing but Python 3.11.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import json
import os
import re
import sys
import uuid
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

PROJECT = "deepseek-ollama-bridge"
Component = dict[str, Any]


def python_components(folder: Path) -> Iterator[Component]:
    """Every distribution whose metadata lies anywhere below `folder`, this project's own among them."""
    found = {str(path.parents[1]) for path in folder.rglob("*.dist-info/METADATA")}
    for one in metadata.distributions(path=sorted(found)):
        name = re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower()
        yield {
            "type": "application" if name == PROJECT else "library",
            "bom-ref": f"pkg:pypi/{name}@{one.version}",
            "name": name,
            "version": one.version,
            "purl": f"pkg:pypi/{name}@{quote(one.version, safe='')}",
            **_licences(one.metadata),
        }


def _licences(told: metadata.PackageMetadata) -> dict[str, Any]:
    if expression := told.get("License-Expression"):
        return {"licenses": [{"expression": expression}]}
    trove = "License :: "
    names = [
        line.rpartition(" :: ")[2] for line in told.get_all("Classifier") or [] if line.startswith(trove)
    ]
    # The field was meant for a name, and some put the whole text there.
    if not names and (line := (told.get("License") or "").strip()) and "\n" not in line and len(line) <= 80:
        names = [line]
    return {"licenses": [{"license": {"name": name}} for name in sorted(set(names))]} if names else {}


def debian_components(status: Path) -> Iterator[Component]:
    """Every package that dpkg's `status` has as installed."""
    for block in status.read_text(encoding="utf-8").split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(" ")
        )
        if not fields.get("Status", "").endswith(" installed"):
            continue
        name, version = fields["Package"], fields["Version"]
        place = (
            f"pkg:deb/debian/{quote(name, safe='')}@{quote(version, safe='')}?arch={fields['Architecture']}"
        )
        yield {"type": "library", "bom-ref": place, "name": name, "version": version, "purl": place}


def document(name: str, version: str, components: Sequence[Component], epoch: int) -> dict[str, Any]:
    """The whole document, in an order that depends on the components alone."""
    ordered = sorted(
        {one["bom-ref"]: one for one in components}.values(), key=lambda one: str(one["bom-ref"])
    )
    digest = hashlib.sha256(json.dumps([name, ordered], sort_keys=True).encode()).digest()
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.UUID(bytes=digest[:16], version=4)}",
        "version": 1,
        "metadata": {
            "timestamp": dt.datetime.fromtimestamp(epoch, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {"type": "application", "bom-ref": name, "name": name, "version": version},
        },
        "components": ordered,
    }


def main(argv: Sequence[str]) -> int:
    """Prints the document."""
    parser = argparse.ArgumentParser(prog="tools/sbom.py", description=__doc__)
    parser.add_argument("--name", required=True, help="of what is described, say bridge-agent")
    parser.add_argument("--python", type=Path, required=True, help="folder with installed Python packages")
    parser.add_argument("--debian", type=Path, help="dpkg's status file")
    asked = parser.parse_args(argv)
    components = [*python_components(asked.python)]
    own = [one["version"] for one in components if one["name"] == PROJECT]
    if not own:
        parser.error(f"no {PROJECT} is installed below {asked.python}")
    if asked.debian:
        components += debian_components(asked.debian)
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    json.dump(document(asked.name, own[0], components, epoch), sys.stdout, indent=1)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
