"""`python tools/import_cycles.py`: names an import cycle between modules; exit status 1 where there is one.

import-linter knows contracts between packages; two modules of one package that import each other are
found here. Imports for type checking alone do not count: a port names the type that it is handed.
"""

from __future__ import annotations

import sys
from graphlib import CycleError, TopologicalSorter

import grimp

PROGRAMS = ("bridge_agent", "bridge_engine", "bridge_registry", "bridge_cli", "bridge_core")


def cycle(graph: grimp.ImportGraph) -> list[str]:
    """One cycle of modules, empty where there is none. A package and what it re-exports are no cycle."""
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for module in graph.modules:
        sorter.add(module, *graph.find_modules_directly_imported_by(module))
    try:
        sorter.prepare()
    except CycleError as fault:
        found: list[str] = fault.args[1]
        return found[::-1]
    return []


def main() -> int:
    """Prints what it found."""
    found = cycle(grimp.build_graph(*PROGRAMS, exclude_type_checking_imports=True, cache_dir=None))
    if found:
        print("import cycle: " + " -> ".join(found))
        return 1
    print("no import cycles")
    return 0


if __name__ == "__main__":
    sys.exit(main())
