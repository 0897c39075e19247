"""Models made of random weights: for tests, benchmarks and the nodes of a trial mesh.

They load and generate in llama.cpp like any other model; what they say is noise.
"""

from bridge_engine.modelgen.shapes import PRESETS, DeepSeekShape, LlamaShape, Shape, ShapeFault
from bridge_engine.modelgen.writer import WEIGHT_TYPES, generate

__all__ = [
    "PRESETS",
    "WEIGHT_TYPES",
    "DeepSeekShape",
    "LlamaShape",
    "Shape",
    "ShapeFault",
    "generate",
]
