"""hatchling's hook: compiles the hot path into the wheel where that can be done, or says why it is not.

`BRIDGE_COMPILE` chooses: `auto` (by default) compiles where mypy, setuptools and a C compiler are, `yes`
fails where they are not, `no` makes a pure wheel. An editable installation is always pure.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_COMPILE = "tools/compile_hot_path.py"


class CompiledHotPath(BuildHookInterface):  # type: ignore[type-arg]  # hatchling has no types
    """Adds the compiled modules beside their sources."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """See `BuildHookInterface`."""
        wanted = os.environ.get("BRIDGE_COMPILE", "auto")
        if wanted not in ("auto", "yes", "no"):
            raise SystemExit(f"BRIDGE_COMPILE is auto, yes or no, not {wanted!r}")
        if version == "editable" or wanted == "no":
            return
        self._folder = tempfile.TemporaryDirectory(prefix="bridge-wheel-")
        command = [sys.executable, str(Path(self.root, _COMPILE)), self._folder.name]
        done = subprocess.run(command, check=False, text=True, capture_output=True)
        if done.returncode and (wanted == "yes" or "cannot compile: " not in done.stderr):
            raise SystemExit(f"the hot path does not compile:\n{done.stdout}{done.stderr}")
        if done.returncode:
            self.app.display_warning(f"a pure wheel: {done.stderr.strip()}")
            return
        compiled = Path(self._folder.name)
        for path in sorted(compiled.rglob("*")):
            if path.is_file():
                build_data["force_include"][str(path)] = str(path.relative_to(compiled))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """See `BuildHookInterface`."""
        if hasattr(self, "_folder"):
            self._folder.cleanup()
