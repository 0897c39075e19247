"""The subcommand `bridge-engine generate-model`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bridge_engine.modelgen.shapes import PRESETS, ShapeFault, parameter_count
from bridge_engine.modelgen.writer import WEIGHT_TYPES, generate


def generate_model(  # noqa: PLR0917 - typer reads options from the parameters
    path: Annotated[Path, typer.Argument(help="The GGUF file to write.")],
    shape: Annotated[str, typer.Option(help=f"One of: {', '.join(PRESETS)}.")] = "tiny",
    weights: Annotated[str, typer.Option(help=f"One of: {', '.join(WEIGHT_TYPES)}.")] = "f16",
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")] = 1,
    name: Annotated[str, typer.Option(help="Name written into the file.")] = "",
    pooling: Annotated[
        int | None, typer.Option(min=0, max=4, help="Pooling type; 1 (mean) makes an embedding model.")
    ] = None,
) -> None:
    """Write a GGUF model with random weights, for tests and benchmarks."""
    if shape not in PRESETS:
        raise ShapeFault(f"unknown shape {shape!r}", hint=f"one of {', '.join(PRESETS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    generate(path, PRESETS[shape], weights=weights, seed=seed, name=name, pooling=pooling)
    size = path.stat().st_size
    typer.echo(f"{path}: {parameter_count(PRESETS[shape]):,} parameters, {size / 1e6:,.1f} MB")
