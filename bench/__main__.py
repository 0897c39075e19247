"""`python -m bench [ROW …] [--seconds N]`: measures and writes bench/RESULTS.md."""

from __future__ import annotations

import argparse
import sys

from bench import (
    affinity,
    agent,
    audit,
    cancel_prefill,
    console,
    detection_simulated,
    embeddings,
    engine_growth,
    errors_simulated,
    forecast_simulated,
    hop_profile,
    hops,
    in_memory,
    isolation,
    large_bodies,
    loads,
    models,
    policies,
    pressure,
    sealing,
    shared_storage,
    soak,
    starting,
    streams,
    survive,
    walls,
)
from bench.grpc import rows as grpc_rows
from bench.processes import can_load, missing, versions, work_folder
from bench.scaling import bound as scaling_bound
from bench.scaling import growth as scaling_growth
from bench.scaling import real_day as scaling_real_day
from bench.scaling import rows as scaling_rows
from bench.scaling import streams as scaling_streams

ROWS = {
    "agent": agent.agent,
    "in-memory": in_memory.in_memory,
    "policy": policies.policy,
    "audit": audit.cost,
    "audit-edits": audit.edits,
    "one-hop": hops.one_hop,
    "two-hops": hops.two_hops,
    "hop-profile": hop_profile.hop_profile,
    "tokens": streams.relay,
    "grpc": grpc_rows.grpc,
    "memory": streams.memory,
    "overload": pressure.overload,
    "cancel": pressure.cancel,
    "affinity": affinity.affinity,
    "cancel-prefill": cancel_prefill.cancel_prefill,
    "isolation": isolation.isolation,
    "walls": walls.walls,
    "models": models.models,
    "loads": loads.loads,
    "large-bodies": large_bodies.large_bodies,
    "sealing": sealing.sealing,
    "shared-storage": shared_storage.shared_storage,
    "embeddings": embeddings.embeddings,
    "engine-growth": engine_growth.growth,
    "survive": survive.survival,
    "survive-text": survive.texts,
    "survive-bare": survive.bare,
    "soak": soak.soak,
    "starting": starting.starting,
    "scaling": scaling_rows.scaling,
    "scaling-uneven": scaling_rows.uneven,
    "scaling-bound": scaling_bound.bound,
    "scaling-day": scaling_real_day.scaling_day,
    "scaling-growth": scaling_growth.growth,
    "scaling-streams": scaling_streams.streams,
    "detection-simulated": detection_simulated.detection,
    "forecast-simulated": forecast_simulated.forecast,
    "errors-simulated": errors_simulated.errors,
    "console": console.rows,
}
# rows that need no load generator
WITHOUT_LOAD = {
    "large-bodies",
    "grpc",
    "scaling",
    "scaling-uneven",
    "scaling-bound",
    "scaling-day",
    "agent",
    "starting",
    "isolation",
    "policy",
    "walls",
    "audit",
    "audit-edits",
    "loads",
    "embeddings",
    "engine-growth",
    "models",
    "soak",
    "sealing",
    "shared-storage",
    "scaling-growth",
    "scaling-streams",
    "detection-simulated",
    "forecast-simulated",
    "errors-simulated",
    "console",
}
LONG = (
    "soak",
    "scaling",
    "scaling-uneven",
    "scaling-bound",
    "scaling-day",
    "scaling-streams",
    "survive",
    "survive-text",
    "audit-edits",
    "models",
    "engine-growth",
    "shared-storage",
    "detection-simulated",
    "forecast-simulated",
    "errors-simulated",
)  # the better part of an hour, or gigabytes: only when named


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; by default all but {', '.join(LONG)}"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each cell (default 5)")
    arguments = parser.parse_args()
    unknown = [row for row in arguments.rows if row not in ROWS]
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    for hint in missing():
        print(f"missing: {hint}", file=sys.stderr)
    if set(arguments.rows or ROWS) - WITHOUT_LOAD and not can_load():
        return 1
    rows = arguments.rows or [row for row in ROWS if row not in LONG]
    for row in rows:
        with work_folder() as folder:
            print(f"== {row}", flush=True)
            ROWS[row](folder, arguments.seconds, versions(), f"python -m bench {row}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
