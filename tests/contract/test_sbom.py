"""The list of what an image or a package is made of (tools/sbom.py), of installations that are made here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

TOOL = Path(__file__).resolve().parents[2] / "tools" / "sbom.py"
STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u14
Description: a library
 Version: no field, but a line of the text

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1
"""


def install(site: Path, name: str, version: str, *more: str) -> None:
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *more]
    (folder / "METADATA").write_text("\n".join(lines) + "\n")


def listed(*argv: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "86400"}
    command = [sys.executable, "-ISs", str(TOOL), "--name", "bridge-agent", *argv]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_it_names_every_package_its_version_licence_and_place(tmp_path: Path) -> None:
    site = tmp_path / "lib/python3.11/site-packages"
    install(site, "deepseek-ollama-bridge", "0.1.0", "License-Expression: Apache-2.0")
    install(site, "Typing.Extensions", "4.1+local", "Classifier: License :: OSI Approved :: MIT License")
    (status := tmp_path / "status").write_text(STATUS)
    told: dict[str, Any] = json.loads(listed("--python", str(tmp_path), "--debian", str(status)).stdout)
    assert (told["bomFormat"], told["specVersion"]) == ("CycloneDX", "1.5")
    assert told["metadata"]["timestamp"] == "1970-01-02T00:00:00Z"
    assert told["metadata"]["component"]["version"] == "0.1.0"
    assert [(one["purl"], one.get("licenses")) for one in told["components"]] == [
        ("pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64", None),
        ("pkg:pypi/deepseek-ollama-bridge@0.1.0", [{"expression": "Apache-2.0"}]),
        ("pkg:pypi/typing-extensions@4.1%2Blocal", [{"license": {"name": "MIT License"}}]),
    ]


def test_the_same_packages_give_the_same_bytes_and_others_another_serial_number(tmp_path: Path) -> None:
    texts = []
    for number, order in enumerate((("a", "b"), ("b", "a"), ("a", "c"))):
        site = tmp_path / str(number) / "site-packages"
        install(site, "deepseek-ollama-bridge", "0.1.0")
        for name in order:
            install(site, name, "1")
        texts.append(listed("--python", str(site.parent)).stdout)
    assert texts[0] == texts[1]
    first, last = (json.loads(text)["serialNumber"] for text in (texts[0], texts[2]))
    assert first != last


def test_a_folder_without_the_program_is_refused(tmp_path: Path) -> None:
    done = listed("--python", str(tmp_path))
    assert done.returncode == 2
    assert f"no deepseek-ollama-bridge is installed below {tmp_path}" in done.stderr
