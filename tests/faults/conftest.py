"""The mesh that fault tests share."""

from tests.cluster.conftest import harmed_mesh

__all__ = ["harmed_mesh"]
