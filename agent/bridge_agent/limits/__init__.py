"""Walls around an engine: cgroups, namespaces, GPUs and MPS."""
