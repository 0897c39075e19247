"""Compiles the modules that pyproject.toml names under `tool.bridge.compiled` into a folder, by mypyc.

    python tools/compile_hot_path.py FOLDER

FOLDER then holds the extension modules in the places that they have in a wheel, and
`bridge_core/compiled.json`, which says what must be found beside it (see `bridge_core.form`). Run it with the
interpreter that the result is for. Needs mypy, setuptools and a C compiler; takes minutes, and 300 MB.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GROUP = "bridge"  # of the library that all the modules share: bridge__mypyc


def sources(root: Path = ROOT) -> dict[str, Path]:
    """The modules to compile, by their names; `interpreted` lists what of the folders is left as it is."""
    wanted = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["bridge"]["compiled"]
    left = set(wanted["interpreted"])
    found = {}
    for pattern in wanted["modules"]:
        paths = sorted(root.glob(pattern))
        if not paths:
            raise SystemExit(f"pyproject.toml: no file is {pattern}")
        for path in paths:
            _base, *parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts)
            if name in left:
                left.discard(name)
            elif path.name != "__init__.py":  # they hold no code of the hot path
                found[name] = path
    if left:
        raise SystemExit(f"pyproject.toml: none of the modules is {', '.join(sorted(left))}")
    return found


def missing() -> str:
    """What is not there to compile with; empty where all is."""
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    if shutil.which(compiler.split()[0]) is None:
        return f"no C compiler ({compiler.split()[0]})"
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.exists():
        return f"no {header} (Debian: python3-dev)"
    for name in ("mypy", "setuptools"):
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            return f"no {name}"
    return ""


def compile_into(folder: Path) -> None:
    """Puts the compiled modules into `folder`."""
    import setuptools  # before mypyc, which asks whether it is there
    from mypyc.build import mypycify

    modules = sources()
    os.chdir(ROOT)  # where mypy's settings are
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bridge-compile-") as work:
        extensions = mypycify(
            [str(path.relative_to(ROOT)) for path in modules.values()],
            opt_level="2",
            debug_level="0",
            group_name=GROUP,
            multi_file=True,  # as one file it took the C compiler 550 MB
            target_dir=f"{work}/c",
        )
        setuptools.setup(
            name="bridge-hot-path",
            packages=[],
            ext_modules=extensions,
            script_args=["-q", "build_ext", "--build-lib", str(folder), "--build-temp", f"{work}/o"],
        )
    stated = {
        "mypyc": metadata.version("mypy"),
        "suffix": sysconfig.get_config_var("EXT_SUFFIX"),
        "modules": sorted(modules),
    }
    (folder / "bridge_core").mkdir(exist_ok=True)
    (folder / "bridge_core" / "compiled.json").write_text(json.dumps(stated, indent=1) + "\n")


if __name__ == "__main__":
    lacks = missing()
    if lacks:
        raise SystemExit(f"cannot compile: {lacks}")
    compile_into(Path(sys.argv[1]).resolve())
