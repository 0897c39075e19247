"""The wheel without a C compiler: pure, or refused where a compiled one was asked for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

from bridge_core.systemd.units import unit_folder

ROOT = Path(__file__).resolve().parents[2]


def build(folder: Path, wanted: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "BRIDGE_COMPILE": wanted, "CC": "/nowhere/cc"}
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_without_a_compiler_it_is_pure_and_says_why(tmp_path: Path) -> None:
    done = build(tmp_path, "auto")
    assert done.returncode == 0, done.stderr
    assert "a pure wheel: cannot compile: no C compiler (/nowhere/cc)" in done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
    assert "bridge_core/http1/client.py" in names
    folder = "bridge_core/systemd/unit_files/"
    units = {name.removeprefix(folder) for name in names if name.startswith(folder)}
    assert units == {path.name for path in unit_folder().iterdir()}
    assert [name for name in names if name.endswith(".so") or name == "bridge_core/compiled.json"] == []


def test_a_compiled_one_that_cannot_be_is_refused(tmp_path: Path) -> None:
    done = build(tmp_path, "yes")
    assert done.returncode != 0
    assert "no C compiler (/nowhere/cc)" in done.stdout + done.stderr
    assert list(tmp_path.glob("*.whl")) == []


def compiled_sources() -> dict[str, str]:
    """The files to compile, by their modules' names, as the build finds them."""
    script = (
        "import json, compile_hot_path as c; print(json.dumps({k: str(v) for k, v in c.sources().items()}))"
    )
    listed = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT / "tools", capture_output=True, text=True, check=True
    )
    found: dict[str, str] = json.loads(listed.stdout)
    return found


def test_what_is_to_be_compiled_is_there() -> None:
    modules = compiled_sources()
    assert "bridge_core.http1.client" in modules
    assert "bridge_core.http1.errors" not in modules  # named under `interpreted`


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    found = [line.split(" ")[0].partition("==") for line in lines if line[:1].isalpha()]
    return {package: version for package, _, version in found}


def test_what_compiles_a_package_is_what_the_tests_run_with() -> None:
    compiling, tested = pins("compile.txt"), pins("dev.txt")
    assert {"mypy", "setuptools", "hatchling"} <= compiling.keys()
    assert compiling.items() <= tested.items()


def test_stubs_of_what_is_compiled_come_with_the_compiler() -> None:
    """Compiling checks types, where nothing is installed but the program: a stub it lacks there ends it."""
    sources = [Path(path).read_text() for path in compiled_sources().values()]
    compiling = pins("compile.txt")
    for name in (name for name in pins("dev.txt") if name.startswith("types-")):
        folders = {
            str(path).partition("-stubs/")[0] for path in metadata.files(name) or () if "-stubs/" in str(path)
        }
        assert folders, name
        imports = re.compile(rf"^ *(?:from|import) (?:{'|'.join(sorted(folders))})\b", re.MULTILINE)
        assert name in compiling or not any(imports.search(source) for source in sources), name


def test_an_image_is_built_from_all_that_the_build_reads() -> None:
    """The back end needs each of these files, or folders, before anything else happens."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = build["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {wheel["hooks"]["custom"]["path"], *wheel["force-include"], *wheel["packages"]}
    images = ROOT / "deploy/images"
    lines = (images / "Dockerfile").read_text().splitlines()
    copied = {word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]}
    let_in = {
        line[1:] for line in (images / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"
    }
    for path in needed:
        there = {path, *map(str, Path(path).parents)}
        assert there & copied, path
        assert there & let_in, path
